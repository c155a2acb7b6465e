//! Who may do what: the policy as plain data, its canonical bytes, and the decisions that follow from it.
//!
//! A policy is a list of rules, each of which allows one principal some rights at and below one path. Nothing forbids: what no
//! rule allows is denied. So a right at a path is a right everywhere below it. A policy without rules allows everything to everybody.
//!
//! Rights are independent of each other. Write does not imply read, and admin implies no right on data: an administrator who
//! should also read and write is given those rights too.

use crate::code::{Code, Rejection};
use crate::event::{Body, Malformed, read_step, write_steps};
use crate::ids::Position;
use crate::keys::MAX_KEY_BYTES;
use crate::path::{Path, Step};
use crate::proto::{self, Fields};
use crate::schema::MAX_DEPTH;
use crate::wire_bytes::Cursor;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The rule's principal that stands for every principal with a name.
pub const EVERYBODY: &str = "*";
/// Limit on a principal, in bytes.
pub const MAX_PRINCIPAL_BYTES: usize = 256;
/// Limit on the rules of a policy.
pub const MAX_RULES: usize = 4_096;
/// Limit on the tokens of a policy.
pub const MAX_TOKENS: usize = 4_096;
/// Limit on a policy's canonical bytes: every replica keeps it in memory, beside what is compiled from it.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

/// Key derivation context of the hash of a token's secret; never changed.
const TOKEN_CONTEXT: &str = "confold 2026-11 bearer token";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Right {
    /// See values, keys, hashes and history at and below the path.
    Read = 1,
    /// Change what is at and below the path.
    Write = 2,
    /// Name revisions. For the store as a whole: only on the root.
    Tag = 3,
    /// Schema, retention, policy, upkeep, and whatever shows the log. For the store as a whole: only on the root.
    Admin = 4,
}

impl Right {
    pub const ALL: [Right; 4] = [Right::Read, Right::Write, Right::Tag, Right::Admin];

    /// The word that people use.
    pub fn name(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Tag => "tag",
            Right::Admin => "admin",
        }
    }

    pub fn from_name(name: &str) -> Option<Right> {
        Right::ALL.into_iter().find(|right| right.name() == name)
    }

    pub fn from_number(number: u64) -> Option<Right> {
        Right::ALL.into_iter().find(|right| u64::from(*right as u8) == number)
    }

    /// Whether the right is one on the store as a whole, and its only path the root.
    pub fn is_store_wide(self) -> bool {
        matches!(self, Right::Tag | Right::Admin)
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u8);

impl Rights {
    pub const NONE: Rights = Rights(0);
    pub const ALL: Rights = Rights(0b1_1110);

    pub fn with(self, right: Right) -> Rights {
        Rights(self.0 | 1 << right as u8)
    }

    pub fn without(self, right: Right) -> Rights {
        Rights(self.0 & !(1 << right as u8))
    }

    pub fn and(self, others: Rights) -> Rights {
        Rights(self.0 | others.0)
    }

    pub fn has(self, right: Right) -> bool {
        self.0 & 1 << right as u8 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Ascending by number.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Rights {
        rights.into_iter().fold(Rights::NONE, Rights::with)
    }
}

/// `read, write`.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Right::name).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// Rules and tokens, as they stand on the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    pub rules: Vec<Rule>,
    pub tokens: Vec<TokenRow>,
}

/// What one principal may do at and below a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// [`EVERYBODY`]: every principal with a name.
    pub principal: String,
    pub prefix: Path,
    /// Never empty, unless the rule is there for `strict`.
    pub rights: Rights,
    /// Operations of this principal that touch something at or below the prefix are strict, whether or not they say so (U7).
    pub strict: bool,
}

/// A bearer token, known by its hash alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRow {
    /// The token's name, which may be shown.
    pub id: [u8; 8],
    /// [`token_hash`] of the secret.
    pub hash: [u8; 32],
    pub principal: String,
    /// By the clock of the server that is shown the token; 0: does not expire.
    pub expires_ms: i64,
}

