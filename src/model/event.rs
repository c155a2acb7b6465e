//! Events as plain data, and their canonical bytes.
//!
//! A record is checked as a whole against the tables of `proto/confold/v1/event.proto` before a field of it is read, so
//! reading it cannot meet anything but the fields below. `encode` writes the one form that passes the check.

use crate::ids::{EventId, Hash, Incarnation, Position, Revision};
use crate::path::{Path, Step};
use crate::policy::{Policy, Reach};
use crate::proto::{self, Fields};
use crate::schema::Schema;
use crate::wire_bytes::Cursor;
use std::borrow::Cow;
use std::sync::OnceLock;

/// The record format of this build.
pub const FORMAT: u32 = 0;
/// The highest level this build knows.
pub const LEVEL: u32 = 1;

/// The descriptor set of `event.proto`, made when the crate is built.
const ENVELOPE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/event.binpb"));

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    pub format: u32,
    pub incarnation: Incarnation,
    /// Both or neither: the id and BLAKE3 of the request. Housekeeping events and genesis have none.
    pub intention: Option<(EventId, Hash)>,
    pub author: Cow<'a, str>,
    pub principal: Cow<'a, str>,
    pub client_time_ms: i64,
    pub reason: Cow<'a, str>,
    pub body: Body<'a>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body<'a> {
    Genesis(Genesis),
    Commit(Commit<'a>),
    Schema { descriptor_set: Cow<'a, [u8]>, root_message: Cow<'a, str> },
    Tag { name: Cow<'a, str>, revision: Revision },
    Untag { names: Vec<Cow<'a, str>> },
    Retention(RetentionPolicy),
    Prune { floor: Option<Revision> },
    /// `replaces`: position of the policy that its author saw in force, 0 where there was none.
    Policy { policy: Policy, replaces: Position },
    Withdraw { id: EventId },
    Activation { level: u32 },
    Clock,
    /// The log is over: from here on nothing but an `open` is taken.
    Seal,
    /// A new life of the log begins. The event itself carries the incarnation that it ends.
    Open { incarnation: Incarnation, transport_id: [u8; 16] },
    Mark { last_mark: Position },
    Checkpoint(Checkpoint<'a>),
    Fence,
    /// Defined for later levels: refused as not yet supported.
    Later { name: &'static str },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    pub log_id: [u8; 16],
    pub store_name: String,
    pub limits: Limits,
    /// W: how many positions an event id stays usable.
    pub window: u64,
    pub trim_replicas: u32,
    pub retention: RetentionPolicy,
    pub level: u32,
    pub transport_id: [u8; 16],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub max_event_bytes: u64,
    pub depth: u32,
    pub path_bytes: u32,
    pub key_bytes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_event_bytes: 16 << 20, depth: 64, path_bytes: 4096, key_bytes: 256 }
    }
}

/// The window of a new store, in positions.
pub const WINDOW: u64 = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RetentionPolicy {
    /// Keep at least this many of the latest revisions.
    pub keep_revisions: u64,
    /// Keep every revision younger than this.
    pub keep_age_ms: i64,
    /// Let nothing go.
    pub keep_all: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Commit<'a> {
    pub guards: Vec<Guard>,
    pub operations: Vec<Operation<'a>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    pub path: Path,
    pub expect: Expect,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    Subtree(Hash),
    Data(Hash),
    Container(Hash),
    Absent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation<'a> {
    pub path: Path,
    pub strict: bool,
    pub base: Option<Base>,
    pub kind: OperationKind<'a>,
}

/// What the proposer saw at the operation's path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Base {
    Hash(Hash),
    Absent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperationKind<'a> {
    /// An empty mask means the whole config.
    Update { value: Cow<'a, [u8]>, mask: Vec<Vec<u32>> },
    Add { value: Cow<'a, [u8]> },
    Put { value: Cow<'a, [u8]> },
    Replace { value: Cow<'a, [u8]> },
    Remove,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint<'a> {
    pub replica: [u8; 16],
    pub build: Cow<'a, str>,
    pub level: u32,
    pub position: Position,
    pub chain: Hash,
    pub state: Hash,
    pub durable: Position,
}

impl OperationKind<'_> {
    pub fn name(&self) -> &'static str {
        match self {
            OperationKind::Update { .. } => "update",
            OperationKind::Add { .. } => "add",
            OperationKind::Put { .. } => "put",
            OperationKind::Replace { .. } => "replace",
            OperationKind::Remove => "remove",
        }
    }

    /// An update keeps what is below; the others take or make it.
    pub fn reach(&self) -> Reach {
        match self {
            OperationKind::Update { .. } => Reach::Node,
            _ => Reach::Subtree,
        }
    }
}

impl Body<'_> {
    /// Housekeeping carries no event id and makes nothing that a client waits for.
    pub fn is_housekeeping(&self) -> bool {
        matches!(self, Body::Mark { .. } | Body::Checkpoint(_) | Body::Fence)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Body::Genesis(_) => "genesis",
            Body::Commit(_) => "commit",
            Body::Schema { .. } => "schema",
            Body::Tag { .. } => "tag",
            Body::Untag { .. } => "untag",
            Body::Retention(_) => "retention",
            Body::Prune { .. } => "prune",
            Body::Policy { .. } => "policy",
            Body::Withdraw { .. } => "withdraw",
            Body::Activation { .. } => "activation",
            Body::Clock => "clock",
            Body::Seal => "seal",
            Body::Open { .. } => "open",
            Body::Mark { .. } => "mark",
            Body::Checkpoint(_) => "checkpoint",
            Body::Fence => "fence",
            Body::Later { name } => name,
        }
    }
}

/// Why a record is not an event: for people; the code is MALFORMED whatever the text says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// The tables that every record is checked against.
pub fn envelope() -> &'static Schema {
    static TABLES: OnceLock<Schema> = OnceLock::new();
    TABLES.get_or_init(|| Schema::compile(ENVELOPE, "confold.v1.Event").expect("our own envelope is a valid schema"))
}

impl<'a> Event<'a> {
    /// Checks the bytes against the envelope's tables and reads them.
    pub fn decode(record: &'a [u8]) -> Result<Event<'a>, Malformed> {
        let tables = envelope();
        tables.check_config(tables.root(), record, 1).map_err(|error| Malformed(error.to_string()))?;
        read_event(record)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.value_bytes());
        proto::put_uint(&mut out, 1, self.format.into());
        proto::put_bytes(&mut out, 2, &self.incarnation.0);
        if let Some((id, intent)) = &self.intention {
            proto::put_message(&mut out, 3, |out| write_id(out, id));
            proto::put_bytes(&mut out, 4, &intent.0);
        }
        proto::put_bytes(&mut out, 5, self.author.as_bytes());
        proto::put_bytes(&mut out, 6, self.principal.as_bytes());
        proto::put_uint(&mut out, 7, self.client_time_ms as u64);
        proto::put_bytes(&mut out, 8, self.reason.as_bytes());
        write_body(&mut out, &self.body);
        out
    }

    fn value_bytes(&self) -> usize {
        match &self.body {
            Body::Commit(commit) => commit.operations.iter().map(|op| 32 + op.value().len()).sum(),
            Body::Schema { descriptor_set, .. } => descriptor_set.len(),
            _ => 64,
        }
    }
}

impl Operation<'_> {
    /// The bytes that the operation carries; none for a remove.
    pub fn value(&self) -> &[u8] {
        match &self.kind {
            OperationKind::Update { value, .. }
            | OperationKind::Add { value }
            | OperationKind::Put { value }
            | OperationKind::Replace { value } => value,
            OperationKind::Remove => &[],
        }
    }
}

