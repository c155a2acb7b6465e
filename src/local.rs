//! What the command line needs of a disk: data folders made, opened, served, looked over and copied.

use crate::folder::{self, DEFAULT_RETENTION, FolderError};
use crate::{Embedded, bench};
use async_trait::async_trait;
use confold_cli::bench::{Load, Measured, Part};
use confold_cli::local::{
    Access, Exported, Finding, InitOptions, Initialised, Level, Local, Protection, Scratch, ServeOptions, Serving,
};
use confold_cli::{Exit, Failure};
use confold_log::file::{self, Copy, Identity, Origin};
use confold_log::{Log, LogError, Record, Tip};
use confold_model::event::{Limits, RetentionPolicy, WINDOW};
use confold_model::ids::{Hash, Incarnation, Position, Time};
use confold_model::objects::Objects;
use confold_model::walk::Walk;
use confold_replica::{Begin, Handle, Options};
use confold_server::{BindError, Server, StoreHealth};
use confold_store::{Store, StoreError};
use confold_wire::api::{Api, Stream};
use confold_wire::{convert, pb};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio_stream::StreamExt;
use tonic::Status;

/// The real thing: file log and RocksDB.
pub struct OnThisMachine;

#[async_trait]
impl Local for OnThisMachine {
    async fn init(&self, options: InitOptions) -> Result<Initialised, Failure> {
        let retention = options.retention.map_or(DEFAULT_RETENTION, |policy| RetentionPolicy {
            keep_revisions: policy.keep_revisions,
            keep_age_ms: policy.keep_age_ms,
            keep_all: policy.keep_all,
        });
        let mut limits = Limits::default();
        limits.max_event_bytes = options.max_event_bytes.unwrap_or(limits.max_event_bytes);
        let begin = Begin { limits, window: options.window.unwrap_or(WINDOW), retention, ..Begin::default() };
        let (data, name) = (options.data.clone(), options.store.clone());
        let log_id = blocking(move || folder::create(&data, &name, &begin)).await?;
        Ok(Initialised { store: options.store, log_id: Incarnation(log_id).to_string() })
    }

    async fn serve(
        &self,
        options: ServeOptions,
        ready: &mut (dyn for<'s> FnMut(&'s Serving) + Send),
    ) -> Result<(), Failure> {
        trace_to_stderr();
        confold_server::metrics::install();
        let mut settings = Options::default();
        if let Some(bytes) = options.cache_bytes {
            settings.tree_cache_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        let store = Embedded::open(&options.data, settings).await.map_err(failure)?;
        for note in store.notes() {
            tracing::warn!("{note}");
        }
        let server = listen(&store, options.listen, options.protection, false).await?;
        let name = store.handle().view().store_name.to_string();
        let serving = Serving { address: server.local_addr(), stores: vec![name] };
        ready(&serving);
        let stopped = server.run(told_to_stop()).await;
        if stopped.cut_off > 0 {
            tracing::warn!("{} connections were cut off in the middle of a call", stopped.cut_off);
        }
        store.close().await.map_err(failure)
    }

    async fn open(&self, data: &Path, access: Access, principal: Option<&str>) -> Result<Arc<dyn Api>, Failure> {
        // Reading folds what the log has and the store has not, so both open the folder in the same way.
        let _ = access;
        let store = Embedded::open(data, Options::default()).await.map_err(failure)?;
        Ok(principal.map_or_else(|| store.api(), |name| store.api_as(name)))
    }

    async fn doctor(&self, data: &Path, deep: bool) -> Result<Vec<Finding>, Failure> {
        let data = data.to_owned();
        Ok(tokio::task::spawn_blocking(move || examine(&data, deep)).await.map_err(internal)?)
    }

    async fn export(
        &self,
        mut records: Stream<Result<pb::ExportLogResponse, Status>>,
        file: &Path,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Exported, Failure> {
        let mut copy: Option<Copy> = None;
        let mut exported = Exported { first: 0, records: 0, bytes: 0, digest: String::new() };
        while let Some(answer) = records.next().await {
            let answer = answer.map_err(Failure::from)?;
            if let Some(origin) = &answer.origin {
                exported.first = origin.first_position;
                copy = Some(tokio::task::block_in_place(|| begin_copy(file, origin))?);
            }
            let Some(copy) = &mut copy else {
                return Err(Failure::new(Exit::Damaged, "the server sent records before it said what they stand on"));
            };
            let batch: Vec<Record> = answer.records.iter().map(record).collect::<Result<_, Failure>>()?;
            tokio::task::block_in_place(|| copy.append(&batch)).map_err(|error| failure(error.into()))?;
            exported.records += batch.len() as u64;
            exported.bytes += batch.iter().map(|record| record.bytes.len() as u64).sum::<u64>();
            progress(exported.records);
        }
        if let Some(copy) = copy {
            exported.digest = copy.tip().digest.to_string();
            tokio::task::block_in_place(|| copy.finish()).map_err(|error| failure(error.into()))?;
        }
        Ok(exported)
    }

    async fn scratch(&self, folder: &Path) -> Result<Scratch, Failure> {
        let dir = folder.to_owned();
        let begin = Begin { retention: DEFAULT_RETENTION, ..Begin::default() };
        blocking(move || folder::create(&dir, "scratch", &begin)).await?;
        let store = Embedded::open(folder, Options::default()).await.map_err(failure)?;
        let server = listen(&store, SocketAddr::from(([127, 0, 0, 1], 0)), Protection::default(), true).await?;
        let address = server.local_addr().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            server.run(async { _ = stopped.await }).await;
            if let Err(error) = store.close().await {
                tracing::error!(%error, "the scratch store did not close in order");
            }
        });
        Ok(Scratch { address, guard: Box::new(stop) })
    }

    async fn bench(&self, part: Part, load: &Load) -> Result<Option<Measured>, Failure> {
        bench::run(part, load).await
    }
}

