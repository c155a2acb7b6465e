//! Reads and writes that become one event, or none.

use crate::{
    Client, Error,
    client::{bytes_of, encoded},
    compose::{Change, Elements, Node, absent, elements, present, union},
    path,
};
use confold_model::{
    canonicalise::ChildFields,
    code::{Code, Rejection},
    ids::EventId,
    path::{Path, Step, Target},
    schema::{ChildKind, Schema, TypeId},
};
use confold_wire::pb;
use prost::Message;
use std::collections::BTreeMap;

/// A transaction of the whole store, on one revision. Reads see that revision and the transaction's own writes; nobody
/// else sees these before the commit. Dropping it cancels it.
///
/// Each operation is checked against what the transaction sees; one that is refused leaves the transaction usable. The
/// commit carries, per operation, what this transaction saw there, so that it conflicts with what others did to the same
/// nodes meanwhile, and with nothing else; [`Transaction::serializable`] adds everything that was read.
pub struct Transaction {
    client: Client,
    schema: Schema,
    /// The revision that it stands on.
    revision: u64,
    operations: BTreeMap<Path, Operation>,
    /// What stood at the snapshot where it was asked for.
    known: BTreeMap<Path, Option<Hashes>>,
    guards: BTreeMap<String, pb::text_guard::Expect>,
    serializable: bool,
    phase: Phase,
}

enum Phase {
    Open,
    /// Proposed, and its end not known: may be committed again, as the very same event.
    Proposed(EventId, Box<pb::CommitRequest>),
    Closed,
}

struct Operation {
    change: Change,
    strict: bool,
}

#[derive(Clone)]
struct Hashes {
    subtree: String,
    data: String,
}

impl Transaction {
    pub(crate) async fn open(client: Client) -> Result<Transaction, Error> {
        let connection = client.connection();
        let token = connection.token();
        let read = match token.is_empty() {
            true => pb::Read::default(),
            false => pb::Read {
                consistency: pb::Consistency::AtLeast.into(),
                token,
                ..Default::default()
            },
        };
        let request = pb::GetSchemaRequest {
            store: connection.store.clone(),
            read: Some(read),
        };
        let answer = connection.again(|| connection.api.get_schema(request.clone())).await?;
        let at = answer
            .read_at
            .ok_or_else(|| Error::Answer("the schema came without its revision".to_owned()))?;
        connection.saw(at.position);
        let schema = Schema::compile(&answer.descriptor_set, &answer.root_message).map_err(|problems| {
            let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Error::refused(Code::SchemaInvalid, "", text)
        })?;
        Ok(Transaction {
            client,
            schema,
            revision: at.revision,
            operations: BTreeMap::new(),
            known: BTreeMap::new(),
            guards: BTreeMap::new(),
            serializable: false,
            phase: Phase::Open,
        })
    }

    /// From here on everything that is read must still be the same at the commit, else it is refused with
    /// `GUARD_FAILED`.
    pub fn serializable(&mut self) {
        self.serializable = true;
    }

    /// The revision that this transaction stands on.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A node's data, without its children.
    pub async fn get<M: Message + Default>(&mut self, path: impl AsRef<str>) -> Result<M, Error> {
        let text = self.text(&path);
        self.find_at(path, 0)
            .await?
            .ok_or_else(|| Error::refused(Code::NotFound, &text, absent().detail))
    }

    /// A node with everything below it.
    pub async fn get_deep<M: Message + Default>(&mut self, path: impl AsRef<str>) -> Result<M, Error> {
        let text = self.text(&path);
        self.find_at(path, -1)
            .await?
            .ok_or_else(|| Error::refused(Code::NotFound, &text, absent().detail))
    }

    /// A node with `depth` levels of children (-1: all), or `None` where nothing is.
    pub async fn find_at<M: Message + Default>(
        &mut self,
        path: impl AsRef<str>,
        depth: i32,
    ) -> Result<Option<M>, Error> {
        self.check_open()?;
        let text = self.text(&path);
        let path = self.parse(&text)?;
        let ty = self.node_type(&path, &text)?;
        let Some(node) = self.node(&path, &text, ty, depth).await? else {
            return Ok(None);
        };
        decode(&node.bytes(&self.schema, ty, depth), &text).map(Some)
    }