fn write_id(out: &mut Vec<u8>, id: &EventId) {
    proto::put_uint(out, 1, id.seen.0);
    proto::put_bytes(out, 2, &id.nonce);
}

fn write_body(out: &mut Vec<u8>, body: &Body<'_>) {
    match body {
        Body::Genesis(genesis) => proto::put_message(out, 16, |out| write_genesis(out, genesis)),
        Body::Commit(commit) => proto::put_message(out, 17, |out| write_commit(out, commit)),
        Body::Schema { descriptor_set, root_message } => proto::put_message(out, 18, |out| {
            proto::put_bytes(out, 1, descriptor_set);
            proto::put_bytes(out, 2, root_message.as_bytes());
        }),
        Body::Tag { name, revision } => proto::put_message(out, 19, |out| {
            proto::put_bytes(out, 1, name.as_bytes());
            proto::put_uint(out, 2, revision.0);
        }),
        Body::Untag { names } => proto::put_message(out, 20, |out| {
            names.iter().for_each(|name| proto::put_item(out, 1, name.as_bytes()));
        }),
        Body::Retention(policy) => proto::put_message(out, 21, |out| {
            proto::put_message(out, 1, |out| policy.write(out));
        }),
        Body::Prune { floor } => proto::put_message(out, 22, |out| {
            if let Some(floor) = floor {
                proto::put_tag(out, 1, 0);
                proto::put_varint(out, floor.0);
            }
        }),
        Body::Policy { policy, replaces } => proto::put_message(out, 24, |out| policy.write(*replaces, out)),
        Body::Withdraw { id } => proto::put_message(out, 25, |out| {
            proto::put_message(out, 1, |out| write_id(out, id));
        }),
        Body::Activation { level } => proto::put_message(out, 26, |out| proto::put_uint(out, 1, (*level).into())),
        Body::Clock => proto::put_message(out, 27, |_| ()),
        Body::Seal => proto::put_message(out, 28, |_| ()),
        Body::Open { incarnation, transport_id } => proto::put_message(out, 29, |out| {
            proto::put_bytes(out, 1, &incarnation.0);
            proto::put_bytes(out, 2, transport_id);
        }),
        Body::Mark { last_mark } => proto::put_message(out, 30, |out| proto::put_uint(out, 1, last_mark.0)),
        Body::Checkpoint(checkpoint) => proto::put_message(out, 31, |out| checkpoint.write(out)),
        Body::Fence => proto::put_message(out, 32, |_| ()),
        // Nobody proposes these yet; an empty body of the right number keeps encode total.
        Body::Later { name } => {
            let number = LATER.iter().find(|(_, known)| known == name).map_or(23, |(number, _)| *number);
            proto::put_message(out, number, |_| ());
        }
    }
}