/// BLAKE3 in key derivation mode of the 32 secret bytes: what a policy knows of a token.
pub fn token_hash(secret: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key(TOKEN_CONTEXT, secret)
}

impl TokenRow {
    /// Whether the token was made with this secret. Takes the same time whatever the secret.
    pub fn matches(&self, secret: &[u8; 32]) -> bool {
        // `==` on these compares in constant time.
        blake3::Hash::from_bytes(self.hash) == blake3::Hash::from_bytes(token_hash(secret))
    }

    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_ms != 0 && self.expires_ms <= now_ms
    }
}

impl Policy {
    /// Canonical bytes of a `confold.v1.Policy`. `replaces` is the position of the policy event that this one replaces, 0
    /// where there was none.
    pub fn write(&self, replaces: Position, out: &mut Vec<u8>) {
        for rule in &self.rules {
            proto::put_message(out, 1, |out| rule.write(out));
        }
        for token in &self.tokens {
            proto::put_message(out, 2, |out| token.write(out));
        }
        proto::put_uint(out, 3, replaces.0);
    }

    /// As `write`, alone.
    pub fn canonical(&self, replaces: Position) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(replaces, &mut out);
        out
    }

    /// Reads what has passed the envelope's tables: the policy and what it replaces. Whether it may come into force is for
    /// [`Policy::check`] to say.
    pub fn read(bytes: &[u8]) -> Result<(Policy, Position), Malformed> {
        let (mut policy, mut replaces) = (Policy::default(), 0);
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => policy.rules.push(Rule::read(value.bytes()?)?),
                (2, value) => policy.tokens.push(TokenRow::read(value.bytes()?)?),
                (_, value) => replaces = value.uint()?,
            }
        }
        Ok((policy, Position(replaces)))
    }

    /// Whether the policy may come into force.
    ///
    /// `LIMIT` for too many rules, tokens or bytes, for a principal that is empty, too long or has control characters, and for a path that is
    /// too deep or has too long a key; `MALFORMED` for two tokens of one id, a token for [`EVERYBODY`], an expiry before 1970, a rule
    /// that allows nothing and forces nothing, a store-wide right below the root, and for rules of which none gives admin: such a policy
    /// could never be changed again.
    pub fn check(&self) -> Result<(), Rejection> {
        let limit = |what: &str, count: usize, most: usize| match count <= most {
            true => Ok(()),
            false => Err(Rejection::new(
                Code::Limit,
                format!("the policy has {count} {what}; at most {most} are allowed"),
            )),
        };
        limit("rules", self.rules.len(), MAX_RULES)?;
        limit("tokens", self.tokens.len(), MAX_TOKENS)?;
        limit("bytes", self.canonical(Position(0)).len(), MAX_POLICY_BYTES)?;
        self.rules.iter().try_for_each(Rule::check)?;
        let mut ids = BTreeSet::new();
        for token in &self.tokens {
            token.check()?;
            if !ids.insert(token.id) {
                return Err(bad(format!("two tokens have the id {}", Hex(&token.id))));
            }
        }
        if !self.rules.is_empty() && !self.rules.iter().any(|rule| rule.rights.has(Right::Admin)) {
            return Err(bad(
                "no rule gives anybody the right admin, so nobody could ever change this policy again",
            ));
        }
        Ok(())
    }

    /// The token of this id, if it was made with this secret. Whether it has expired is for the caller to ask.
    pub fn token(&self, id: &[u8; 8], secret: &[u8; 32]) -> Option<&TokenRow> {
        self.tokens
            .iter()
            .find(|token| token.id == *id)
            .filter(|token| token.matches(secret))
    }

    /// The rules that speak of a principal, by name or as one of everybody.
    pub fn rules_of<'a>(&'a self, principal: &'a str) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.is_for(principal))
    }

    /// The rule that allows a right at a path; `None` where none does. Where there are no rules there is none to name.
    pub fn rule_for<'a>(&'a self, principal: &'a str, right: Right, path: &Path) -> Option<&'a Rule> {
        self.rules_of(principal)
            .find(|rule| rule.rights.has(right) && path.starts_with(&rule.prefix))
    }

    /// Whether the principal has the right at the path; one that is empty is nobody, and is allowed nothing by any rule.
    pub fn allows(&self, principal: &str, right: Right, path: &Path) -> bool {
        self.rules.is_empty() || self.rule_for(principal, right, path).is_some()
    }
}

