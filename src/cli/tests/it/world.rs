//! A world without surprises: no environment, no clock, no terminal, no network; a server that is a script.

use crate::fake::Fake;
use async_trait::async_trait;
use confold_cli::{
    Context, Exit, Failure, bench,
    local::{Access, Copied, CopyOptions, Exported, FetchOptions, Fetched, Finding, InitOptions, Initialised, Level, Local, Rebuilt, Reopened, Scratch, ServeOptions, Serving, Survey},
    run_async,
};
use confold_client::{Retries, Tls};
use confold_wire::{api::Api, api::Stream, pb, schema_source};
use expect_test::Expect;
use futures::StreamExt;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Cursor, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tonic::Status;

pub const NOW: i64 = 1_795_255_200_000;
pub const ROOT: &str = "3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7";

pub struct World {
    pub fake: Arc<Fake>,
    pub folder: tempfile::TempDir,
    pub environment: BTreeMap<String, String>,
    pub input: String,
    pub terminal: bool,
    /// What the editor makes of a text.
    pub edit: Arc<dyn Fn(&str) -> String + Send + Sync>,
    pub local: Arc<Disk>,
}

impl World {
    pub fn new() -> World {
        let fake = Arc::new(Fake::default());
        fake.status.always(status());
        fake.get_schema.always(schema());
        fake.commit.always(committed());
        fake.commit_stream.always(committed());
        World {
            local: Arc::new(Disk {
                fake: fake.clone(),
                findings: Mutex::default(),
            }),
            fake,
            folder: tempfile::tempdir().unwrap(),
            environment: [("USER".to_owned(), "ada".to_owned())].into(),
            input: String::new(),
            terminal: false,
            edit: Arc::new(str::to_owned),
        }
    }

