//! Events as text: one line for an operation, the request's own form for all of it.

use super::Refusal;
use super::read::Form;
use super::refusal::hex;
use super::rights::Rights;
use confold_model::event::{Base, Body, Commit, Event, Expect, Operation, OperationKind, RetentionPolicy};
use confold_model::ids::Position;
use confold_model::path::{Path, Target};
use confold_model::policy::Visible;
use confold_model::schema::{Schema, TypeId};
use confold_wire::pb::{self, text_base, text_guard, text_operation};
use std::fmt::Write;

/// Operations that are named one by one in a summary.
const NAMED: usize = 16;

/// Says of an event what the caller may read of it.
pub(super) struct Texts<'a> {
    pub schema: Option<&'a Schema>,
    pub rights: &'a Rights,
}

impl Texts<'_> {
    pub fn path(&self, path: &Path) -> String {
        self.schema.map(|schema| schema.print_path(path)).unwrap_or_default()
    }

    /// Whether there is anything in the event for the caller to see.
    pub fn shows(&self, body: &Body<'_>) -> bool {
        match body {
            Body::Commit(commit) => commit.operations.iter().any(|operation| self.sees(operation)),
            _ => true,
        }
    }

    /// Whether an operation changes something of which the caller may read something.
    fn sees(&self, operation: &Operation<'_>) -> bool {
        match (self.rights.grants().visible(&operation.path), &operation.kind) {
            (Visible::Full, _) => true,
            // It changes no more than the node at its path.
            (Visible::Partial, OperationKind::Update { .. }) | (Visible::Hidden, _) => false,
            (Visible::Partial, _) => true,
        }
    }

    fn is_full(&self, path: &Path) -> bool {
        self.rights.grants().visible(path) == Visible::Full
    }

    fn seen<'c, 'b>(&self, commit: &'c Commit<'b>) -> Vec<&'c Operation<'b>> {
        commit
            .operations
            .iter()
            .filter(|operation| self.sees(operation))
            .collect()
    }

    /// One line per operation or fact, and how many operations there are.
    pub fn summary(&self, body: &Body<'_>) -> (Vec<String>, u64) {
        let Body::Commit(commit) = body else {
            return (self.facts(body), 0);
        };
        let operations = self.seen(commit);
        let mut lines: Vec<String> = operations
            .iter()
            .take(NAMED)
            .map(|operation| self.line(operation))
            .collect();
        if operations.len() > NAMED {
            lines.push(format!("and {} more", operations.len() - NAMED));
        }
        (lines, operations.len() as u64)
    }

    fn line(&self, operation: &Operation<'_>) -> String {
        let mut line = format!("{} {}", operation.kind.name(), self.path(&operation.path));
        if let OperationKind::Update { mask, .. } = &operation.kind
            && !mask.is_empty()
        {
            let fields: Vec<String> = mask.iter().map(|fields| self.field(&operation.path, fields)).collect();
            // Writing to a string cannot fail.
            let _ = write!(line, " ({})", fields.join(", "));
        }
        line
    }

    /// What an event that is no commit says.
    pub fn facts(&self, body: &Body<'_>) -> Vec<String> {
        match body {
            Body::Commit(_) | Body::Clock | Body::Seal | Body::Fence => Vec::new(),
            Body::Genesis(genesis) => vec![
                format!("store {}", genesis.store_name),
                format!("log id {}", hex::encode(genesis.log_id)),
                format!("window {}", genesis.window),
                format!("max_event_bytes {}", genesis.limits.max_event_bytes),
                retention(&genesis.retention),
            ],
            Body::Schema {
                descriptor_set,
                root_message,
            } => {
                let root = if root_message.is_empty() {
                    "as before"
                } else {
                    root_message
                };
                vec![
                    format!("descriptor set of {} bytes", descriptor_set.len()),
                    format!("root message {root}"),
                ]
            }
            Body::Tag { name, revision } => vec![format!("tag {name} on revision {revision}")],
            Body::Untag { names } => names.iter().map(|name| format!("untag {name}")).collect(),
            Body::Retention(policy) => vec![retention(policy)],
            Body::Prune { floor: Some(floor) } => vec![format!("everything untagged up to revision {floor}")],
            Body::Prune { floor: None } => vec!["as the retention policy decides".to_owned()],
            Body::Policy { policy, replaces } => vec![
                format!("{} rules, {} tokens", policy.rules.len(), policy.tokens.len()),
                match replaces {
                    Position(0) => "the first policy".to_owned(),
                    position => format!("in the place of the policy of position {position}"),
                },
            ],
            Body::Withdraw { id } => vec![format!("event {id}")],
            Body::Activation { level } => vec![format!("level {level}")],
            Body::Open {
                incarnation,
                transport_id,
            } => vec![
                format!("incarnation {incarnation}"),
                format!("transport {}", hex::encode(transport_id)),
            ],
            Body::Mark { last_mark } => vec![format!("last mark at position {last_mark}")],
            Body::Checkpoint(_) if !self.rights.is_inspector() => Vec::new(),
            Body::Checkpoint(checkpoint) => vec![
                format!(
                    "replica {} of build {}",
                    hex::encode(checkpoint.replica),
                    checkpoint.build
                ),
                format!("position {}, durable up to {}", checkpoint.position, checkpoint.durable),
                format!("state {}", checkpoint.state),
                format!("chain {}", checkpoint.chain),
            ],
            Body::Later { name } => vec![format!("{name} is not supported at this level")],
        }
    }

    pub fn guards(&self, commit: &Commit<'_>) -> Vec<pb::TextGuard> {
        let guard = |guard: &confold_model::event::Guard| pb::TextGuard {
            path: self.path(&guard.path),
            expect: Some(match &guard.expect {
                Expect::Subtree(hash) => text_guard::Expect::Subtree(hex(hash)),
                Expect::Data(hash) => text_guard::Expect::Data(hex(hash)),
                Expect::Container(hash) => text_guard::Expect::Container(hex(hash)),
                Expect::Absent => text_guard::Expect::Absent(pb::Absent {}),
            }),
        };
        commit
            .guards
            .iter()
            .filter(|guard| self.is_full(&guard.path))
            .map(guard)
            .collect()
    }

    /// The operations of an event as a client would send them.
    pub fn operations(&self, event: &Event<'_>, form: &Form) -> Result<Vec<pb::TextOperation>, Refusal> {
        let Body::Commit(commit) = &event.body else {
            return Ok(Vec::new());
        };
        self.seen(commit)
            .into_iter()
            .map(|operation| self.operation(operation, form))
            .collect()
    }

    fn operation(&self, operation: &Operation<'_>, form: &Form) -> Result<pb::TextOperation, Refusal> {
        use text_operation::Kind;
        // Of what reaches above the caller's rights it is said that it was done, and not what it brought or relied on.
        let is_full = self.is_full(&operation.path);
        let value = |bytes: &[u8]| match is_full {
            true => self.value(&operation.path, bytes, form),
            false => Ok(pb::Value::default()),
        };
        let kind = match &operation.kind {
            OperationKind::Update { value: bytes, mask } => Kind::Update(pb::TextUpdate {
                value: Some(value(bytes)?),
                mask: mask.iter().map(|fields| self.field(&operation.path, fields)).collect(),
            }),
            OperationKind::Add { value: bytes } => Kind::Add(value(bytes)?),
            OperationKind::Put { value: bytes } => Kind::Put(value(bytes)?),
            OperationKind::Replace { value: bytes } => Kind::Replace(value(bytes)?),
            OperationKind::Remove => Kind::Remove(pb::Absent {}),
        };
        let base = operation.base.filter(|_| is_full).map(|base| pb::TextBase {
            was: Some(match base {
                Base::Hash(hash) => text_base::Was::Hash(hex(&hash)),
                Base::Absent => text_base::Was::Absent(pb::Absent {}),
            }),
        });
        Ok(pb::TextOperation {
            path: self.path(&operation.path),
            strict: operation.strict,
            base,
            kind: Some(kind),
        })
    }

    fn value(&self, path: &Path, bytes: &[u8], form: &Form) -> Result<pb::Value, Refusal> {
        if let (Some(schema), Some(ty)) = (self.schema, self.type_at(path)) {
            // What was refused need not be a value of its type: then its bytes have to do.
            if let Ok(value) = form.value(schema.message(ty), bytes.to_vec()) {
                return Ok(value);
            }
        }
        let form = Some(pb::value::Form::Proto(bytes.to_vec().into()));
        Ok(pb::Value {
            form,
            r#type: String::new(),
        })
    }

    fn type_at(&self, path: &Path) -> Option<TypeId> {
        match self.schema?.resolve(path).ok()? {
            Target::Node { ty, .. } | Target::Container { parent: ty, .. } => Some(ty),
        }
    }

    fn field(&self, path: &Path, fields: &[u32]) -> String {
        let numbers = || fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
        let (Some(schema), Some(ty)) = (self.schema, self.type_at(path)) else {
            return numbers();
        };
        let mut names = Vec::new();
        let mut at = Some(ty);
        for number in fields {
            let Some(field) = at.and_then(|ty| schema.message(ty).field(*number)) else {
                return numbers();
            };
            names.push(field.name.as_str());
            at = match field.kind {
                confold_model::schema::Kind::Message(inner) => Some(inner),
                _ => None,
            };
        }
        names.join(".")
    }
}

fn retention(policy: &RetentionPolicy) -> String {
    match policy.keep_all {
        true => "keep all revisions".to_owned(),
        false => format!(
            "keep {} revisions, and those of {} ms",
            policy.keep_revisions, policy.keep_age_ms
        ),
    }
}
