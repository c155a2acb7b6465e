//! Commits: guards, plain operations (rules A, U) and three-way merges by base (rules M), decided from the state before
//! the commit and the event alone.

use crate::canon::ValueError;
use crate::code::{Code, Conflict, Rejection};
use crate::event::{Base, Commit, Expect, Guard, Limits, Operation, OperationKind};
use crate::ids::Hash;
use crate::keys::MAX_KEY_BYTES;
use crate::node;
use crate::objects::{NoObjects, Objects, ObjectsError};
use crate::path::{Path, Step, Target};
use crate::schema::{ChildField, ChildKind, Schema, TypeId};
use crate::subtree::{Children, Subtree};
use crate::tree::{Lookup, Tree};
use std::borrow::Cow;

/// A refusal, or the objects could not be read.
enum Stop {
    Rejected(Rejection),
    Objects(ObjectsError),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Stop {
        Stop::Rejected(rejection)
    }
}

impl From<ObjectsError> for Stop {
    fn from(error: ObjectsError) -> Stop {
        Stop::Objects(error)
    }
}

/// What a valid operation does to the tree.
enum Edit<'a> {
    /// The merge found the result there already.
    Nothing,
    Config(Cow<'a, [u8]>),
    Subtree(Subtree<'a>),
    Container(Vec<(Box<[u8]>, Subtree<'a>)>),
    Remove,
}

/// The tree after the commit, or the first refusal in the order of checks (docs/formats.md 4).
pub fn commit(
    tree: &Tree,
    schema: &Schema,
    limits: &Limits,
    commit: &Commit<'_>,
    objects: &dyn Objects,
) -> Result<Result<Tree, Rejection>, ObjectsError> {
    let mut after = tree.clone();
    Ok(commit_into(&mut after, schema, limits, commit, objects)?.map(|()| after))
}

/// As `commit`, changing the tree where it stands: what no view shares is not copied. Whatever is not `Ok(Ok(()))`
/// leaves the tree as it was.
pub fn commit_into(
    tree: &mut Tree,
    schema: &Schema,
    limits: &Limits,
    commit: &Commit<'_>,
    objects: &dyn Objects,
) -> Result<Result<(), Rejection>, ObjectsError> {
    match try_commit(tree, schema, limits, commit, objects) {
        Ok(()) => Ok(Ok(())),
        Err(Stop::Rejected(rejection)) => Ok(Err(rejection)),
        Err(Stop::Objects(error)) => Err(error),
    }
}

/// The paths that the operations name, each with whether the whole subtree is meant.
pub fn touched(commit: Commit<'_>) -> Vec<(Path, bool)> {
    let operations = commit.operations.into_iter();
    operations.map(|operation| (operation.path, !matches!(operation.kind, OperationKind::Update { .. }))).collect()
}

fn try_commit(
    tree: &mut Tree,
    schema: &Schema,
    limits: &Limits,
    commit: &Commit<'_>,
    objects: &dyn Objects,
) -> Result<(), Stop> {
    check_overlap(schema, &commit.operations)?;
    let frame = Frame { tree, schema, limits, objects };
    for guard in &commit.guards {
        frame.check_guard(guard)?;
    }
    let mut edits = Vec::with_capacity(commit.operations.len());
    for (index, operation) in commit.operations.iter().enumerate() {
        match frame.check_operation(operation) {
            Ok(edit) => edits.push(edit),
            Err(Stop::Rejected(rejection)) if rejection.code == Code::Conflict => {
                return Err(frame.all_conflicts(rejection, &commit.operations[index + 1..])?.into());
            }
            Err(stop) => return Err(stop),
        }
    }
    // The checks have walked, and so loaded, every path. Only what takes entries away may have to load more, siblings
    // that collapse: it is tried on a copy, which costs nothing but the nodes that it touches.
    if edits.iter().any(|edit| matches!(edit, Edit::Remove | Edit::Container(_))) {
        let mut after = tree.clone();
        apply(&mut after, &commit.operations, edits, objects)?;
        *tree = after;
    } else {
        apply(tree, &commit.operations, edits, objects).expect("the checks have loaded every path that is edited");
    }
    Ok(())
}

fn apply(
    tree: &mut Tree,
    operations: &[Operation<'_>],
    edits: Vec<Edit<'_>>,
    objects: &dyn Objects,
) -> Result<(), ObjectsError> {
    for (operation, edit) in operations.iter().zip(edits) {
        // That something stood there was checked.
        let _there = match edit {
            Edit::Nothing => true,
            Edit::Config(config) => tree.set_config(&operation.path, &config, objects)?,
            Edit::Subtree(subtree) => tree.insert_subtree(&operation.path, &subtree, objects)?,
            Edit::Container(entries) => tree.replace_container(&operation.path, &entries, objects)?,
            Edit::Remove => tree.remove(&operation.path, objects)?,
        };
    }
    Ok(())
}

/// No path twice, and none at or below one that another operation adds, puts, replaces or removes.
fn check_overlap(schema: &Schema, operations: &[Operation<'_>]) -> Result<(), Rejection> {
    if operations.len() < 2 {
        return Ok(());
    }
    let mut sorted: Vec<&Operation<'_>> = operations.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    // In path order everything below a path follows it at once, a container's own path before its elements.
    let mut owner: Option<&Operation<'_>> = None;
    for pair in sorted.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        if !matches!(first.kind, OperationKind::Update { .. })
            && owner.is_none_or(|owner| !first.path.starts_with(&owner.path))
        {
            owner = Some(first);
        }
        let clash = if first.path == second.path {
            Some(first)
        } else {
            owner.filter(|owner| second.path.starts_with(&owner.path))
        };
        if let Some(clash) = clash {
            let (one, other) = (schema.print_path(&clash.path), schema.print_path(&second.path));
            let detail = if one == other {
                format!("{one} is named by two operations of one commit")
            } else {
                format!("{other} lies below {one}, which the same commit {}s", clash.kind.name())
            };
            return Err(Rejection::new(Code::Overlap, detail).at(second.path.clone()));
        }
    }
    Ok(())
}

/// What all checks of one commit look at.
struct Frame<'a> {
    tree: &'a Tree,
    schema: &'a Schema,
    limits: &'a Limits,
    objects: &'a dyn Objects,
}

impl<'a> Frame<'a> {
    fn reject(&self, code: Code, path: &Path, detail: impl Into<String>) -> Stop {
        Rejection::new(code, detail).at(path.clone()).into()
    }

    fn check_path(&self, path: &Path) -> Result<Target<'a>, Stop> {
        let key_lengths = path.steps.iter().filter_map(|step| Some(step.key.as_ref()?.len()));
        let long = key_lengths.clone().find(|length| *length > self.limits.key_bytes as usize);
        if let Some(length) = long {
            let detail = format!("a key has {length} bytes, the limit is {}", self.limits.key_bytes);
            return Err(self.reject(Code::Limit, path, detail));
        }
        let target = self.schema.resolve(path)?;
        // Few paths come near the limit: the text is measured only where it may.
        let keys: usize = key_lengths.sum();
        if 3 * keys + LONGEST_NAME * path.steps.len() > self.limits.path_bytes as usize {
            self.check_path_bytes(path, self.schema.path_len(path))?;
        }
        Ok(target)
    }

    fn check_path_bytes(&self, path: &Path, length: usize) -> Result<(), Stop> {
        let limit = self.limits.path_bytes as usize;
        if length > limit {
            return Err(self.reject(Code::Limit, path, format!("a path has {length} bytes as text, the limit is {limit}")));
        }
        Ok(())
    }

    /// Nothing may be stored that no path can name.
    fn check_paths_below(&self, path: &Path, ty: TypeId, new: &Subtree<'_>) -> Result<(), Stop> {
        if new.children.is_empty() {
            return Ok(());
        }
        let limit = self.limits.key_bytes as usize;
        // The check of the bytes has looked at the longest that any store allows.
        let longest = if limit < MAX_KEY_BYTES { longest_key(self.schema, ty, new) } else { 0 };
        if longest > limit {
            return Err(self.reject(Code::Limit, path, format!("a key below has {longest} bytes, the limit is {limit}")));
        }
        let longest = self.schema.longest_path(ty, new, self.schema.path_len(path));
        self.check_path_bytes(path, longest)
    }

    fn check_guard(&self, guard: &Guard) -> Result<(), Stop> {
        let target = self.check_path(&guard.path)?;
        let (expected, found) = match (guard.expect, &target) {
            (Expect::Container(expected), Target::Container { .. }) => {
                (Some(expected), self.tree.container_hash(&guard.path, self.objects)?)
            }
            (Expect::Container(_), Target::Node { .. }) => {
                return Err(self.reject(Code::NotAContainer, &guard.path, "a container guard names a node"));
            }
            (_, Target::Container { .. }) => {
                return Err(self.reject(Code::IsAContainer, &guard.path, "a node guard names a container"));
            }
            (Expect::Subtree(expected), _) => (Some(expected), self.tree.subtree_hash(&guard.path, self.objects)?),
            (Expect::Data(expected), _) => (Some(expected), self.tree.data_hash(&guard.path, self.objects)?),
            (Expect::Absent, _) => (None, self.tree.subtree_hash(&guard.path, self.objects)?),
        };
        if expected == found {
            return Ok(());
        }
        let text = |hash: Option<Hash>| hash.map_or("nothing".to_owned(), |hash| hash.short());
        let detail = format!("expected {}, found {}", text(expected), text(found));
        let conflict =
            Conflict { path: guard.path.clone(), kind: "guard", base: expected, ours: None, theirs: found };
        let mut rejection = Rejection::new(Code::GuardFailed, detail).at(guard.path.clone());
        rejection.conflicts.push(conflict);
        Err(rejection.into())
    }

    /// M15: every conflict of the commit, sorted by path; the code is that of the first in order of operations.
    fn all_conflicts(&self, mut first: Rejection, rest: &[Operation<'_>]) -> Result<Rejection, ObjectsError> {
        for operation in rest {
            match self.check_operation(operation) {
                Err(Stop::Rejected(other)) if other.code == Code::Conflict => first.conflicts.extend(other.conflicts),
                Err(Stop::Objects(error)) => return Err(error),
                _ => {}
            }
        }
        first.conflicts.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(first)
    }

    fn check_operation<'o>(&self, operation: &'o Operation<'_>) -> Result<Edit<'o>, Stop> {
        let target = self.check_path(&operation.path)?;
        match (&operation.kind, target) {
            (OperationKind::Update { value, mask }, Target::Node { ty, keyed }) => {
                self.update(operation, ty, keyed, value.as_ref(), mask)
            }
            (OperationKind::Update { .. }, Target::Container { .. }) => {
                Err(self.reject(Code::IsAContainer, &operation.path, "an update needs a node, this is a container"))
            }
            (OperationKind::Add { value }, Target::Node { ty, keyed: Some(child) }) => {
                self.subtree(operation, ty, Some(child), value.as_ref(), Presence::Absent)
            }
            (OperationKind::Add { .. }, Target::Node { keyed: None, .. }) => {
                Err(self.reject(Code::NotAContainer, &operation.path, "an add needs an element of a keyed container"))
            }
            (OperationKind::Add { .. } | OperationKind::Put { .. }, Target::Container { child, .. }) => {
                Err(match child.kind {
                    ChildKind::List => self.reject(
                        Code::NotKeyed,
                        &operation.path,
                        format!("{} is a keyless list: it changes as a whole, by replace", child.name),
                    ),
                    _ => self.reject(
                        Code::IsAContainer,
                        &operation.path,
                        format!("the path must name the element by its key, /{}/KEY", child.name),
                    ),
                })
            }
            (OperationKind::Put { value }, Target::Node { ty, keyed }) => {
                self.subtree(operation, ty, keyed, value.as_ref(), Presence::Any)
            }
            (OperationKind::Replace { value }, Target::Node { ty, keyed }) => {
                self.subtree(operation, ty, keyed, value.as_ref(), Presence::Present)
            }
            (OperationKind::Replace { value }, Target::Container { parent, child }) => {
                self.container(operation, parent, child, value.as_ref())
            }
            (OperationKind::Remove, Target::Node { keyed: Some(_), .. }) => self.remove(operation),
            (OperationKind::Remove, Target::Node { keyed: None, .. }) => {
                let detail = "only an element of a keyed container can be removed; a single child always exists";
                Err(self.reject(Code::NotAContainer, &operation.path, detail))
            }
            (OperationKind::Remove, Target::Container { child, .. }) => Err(match child.kind {
                ChildKind::List => self.reject(
                    Code::NotKeyed,
                    &operation.path,
                    format!("{} is a keyless list: it changes as a whole, by replace", child.name),
                ),
                _ => self.reject(
                    Code::IsAContainer,
                    &operation.path,
                    format!("a remove names one element, /{}/KEY", child.name),
                ),
            }),
        }
    }

    /// U1-U7.
    fn update<'o>(
        &self,
        operation: &'o Operation<'_>,
        ty: TypeId,
        keyed: Option<&ChildField>,
        value: &'o [u8],
        mask: &[Vec<u32>],
    ) -> Result<Edit<'o>, Stop> {
        let path = &operation.path;
        let depth = depth_of(path);
        let wrong_value = |error: ValueError| Stop::from(self.value_rejection(error, path));
        if !mask.is_empty() {
            self.schema.check_mask(ty, mask).map_err(wrong_value)?;
        }
        let new = self.schema.split(ty, value, depth).map_err(wrong_value)?;
        if !mask.is_empty() {
            self.schema.check_only_masked(ty, &new.config, mask).map_err(wrong_value)?;
        }
        // An element's key stays what it is unless the value carries it.
        if let Some(child) = keyed
            && (mask.is_empty() || child.key().is_some_and(|key| mask.contains(&vec![key.number])))
        {
            self.check_key(path, child, ty, &new.config)?;
        }
        let found = self.tree.node(path, self.objects)?;
        let old = match &found {
            Lookup::Found(node) => Some(node.config(self.objects)?),
            Lookup::Default => Some(&[][..]),
            Lookup::Absent { step } => {
                // An update never makes a node: with nothing there on either side there is nothing to merge.
                if !matches!(operation.base, Some(Base::Hash(_))) {
                    return Err(self.absent(path, *step).into());
                }
                None
            }
        };
        if !new.children.is_empty() {
            let name = self.child_name(ty, new.children[0].field);
            let detail = format!("{name} is a child field: an update carries the node's own fields alone");
            return Err(self.reject(Code::ChildrenInUpdate, path, detail));
        }
        let result: Cow<'o, [u8]> = match (old, mask.is_empty()) {
            (Some(old), false) => Cow::Owned(self.schema.merge_masked(ty, old, &new.config, mask)),
            _ => new.config,
        };
        if let (true, Some(old)) = (operation.strict, old) {
            let changed = self.schema.read_only_changes(ty, old, &result);
            if !changed.is_empty() {
                return Err(self.read_only(path, &changed));
            }
        }
        if let Some(base) = operation.base {
            let masked = |config: &[u8]| match mask.is_empty() {
                true => node::data_hash(config),
                false => node::data_hash(&self.schema.masked(ty, config, mask)),
            };
            let current = old.map(masked);
            let target = if old.is_some() { masked(&result) } else { node::data_hash(&result) };
            if self.merge(operation, base, current, Some(target), "update")? {
                return Ok(Edit::Nothing);
            }
        }
        Ok(Edit::Config(result))
    }

    /// Add, put and replace of a node with everything below it.
    fn subtree<'o>(
        &self,
        operation: &'o Operation<'_>,
        ty: TypeId,
        keyed: Option<&ChildField>,
        value: &'o [u8],
        presence: Presence,
    ) -> Result<Edit<'o>, Stop> {
        let path = &operation.path;
        let new = self
            .schema
            .split(ty, value, depth_of(path))
            .map_err(|error| Stop::from(self.value_rejection(error, path)))?;
        if let Some(child) = keyed {
            self.check_key(path, child, ty, &new.config)?;
        }
        let found = self.tree.node(path, self.objects)?;
        let merging = operation.base.is_some();
        let missing_parent = match &found {
            Lookup::Absent { step } => (step + 1 < path.steps.len()).then_some(*step),
            _ => None,
        };
        match (&found, presence) {
            (Lookup::Absent { step }, _) if missing_parent.is_some() && !merging => {
                return Err(self.absent(path, *step).into());
            }
            (Lookup::Absent { step }, Presence::Present) if !merging => return Err(self.absent(path, *step).into()),
            (Lookup::Found(_), Presence::Absent) if !merging => {
                let detail = format!("{} exists", self.schema.print_path(path));
                return Err(self.reject(Code::AlreadyExists, path, detail));
            }
            _ => {}
        }
        if operation.strict {
            let mut violated = Vec::new();
            let at = path.clone();
            self.strict_subtree(&at, ty, keyed, &new, &mut violated)?;
            if !violated.is_empty() {
                return Err(self.read_only(path, &violated));
            }
        }
        if let Some(base) = operation.base {
            let current = match &found {
                Lookup::Found(node) => Some(node.hash()),
                Lookup::Default => Some(Tree::empty().root()),
                Lookup::Absent { .. } => None,
            };
            let result = Tree::of(&new).root();
            if self.merge(operation, base, current, Some(result), operation.kind.name())? {
                return Ok(Edit::Nothing);
            }
            if missing_parent.is_some() {
                // Both sides saw nothing here, but the parent is gone too (M7).
                return Err(self.conflict(operation, base, None, Some(result), operation.kind.name()).into());
            }
        }
        self.check_paths_below(path, ty, &new)?;
        Ok(Edit::Subtree(new))
    }

    /// Replace of a whole container; the only way to change a keyless list (M5: one atomic value).
    fn container<'o>(
        &self,
        operation: &'o Operation<'_>,
        parent: TypeId,
        child: &ChildField,
        value: &'o [u8],
    ) -> Result<Edit<'o>, Stop> {
        let path = &operation.path;
        let entries = self
            .schema
            .split_container(parent, child.number, value, depth_of(path) - 1)
            .map_err(|error| Stop::from(self.value_rejection(error, path)))?;
        let Some(current) = self.tree.container(path, self.objects)? else {
            if let Some(base) = operation.base {
                return Err(self.conflict(operation, base, None, None, "replace").into());
            }
            let owner = Path { steps: path.steps[..path.steps.len() - 1].to_vec() };
            let step = match self.tree.node(&owner, self.objects)? {
                Lookup::Absent { step } => step,
                _ => owner.steps.len(),
            };
            return Err(self.absent(path, step).into());
        };
        if operation.strict {
            let mut violated = Vec::new();
            let keyed = matches!(child.kind, ChildKind::Keyed(_)).then_some(child);
            for (key, entry) in &entries {
                let mut at = path.clone();
                if let (Some(_), Some(last)) = (keyed, at.steps.last_mut()) {
                    last.key = Some(key.clone());
                    self.strict_subtree(&at, child.message, keyed, entry, &mut violated)?;
                } else {
                    self.strict_new(child.message, None, entry, &mut violated);
                }
            }
            if !violated.is_empty() {
                return Err(self.read_only(path, &violated));
            }
        }
        if let Some(base) = operation.base {
            let result = container_hash(child.number, &entries)?;
            if self.merge(operation, base, Some(current.hash()), Some(result), "replace")? {
                return Ok(Edit::Nothing);
            }
        }
        // As what they are: children of their owner.
        let owner = Path { steps: path.steps[..path.steps.len() - 1].to_vec() };
        let mut whole = Subtree { config: Cow::default(), children: vec![Children { field: child.number, entries }] };
        self.check_paths_below(&owner, parent, &whole)?;
        let entries = whole.children.pop().map(|children| children.entries).unwrap_or_default();
        Ok(Edit::Container(entries))
    }

    /// A6; with a base M7, M8, M11.
    fn remove<'o>(&self, operation: &'o Operation<'_>) -> Result<Edit<'o>, Stop> {
        let path = &operation.path;
        let found = self.tree.node(path, self.objects)?;
        match (found, operation.base) {
            (Lookup::Absent { step }, None) => Err(self.absent(path, step).into()),
            (_, None) => Ok(Edit::Remove),
            (found, Some(base)) => {
                let current = match found {
                    Lookup::Found(node) => Some(node.hash()),
                    _ => None,
                };
                let nothing = self.merge(operation, base, current, None, "remove")? || current.is_none();
                Ok(if nothing { Edit::Nothing } else { Edit::Remove })
            }
        }
    }

    /// The heart of rules M: current = base: apply (`false`); current = result: nothing to do (`true`); else a conflict.
    fn merge(
        &self,
        operation: &Operation<'_>,
        base: Base,
        current: Option<Hash>,
        result: Option<Hash>,
        kind: &'static str,
    ) -> Result<bool, Rejection> {
        let saw = match base {
            Base::Hash(hash) => Some(hash),
            Base::Absent => None,
        };
        if current == saw {
            Ok(false)
        } else if current == result {
            Ok(true)
        } else {
            Err(self.conflict(operation, base, current, result, kind))
        }
    }

    fn conflict(
        &self,
        operation: &Operation<'_>,
        base: Base,
        theirs: Option<Hash>,
        ours: Option<Hash>,
        kind: &'static str,
    ) -> Rejection {
        let base = match base {
            Base::Hash(hash) => Some(hash),
            Base::Absent => None,
        };
        let path = self.schema.print_path(&operation.path);
        let detail = match (base, theirs) {
            (Some(_), None) => format!("{path} was removed since; ours would {kind} it"),
            (None, Some(_)) => format!("{path} was made since with other content; ours would {kind} it"),
            (None, None) => format!("what {path} lies below was removed since; ours would {kind} it"),
            _ => format!("{path} was changed since to another value; ours would {kind} it"),
        };
        let mut rejection = Rejection::new(Code::Conflict, detail).at(operation.path.clone());
        rejection.conflicts.push(Conflict { path: operation.path.clone(), kind, base, ours, theirs });
        rejection
    }

    /// U5, and the path's key for an add: the value's own key must be the one that the path names.
    fn check_key(&self, path: &Path, child: &ChildField, ty: TypeId, config: &[u8]) -> Result<(), Stop> {
        let ChildKind::Keyed(key_field) = &child.kind else { return Ok(()) };
        let key = self
            .schema
            .key_of(ty, key_field, config)
            .map_err(|error| Stop::from(self.value_rejection(error, path)))?;
        let named = path.steps.last().and_then(|step| step.key.as_deref()).unwrap_or_default();
        if *key != *named {
            let text = |key: &[u8]| key_field.text(key).unwrap_or_else(|| "no key".to_owned());
            let (own, named) = (text(&key), text(named));
            let detail = format!("{} is {own:?} in the value, the path says {named:?}", key_field.name);
            return Err(self.reject(Code::KeyChange, path, detail));
        }
        Ok(())
    }

    /// U7 over a subtree: against the stored node at the same path where there is one, else against the defaults.
    fn strict_subtree(
        &self,
        path: &Path,
        ty: TypeId,
        keyed: Option<&ChildField>,
        new: &Subtree<'_>,
        violated: &mut Vec<String>,
    ) -> Result<(), Stop> {
        let old = match self.tree.node(path, self.objects)? {
            Lookup::Found(node) => node.config(self.objects)?.to_vec(),
            Lookup::Default => Vec::new(),
            Lookup::Absent { .. } => {
                self.strict_new(ty, keyed, new, violated);
                return Ok(());
            }
        };
        violated.extend(self.schema.read_only_changes(ty, &old, &new.config));
        for children in &new.children {
            let Some(child) = self.schema.message(ty).child(children.field) else { continue };
            for (key, entry) in &children.entries {
                let mut below = path.clone();
                match child.kind {
                    ChildKind::List => {
                        self.strict_new(child.message, None, entry, violated);
                        continue;
                    }
                    ChildKind::Single => below.steps.push(Step { field: child.number, key: None }),
                    ChildKind::Keyed(_) => {
                        below.steps.push(Step { field: child.number, key: Some(key.clone()) });
                    }
                }
                let keyed = matches!(child.kind, ChildKind::Keyed(_)).then_some(child);
                self.strict_subtree(&below, child.message, keyed, entry, violated)?;
            }
        }
        Ok(())
    }

    /// A strict add leaves READ_ONLY fields other than the key at their defaults.
    fn strict_new(&self, ty: TypeId, keyed: Option<&ChildField>, new: &Subtree<'_>, violated: &mut Vec<String>) {
        violated.extend(self.schema.read_only_set(ty, keyed.and_then(ChildField::key), &new.config));
        for children in &new.children {
            let Some(child) = self.schema.message(ty).child(children.field) else { continue };
            let keyed = matches!(child.kind, ChildKind::Keyed(_)).then_some(child);
            for (_, entry) in &children.entries {
                self.strict_new(child.message, keyed, entry, violated);
            }
        }
    }

    fn read_only(&self, path: &Path, fields: &[String]) -> Stop {
        let detail = format!("READ_ONLY: {}", fields.join(", "));
        self.reject(Code::ReadOnlyField, path, detail)
    }

    fn absent(&self, path: &Path, step: usize) -> Rejection {
        let upto = Path { steps: path.steps[..(step + 1).min(path.steps.len())].to_vec() };
        let detail = format!("no such key: {}", self.schema.print_path(&upto));
        Rejection::new(Code::NotFound, detail).at(path.clone())
    }

    fn child_name(&self, ty: TypeId, field: u32) -> String {
        self.schema.message(ty).child(field).map_or_else(|| field.to_string(), |child| child.name.clone())
    }

    fn value_rejection(&self, error: ValueError, path: &Path) -> Rejection {
        Rejection::from(error).at(path.clone())
    }
}