async fn listen(
    store: &Embedded,
    address: SocketAddr,
    protection: Protection,
    echo: bool,
) -> Result<Server, Failure> {
    let handle = store.handle().clone();
    let mut limits = confold_server::Limits::default();
    limits.max_event_bytes = usize::try_from(handle.view().limits.max_event_bytes).unwrap_or(usize::MAX);
    let Protection { tls, require_token, insecure } = protection;
    let tls = tls.map(|files| confold_server::Tls {
        certificate: files.certificate,
        key: files.key,
        client_ca: files.client_ca,
        client_common_name: files.client_common_name,
    });
    let options = confold_server::Options {
        address,
        limits,
        tls,
        require_token,
        insecure,
        echo,
        ..confold_server::Options::default()
    };
    let health = Arc::new(move || vec![health(&handle)]);
    Server::bind(options, store.gate(), health)
        .await
        .map_err(|error| {
            let exit = match error {
                BindError::Unprotected { .. } | BindError::Tls(_) => Exit::Invalid,
                _ => Exit::Unavailable,
            };
            Failure::new(exit, error.to_string())
        })
}

fn health(handle: &Handle) -> StoreHealth {
    let status = handle.status();
    StoreHealth {
        store: status.view.store_name.to_string(),
        state: confold_replica::service::state(status.standing.state),
        reason: status.standing.reason,
        lag: status.lag,
    }
}

async fn told_to_stop() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}

/// `CONFOLD_LOG` says how much, as in `info` or `confold_replica=debug`.
fn trace_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CONFOLD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
}

fn begin_copy(folder: &Path, origin: &pb::LogOrigin) -> Result<Copy, Failure> {
    let id = |text: &str| convert::parse_incarnation(text).map(|id| id.0).map_err(internal);
    let source = id(&origin.transport_id)?;
    let digest = convert::parse_hash(&origin.previous_digest).map_err(internal)?;
    let first = Tip { position: Position(origin.first_position), digest, time: Time(0) };
    let identity = Identity { log_id: id(&origin.log_id)?, transport_id: source };
    let origin = Origin { identity, source, first, end: first.position, state: Hash::ZERO };
    Copy::create(folder, origin, file::Options::default()).map_err(|error| failure(error.into()))
}

fn record(record: &pb::LogRecord) -> Result<Record, Failure> {
    Ok(Record {
        position: Position(record.position),
        time: Time(record.time_ms),
        bytes: record.record.clone(),
        digest: convert::hash_from_bytes(&record.digest).map_err(internal)?,
    })
}