const LATER: [(u32, &str); 1] = [(23, "trim")];

fn write_genesis(out: &mut Vec<u8>, genesis: &Genesis) {
    proto::put_bytes(out, 1, &genesis.log_id);
    proto::put_bytes(out, 2, genesis.store_name.as_bytes());
    proto::put_message(out, 3, |out| genesis.limits.write(out));
    proto::put_uint(out, 4, genesis.window);
    proto::put_uint(out, 5, genesis.trim_replicas.into());
    proto::put_message(out, 6, |out| genesis.retention.write(out));
    proto::put_uint(out, 7, genesis.level.into());
    proto::put_bytes(out, 8, &genesis.transport_id);
}

impl Limits {
    /// Canonical bytes of a `confold.v1.Limits`.
    pub fn write(&self, out: &mut Vec<u8>) {
        proto::put_uint(out, 1, self.max_event_bytes);
        proto::put_uint(out, 2, self.depth.into());
        proto::put_uint(out, 3, self.path_bytes.into());
        proto::put_uint(out, 4, self.key_bytes.into());
    }

    pub fn read(bytes: &[u8]) -> Result<Limits, Malformed> {
        let mut limits = Limits { max_event_bytes: 0, depth: 0, path_bytes: 0, key_bytes: 0 };
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => limits.max_event_bytes = value.uint()?,
                (2, value) => limits.depth = value.uint32()?,
                (3, value) => limits.path_bytes = value.uint32()?,
                (4, value) => limits.key_bytes = value.uint32()?,
                _ => {}
            }
        }
        Ok(limits)
    }
}