    /// All elements of a container with `depth` levels of children, in key order.
    pub async fn list<M: Message + Default>(&mut self, path: impl AsRef<str>, depth: i32) -> Result<Vec<M>, Error> {
        self.check_open()?;
        let text = self.text(&path);
        let path = self.parse(&text)?;
        let Target::Container { parent, child } = self.schema.resolve(&path)? else {
            return Err(Error::refused(
                Code::NotAContainer,
                &text,
                "it is a node: get it, or name a container",
            ));
        };
        let ty = child.message;
        let elements = match self.own(&path) {
            Some((base, change)) => {
                let steps = &path.steps[base.steps.len()..];
                match change {
                    Change::ReplaceContainer(elements) => Some(elements.clone()),
                    Change::Add(node) | Change::Put(node) | Change::Replace(node) => {
                        node.container(&self.schema, self.type_of(base)?, steps)
                    }
                    Change::Remove | Change::Update { .. } => None,
                }
                .ok_or_else(|| Error::refused(Code::NotFound, &text, "this transaction has removed it"))?
            }
            None => {
                let depth = if self.below(&path).next().is_some() { -1 } else { depth };
                let (field, mut owner) = (child.number, Node::default());
                let nodes = self.client.list_at(&text, depth, self.snapshot()).await?;
                let mut found = Elements::new();
                for (index, node) in nodes.iter().enumerate() {
                    let bytes = bytes_of(node)?;
                    let subtree = self.schema.split(ty, &bytes, path.depth()).map_err(Rejection::from)?;
                    let key = match &child.kind {
                        ChildKind::Keyed(key) => {
                            self.schema.key_of(ty, key, &subtree.config).map_err(Rejection::from)?
                        }
                        ChildKind::List | ChildKind::Single => (index as u64).to_be_bytes().into(),
                    };
                    found.insert(key, Node::of(&subtree));
                }
                owner.children.insert(field, found);
                for (at, operation) in self.below(&path) {
                    let steps = &at.steps[path.steps.len() - 1..];
                    owner.change(&self.schema, parent, steps, operation.change.clone())?;
                }
                if self.serializable {
                    let revision = self.at();
                    self.guards
                        .insert(text.clone(), pb::text_guard::Expect::SameAs(revision));
                }
                owner.children.remove(&field).unwrap_or_default()
            }
        };
        elements
            .values()
            .map(|node| decode(&node.bytes(&self.schema, ty, depth), &text))
            .collect()
    }

    /// Replaces the data of a node that exists. Its children stay.
    pub async fn update(&mut self, path: impl AsRef<str>, value: &impl Message) -> Result<(), Error> {
        self.update_fields(path, value, &[]).await
    }

    /// Replaces the named fields of a node's data; one that the value leaves at its default is cleared.
    pub async fn update_fields(
        &mut self,
        path: impl AsRef<str>,
        value: &impl Message,
        fields: &[&str],
    ) -> Result<(), Error> {
        let (path, text, ty) = self.node_path(path)?;
        let mut mask = Vec::with_capacity(fields.len());
        for field in fields {
            mask.push(self.schema.parse_field_ref(&format!("{text}:{field}"))?.fields);
        }
        let mask = union(mask, Vec::new());
        let bytes = value.encode_to_vec();
        let canonical = self.schema.canonicalise(ty, &bytes, path.depth(), ChildFields::Refused);
        let mut config = canonical.map_err(|error| at(&text, error.into()))?.bytes;
        if !mask.is_empty() {
            config = self.schema.masked(ty, &config, &mask);
        }
        if let (Some((container, last)), true) = (
            path.steps.split_last().map(|(last, above)| (above, last)),
            mask.is_empty(),
        ) && let Some(key) = &last.key
        {
            self.check_key(container, last.field, ty, key, &config, &text)?;
        }
        self.change(path, text, ty, Change::Update { config, mask }).await
    }

    /// A new element with its children. The path is the element's own, key included.
    pub async fn add(&mut self, path: impl AsRef<str>, value: &impl Message) -> Result<(), Error> {
        let (path, text, ty) = self.node_path(path)?;
        let node = self.subtree(&path, &text, ty, value)?;
        self.change(path, text, ty, Change::Add(node)).await
    }

    /// Makes the subtree equal to the value, and creates it where it is absent.
    pub async fn put(&mut self, path: impl AsRef<str>, value: &impl Message) -> Result<(), Error> {
        let (path, text, ty) = self.node_path(path)?;
        let node = self.subtree(&path, &text, ty, value)?;
        self.change(path, text, ty, Change::Put(node)).await
    }

