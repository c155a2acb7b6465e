//! Runs the scripts beside this file: events in, outcomes, roots and changes out.
//!
//! A script is a list of cases, separated by blank lines: commands above `----`, what they print below. Lines that begin
//! with `#` say what a case teaches. `UPDATE_SCRIPTS=1` rewrites what stands below the lines. Every script runs in a
//! store of its own with the schema of `script.proto`.
//!
//! ```text
//! update PATH [mask=a,b.c] [strict] [base=@LABEL|absent|zero] {textproto}
//! add|put|replace PATH [strict] [base=…] {textproto}      remove PATH [base=…]
//! guard subtree|data|container PATH @LABEL | guard absent PATH
//! ```
//! These lines of one case form one commit; `with seen=-3 id=NAME principal=P author=A` before them sets its envelope,
//! `resend NAME` sends an earlier record again. Other commands are one event each: `schema NAME [ROOT]`, `tag NAME REV`,
//! `untag NAME…`, `retention n=… age=…|all`, `prune [REV]`,
//! `policy [replaces=POS] PRINCIPAL PATH RIGHT… [strict] ; …`, `withdraw ID`, `activation N`, `clock MS`, `mark [POS]`,
//! `checkpoint REPLICA POS level=N`, `fence`, `seal`, `open N [transport=N]`, `later`, `raw HEX`, `skip N` (that many
//! fences), `time MS` (for the next records); `let LABEL` remembers the tree as it stands; `show PATH [@LABEL]`, `tags`,
//! `policies`, `incarnations`, `state` only print. Records carry the present incarnation unless told another one.

use confold_model::code::Code;
use confold_model::diff::{self, ChangeKind};
use confold_model::event::{
    self, Base, Body, Checkpoint, Commit, Event, Expect, Genesis, Guard, Limits, Operation, OperationKind, RetentionPolicy,
};
use confold_model::fold::{self, Applied, Outcome};
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Target};
use confold_model::policy::{Policy, Right, Rule};
use confold_model::schema::Schema;
use confold_model::state::State;
use confold_model::tree::{Lookup, Tree};
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;

const LOG_ID: [u8; 16] = [0x10; 16];

struct World {
    state: State,
    pool: DescriptorPool,
    trees: BTreeMap<String, Tree>,
    sent: BTreeMap<String, (Vec<u8>, EventId)>,
    time: i64,
    next_nonce: u128,
    envelope: Envelope,
}

#[derive(Default, Clone)]
struct Envelope {
    seen: i64,
    name: Option<String>,
    principal: String,
    author: String,
    incarnation: Option<[u8; 16]>,
    intent: Option<String>,
}

fn proto_set(file: &str) -> Vec<u8> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let includes = [here.join("tests/protos"), here.join("../../schemas"), here.join("../../tests/golden/vectors")];
    let mut compiler = protox::Compiler::new(includes).unwrap();
    compiler.include_source_info(false).include_imports(true).open_file(file).unwrap();
    compiler.encode_file_descriptor_set()
}

fn genesis(window: u64) -> Vec<u8> {
    let genesis = Genesis {
        log_id: LOG_ID,
        store_name: "script".into(),
        limits: Limits { max_event_bytes: 65_536, ..Limits::default() },
        window,
        trim_replicas: 1,
        retention: RetentionPolicy { keep_revisions: 2, keep_age_ms: 1_000, keep_all: false },
        level: 1,
        transport_id: [0x20; 16],
    };
    event(&Envelope::default(), None, Body::Genesis(genesis)).encode()
}

fn event<'a>(envelope: &'a Envelope, intention: Option<(EventId, Hash)>, body: Body<'a>) -> Event<'a> {
    Event {
        format: event::FORMAT,
        incarnation: Incarnation(envelope.incarnation.unwrap_or(LOG_ID)),
        intention,
        author: Cow::Borrowed(&envelope.author),
        principal: Cow::Borrowed(&envelope.principal),
        client_time_ms: 0,
        reason: "".into(),
        body,
    }
}