impl RetentionPolicy {
    /// Canonical bytes of a `confold.v1.RetentionPolicy`.
    pub fn write(&self, out: &mut Vec<u8>) {
        proto::put_uint(out, 1, self.keep_revisions);
        proto::put_uint(out, 2, self.keep_age_ms as u64);
        proto::put_uint(out, 3, self.keep_all.into());
    }

    pub fn read(bytes: &[u8]) -> Result<RetentionPolicy, Malformed> {
        let mut policy = RetentionPolicy::default();
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => policy.keep_revisions = value.uint()?,
                (2, value) => policy.keep_age_ms = value.uint()? as i64,
                (3, value) => policy.keep_all = value.uint()? != 0,
                _ => {}
            }
        }
        Ok(policy)
    }
}

impl<'a> Checkpoint<'a> {
    /// Canonical bytes of a `confold.v1.Checkpoint`.
    pub fn write(&self, out: &mut Vec<u8>) {
        proto::put_bytes(out, 1, &self.replica);
        proto::put_bytes(out, 2, self.build.as_bytes());
        proto::put_uint(out, 3, self.level.into());
        proto::put_uint(out, 4, self.position.0);
        proto::put_bytes(out, 5, &self.chain.0);
        proto::put_bytes(out, 6, &self.state.0);
        proto::put_uint(out, 7, self.durable.0);
    }

    pub fn into_owned(self) -> Checkpoint<'static> {
        Checkpoint { build: Cow::Owned(self.build.into_owned()), ..self }
    }

    pub fn read(bytes: &'a [u8]) -> Result<Checkpoint<'a>, Malformed> {
        let (mut replica, mut chain, mut state) = (None, None, None);
        let (mut build, mut level, mut position, mut durable) = ("", 0, 0, 0);
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => replica = Some(value.array("replica")?),
                (2, value) => build = value.text()?,
                (3, value) => level = value.uint32()?,
                (4, value) => position = value.uint()?,
                (5, value) => chain = Some(Hash(value.array("chain")?)),
                (6, value) => state = Some(Hash(value.array("state hash")?)),
                (_, value) => durable = value.uint()?,
            }
        }
        let absent = |what: &str| Malformed(format!("a checkpoint without a {what}"));
        Ok(Checkpoint {
            replica: replica.ok_or_else(|| absent("replica"))?,
            build: build.into(),
            level,
            position: Position(position),
            chain: chain.ok_or_else(|| absent("chain"))?,
            state: state.ok_or_else(|| absent("state hash"))?,
            durable: Position(durable),
        })
    }
}

fn write_commit(out: &mut Vec<u8>, commit: &Commit<'_>) {
    for guard in &commit.guards {
        proto::put_message(out, 1, |out| {
            write_steps(out, 1, &guard.path);
            match &guard.expect {
                Expect::Subtree(hash) => proto::put_bytes(out, 2, &hash.0),
                Expect::Data(hash) => proto::put_bytes(out, 3, &hash.0),
                Expect::Container(hash) => proto::put_bytes(out, 4, &hash.0),
                Expect::Absent => proto::put_message(out, 5, |_| ()),
            }
        });
    }
    for operation in &commit.operations {
        proto::put_message(out, 2, |out| write_operation(out, operation));
    }
}

/// A path as the repeated field `number`.
pub(crate) fn write_steps(out: &mut Vec<u8>, number: u32, path: &Path) {
    for step in &path.steps {
        proto::put_message(out, number, |out| {
            proto::put_uint(out, 1, step.field.into());
            proto::put_bytes(out, 2, step.key.as_deref().unwrap_or_default());
        });
    }
}