/// Field names longer than this are possible and make the quick test of a path's length err on the safe side only when
/// they are common; the exact test decides.
const LONGEST_NAME: usize = 64;

/// What an operation on a whole subtree asks of the node's presence, where it brings no base.
#[derive(Clone, Copy)]
enum Presence {
    Absent,
    Present,
    Any,
}

/// Nesting of the message at a path: the root message is 1.
fn depth_of(path: &Path) -> u32 {
    path.steps.len() as u32 + 1
}

/// In bytes, of the elements of keyed containers at any depth.
fn longest_key(schema: &Schema, ty: TypeId, subtree: &Subtree<'_>) -> usize {
    let mut longest = 0;
    for children in &subtree.children {
        let Some(child) = schema.message(ty).child(children.field) else { continue };
        for (key, below) in &children.entries {
            if let ChildKind::Keyed(_) = child.kind {
                longest = longest.max(key.len());
            }
            longest = longest.max(longest_key(schema, child.message, below));
        }
    }
    longest
}

fn container_hash(field: u32, entries: &[(Box<[u8]>, Subtree<'_>)]) -> Result<Hash, ObjectsError> {
    let mut alone = Tree::empty();
    let path = Path { steps: vec![Step { field, key: None }] };
    alone.replace_container(&path, entries, &NoObjects)?;
    Ok(alone.container_hash(&path, &NoObjects)?.unwrap_or(Hash::ZERO))
}