    pub fn file(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Runs a command line and compares everything that can be seen of it.
    #[track_caller]
    pub fn check(&self, line: &str, expected: Expect) {
        expected.assert_eq(&self.run(line));
    }

    pub fn run(&self, line: &str) -> String {
        let words: Vec<String> = words(line);
        let (out, err) = (Shared::default(), Shared::default());
        let nonce = AtomicU8::new(0);
        let fake = self.fake.clone();
        let edit = self.edit.clone();
        let context = Context {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            input: Box::new(Cursor::new(self.input.clone().into_bytes())),
            out_is_terminal: self.terminal,
            err_is_terminal: self.terminal,
            width: Some(100),
            environment: self.environment.clone(),
            folder: self.folder.path().to_owned(),
            now: Arc::new(|| NOW),
            zone: jiff::tz::TimeZone::UTC,
            version: "0.0.0-test".to_owned(),
            nonces: Arc::new(move || Ok([nonce.fetch_add(1, Ordering::Relaxed); 16])),
            retries: Retries {
                more: 2,
                first_delay: Duration::ZERO,
                longest_delay: Duration::ZERO,
                give_up_after: None,
            },
            connect: Arc::new(move |address, options| {
                let mut called = format!("connect {address}");
                if options.tls != Tls::default() {
                    called.push_str(&format!(" {:?}", options.tls));
                }
                if let Some(token) = &options.token {
                    called.push_str(&format!(" as {}", token.secret()));
                }
                if options.insecure {
                    called.push_str(" insecure");
                }
                fake.requests.lock().unwrap().push(called);
                Ok(fake.clone())
            }),
            edit: Arc::new(move |editor, path| {
                if editor == "broken" {
                    return Ok(false);
                }
                let text = std::fs::read_to_string(path)?;
                std::fs::write(path, edit(&text))?;
                Ok(true)
            }),
            local: self.local.clone(),
        };
        let words = std::iter::once("confold".to_owned()).chain(words).map(OsString::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let exit = runtime.block_on(run_async(words, context));
        let requests = std::mem::take(&mut *self.fake.requests.lock().unwrap());
        let mut text = String::new();
        for request in requests.iter().filter(|request| *request != "connect 127.0.0.1:7411") {
            text.push_str(&format!("> {request}\n"));
        }
        for (mark, stream) in [("", out), ("! ", err)] {
            let bytes = stream.0.lock().unwrap().clone();
            for line in String::from_utf8(bytes).unwrap().lines() {
                text.push_str(format!("{mark}{line}").trim_end());
                text.push('\n');
            }
        }
        if exit != Exit::Done {
            text.push_str(&format!("exit {}\n", exit as u8));
        }
        text.replace(&self.folder.path().display().to_string(), "FOLDER")
    }
}

/// Words apart by spaces, single quotes around what has some.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The disk: notes what it is asked to do, and opens the same script as the network.
pub struct Disk {
    fake: Arc<Fake>,
    pub findings: Mutex<Vec<Finding>>,
}

impl Disk {
    fn note(&self, text: String) {
        self.fake.requests.lock().unwrap().push(text);
    }
}

#[async_trait]
impl Local for Disk {
    async fn init(&self, options: InitOptions) -> Result<Initialised, Failure> {
        self.note(format!("init {options:?}"));
        Ok(Initialised {
            store: options.store.unwrap_or_else(|| "main".to_owned()),
            log_id: "ab".repeat(16),
            joined: options.join.is_some(),
            notes: Vec::new(),
        })
    }

    async fn serve(
        &self,
        options: ServeOptions,
        ready: &mut (dyn for<'s> FnMut(&'s Serving) + Send),
    ) -> Result<(), Failure> {
        self.note(format!("serve {options:?}"));
        ready(&Serving {
            address: options.listen.unwrap_or_else(|| "127.0.0.1:7411".parse().unwrap()),
            metrics: options.metrics_listen,
            stores: vec!["main".to_owned()],
            tls: options.protection.tls.is_some(),
        });
        Ok(())
    }

    async fn open(&self, data: &Path, access: Access, principal: Option<&str>) -> Result<Arc<dyn Api>, Failure> {
        let who = principal.map(|name| format!(" as {name}")).unwrap_or_default();
        self.note(format!("open {} {access:?}{who}", data.display()));
        Ok(self.fake.clone())
    }

    async fn survey(&self, options: &CopyOptions) -> Result<Survey, Failure> {
        self.note(format!("survey {:?}", options.from));
        Ok(Survey {
            store: "main".to_owned(),
            end: 4_190,
        })
    }

    async fn copy_log(
        &self,
        options: CopyOptions,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Copied, Failure> {
        self.note(format!("copy {options:?}"));
        progress(0, 4_182);
        Ok(Copied {
            store: "main".to_owned(),
            log_id: "ab".repeat(16),
            records: 4_182,
            digest: ROOT.to_owned(),
            resumed_at: if options.resume { 1_000 } else { 0 },
            incarnation: "cd".repeat(16),
            transport_id: "ef".repeat(16),
            opened: 4_182,
            kept: options.is_move.then(|| "data/log.moved-1".to_owned()),
            sealed: options.is_move,
        })
    }

    async fn unseal(&self, data: &Path, author: &str, principal: &str) -> Result<Reopened, Failure> {
        self.note(format!("unseal {} by {author} as {principal}", data.display()));
        Ok(Reopened {
            incarnation: "cd".repeat(16),
            position: 4_183,
        })
    }

    async fn fetch_snapshot(&self, api: Arc<dyn Api>, options: FetchOptions) -> Result<Fetched, Failure> {
        drop(api);
        self.note(format!("fetch {options:?}"));
        Ok(Fetched {
            store: "main".to_owned(),
            log_id: "ab".repeat(16),
            position: 4_096,
            state: ROOT.to_owned(),
            revision: 3_900,
            revisions: 3_900,
            objects: 1,
        })
    }

    async fn rebuild(&self, data: &Path) -> Result<Rebuilt, Failure> {
        self.note(format!("rebuild {}", data.display()));
        Ok(Rebuilt {
            aside: Some(format!("{}/store.damaged-1", data.display())),
            folded: Some(4182),
            reason: Some("a mark differed".to_owned()),
        })
    }

    async fn doctor(&self, data: &Path, deep: bool) -> Result<Vec<Finding>, Failure> {
        self.note(format!("doctor {} deep={deep}", data.display()));
        Ok(self.findings.lock().unwrap().clone())
    }

    async fn export(
        &self,
        mut records: Stream<Result<pb::ExportLogResponse, Status>>,
        file: &Path,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Exported, Failure> {
        let mut count = 0;
        while let Some(page) = records.next().await {
            count += page?.records.len() as u64;
            progress(count);
        }
        self.note(format!("write {}", file.display()));
        Ok(Exported {
            first: 0,
            records: count,
            bytes: 1234,
            digest: ROOT.to_owned(),
        })
    }

    async fn scratch(&self, _: &Path, _: &bench::Load) -> Result<Scratch, Failure> {
        self.note("scratch".to_owned());
        Ok(Scratch {
            address: "127.0.0.1:1".to_owned(),
            guard: Box::new(()),
        })
    }

    async fn bench(&self, part: bench::Part, _: &bench::Load) -> Result<Option<bench::Measured>, Failure> {
        let measured = bench::Measured {
            operations: 300_000,
            seconds: 1.0,
            rate: 300_000.0,
            p50_us: None,
            p99_us: None,
            note: "as told".to_owned(),
            counted: Default::default(),
        };
        Ok((part == bench::Part::Fold).then_some(measured))
    }
}

pub fn finding(level: Level, what: &str, detail: &str, hint: &str) -> Finding {
    Finding {
        level,
        what: what.to_owned(),
        detail: detail.to_owned(),
        hint: hint.to_owned(),
    }
}

pub fn read_at(revision: u64) -> pb::ReadAt {
    pb::ReadAt {
        store: "main".to_owned(),
        revision,
        root: ROOT.to_owned(),
        position: 4182,
        time_ms: NOW - 60_000,
        token: format!("4182@{}", "ab".repeat(16)),
        disputed: false,
    }
}

pub fn committed() -> pb::Decision {
    pb::Decision {
        outcome: pb::decision::Outcome::Committed.into(),
        event_id: format!("4182-{}", "00".repeat(16)),
        revision: Some(13),
        root: ROOT.to_owned(),
        position: Some(4183),
        time_ms: Some(NOW),
        token: format!("4183@{}", "ab".repeat(16)),
        ..Default::default()
    }
}

pub fn status() -> pb::StatusResponse {
    pb::StatusResponse {
        store: "main".to_owned(),
        state: pb::State::Serving.into(),
        position: 4182,
        limits: Some(pb::Limits {
            max_event_bytes: 16 << 20,
            depth: 64,
            path_bytes: 4096,
            key_bytes: 256,
        }),
        ..Default::default()
    }
}

/// The schema of the examples.
pub fn schema() -> pb::GetSchemaResponse {
    static SET: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/examples");
        schema_source::descriptor_set_of(&folder, &[]).unwrap().descriptor_set
    });
    pb::GetSchemaResponse {
        read_at: Some(read_at(12)),
        descriptor_set: SET.clone().into(),
        root_message: "example.Network".to_owned(),
        position: 1,
        hash: ROOT.to_owned(),
    }
}

pub fn yaml(text: &str) -> Option<pb::Value> {
    Some(pb::Value {
        form: Some(pb::value::Form::Yaml(text.to_owned())),
        r#type: String::new(),
    })
}

/// A device without children, as YAML.
pub fn device(id: &str) -> pb::Node {
    pb::Node {
        path: format!("/devices/{id}"),
        key: id.to_owned(),
        index: Some(0),
        hash: "aa".repeat(32),
        data_hash: "bb".repeat(32),
        value: yaml(&format!("id: {id}\naddress: 192.0.2.10\n")),
        children: Vec::new(),
        restricted: false,
    }
}

pub fn got(node: pb::Node) -> pb::GetResponse {
    pb::GetResponse {
        read_at: Some(read_at(12)),
        r#type: "example.Device".to_owned(),
        nodes: vec![node],
        container: None,
    }
}

pub fn container(path: &str, kind: pb::container::Kind, count: u64, hidden: bool) -> pb::Container {
    pb::Container {
        path: path.to_owned(),
        field: path.rsplit('/').next().unwrap().to_owned(),
        kind: kind.into(),
        count,
        hash: "cc".repeat(32),
        hidden,
        restricted: false,
    }
}