fn write_operation(out: &mut Vec<u8>, operation: &Operation<'_>) {
    write_steps(out, 1, &operation.path);
    proto::put_uint(out, 2, operation.strict.into());
    match &operation.base {
        None => {}
        Some(Base::Hash(hash)) => proto::put_message(out, 3, |out| proto::put_bytes(out, 1, &hash.0)),
        Some(Base::Absent) => proto::put_message(out, 3, |out| proto::put_message(out, 2, |_| ())),
    }
    let value_alone = |out: &mut Vec<u8>, value: &[u8]| proto::put_bytes(out, 1, value);
    match &operation.kind {
        OperationKind::Update { value, mask } => proto::put_message(out, 4, |out| {
            value_alone(out, value);
            for path in mask {
                proto::put_message(out, 2, |out| {
                    let mut packed = Vec::with_capacity(path.len());
                    path.iter().for_each(|number| proto::put_varint(&mut packed, (*number).into()));
                    proto::put_bytes(out, 1, &packed);
                });
            }
        }),
        OperationKind::Add { value } => proto::put_message(out, 5, |out| value_alone(out, value)),
        OperationKind::Put { value } => proto::put_message(out, 6, |out| value_alone(out, value)),
        OperationKind::Replace { value } => proto::put_message(out, 7, |out| value_alone(out, value)),
        OperationKind::Remove => proto::put_message(out, 8, |_| ()),
    }
}

// Reading. The bytes have passed the tables: every field is known, in order, of its type and at most once where it is
// singular. What is checked here is what tables cannot say: lengths, and which fields belong together.

fn read_event(record: &[u8]) -> Result<Event<'_>, Malformed> {
    let mut format = 0;
    let mut incarnation = None;
    let (mut id, mut intent) = (None, None);
    let (mut author, mut principal, mut reason) = ("", "", "");
    let mut client_time_ms = 0;
    let mut body = None;
    for field in Fields::new(record) {
        let (number, value) = field?;
        match number {
            1 => format = value.uint32()?,
            2 => incarnation = Some(Incarnation(value.array("incarnation")?)),
            3 => id = Some(read_id(value.bytes()?)?),
            4 => intent = Some(Hash(value.array("intent")?)),
            5 => author = value.text()?,
            6 => principal = value.text()?,
            7 => client_time_ms = value.uint()? as i64,
            8 => reason = value.text()?,
            9 => return Err(Malformed("a signature is reserved and must be absent".into())),
            _ => body = Some(read_body(number, value.bytes()?)?),
        }
    }
    let body = body.ok_or_else(|| Malformed("an event without a body".into()))?;
    let without_id = body.is_housekeeping() || matches!(body, Body::Genesis(_));
    let intention = match (id, intent) {
        (Some(id), Some(intent)) if !without_id => Some((id, intent)),
        (None, None) if without_id => None,
        (None, None) => return Err(Malformed(format!("a {} event needs an event id and an intent", body.name()))),
        (Some(_), Some(_)) => return Err(Malformed(format!("a {} event carries no event id", body.name()))),
        _ => return Err(Malformed("event id and intent come together".into())),
    };
    Ok(Event {
        format,
        incarnation: incarnation.ok_or_else(|| Malformed("an event without an incarnation".into()))?,
        intention,
        author: author.into(),
        principal: principal.into(),
        client_time_ms,
        reason: reason.into(),
        body,
    })
}

fn read_id(bytes: &[u8]) -> Result<EventId, Malformed> {
    let (mut seen, mut nonce) = (0, None);
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => seen = value.uint()?,
            (_, value) => nonce = Some(value.array("nonce")?),
        }
    }
    let nonce = nonce.ok_or_else(|| Malformed("an event id without a nonce".into()))?;
    Ok(EventId { seen: Position(seen), nonce })
}

