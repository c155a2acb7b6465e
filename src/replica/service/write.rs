//! A request to change the tree becomes a commit: paths parsed, values in canonical form, hashes looked up.

use super::at::{Reading, is_latest, no_schema};
use super::propose::{Built, Intention, propose};
use super::read::value_bytes;
use super::refusal::refusal;
use super::rights::Asked;
use super::{Refusal, blocking};
use crate::view::View;
use bytes::Bytes;
use confold_model::canonicalise::ChildFields;
use confold_model::code::{Code, Rejection};
use confold_model::event::{Base, Body, Commit, Expect, Guard, Operation, OperationKind};
use confold_model::ids::Hash;
use confold_model::node;
use confold_model::path::{Path, Target};
use confold_model::schema::{ChildField, ChildKind, Kind, Schema, Shape, TypeId};
use confold_model::tree::Lookup;
use confold_wire::convert::parse_hash;
use confold_wire::pb::{self, text_base, text_guard, text_operation, value};
use std::borrow::Cow;
use std::sync::Arc;

/// Above this a request is taken apart on the blocking pool: it would keep others waiting.
const SMALL: usize = 64 << 10;

pub(super) async fn commit(
    served: Asked,
    mut request: pb::CommitRequest,
) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let built = build(&served, request).await;
    propose(served, intention, built).await
}

/// The commit that a request asks for, as the latest schema reads it.
pub(super) async fn build(served: &Asked, request: pb::CommitRequest) -> Result<Built, Refusal> {
    let view = served.handle.view();
    if is_quick(&request) {
        return build_now(served, &view, &request);
    }
    let served = served.clone();
    blocking(move || build_now(&served, &view, &request)).await
}

/// Whether nothing has to be looked up and there is little to do.
fn is_quick(request: &pb::CommitRequest) -> bool {
    let looks_up = |operation: &pb::TextOperation| {
        matches!(
            operation.base.as_ref().and_then(|base| base.was.as_ref()),
            Some(text_base::Was::AsOf(_))
        )
    };
    let guards_look_up = request
        .guards
        .iter()
        .any(|guard| matches!(guard.expect, Some(text_guard::Expect::SameAs(_))));
    let bytes: usize = request
        .operations
        .iter()
        .map(|operation| 64 + value_of(operation).map_or(0, value_bytes))
        .sum();
    bytes <= SMALL && !guards_look_up && !request.operations.iter().any(looks_up)
}

fn value_of(operation: &pb::TextOperation) -> Option<&pb::Value> {
    use text_operation::Kind;
    match operation.kind.as_ref()? {
        Kind::Update(update) => update.value.as_ref(),
        Kind::Add(value) | Kind::Put(value) | Kind::Replace(value) => Some(value),
        Kind::Remove(_) => None,
    }
}

fn build_now(served: &Asked, view: &Arc<View>, request: &pb::CommitRequest) -> Result<Built, Refusal> {
    let schema = view.schema.as_ref().ok_or_else(no_schema)?;
    let mut builder = Builder {
        served,
        view,
        schema,
        notes: Vec::new(),
    };
    let guards = request
        .guards
        .iter()
        .map(|guard| builder.guard(guard))
        .collect::<Result<_, Refusal>>()?;
    let mut operations = Vec::with_capacity(request.operations.len());
    for operation in &request.operations {
        operations.push(builder.operation(operation)?);
    }
    Ok(Built {
        body: Body::Commit(Commit { guards, operations }),
        notes: builder.notes,
    })
}

struct Builder<'a> {
    served: &'a Asked,
    view: &'a Arc<View>,
    schema: &'a Schema,
    notes: Vec<String>,
}

/// Notes on one commit; more are of the same kind.
const NOTES: usize = 64;

impl<'a> Builder<'a> {
    fn guard(&self, guard: &pb::TextGuard) -> Result<Guard, Refusal> {
        use text_guard::Expect as Text;
        let path = self.path(&guard.path)?;
        let hash = |text: &str| parse_hash(text).map_err(|error| Refusal::from(error).at(&guard.path));
        let expect = match guard.expect.as_ref() {
            Some(Text::Subtree(text)) => Expect::Subtree(hash(text)?),
            Some(Text::Data(text)) => Expect::Data(hash(text)?),
            Some(Text::Container(text)) => Expect::Container(hash(text)?),
            Some(Text::Absent(_)) => Expect::Absent,
            Some(Text::SameAs(at)) => return self.same_as(path, at),
            None => {
                let hint = "set subtree, data, container, absent or same_as";
                return Err(Refusal::argument("the guard expects nothing", hint).at(&guard.path));
            }
        };
        Ok(Guard { path, expect })
    }

    /// What stood at the path then is to stand there now.
    fn same_as(&self, path: Path, at: &str) -> Result<Guard, Refusal> {
        let then = self.served.open(self.view, at, false)?;
        let (tree, objects) = (then.tree(), self.served.objects());
        Ok(match self.target(&path)? {
            Target::Node { .. } => {
                let expect = tree
                    .subtree_hash(&path, objects)?
                    .map_or(Expect::Absent, Expect::Subtree);
                Guard { path, expect }
            }
            Target::Container { .. } => match tree.container_hash(&path, objects)? {
                Some(hash) => Guard {
                    path,
                    expect: Expect::Container(hash),
                },
                // A container is absent exactly when the node that holds it is.
                None => Guard {
                    path: path.parent().unwrap_or_default(),
                    expect: Expect::Absent,
                },
            },
        })
    }