    /// Makes an existing subtree equal to the value. On a container's path the value is the parent's message with that
    /// one field set.
    pub async fn replace(&mut self, path: impl AsRef<str>, value: &impl Message) -> Result<(), Error> {
        self.check_open()?;
        let text = self.text(&path);
        let path = self.parse(&text)?;
        let (ty, change) = match self.schema.resolve(&path)? {
            Target::Node { ty, .. } => (ty, Change::Replace(self.subtree(&path, &text, ty, value)?)),
            Target::Container { parent, child } => {
                let depth = path.depth() - 1;
                let bytes = value.encode_to_vec();
                let canonical = self.schema.canonicalise(parent, &bytes, depth, ChildFields::Allowed);
                let bytes = canonical.map_err(|error| at(&text, error.into()))?.bytes;
                let entries = self.schema.split_container(parent, child.number, &bytes, depth);
                (
                    parent,
                    Change::ReplaceContainer(elements(&entries.map_err(|error| at(&text, error.into()))?)),
                )
            }
        };
        self.change(path, text, ty, change).await
    }

    /// Takes an element and everything below it out of its container.
    pub async fn remove(&mut self, path: impl AsRef<str>) -> Result<(), Error> {
        let (path, text, ty) = self.node_path(path)?;
        self.change(path, text, ty, Change::Remove).await
    }

    /// The commit must find the path as this transaction's revision has it.
    pub fn guard(&mut self, path: impl AsRef<str>) -> Result<(), Error> {
        self.check_open()?;
        let (text, revision) = (self.text(&path), self.at());
        self.guards.insert(text, pb::text_guard::Expect::SameAs(revision));
        Ok(())
    }