fn read_body(number: u32, bytes: &[u8]) -> Result<Body<'_>, Malformed> {
    let body = match number {
        16 => Body::Genesis(read_genesis(bytes)?),
        17 => Body::Commit(read_commit(bytes)?),
        18 => {
            let (mut descriptor_set, mut root_message) = (&[][..], "");
            for field in Fields::new(bytes) {
                match field? {
                    (1, value) => descriptor_set = value.bytes()?,
                    (_, value) => root_message = value.text()?,
                }
            }
            Body::Schema { descriptor_set: descriptor_set.into(), root_message: root_message.into() }
        }
        19 => {
            let (mut name, mut revision) = ("", 0);
            for field in Fields::new(bytes) {
                match field? {
                    (1, value) => name = value.text()?,
                    (_, value) => revision = value.uint()?,
                }
            }
            Body::Tag { name: name.into(), revision: Revision(revision) }
        }
        20 => {
            let mut names = Vec::new();
            for field in Fields::new(bytes) {
                names.push(field?.1.text()?.into());
            }
            Body::Untag { names }
        }
        21 => {
            let policy = single_message(bytes, "retention without a policy")?;
            Body::Retention(RetentionPolicy::read(policy)?)
        }
        22 => {
            let floor = Fields::new(bytes).next().transpose()?.map(|(_, value)| value.uint()).transpose()?;
            Body::Prune { floor: floor.map(Revision) }
        }
        24 => {
            let (policy, replaces) = Policy::read(bytes)?;
            Body::Policy { policy, replaces }
        }
        25 => Body::Withdraw { id: read_id(single_message(bytes, "withdraw without an event id")?)? },
        26 => {
            let level = Fields::new(bytes).next().transpose()?.map_or(Ok(0), |(_, value)| value.uint32())?;
            Body::Activation { level }
        }
        27 => Body::Clock,
        28 => Body::Seal,
        29 => read_open(bytes)?,
        30 => {
            let last = Fields::new(bytes).next().transpose()?.map_or(Ok(0), |(_, value)| value.uint())?;
            Body::Mark { last_mark: Position(last) }
        }
        31 => Body::Checkpoint(Checkpoint::read(bytes)?),
        32 => Body::Fence,
        other => match LATER.iter().find(|(number, _)| *number == other) {
            Some((_, name)) => Body::Later { name },
            None => return Err(Malformed(format!("no body has number {other}"))),
        },
    };
    Ok(body)
}

fn read_open(bytes: &[u8]) -> Result<Body<'_>, Malformed> {
    let (mut incarnation, mut transport_id) = (None, None);
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => incarnation = Some(Incarnation(value.array("incarnation")?)),
            (_, value) => transport_id = Some(value.array("transport id")?),
        }
    }
    let absent = |what: &str| Malformed(format!("an open without {what}"));
    Ok(Body::Open {
        incarnation: incarnation.ok_or_else(|| absent("an incarnation"))?,
        transport_id: transport_id.ok_or_else(|| absent("a transport id"))?,
    })
}

fn single_message<'a>(bytes: &'a [u8], absent: &str) -> Result<&'a [u8], Malformed> {
    match Fields::new(bytes).next() {
        Some(field) => Ok(field?.1.bytes()?),
        None => Err(Malformed(absent.into())),
    }
}

fn read_genesis(bytes: &[u8]) -> Result<Genesis, Malformed> {
    let (mut log_id, mut transport_id) = (None, None);
    let (mut limits, mut retention) = (None, None);
    let mut store_name = "";
    let (mut window, mut trim_replicas, mut level) = (0, 0, 0);
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => log_id = Some(value.array("log id")?),
            (2, value) => store_name = value.text()?,
            (3, value) => limits = Some(Limits::read(value.bytes()?)?),
            (4, value) => window = value.uint()?,
            (5, value) => trim_replicas = value.uint32()?,
            (6, value) => retention = Some(RetentionPolicy::read(value.bytes()?)?),
            (7, value) => level = value.uint32()?,
            (_, value) => transport_id = Some(value.array("transport id")?),
        }
    }
    let absent = |what: &str| Malformed(format!("a genesis without a {what}"));
    Ok(Genesis {
        log_id: log_id.ok_or_else(|| absent("log id"))?,
        store_name: store_name.to_owned(),
        limits: limits.ok_or_else(|| absent("limits"))?,
        window,
        trim_replicas,
        retention: retention.ok_or_else(|| absent("retention"))?,
        level,
        transport_id: transport_id.ok_or_else(|| absent("transport id"))?,
    })
}