/// Looks at every part of a folder and changes nothing.
fn examine(data: &Path, deep: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |level, what: &str, detail: String, hint: &str| {
        findings.push(Finding { level, what: what.to_owned(), detail, hint: hint.to_owned() });
    };
    let log = match folder::open_log(data, deep) {
        Ok(log) => log,
        Err(error) => {
            say(Level::Damage, "log", error.to_string(), error.hint());
            return findings;
        }
    };
    let range = log.range();
    let checked = if deep { "every batch and digest checked" } else { "the last segment checked; --deep checks all" };
    say(Level::Ok, "log", format!("positions {} to {}, {checked}", range.start, range.end.0.saturating_sub(1)), "");
    if let Some(cut) = log.cut() {
        let detail = format!("{} bytes at the end of {} are of a write that was cut short", cut.bytes, cut.file);
        say(Level::Warning, "log", detail, "the next start cuts them off: they were never acknowledged");
    }
    if log.clock_ahead() > 60_000 {
        let detail = format!("the last record is stamped {} s ahead of this clock", log.clock_ahead() / 1000);
        say(Level::Warning, "clock", detail, "set this machine's clock right, then `confold admin set-clock`");
    }
    if data.join("rebuild").exists() {
        say(Level::Warning, "store", "it was found damaged while it was open".into(), "the next start builds it anew");
    }
    let store = match folder::open_store_read_only(data) {
        Ok(Some(store)) => store,
        Ok(None) => {
            say(Level::Warning, "store", "nothing was folded yet".into(), "the next start folds the log");
            return findings;
        }
        Err(FolderError::Store(StoreError::Locked { .. })) => {
            say(Level::Ok, "store", "a server has it open".into(), "ask it with `confold status`");
            return findings;
        }
        Err(error) => {
            let hint = "the next start sets it aside and builds it anew from the log";
            say(Level::Damage, "store", error.to_string(), hint);
            return findings;
        }
    };
    let Some(head) = store.head() else {
        say(Level::Warning, "store", "nothing was folded yet".into(), "the next start folds the log");
        return findings;
    };
    let lag = range.end.0.saturating_sub(head.applied.0 + 1);
    say(Level::Ok, "store", format!("folded up to {}, {lag} records behind the log", head.applied), "");
    match overlap(&log, head.applied) {
        Ok(Some(digest)) if digest == head.digest => {
            say(Level::Ok, "identity", "the log is the one that the store was folded from".into(), "");
        }
        Ok(found) => {
            let found = found.map_or("nothing".to_owned(), |digest| digest.short());
            let detail = format!("at {} the store folded {}, the log holds {found}", head.applied, head.digest.short());
            say(Level::Damage, "identity", detail, "put the log back that was folded, or move the store folder away");
        }
        Err(error) => say(Level::Damage, "identity", error.to_string(), ""),
    }
    if deep {
        let (objects, wrong) = walk(&store, head.root);
        match wrong.first() {
            None => say(Level::Ok, "objects", format!("{objects} objects of the latest tree are whole"), ""),
            Some(first) => {
                let detail = format!("{} of {objects} objects are missing or wrong, first {first}", wrong.len());
                say(Level::Damage, "objects", detail, "move the store folder away: it is built anew from the log");
            }
        }
    }
    findings
}

fn overlap(log: &dyn Log, position: Position) -> Result<Option<Hash>, LogError> {
    if position >= log.range().end {
        return Ok(None);
    }
    let records = log.reader(position)?.read(1, 1, std::time::Duration::ZERO)?;
    Ok(records.first().map(|record| record.digest))
}

fn walk(store: &dyn Objects, root: Hash) -> (u64, Vec<String>) {
    let mut walk = Walk::new();
    walk.add_root(root);
    let (mut objects, mut wrong) = (0, Vec::new());
    while let Some(object) = walk.next(store) {
        objects += 1;
        if let Err(error) = object {
            wrong.push(error.to_string());
        }
    }
    (objects, wrong)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FolderError> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(internal)?.map_err(failure)
}

pub(crate) fn failure(error: FolderError) -> Failure {
    let exit = match &error {
        FolderError::NoStore(_) | FolderError::Exists(_) | FolderError::NotEmpty(_) => Exit::Invalid,
        FolderError::Begin(_) => Exit::Invalid,
        FolderError::Log(LogError::Corrupt { .. }) => Exit::Damaged,
        FolderError::Store(error) if error.is_damage() => Exit::Damaged,
        _ => Exit::Unavailable,
    };
    Failure::new(exit, error.to_string()).hint(error.hint())
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Damaged, error.to_string())
}