    /// Commits everything as one event. A transaction without operations changes nothing and asks nobody.
    ///
    /// Afterwards it is closed, and a second commit is `TX_CLOSED`; only after an unknown end it may be committed again,
    /// which sends the very same event.
    pub async fn commit(&mut self) -> Result<pb::Decision, Error> {
        let (id, request) = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return Err(closed()),
            Phase::Proposed(id, request) => (id, request),
            Phase::Open if self.operations.is_empty() => {
                return Ok(pb::Decision {
                    outcome: pb::decision::Outcome::Unchanged.into(),
                    ..Default::default()
                });
            }
            Phase::Open => {
                let request = Box::new(self.request());
                match self.client.connection().mint().await {
                    Ok(id) => (id, request),
                    Err(error) => {
                        self.phase = Phase::Open;
                        return Err(error);
                    }
                }
            }
        };
        let result = self.client.connection().commit(id, (*request).clone()).await;
        match &result {
            Err(Error::Unknown { .. }) => self.phase = Phase::Proposed(id, request),
            // Nothing was sent, so it may be tried again.
            Err(error) if error.never_left() => self.phase = Phase::Proposed(id, request),
            _ => {}
        }
        result
    }

    /// Discards everything. Cancelling what is finished does nothing.
    pub fn cancel(&mut self) {
        self.phase = Phase::Closed;
        self.operations.clear();
    }

    /// What the commit would propose, in tree order.
    fn request(&self) -> pb::CommitRequest {
        let guards = self.guards.iter().map(|(path, expect)| pb::TextGuard {
            path: path.clone(),
            expect: Some(expect.clone()),
        });
        pb::CommitRequest {
            proposal: Some(self.client.proposal()),
            guards: guards.collect(),
            operations: self
                .operations
                .iter()
                .map(|(path, operation)| self.wire(path, operation))
                .collect(),
            ..Default::default()
        }
    }

    fn wire(&self, path: &Path, operation: &Operation) -> pb::TextOperation {
        use pb::{text_base::Was, text_operation::Kind};
        let known = self.known.get(path);
        let as_of = || Was::AsOf(self.at());
        let subtree = || match known {
            Some(Some(hashes)) if !hashes.subtree.is_empty() => Was::Hash(hashes.subtree.clone()),
            Some(None) => Was::Absent(pb::Absent {}),
            _ => as_of(),
        };
        let ty = self.type_of(path).ok();
        let value = |node: &Node| bytes_value(ty.map(|ty| node.bytes(&self.schema, ty, -1)).unwrap_or_default());
        let (kind, was) = match &operation.change {
            Change::Update { config, mask } => {
                let names = mask
                    .iter()
                    .filter_map(|fields| Some(self.schema.names_below(ty?, fields)))
                    .collect();
                let was = match known {
                    Some(Some(hashes)) if mask.is_empty() && !hashes.data.is_empty() => Was::Hash(hashes.data.clone()),
                    _ => as_of(),
                };
                (
                    Kind::Update(pb::TextUpdate {
                        value: Some(bytes_value(config.clone())),
                        mask: names,
                    }),
                    was,
                )
            }
            Change::Add(node) => (Kind::Add(value(node)), Was::Absent(pb::Absent {})),
            Change::Put(node) => (Kind::Put(value(node)), subtree()),
            Change::Replace(node) => (Kind::Replace(value(node)), subtree()),
            Change::ReplaceContainer(elements) => {
                let mut owner = Node::default();
                let (field, parent) = match self.schema.resolve(path) {
                    Ok(Target::Container { parent, child }) => (child.number, Some(parent)),
                    _ => (0, None),
                };
                owner.children.insert(field, elements.clone());
                let bytes = parent
                    .map(|parent| owner.bytes(&self.schema, parent, -1))
                    .unwrap_or_default();
                (Kind::Replace(bytes_value(bytes)), as_of())
            }
            Change::Remove => (Kind::Remove(pb::Absent {}), subtree()),
        };
        pb::TextOperation {
            path: self.schema.print_path(path),
            strict: operation.strict,
            base: Some(pb::TextBase { was: Some(was) }),
            kind: Some(kind),
        }
    }

    /// Takes a change in, composed with what this transaction does to the same path already (X7).
    async fn change(&mut self, path: Path, text: String, ty: TypeId, change: Change) -> Result<(), Error> {
        let strict = self.client.is_strict();
        if let Some((base, _)) = self.own(&path)
            && *base != path
        {
            let (base, base_ty) = (base.clone(), self.type_of(base)?);
            let Some(operation) = self.operations.get_mut(&base) else {
                return Ok(());
            };
            let steps = &path.steps[base.steps.len()..];
            return match &mut operation.change {
                Change::Add(node) | Change::Put(node) | Change::Replace(node) => {
                    node.change(&self.schema, base_ty, steps, change)
                }
                Change::ReplaceContainer(elements) => {
                    let mut owner = Node::default();
                    let last = base.steps.len() - 1;
                    let field = base.steps[last].field;
                    owner.children.insert(field, elements.clone());
                    owner
                        .change(&self.schema, base_ty, &path.steps[last..], change)
                        .map(|()| {
                            *elements = owner.children.remove(&field).unwrap_or_default();
                        })
                }
                Change::Remove | Change::Update { .. } => Err(absent()),
            }
            .map_err(|rejection| at(&text, rejection));
        }
        // What stood there at the snapshot decides what is possible, unless an earlier operation does. A container and a
        // single child always exist, and a put does not mind.
        let element = path.steps.last().is_some_and(|step| step.key.is_some());
        let known = matches!(change, Change::Put(_)) && !self.operations.contains_key(&path);
        let stood = !element || known || self.look(&path, &text).await?.is_some();
        let mine = self.operations.get(&path).map(|operation| &operation.change);
        let exists = match mine {
            Some(Change::Remove) => false,
            Some(_) => true,
            None => stood,
        };
        let composed = match (mine.cloned(), change) {
            (_, Change::Add(_)) if exists => return Err(at(&text, present())),
            (_, Change::Update { .. } | Change::Replace(_) | Change::Remove) if !exists => {
                return Err(at(&text, absent()));
            }
            (_, Change::Remove | Change::Add(_)) if !element => {
                let refused = Rejection::new(Code::NotAContainer, "it is no element of a keyed container");
                return Err(at(&text, refused));
            }
            (Some(Change::Add(mut node)), Change::Update { config, mask }) => {
                node.change(&self.schema, ty, &[], Change::Update { config, mask })?;
                Some(Change::Add(node))
            }
            (Some(Change::Put(mut node)), Change::Update { config, mask }) => {
                node.change(&self.schema, ty, &[], Change::Update { config, mask })?;
                Some(Change::Put(node))
            }
            (Some(Change::Replace(mut node)), Change::Update { config, mask }) => {
                node.change(&self.schema, ty, &[], Change::Update { config, mask })?;
                Some(Change::Replace(node))
            }
            (
                Some(Change::Update {
                    config: old,
                    mask: first,
                }),
                Change::Update { config, mask },
            ) if !mask.is_empty() => {
                let config = self.schema.merge_masked(ty, &old, &config, &mask);
                Some(Change::Update {
                    config,
                    mask: if first.is_empty() { first } else { union(first, mask) },
                })
            }
            (Some(Change::Add(_)), Change::Put(node) | Change::Replace(node)) => Some(Change::Add(node)),
            (Some(Change::Remove), Change::Add(node) | Change::Put(node)) if stood => Some(Change::Replace(node)),
            // It came and went, here alone.
            (_, Change::Remove) if !stood => None,
            (_, change) => Some(change),
        };
        if !matches!(composed, Some(Change::Update { .. })) {
            let covered: Vec<Path> = self.below(&path).map(|(other, _)| other.clone()).collect();
            for other in covered.into_iter().filter(|other| *other != path) {
                self.operations.remove(&other);
            }
        }
        match composed {
            Some(change) => {
                let operation = self.operations.entry(path).or_insert(Operation {
                    change: Change::Remove,
                    strict,
                });
                operation.change = change;
                operation.strict |= strict;
            }
            None => _ = self.operations.remove(&path),
        }
        Ok(())
    }

    /// What the transaction sees at a node's path, with at least `depth` levels.
    async fn node(&mut self, path: &Path, text: &str, ty: TypeId, depth: i32) -> Result<Option<Node>, Error> {
        if let Some((base, change)) = self.own(path) {
            let base_ty = self.type_of(base)?;
            let steps = &path.steps[base.steps.len()..];
            return Ok(match change {
                Change::Add(node) | Change::Put(node) | Change::Replace(node) => node.at(&self.schema, base_ty, steps),
                Change::ReplaceContainer(elements) => {
                    let last = base.steps.len() - 1;
                    let mut owner = Node::default();
                    owner.children.insert(base.steps[last].field, elements.clone());
                    owner.at(&self.schema, base_ty, &path.steps[last..])
                }
                Change::Remove | Change::Update { .. } => None,
            });
        }
        let touched = self.below(path).next().is_some();
        let depth = if touched && depth != 0 { -1 } else { depth };
        let answer = match self.client.read_at(text, depth, self.snapshot()).await {
            Ok(answer) => Some(answer),
            Err(error) if error.code() == Some(Code::NotFound) => None,
            Err(error) => return Err(error),
        };
        let hashes = answer.as_ref().map(|node| Hashes {
            subtree: node.hash.clone(),
            data: node.data_hash.clone(),
        });
        self.known.insert(path.clone(), hashes);
        if self.serializable {
            use pb::text_guard::Expect;
            let expect = match &answer {
                None => Expect::Absent(pb::Absent {}),
                Some(node) if depth == 0 => Expect::Data(node.data_hash.clone()),
                Some(node) => Expect::Subtree(node.hash.clone()),
            };
            // A deep read covers a shallow one of the same path.
            let covered = matches!(
                (&expect, self.guards.get(text)),
                (Expect::Data(_), Some(Expect::Subtree(_)))
            );
            if !covered {
                self.guards.insert(text.to_owned(), expect);
            }
        }
        let Some(answer) = answer else { return Ok(None) };
        let bytes = bytes_of(&answer)?;
        let subtree = self
            .schema
            .split(ty, &bytes, path.depth())
            .map_err(|error| at(text, error.into()))?;
        let mut node = Node::of(&subtree);
        for (other, operation) in self.below(path) {
            let steps = &other.steps[path.steps.len()..];
            if depth != 0 || steps.is_empty() {
                node.change(&self.schema, ty, steps, operation.change.clone())?;
            }
        }
        Ok(Some(node))
    }

    /// What stands at a path at the snapshot.
    async fn look(&mut self, path: &Path, text: &str) -> Result<Option<Hashes>, Error> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        let found = match self.client.read_at(text, 0, self.snapshot()).await {
            Ok(node) => Some(Hashes {
                subtree: node.hash,
                data: node.data_hash,
            }),
            Err(error) if error.code() == Some(Code::NotFound) => None,
            Err(error) => return Err(error),
        };
        self.known.insert(path.clone(), found.clone());
        Ok(found)
    }

    /// The own operation that alone says what is at a path: one at it or above it that sets or removes all below.
    fn own(&self, path: &Path) -> Option<(&Path, &Change)> {
        let (mut above, mut found) = (Path::root(), self.sets(&Path::root()));
        for step in &path.steps {
            // The container first, where the step leads into one.
            above.steps.push(Step::single(step.field));
            found = found.or_else(|| self.sets(&above));
            if step.key.is_some() {
                above.steps.pop();
                above.steps.push(step.clone());
                found = found.or_else(|| self.sets(&above));
            }
        }
        found
    }

    fn sets(&self, path: &Path) -> Option<(&Path, &Change)> {
        let (path, operation) = self.operations.get_key_value(path)?;
        (!matches!(operation.change, Change::Update { .. })).then_some((path, &operation.change))
    }

    /// Own operations at a path and below it: they stand together in the order of paths.
    fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Path, &'a Operation)> {
        self.operations
            .range(path..)
            .take_while(|(other, _)| other.starts_with(path))
    }

    fn subtree(&self, path: &Path, text: &str, ty: TypeId, value: &impl Message) -> Result<Node, Error> {
        let bytes = value.encode_to_vec();
        let canonical = self.schema.canonicalise(ty, &bytes, path.depth(), ChildFields::Allowed);
        let bytes = canonical.map_err(|error| at(text, error.into()))?.bytes;
        let subtree = self
            .schema
            .split(ty, &bytes, path.depth())
            .map_err(|error| at(text, error.into()))?;
        if let Some((last, above)) = path.steps.split_last()
            && let Some(key) = &last.key
        {
            self.check_key(above, last.field, ty, key, &subtree.config, text)?;
        }
        Ok(Node::of(&subtree))
    }

    /// An element's key field says what its path says (U5).
    fn check_key(
        &self,
        above: &[Step],
        field: u32,
        ty: TypeId,
        key: &[u8],
        config: &[u8],
        text: &str,
    ) -> Result<(), Error> {
        let parent = self.type_of(&Path { steps: above.to_vec() })?;
        let Some(ChildKind::Keyed(key_field)) = self.schema.message(parent).child(field).map(|child| &child.kind)
        else {
            return Ok(());
        };
        let found = self
            .schema
            .key_of(ty, key_field, config)
            .map_err(|error| at(text, error.into()))?;
        if *found == *key {
            return Ok(());
        }
        let found = key_field.text(&found).unwrap_or_default();
        Err(Error::refused(
            Code::KeyChange,
            text,
            format!("the value's {} is \"{found}\"", key_field.name),
        ))
    }

    fn node_path(&self, path: impl AsRef<str>) -> Result<(Path, String, TypeId), Error> {
        self.check_open()?;
        let text = self.text(&path);
        let path = self.parse(&text)?;
        let ty = self.node_type(&path, &text)?;
        Ok((path, text, ty))
    }

    fn node_type(&self, path: &Path, text: &str) -> Result<TypeId, Error> {
        match self.schema.resolve(path)? {
            Target::Node { ty, .. } => Ok(ty),
            Target::Container { .. } => Err(Error::refused(
                Code::IsAContainer,
                text,
                "it is a container: name one element",
            )),
        }
    }

    /// The type of the node at a path; of the owner where it is a container.
    fn type_of(&self, path: &Path) -> Result<TypeId, Error> {
        Ok(match self.schema.resolve(path)? {
            Target::Node { ty, .. } => ty,
            Target::Container { parent, .. } => parent,
        })
    }

    fn parse(&self, text: &str) -> Result<Path, Error> {
        self.schema.parse_path(text).map_err(|rejection| at(text, rejection))
    }

    fn text(&self, path: impl AsRef<str>) -> String {
        path::join(&self.client.scope, path.as_ref())
    }

    fn at(&self) -> String {
        format!("rev:{}", self.revision)
    }

    fn snapshot(&self) -> pb::Read {
        pb::Read {
            at: self.at(),
            ..Default::default()
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        if matches!(self.phase, Phase::Open) {
            Ok(())
        } else {
            Err(closed())
        }
    }
}

fn closed() -> Error {
    Error::refused(Code::TxClosed, "", "this transaction was committed or cancelled before")
}

fn at(text: &str, rejection: Rejection) -> Error {
    Error::refused(rejection.code, text, rejection.detail)
}

fn bytes_value(bytes: Vec<u8>) -> pb::Value {
    pb::Value {
        form: Some(pb::value::Form::Proto(bytes.into())),
        ..encoded(&())
    }
}

fn decode<M: Message + Default>(bytes: &[u8], text: &str) -> Result<M, Error> {
    M::decode(bytes).map_err(|error| Error::Answer(format!("{text} is no such message: {error}")))
}