fn read_commit(bytes: &[u8]) -> Result<Commit<'_>, Malformed> {
    let mut commit = Commit::default();
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => commit.guards.push(read_guard(value.bytes()?)?),
            (_, value) => commit.operations.push(read_operation(value.bytes()?)?),
        }
    }
    Ok(commit)
}

pub(crate) fn read_step(bytes: &[u8]) -> Result<Step, Malformed> {
    let mut step = Step { field: 0, key: None };
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => step.field = value.uint32()?,
            (_, value) => step.key = Some(value.bytes()?.into()),
        }
    }
    Ok(step)
}

fn read_guard(bytes: &[u8]) -> Result<Guard, Malformed> {
    let (mut path, mut expect) = (Path::root(), None);
    for field in Fields::new(bytes) {
        match field? {
            (1, value) => path.steps.push(read_step(value.bytes()?)?),
            (2, value) => expect = Some(Expect::Subtree(Hash(value.array("guard's hash")?))),
            (3, value) => expect = Some(Expect::Data(Hash(value.array("guard's hash")?))),
            (4, value) => expect = Some(Expect::Container(Hash(value.array("guard's hash")?))),
            _ => expect = Some(Expect::Absent),
        }
    }
    let expect = expect.ok_or_else(|| Malformed("a guard that expects nothing".into()))?;
    Ok(Guard { path, expect })
}

fn read_operation(bytes: &[u8]) -> Result<Operation<'_>, Malformed> {
    let (mut path, mut strict, mut base, mut kind) = (Path::root(), false, None, None);
    for field in Fields::new(bytes) {
        let (number, value) = field?;
        match number {
            1 => path.steps.push(read_step(value.bytes()?)?),
            2 => strict = value.uint()? != 0,
            3 => base = Some(read_base(value.bytes()?)?),
            4 => kind = Some(read_update(value.bytes()?)?),
            5 => kind = Some(OperationKind::Add { value: read_value(value.bytes()?)? }),
            6 => kind = Some(OperationKind::Put { value: read_value(value.bytes()?)? }),
            7 => kind = Some(OperationKind::Replace { value: read_value(value.bytes()?)? }),
            _ => kind = Some(OperationKind::Remove),
        }
    }
    let kind = kind.ok_or_else(|| Malformed("an operation without a kind".into()))?;
    Ok(Operation { path, strict, base, kind })
}

fn read_base(bytes: &[u8]) -> Result<Base, Malformed> {
    match Fields::new(bytes).next().transpose()? {
        Some((1, value)) => Ok(Base::Hash(Hash(value.array("base")?))),
        Some(_) => Ok(Base::Absent),
        None => Err(Malformed("a base that says nothing".into())),
    }
}

fn read_value(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    let value = Fields::new(bytes).next().transpose()?.map_or(Ok(&[][..]), |(_, value)| value.bytes())?;
    Ok(value.into())
}

fn read_update(bytes: &[u8]) -> Result<OperationKind<'_>, Malformed> {
    let (mut value, mut mask) = (&[][..], Vec::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, bytes) => value = bytes.bytes()?,
            (_, path) => {
                let mut numbers = Vec::new();
                if let Some(field) = Fields::new(path.bytes()?).next() {
                    let mut packed = Cursor::new(field?.1.bytes()?);
                    while !packed.is_empty() {
                        let number = packed.varint::<false>().map_err(|error| Malformed(error.to_string()))?;
                        let number = u32::try_from(number);
                        numbers.push(number.map_err(|_| Malformed("a field number over 32 bits".into()))?);
                    }
                }
                if numbers.is_empty() {
                    return Err(Malformed("a mask path without field numbers".into()));
                }
                mask.push(numbers);
            }
        }
    }
    Ok(OperationKind::Update { value: value.into(), mask })
}