    fn operation(&mut self, operation: &pb::TextOperation) -> Result<Operation<'static>, Refusal> {
        use text_operation::Kind as Text;
        let mut path = self.path(&operation.path)?;
        let target = self.target(&path)?;
        let kind = operation.kind.as_ref().ok_or_else(|| {
            Refusal::argument("the operation says nothing", "set update, add, put, replace or remove")
                .at(&operation.path)
        })?;
        let kind = match (kind, target) {
            (Text::Update(update), Target::Node { ty, .. }) => self.update(&path, ty, update)?,
            (
                Text::Add(value),
                Target::Container {
                    child:
                        child @ ChildField {
                            kind: ChildKind::Keyed(key),
                            ..
                        },
                    ..
                },
            ) => {
                let value = self.value(&path, (child.message, path.depth()), value, ChildFields::Allowed)?;
                let key = self.schema.key_of(child.message, key, &value);
                let key = key.map_err(|error| self.refuse(Rejection::from(error).at(path.clone())))?;
                if let Some(last) = path.steps.last_mut() {
                    last.key = Some(key);
                }
                OperationKind::Add { value: value.into() }
            }
            (Text::Add(value), Target::Node { ty, .. }) => OperationKind::Add {
                value: self
                    .value(&path, (ty, path.depth()), value, ChildFields::Allowed)?
                    .into(),
            },
            (Text::Put(value), Target::Node { ty, .. }) => OperationKind::Put {
                value: self
                    .value(&path, (ty, path.depth()), value, ChildFields::Allowed)?
                    .into(),
            },
            (Text::Replace(value), Target::Node { ty, .. }) => OperationKind::Replace {
                value: self
                    .value(&path, (ty, path.depth()), value, ChildFields::Allowed)?
                    .into(),
            },
            // A container travels as its parent's message.
            (Text::Replace(value), Target::Container { parent, .. }) => {
                let place = (parent, path.depth() - 1);
                OperationKind::Replace {
                    value: self.value(&path, place, value, ChildFields::Allowed)?.into(),
                }
            }
            (Text::Remove(_), _) => OperationKind::Remove,
            (Text::Update(_) | Text::Put(_), Target::Container { child, .. }) => {
                return Err(self.container(&path, child));
            }
            (Text::Add(_), Target::Container { child, .. }) => {
                let detail = format!(
                    "{} is a list without keys: it changes as a whole, by replace",
                    child.name
                );
                return Err(self.refuse(Rejection::new(Code::NotKeyed, detail).at(path)));
            }
        };
        let base = match operation.base.as_ref() {
            None => None,
            Some(base) => Some(self.base(&path, base, &kind)?),
        };
        Ok(Operation {
            path,
            strict: operation.strict,
            base,
            kind,
        })
    }

    fn update(&mut self, path: &Path, ty: TypeId, update: &pb::TextUpdate) -> Result<OperationKind<'static>, Refusal> {
        let mask = mask(self.schema, ty, &update.mask).map_err(|rejection| self.refuse(rejection.at(path.clone())))?;
        let absent = pb::Value::default();
        let value = match &update.value {
            Some(value) => value,
            // Under a mask, no value is a clear wish.
            None if !mask.is_empty() => &absent,
            None => {
                let hint = "send the node's data; a value with nothing set clears all of it";
                return Err(Refusal::argument("the update has no value", hint).at(self.schema.print_path(path)));
            }
        };
        let mut value = self.value(path, (ty, path.depth()), value, ChildFields::Refused)?;
        if !mask.is_empty() {
            let masked = self.schema.masked(ty, &value, &mask);
            if masked != value {
                let path = self.schema.print_path(path);
                self.note(|| format!("{path}: fields outside the mask were left as they are"));
            }
            value = masked;
        }
        Ok(OperationKind::Update {
            value: value.into(),
            mask,
        })
    }

    fn base(&self, path: &Path, base: &pb::TextBase, kind: &OperationKind<'_>) -> Result<Base, Refusal> {
        match base.was.as_ref() {
            Some(text_base::Was::Hash(text)) => {
                Ok(Base::Hash(parse_hash(text).map_err(|error| {
                    Refusal::from(error).at(self.schema.print_path(path))
                })?))
            }
            Some(text_base::Was::Absent(_)) => Ok(Base::Absent),
            Some(text_base::Was::AsOf(at)) => {
                let then = match is_latest(at) {
                    true => Reading::latest(self.view.clone()),
                    false => self.served.open(self.view, at, false)?,
                };
                Ok(self.stood(path, kind, &then)?.map_or(Base::Absent, Base::Hash))
            }
            None => {
                let refusal = Refusal::argument("the base says nothing", "set hash, absent or as_of");
                Err(refusal.at(self.schema.print_path(path)))
            }
        }
    }

    /// The hash that an operation of this kind is compared with.
    fn stood(&self, path: &Path, kind: &OperationKind<'_>, then: &Reading) -> Result<Option<Hash>, Refusal> {
        let (tree, objects) = (then.tree(), self.served.objects());
        Ok(match (kind, self.target(path)?) {
            (OperationKind::Update { mask, .. }, Target::Node { ty, .. }) if !mask.is_empty() => {
                let masked = |config: &[u8]| node::data_hash(&self.schema.masked(ty, config, mask));
                match tree.node(path, objects)? {
                    Lookup::Found(node) => Some(masked(node.config(objects)?)),
                    Lookup::Default => Some(masked(&[])),
                    Lookup::Absent { .. } => None,
                }
            }
            (OperationKind::Update { .. }, _) => tree.data_hash(path, objects)?,
            (_, Target::Container { .. }) => tree.container_hash(path, objects)?,
            (_, Target::Node { .. }) => tree.subtree_hash(path, objects)?,
        })
    }

    /// Canonical bytes of a value for a path; what was changed on the way is noted.
    fn value(
        &mut self,
        path: &Path,
        (ty, depth): (TypeId, u32),
        value: &pb::Value,
        children: ChildFields,
    ) -> Result<Vec<u8>, Refusal> {
        let name = &self.schema.message(ty).full_name;
        let at = |refusal: Refusal| refusal.at(self.schema.print_path(path));
        let sent: Cow<'_, Bytes> = match &value.form {
            // Nothing to look up in the types: the usual case of programs.
            Some(value::Form::Proto(bytes)) if value.r#type.is_empty() || value.r#type == *name => Cow::Borrowed(bytes),
            _ => {
                let types = Reading::latest(self.view.clone()).types(self.served)?;
                Cow::Owned(types.from_value(name, value).map_err(|error| at(error.into()))?)
            }
        };
        let canonical = self.schema.canonicalise(ty, &sent, depth, children);
        let canonical = canonical.map_err(|error| self.refuse(Rejection::from(error).at(path.clone())))?;
        if !canonical.cleared.is_empty() {
            let (path, cleared) = (self.schema.print_path(path), canonical.cleared.join(", "));
            self.note(|| format!("{path}: REAL_TIME fields are never stored and were cleared: {cleared}"));
        } else if canonical.bytes != **sent {
            let path = self.schema.print_path(path);
            let what = if canonical.bytes.len() == sent.len() {
                "put in order"
            } else {
                "brought into canonical form"
            };
            self.note(|| format!("{path}: the value was {what}"));
        }
        Ok(canonical.bytes)
    }

    fn path(&self, text: &str) -> Result<Path, Refusal> {
        self.schema.parse_path(text).map_err(|rejection| self.refuse(rejection))
    }

    fn target(&self, path: &Path) -> Result<Target<'a>, Refusal> {
        let schema: &'a Schema = self.schema;
        schema.resolve(path).map_err(|rejection| self.refuse(rejection))
    }

    fn container(&self, path: &Path, child: &ChildField) -> Refusal {
        let detail = format!("{} is a container", child.name);
        self.refuse(Rejection::new(Code::IsAContainer, detail).at(path.clone()))
    }

    fn refuse(&self, rejection: Rejection) -> Refusal {
        refusal(rejection, Some(self.schema))
    }

    fn note(&mut self, note: impl FnOnce() -> String) {
        match self.notes.len() {
            0..NOTES => self.notes.push(note()),
            NOTES => self.notes.push("and more of the same".to_owned()),
            _ => {}
        }
    }
}