impl Rule {
    /// Whether the rule speaks of a principal, by name or as one of everybody.
    pub fn is_for(&self, principal: &str) -> bool {
        !principal.is_empty() && (self.principal == principal || self.principal == EVERYBODY)
    }

    fn check(&self) -> Result<(), Rejection> {
        check_principal(&self.principal)?;
        if self.rights.is_empty() && !self.strict {
            return Err(bad(format!(
                "a rule for \"{}\" allows nothing and forces nothing",
                self.principal
            ))
            .at(self.prefix.clone()));
        }
        if let Some(right) = self
            .rights
            .iter()
            .find(|right| right.is_store_wide() && !self.prefix.is_root())
        {
            let text = format!(
                "a rule for \"{}\" gives {} below the root; {} is a right on the store as a whole and needs the path /",
                self.principal,
                right.name(),
                right.name()
            );
            return Err(bad(text).at(self.prefix.clone()));
        }
        if self.prefix.depth() > MAX_DEPTH {
            let text = format!(
                "the path of a rule for \"{}\" has {} steps",
                self.principal,
                self.prefix.steps.len()
            );
            return Err(Rejection::new(
                Code::Limit,
                format!("{text}; it may lead {MAX_DEPTH} messages deep, the root counted"),
            ));
        }
        let longest = self
            .prefix
            .steps
            .iter()
            .filter_map(|step| step.key.as_ref())
            .map(|key| key.len())
            .max()
            .unwrap_or(0);
        if longest > MAX_KEY_BYTES {
            let text = format!(
                "the path of a rule for \"{}\" has a key of {longest} bytes",
                self.principal
            );
            return Err(Rejection::new(
                Code::Limit,
                format!("{text}; at most {MAX_KEY_BYTES} are allowed"),
            ));
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        proto::put_bytes(out, 1, self.principal.as_bytes());
        write_steps(out, 2, &self.prefix);
        let packed: Vec<u8> = self.rights.iter().map(|right| right as u8).collect();
        proto::put_bytes(out, 3, &packed);
        proto::put_uint(out, 4, self.strict.into());
    }

    fn read(bytes: &[u8]) -> Result<Rule, Malformed> {
        let mut rule = Rule {
            principal: String::new(),
            prefix: Path::root(),
            rights: Rights::NONE,
            strict: false,
        };
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => rule.principal = value.text()?.to_owned(),
                (2, value) => rule.prefix.steps.push(read_step(value.bytes()?)?),
                (3, value) => rule.rights = read_rights(value.bytes()?)?,
                (_, value) => rule.strict = value.uint()? != 0,
            }
        }
        Ok(rule)
    }
}

/// Packed numbers, ascending and each at most once.
fn read_rights(packed: &[u8]) -> Result<Rights, Malformed> {
    let (mut rights, mut last) = (Rights::NONE, 0);
    let mut cursor = Cursor::new(packed);
    while !cursor.is_empty() {
        let number = cursor.varint::<false>().map_err(|error| Malformed(error.to_string()))?;
        let right = Right::from_number(number).ok_or_else(|| Malformed(format!("{number} is no right")))?;
        if number <= last {
            return Err(Malformed("the rights of a rule ascend, and none comes twice".into()));
        }
        (rights, last) = (rights.with(right), number);
    }
    Ok(rights)
}