impl World {
    fn new() -> World {
        let set = proto_set("script.proto");
        let mut world = World {
            state: State::new(),
            pool: DescriptorPool::decode(set.as_slice()).unwrap(),
            trees: BTreeMap::new(),
            sent: BTreeMap::new(),
            time: 1_000,
            next_nonce: 1,
            envelope: Envelope::default(),
        };
        world.append(&genesis(16));
        let push = Body::Schema { descriptor_set: set.into(), root_message: "script.Root".into() };
        world.send(push);
        world
    }

    fn append(&mut self, record: &[u8]) -> Applied {
        let before = self.state.tree().clone();
        let applied = fold::apply(&mut self.state, Time(self.time), record, &NoObjects).unwrap();
        assert_eq!(self.state.root(), self.state.tree().root());
        if applied.made_revision {
            assert_ne!(before.root(), self.state.root(), "a revision changes the root");
        } else {
            assert_eq!(before.root(), self.state.root(), "only a revision changes the root");
        }
        applied
    }

    fn send(&mut self, body: Body<'_>) -> Applied {
        let mut envelope = std::mem::take(&mut self.envelope);
        envelope.incarnation.get_or_insert(self.state.incarnation().0);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&self.next_nonce.to_be_bytes());
        self.next_nonce += 1;
        let at = self.state.next_position().0 as i64;
        let id = match envelope.name.as_ref().and_then(|name| self.sent.get(name)) {
            Some((_, id)) => *id,
            None => EventId { seen: Position((at - 1 + envelope.seen).max(0) as u64), nonce },
        };
        let with_id = !body.is_housekeeping();
        let probe = event(&envelope, None, body.clone());
        let intent = match &envelope.intent {
            Some(text) => Hash::of(text.as_bytes()),
            None => Hash::of(&probe.encode()),
        };
        let record = event(&envelope, with_id.then_some((id, intent)), body).encode();
        if let Some(name) = envelope.name.clone() {
            self.sent.insert(name, (record.clone(), id));
        }
        self.append(&record)
    }

    fn schema(&self) -> &Schema {
        self.state.schema().unwrap()
    }

    fn message(&self, path: &Path) -> MessageDescriptor {
        let schema = self.schema();
        let ty = match schema.resolve(path) {
            Ok(Target::Node { ty, .. }) => ty,
            Ok(Target::Container { parent, .. }) => parent,
            Err(_) => schema.root(),
        };
        self.pool.get_message_by_name(&schema.message(ty).full_name).unwrap()
    }

    /// Canonical bytes from textproto; `0x…` is taken as it stands.
    fn value(&self, path: &Path, text: &str) -> Vec<u8> {
        if let Some(hex) = text.strip_prefix("0x") {
            return hex::decode(hex).unwrap();
        }
        let body = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).expect("a value in braces");
        let descriptor = self.message(path);
        let message = DynamicMessage::parse_text_format(descriptor.clone(), body).unwrap();
        let schema = self.schema();
        let ty = schema.message_by_name(descriptor.full_name()).unwrap();
        schema.canonicalise(ty, &message.encode_to_vec(), 1, confold_model::canonicalise::ChildFields::Allowed).unwrap().bytes
    }

    fn path(&self, text: &str) -> Path {
        self.schema().parse_path(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    fn base(&self, text: &str, path: &Path, kind: &OperationKind<'_>) -> Base {
        if text == "absent" {
            return Base::Absent;
        }
        if text == "zero" {
            return Base::Hash(Hash::ZERO);
        }
        let tree = &self.trees[text.strip_prefix('@').expect("base=@LABEL")];
        let hash = match kind {
            OperationKind::Update { mask, .. } if mask.is_empty() => tree.data_hash(path, &NoObjects).unwrap(),
            OperationKind::Update { mask, .. } => match tree.node(path, &NoObjects).unwrap() {
                Lookup::Found(node) => {
                    let Ok(Target::Node { ty, .. }) = self.schema().resolve(path) else { panic!("no node") };
                    let masked = self.schema().masked(ty, node.config(&NoObjects).unwrap(), mask);
                    Some(confold_model::node::data_hash(&masked))
                }
                Lookup::Default => Some(confold_model::node::data_hash(&[])),
                Lookup::Absent { .. } => None,
            },
            _ => match self.schema().resolve(path) {
                Ok(Target::Container { .. }) => tree.container_hash(path, &NoObjects).unwrap(),
                _ => tree.subtree_hash(path, &NoObjects).unwrap(),
            },
        };
        hash.map_or(Base::Absent, Base::Hash)
    }

    fn operation(&self, line: &str) -> Operation<'static> {
        let (head, value) = match line.find(['{']).or_else(|| line.find(" 0x").map(|at| at + 1)) {
            Some(at) => (line[..at].trim(), Some(&line[at..])),
            None => (line, None),
        };
        let mut words = head.split_whitespace();
        let (verb, path) = (words.next().unwrap(), self.path(words.next().expect("a path")));
        let (mut strict, mut base, mut mask) = (false, None, Vec::new());
        for word in words {
            match word.split_once('=') {
                None if word == "strict" => strict = true,
                Some(("base", text)) => base = Some(text.to_owned()),
                Some(("mask", names)) => {
                    let ty = self.message(&path);
                    mask = names.split(',').map(|name| numbers(&ty, name)).collect();
                    mask.sort();
                }
                _ => panic!("unknown word {word} in {line}"),
            }
        }
        let value = || Cow::Owned(self.value(&path, value.expect("a value")));
        let kind = match verb {
            "update" => OperationKind::Update { value: value(), mask },
            "add" => OperationKind::Add { value: value() },
            "put" => OperationKind::Put { value: value() },
            "replace" => OperationKind::Replace { value: value() },
            _ => OperationKind::Remove,
        };
        let base = base.map(|text| self.base(&text, &path, &kind));
        Operation { path, strict, base, kind }
    }

    fn guard(&self, line: &str) -> Guard {
        let words: Vec<&str> = line.split_whitespace().collect();
        let path = self.path(words[2]);
        let tree = || &self.trees[words[3].strip_prefix('@').unwrap()];
        let expect = match words[1] {
            "absent" => Expect::Absent,
            "subtree" => Expect::Subtree(tree().subtree_hash(&path, &NoObjects).ok().flatten().unwrap_or(Hash::ZERO)),
            "data" => Expect::Data(tree().data_hash(&path, &NoObjects).ok().flatten().unwrap_or(Hash::ZERO)),
            "container" => Expect::Container(tree().container_hash(&path, &NoObjects).ok().flatten().unwrap_or(Hash::ZERO)),
            other => panic!("unknown guard {other}"),
        };
        Guard { path, expect }
    }

    /// `PRINCIPAL PATH RIGHT… [strict] ; …`
    fn policy(&self, words: &[&str]) -> Policy {
        let words: Vec<&str> = words.iter().filter(|word| !word.contains('=')).copied().collect();
        let rule = |words: &[&str]| Rule {
            principal: words[0].to_owned(),
            prefix: self.path(words[1]),
            rights: words[2..].iter().filter_map(|word| Right::from_name(word)).collect(),
            strict: words.contains(&"strict"),
        };
        let rules = words.split(|word| *word == ";").filter(|words| !words.is_empty()).map(rule).collect();
        Policy { rules, tokens: Vec::new() }
    }

    fn run(&mut self, case: &str) -> String {
        let mut out = String::new();
        let mut commit: Option<Commit<'static>> = None;
        for line in case.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let verb = line.split_whitespace().next().unwrap_or_default();
            match verb {
                "update" | "add" | "put" | "replace" | "remove" => {
                    let operation = self.operation(line);
                    commit.get_or_insert_default().operations.push(operation);
                }
                "guard" => {
                    let guard = self.guard(line);
                    commit.get_or_insert_default().guards.push(guard);
                }
                "commit" => _ = commit.get_or_insert_default(),
                _ => self.command(verb, line, &mut out),
            }
        }
        if let Some(commit) = commit {
            let before = self.state.tree().clone();
            let applied = self.send(Body::Commit(commit));
            self.print(&applied, &before, &mut out);
        }
        out
    }

    fn command(&mut self, verb: &str, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let option = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("a number in: {line}"));
        let body = match verb {
            "with" => {
                let envelope = &mut self.envelope;
                envelope.seen = option("seen").map_or(0, |text| text.parse().unwrap());
                envelope.name = option("id").map(str::to_owned);
                envelope.principal = option("principal").unwrap_or_default().to_owned();
                envelope.author = option("author").unwrap_or_default().to_owned();
                envelope.incarnation = option("incarnation").map(|text| [number(text) as u8; 16]);
                envelope.intent = option("intent").map(str::to_owned);
                return;
            }
            "time" => {
                self.time = words[0].parse().unwrap();
                return;
            }
            "let" => {
                self.trees.insert(words[0].to_owned(), self.state.tree().clone());
                return;
            }
            "skip" => {
                for _ in 0..number(words[0]) {
                    self.send(Body::Fence);
                }
                return;
            }
            "resend" => {
                let before = self.state.tree().clone();
                let record = self.sent[words[0]].0.clone();
                let applied = self.append(&record);
                self.print(&applied, &before, out);
                return;
            }
            "raw" => {
                let before = self.state.tree().clone();
                let applied = self.append(&hex::decode(words.first().unwrap_or(&"")).unwrap());
                self.print(&applied, &before, out);
                return;
            }
            "show" => {
                let path = self.path(words[0]);
                let tree = words.get(1).map_or(self.state.tree().clone(), |at| self.trees[&at[1..]].clone());
                self.show(&tree, &path, out);
                return;
            }
            "tags" => {
                let tags: Vec<_> = self.state.tags().map(|(name, row)| format!("{name}=r{}", row.revision)).collect();
                writeln!(out, "tags {}", tags.join(" ")).unwrap();
                return;
            }
            "kept" => {
                let kept: Vec<_> = (0..=self.state.revision().0)
                    .filter(|r| self.state.is_kept(Revision(*r)))
                    .map(|r| format!("r{r}"))
                    .collect();
                writeln!(out, "kept {}", kept.join(" ")).unwrap();
                return;
            }
            "state" => {
                let state = &mut self.state;
                writeln!(
                    out,
                    "position {} time {} revision {} floor {} level {} state {}",
                    state.position().unwrap(),
                    state.time().0,
                    state.revision(),
                    state.floor(),
                    state.level(),
                    &state.hash().short()[..8]
                )
                .unwrap();
                return;
            }
            "schema" => {
                let descriptor_set = Cow::Owned(proto_set(words[0]));
                Body::Schema { descriptor_set, root_message: words.get(1).unwrap_or(&"").to_string().into() }
            }
            "tag" => Body::Tag { name: words[0].to_owned().into(), revision: Revision(number(words[1])) },
            "untag" => Body::Untag { names: words.iter().map(|name| Cow::Owned((*name).to_owned())).collect() },
            "retention" => Body::Retention(RetentionPolicy {
                keep_revisions: option("n").map_or(0, number),
                keep_age_ms: option("age").map_or(0, |text| text.parse().unwrap()),
                keep_all: words.contains(&"all"),
            }),
            "prune" => Body::Prune { floor: words.first().map(|text| Revision(number(text))) },
            "policy" => {
                let present = self.state.policy().map_or(0, |row| row.position.0);
                let replaces = Position(option("replaces").map_or(present, number));
                Body::Policy { policy: self.policy(&words), replaces }
            }
            "policies" => {
                let Some(row) = self.state.policy() else {
                    writeln!(out, "no policy").unwrap();
                    return;
                };
                writeln!(out, "policy of p{}", row.position).unwrap();
                for rule in &row.policy.rules {
                    let strict = if rule.strict { ", strict" } else { "" };
                    let path = self.schema().print_path(&rule.prefix);
                    writeln!(out, "  {} {path} {}{strict}", rule.principal, rule.rights).unwrap();
                }
                return;
            }
            "withdraw" => {
                let id = match self.sent.get(words[0]) {
                    Some((_, id)) => *id,
                    None => {
                        // An id that was minted here and never sent: known by its name from now on.
                        let nonce = Hash::of(words[0].as_bytes()).0[..16].try_into().unwrap();
                        let seen = (self.state.next_position().0 as i64 - 1 + option("seen").map_or(0, |t| t.parse::<i64>().unwrap())).max(0);
                        let id = EventId { seen: Position(seen as u64), nonce };
                        self.sent.insert(words[0].to_owned(), (Vec::new(), id));
                        id
                    }
                };
                Body::Withdraw { id }
            }
            "activation" => Body::Activation { level: number(words[0]) as u32 },
            "clock" => {
                self.time = words[0].parse().unwrap();
                Body::Clock
            }
            "mark" => {
                let last = words.first().map_or(self.state.last_mark(), |text| Position(number(text)));
                Body::Mark { last_mark: last }
            }
            "checkpoint" => Body::Checkpoint(Checkpoint {
                replica: [number(words[0]) as u8; 16],
                build: "test".into(),
                level: option("level").map_or(1, |text| number(text) as u32),
                position: Position(number(words[1])),
                chain: Hash::ZERO,
                state: Hash::ZERO,
                durable: Position(number(words[1])),
            }),
            "fence" => Body::Fence,
            "seal" => Body::Seal,
            "open" => Body::Open {
                incarnation: Incarnation([number(words[0]) as u8; 16]),
                transport_id: [option("transport").map_or(0x20, number) as u8; 16],
            },
            "incarnations" => {
                for row in self.state.incarnations() {
                    let end = row.end.map(|end| format!(", ended at p{end}")).unwrap_or_default();
                    writeln!(out, "{:02x} from p{}{end}", row.incarnation.0[0], row.begin).unwrap();
                }
                let (transport, sealed) = (self.state.transport_id()[0], self.state.is_sealed());
                writeln!(out, "transport {transport:02x}{}", if sealed { ", sealed" } else { "" }).unwrap();
                return;
            }
            "later" => Body::Later { name: "trim" },
            other => panic!("unknown command {other:?} in {line:?}"),
        };
        let before = self.state.tree().clone();
        let applied = self.send(body);
        self.print(&applied, &before, out);
    }

    fn print(&self, applied: &Applied, before: &Tree, out: &mut String) {
        let root = &self.state.root().short()[..8];
        match &applied.outcome {
            Outcome::Accepted if applied.made_revision => writeln!(out, "accepted r{} root={root}", applied.revision),
            Outcome::Accepted => writeln!(out, "accepted"),
            Outcome::Unchanged => writeln!(out, "unchanged root={root}"),
            Outcome::Duplicate(first) => writeln!(out, "duplicate of p{}", first.position),
            Outcome::Rejected(rejection) => {
                write!(out, "rejected {}: {}", rejection.code, rejection.detail).unwrap();
                match &rejection.path {
                    Some(path) if rejection.code == Code::Permission => {
                        writeln!(out, ": {}", self.schema().print_path(path)).unwrap();
                    }
                    _ => writeln!(out).unwrap(),
                }
                for conflict in &rejection.conflicts {
                    let path = self.schema().print_path(&conflict.path);
                    writeln!(out, "  conflict {path} {}", conflict.kind).unwrap();
                }
                Ok(())
            }
        }
        .unwrap();
        let schema = self.schema();
        let options = diff::Options::default();
        diff::diff(before, self.state.tree(), schema, &options, &NoObjects, &mut |difference| {
            let change = difference.change;
            let word = match change.kind {
                ChangeKind::Added => "added",
                ChangeKind::Removed => "removed",
                ChangeKind::Updated => "updated",
                ChangeKind::ListChanged => "list",
            };
            writeln!(out, "  {word} {}", schema.print_path(&change.path)).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
        if applied.mark.is_some() {
            writeln!(out, "  mark at p{}", applied.position).unwrap();
        }
        if let Some(level) = applied.halt {
            writeln!(out, "  halt at level {level}").unwrap();
        }
    }

    fn show(&self, tree: &Tree, path: &Path, out: &mut String) {
        let schema = self.schema();
        match schema.resolve(path).unwrap() {
            Target::Container { .. } => match tree.container(path, &NoObjects).unwrap() {
                None => writeln!(out, "absent").unwrap(),
                Some(view) => {
                    for (key, _) in view.slice(0, u64::MAX, &NoObjects).unwrap() {
                        let mut at = path.clone();
                        at.steps.last_mut().unwrap().key = Some(key.clone());
                        let text = match schema.resolve(&at) {
                            Ok(_) => schema.print_path(&at),
                            Err(_) => format!("[{}]", u32::from_be_bytes(key[..].try_into().unwrap())),
                        };
                        writeln!(out, "{text}").unwrap();
                    }
                }
            },
            Target::Node { .. } => match tree.node(path, &NoObjects).unwrap() {
                Lookup::Absent { .. } => writeln!(out, "absent").unwrap(),
                Lookup::Default => writeln!(out, "{{}}").unwrap(),
                Lookup::Found(node) => {
                    let message = DynamicMessage::decode(self.message(path), node.config(&NoObjects).unwrap()).unwrap();
                    writeln!(out, "{{{}}}", message.to_text_format()).unwrap();
                }
            },
        }
    }
}

/// Field numbers of a dotted name.
fn numbers(message: &MessageDescriptor, dotted: &str) -> Vec<u32> {
    let mut message = Some(message.clone());
    let mut path = Vec::new();
    for name in dotted.split('.') {
        let here = message.take().unwrap_or_else(|| panic!("{dotted}: no message above {name}"));
        let field = here.get_field_by_name(name).unwrap_or_else(|| panic!("{dotted}: no field {name}"));
        path.push(field.number());
        message = field.kind().as_message().cloned();
    }
    path
}

fn run_script(name: &str) {
    let path = format!("{}/tests/scripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut world = World::new();
    let mut now = Vec::new();
    for case in text.trim_end().split("\n\n") {
        let (commands, expected) = match case.split_once("\n----") {
            Some((commands, expected)) => (commands, Some(expected.trim())),
            None => (case, None),
        };
        if commands.lines().all(|line| line.trim_start().starts_with('#')) {
            now.push(commands.to_owned());
            continue;
        }
        let printed = world.run(commands);
        if std::env::var_os("UPDATE_SCRIPTS").is_none() {
            assert_eq!(Some(printed.trim()), expected, "{name}.txt, after:\n{commands}\n");
        }
        now.push(format!("{commands}\n----\n{}", printed.trim_end()));
    }
    if std::env::var_os("UPDATE_SCRIPTS").is_some() {
        std::fs::write(path, now.join("\n\n") + "\n").unwrap();
    }
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { run_script(stringify!($name)); })*

        #[test]
        fn every_script_is_run() {
            let folder = format!("{}/tests/scripts", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            files.sort();
            let mut listed = vec![$(stringify!($name).to_owned()),*];
            listed.sort();
            assert_eq!(files, listed, "tests/scripts/*.txt against the list in scripts.rs");
        }
    };
}

scripts![add, commit, envelope, ids, merge, moves, policy, remove, schema, tags, update];