/// A mask by field names, in order and without what another name covers. `NOT_FOUND` for a name that is no field.
pub(super) fn mask(schema: &Schema, ty: TypeId, names: &[String]) -> Result<Vec<Vec<u32>>, Rejection> {
    let mut mask = names
        .iter()
        .map(|name| field_path(schema, ty, name))
        .collect::<Result<Vec<_>, _>>()?;
    mask.sort();
    mask.dedup_by(|later, first| later.starts_with(first));
    if !mask.is_empty() {
        schema.check_mask(ty, &mask)?;
    }
    Ok(mask)
}

fn field_path(schema: &Schema, ty: TypeId, dotted: &str) -> Result<Vec<u32>, Rejection> {
    let mut at = Some(ty);
    let mut numbers = Vec::new();
    for name in dotted.split('.') {
        let Some(message) = at.map(|ty| schema.message(ty)) else {
            let detail = format!("mask {dotted}: {name:?} would stand inside a field that is no single message");
            return Err(Rejection::new(Code::InvalidPath, detail));
        };
        let Some(field) = message.field_by_name(name) else {
            let names: Vec<&str> = message.fields.iter().map(|field| field.name.as_str()).collect();
            let detail = format!(
                "mask {dotted}: {} has no field {name:?}; it has {}",
                message.full_name,
                names.join(", ")
            );
            return Err(Rejection::new(Code::NotFound, detail));
        };
        numbers.push(field.number);
        at = match (field.kind, field.shape) {
            (Kind::Message(inner), Shape::Presence) => Some(inner),
            _ => None,
        };
    }
    Ok(numbers)
}