impl TokenRow {
    fn check(&self) -> Result<(), Rejection> {
        check_principal(&self.principal)?;
        if self.principal == EVERYBODY {
            return Err(bad(format!(
                "the token {} is for \"*\"; a token is one principal's",
                Hex(&self.id)
            )));
        }
        match self.expires_ms < 0 {
            true => Err(bad(format!(
                "the token {} expires at {}, before 1970",
                Hex(&self.id),
                self.expires_ms
            ))),
            false => Ok(()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        proto::put_bytes(out, 1, &self.id);
        proto::put_bytes(out, 2, &self.hash);
        proto::put_bytes(out, 3, self.principal.as_bytes());
        proto::put_uint(out, 4, self.expires_ms as u64);
    }

    fn read(bytes: &[u8]) -> Result<TokenRow, Malformed> {
        let (mut id, mut hash) = (None, None);
        let (mut principal, mut expires_ms) = ("", 0);
        for field in Fields::new(bytes) {
            match field? {
                (1, value) => id = Some(value.array("token id")?),
                (2, value) => hash = Some(value.array("token hash")?),
                (3, value) => principal = value.text()?,
                (_, value) => expires_ms = value.uint()? as i64,
            }
        }
        let absent = |what: &str| Malformed(format!("a token without {what}"));
        Ok(TokenRow {
            id: id.ok_or_else(|| absent("an id"))?,
            hash: hash.ok_or_else(|| absent("a hash"))?,
            principal: principal.to_owned(),
            expires_ms,
        })
    }
}

/// `LIMIT` unless the text has 1 to 256 bytes, none of a control character.
pub fn check_principal(principal: &str) -> Result<(), Rejection> {
    let text = match principal.len() {
        0 => "a principal is empty; it has 1 to 256 bytes".to_owned(),
        length if length > MAX_PRINCIPAL_BYTES => {
            format!("a principal has {length} bytes; at most {MAX_PRINCIPAL_BYTES} are allowed")
        }
        _ if principal.chars().any(char::is_control) => format!("the principal {principal:?} has a control character"),
        _ => return Ok(()),
    };
    Err(Rejection::new(Code::Limit, text))
}

fn bad(detail: impl Into<String>) -> Rejection {
    Rejection::new(Code::Malformed, detail)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a reader sees of a subtree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visible {
    /// Everything at and below the path.
    Full,
    /// Not the path itself, but something below it may be read.
    Partial,
    /// Nothing: as if it were not there.
    Hidden,
}

/// How far an operation reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// The config at its path alone, as an update does.
    Node,
    /// Everything at and below its path.
    Subtree,
}

/// A policy compiled for decisions: the rules of each principal as a trie over steps.
#[derive(Clone, Debug, Default)]
pub struct Rulebook {
    /// There are no rules, so everything is allowed.
    open: bool,
    named: BTreeMap<String, Node>,
    everybody: Node,
}

/// Where rules may stand: a path that is a prefix of some rule's path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Node {
    /// What the rules of exactly this path say.
    here: Says,
    /// What the rules of all longer paths say together.
    below: Says,
    fields: BTreeMap<u32, Field>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Field {
    /// The step without a key: a single child, or a container with all its elements.
    alone: Node,
    elements: BTreeMap<Box<[u8]>, Node>,
    /// What the rules of the elements and of all below them say together.
    in_elements: Says,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Says {
    rights: Rights,
    strict: bool,
}

impl Says {
    fn and(self, other: Says) -> Says {
        Says {
            rights: self.rights.and(other.rights),
            strict: self.strict || other.strict,
        }
    }
}

impl Rulebook {
    pub fn new(policy: &Policy) -> Rulebook {
        let mut book = Rulebook {
            open: policy.rules.is_empty(),
            ..Rulebook::default()
        };
        for rule in &policy.rules {
            let top = match rule.principal.as_str() {
                EVERYBODY => &mut book.everybody,
                name => book.named.entry(name.to_owned()).or_default(),
            };
            top.insert(
                &rule.prefix.steps,
                Says {
                    rights: rule.rights,
                    strict: rule.strict,
                },
            );
        }
        book
    }

    /// Whether there are no rules, so that everything is allowed to everybody.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What a principal may do. An empty one is nobody and has no right, unless the book is open.
    pub fn of<'a>(&'a self, principal: &'a str) -> Grants<'a> {
        let known = !self.open && !principal.is_empty();
        Grants {
            principal,
            open: self.open,
            tops: [
                known.then_some(&self.everybody),
                self.named.get(principal).filter(|_| known),
            ],
        }
    }
}

impl Node {
    fn insert(&mut self, steps: &[Step], says: Says) {
        let Some((step, rest)) = steps.split_first() else {
            self.here = self.here.and(says);
            return;
        };
        self.below = self.below.and(says);
        let field = self.fields.entry(step.field).or_default();
        match &step.key {
            None => field.alone.insert(rest, says),
            Some(key) => {
                field.in_elements = field.in_elements.and(says);
                field.elements.entry(key.clone()).or_default().insert(rest, says);
            }
        }
    }
}

/// What one principal may do, under one policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grants<'a> {
    principal: &'a str,
    open: bool,
    /// The rules for everybody and those for the principal by name; the decisions are what both allow together.
    tops: [Option<&'a Node>; 2],
}

/// A path on the way through a tree, with what holds there. A walk goes from place to place without looking at a rule twice.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// What the rules at and above the path say.
    here: Says,
    /// What the rules below it say together.
    below: Says,
    nodes: [Option<&'a Node>; 2],
}

impl<'a> Grants<'a> {
    pub fn principal(&self) -> &'a str {
        self.principal
    }

    pub fn root(&self) -> Place<'a> {
        let all = Says {
            rights: if self.open { Rights::ALL } else { Rights::NONE },
            strict: false,
        };
        Place {
            here: all,
            below: Says::default(),
            nodes: [None; 2],
        }
        .enter(self.tops)
    }

    pub fn at(&self, path: &Path) -> Place<'a> {
        path.steps
            .iter()
            .fold(self.root(), |place, step| place.step(step.field, step.key.as_deref()))
    }

    pub fn allows(&self, right: Right, path: &Path) -> bool {
        self.at(path).allows(right)
    }

    /// Whether the principal has a right on anything at all.
    pub fn has_any(&self) -> bool {
        let root = self.root();
        !root.here.rights.and(root.below.rights).is_empty()
    }

    /// Whether the principal has the right somewhere.
    pub fn has_somewhere(&self, right: Right) -> bool {
        let root = self.root();
        root.here.rights.and(root.below.rights).has(right)
    }

    pub fn visible(&self, path: &Path) -> Visible {
        self.at(path).visible()
    }

    /// Whether an operation at the path is strict for this principal: because a rule at or above the path says so, or, where it
    /// reaches the whole subtree, because one below does.
    pub fn is_strict(&self, path: &Path, reach: Reach) -> bool {
        let place = self.at(path);
        place.here.strict || (reach == Reach::Subtree && place.below.strict)
    }

    /// Whether the right is there at the path: `PERMISSION` with the principal, the right and the path. What is at the path
    /// plays no part, so the refusal does not tell.
    pub fn require(&self, right: Right, path: &Path) -> Result<(), Rejection> {
        if self.allows(right, path) {
            return Ok(());
        }
        Err(Rejection::new(
            Code::Permission,
            format!("{} has no right to {} here", self.who(), right.verb()),
        )
        .at(path.clone()))
    }

    /// Whether the principal may propose an event with this body: the one list of what each body needs. Checked at the
    /// proposer's as a courtesy, and in the fold for good.
    ///
    /// A commit needs write at the path of every operation, read too where the operation has a base, and read at the path of
    /// every guard, because the outcome tells whether what is there has the hash. The first one missing is the refusal.
    /// A withdraw bars an id that its sender knows; it needs a right to propose anything at all. Housekeeping is the
    /// replicas' own and needs nothing, nor does a prune by the store's own policy.
    pub fn check(&self, body: &Body<'_>) -> Result<(), Rejection> {
        let root = Path::root();
        match body {
            Body::Commit(commit) => {
                commit
                    .guards
                    .iter()
                    .try_for_each(|guard| self.require(Right::Read, &guard.path))?;
                commit.operations.iter().try_for_each(|operation| {
                    self.require(Right::Write, &operation.path)?;
                    match operation.base {
                        Some(_) => self.require(Right::Read, &operation.path),
                        None => Ok(()),
                    }
                })
            }
            Body::Tag { .. } | Body::Untag { .. } => self.require(Right::Tag, &root),
            Body::Schema { .. }
            | Body::Retention(_)
            | Body::Prune { floor: Some(_) }
            | Body::Activation { .. }
            | Body::Clock
            | Body::Policy { .. }
            | Body::Seal
            | Body::Open { .. }
            | Body::Later { .. } => self.require(Right::Admin, &root),
            Body::Withdraw { .. } => match [Right::Write, Right::Tag, Right::Admin]
                .iter()
                .any(|right| self.has_somewhere(*right))
            {
                true => Ok(()),
                false => Err(Rejection::new(
                    Code::Permission,
                    format!("{} has no right to propose anything", self.who()),
                )),
            },
            Body::Genesis(_) | Body::Prune { floor: None } | Body::Mark { .. } | Body::Checkpoint(_) | Body::Fence => {
                Ok(())
            }
        }
    }

    fn who(&self) -> String {
        match self.principal {
            "" => "a caller without a name".to_owned(),
            name => format!("\"{name}\""),
        }
    }
}

impl Right {
    /// What its holder may do, as a verb.
    pub fn verb(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Tag => "tag",
            Right::Admin => "administer",
        }
    }
}

impl<'a> Place<'a> {
    /// One step further. Without a key: a single child, or a container. The elements of a container are stepped to from the node that holds it.
    pub fn step(&self, field: u32, key: Option<&[u8]>) -> Place<'a> {
        let fields = self.nodes.map(|node| node.and_then(|node| node.fields.get(&field)));
        let mut place = Place {
            here: self.here,
            below: Says::default(),
            nodes: [None; 2],
        };
        match key {
            None => {
                place = place.enter(fields.map(|field| field.map(|field| &field.alone)));
                for field in fields.into_iter().flatten() {
                    place.below = place.below.and(field.in_elements);
                }
                place
            }
            Some(key) => {
                for field in fields.into_iter().flatten() {
                    place.here = place.here.and(field.alone.here);
                }
                place.enter(fields.map(|field| field.and_then(|field| field.elements.get(key))))
            }
        }
    }

    fn enter(mut self, nodes: [Option<&'a Node>; 2]) -> Place<'a> {
        for node in nodes.into_iter().flatten() {
            self.here = self.here.and(node.here);
            self.below = self.below.and(node.below);
        }
        self.nodes = nodes;
        self
    }

    pub fn allows(&self, right: Right) -> bool {
        self.here.rights.has(right)
    }

    pub fn visible(&self) -> Visible {
        if self.here.rights.has(Right::Read) {
            Visible::Full
        } else if self.below.rights.has(Right::Read) {
            Visible::Partial
        } else {
            Visible::Hidden
        }
    }

    /// The keys of those elements of a container of this node of which something may be read, ascending. What there is to
    /// list where the container is [`Visible::Partial`], however many elements it has.
    pub fn readable_keys(&self, field: u32) -> BTreeSet<&'a [u8]> {
        let fields = self
            .nodes
            .into_iter()
            .flatten()
            .filter_map(|node| node.fields.get(&field));
        let elements = fields.flat_map(|field| &field.elements);
        let readable = elements.filter(|(_, node)| node.here.and(node.below).rights.has(Right::Read));
        readable.map(|(key, _)| &**key).collect()
    }
}
