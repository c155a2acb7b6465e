//! What the command line needs of a disk: data folders made, opened, served, looked over and copied.

use crate::bench::ScratchTopic;
use crate::config::{self, Config, Kafka};
use crate::doctor;
use crate::fetch::{self, FetchError};
use crate::folder::{self, DEFAULT_RETENTION, FolderError, OnKafka};
use crate::kafka::Shape;
use crate::moving::{self, End, MoveError, Plan};
use crate::stores::Shelf;
use crate::{Embedded, bench};
use async_trait::async_trait;
use confold_cli::bench::{Load, Measured, Part};
use confold_cli::local::{
    Access, Copied, CopyEnd, CopyOptions, Exported, FetchOptions, Fetched, Finding, InitOptions, Initialised, KafkaOptions, Local, OnDispute, Protection, Quota, Rebuilt, Reopened, Scratch, ServeOptions,
    Serving, Survey, TlsFiles, TopicShape,
};
use confold_cli::{Exit, Failure};
use confold_log::file::{self, Copy, Identity, Origin};
use confold_log::{LogError, Record, Tip};
use confold_log_kafka::{ClientSettings, TopicError};
use confold_model::event::{Limits, RetentionPolicy, WINDOW};
use confold_model::ids::{Hash, Incarnation, Position, Time};
use confold_replica::snapshot::SnapshotError;
use confold_replica::service::{self, Listed, Service, Stores};
use confold_replica::{Begin, Handle, Options};
use confold_server::{BindError, HealthSource, Server, StoreHealth};
use confold_wire::api::{Api, Stream};
use confold_wire::caller::Gate;
use confold_wire::{convert, pb};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::StreamExt;
use tonic::Status;

/// Where `serve` listens unless told otherwise.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), confold_server::DEFAULT_PORT);

/// What a server listens on.
struct Addresses {
    calls: SocketAddr,
    /// For health and metrics alone.
    metrics: Option<SocketAddr>,
}

/// Any free port, for this machine.
const FREE: Addresses = Addresses { calls: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0), metrics: None };

/// A server that starts waits so long for its stores to catch up before it listens.
const SETTLE: Duration = Duration::from_secs(10);

/// How long the answers of a server whose disk has failed may take to leave.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// The real thing: logs on this disk or on Kafka, and RocksDB.
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
        let data = options.data.clone();
        let Some(kafka) = options.kafka else {
            let name = options.store.unwrap_or_else(|| "main".to_owned());
            let store = name.clone();
            let log_id = blocking(move || folder::create(&data, &name, &begin)).await?;
            return Ok(Initialised { store, log_id: Incarnation(log_id).to_string(), joined: false, notes: Vec::new() });
        };
        let join = options.join.as_deref().map(log_id).transpose()?;
        let create_topic = kafka.create_topic;
        let on = OnKafka { kafka: kafka_config(kafka)?, create_topic: create_topic.map(shape), join, store_name: options.store };
        let joined = blocking(move || folder::create_on_kafka(&data, &on, &begin)).await?;
        Ok(Initialised {
            store: joined.begun.store_name,
            log_id: Incarnation(joined.begun.log_id).to_string(),
            joined: joined.joined,
            notes: joined.notes,
        })
    }

    async fn serve(
        &self,
        options: ServeOptions,
        ready: &mut (dyn for<'s> FnMut(&'s Serving) + Send),
    ) -> Result<(), Failure> {
        trace_to_stderr();
        confold_server::metrics::install();
        let config = configuration(&options)?;
        let mut settings = Options { on_dispute: on_dispute(&options, &config.server), ..Options::default() };
        if let Some(bytes) = options.cache_bytes.or(config.server.cache_bytes) {
            settings.tree_cache_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        let mut folders = options.data.clone();
        if let Some(root) = &options.stores {
            let root = root.clone();
            folders.extend(blocking(move || Shelf::folders(&root)).await?);
        }
        let admins = if options.admins.is_empty() { config.server.admin.clone() } else { options.admins.clone() };
        let stores = Arc::new(Stores::new(service::Options { admins, quota: quota(options.quota, &config.server), ..Default::default() }));
        let kafka = config.kafka.clone().filter(|_| options.stores.is_some());
        let shelf = Arc::new(Shelf::new(stores.clone(), options.stores.clone(), kafka, settings, options.dev_unsafe));
        // Who serves one store and cannot is told at once; among several it is told, and the others are served.
        let alone = options.stores.is_none() && folders.len() == 1;
        for folder in &folders {
            match shelf.put(folder).await {
                Err(error) if alone => return Err(failure(error)),
                _ => {}
            }
        }
        shelf.settle(SETTLE).await;
        let open: Vec<Listed> = stores.list().into_iter().filter(|listed| listed.handle.is_some()).collect();
        let biggest = open.iter().filter_map(|listed| Some(listed.handle.as_ref()?.view().limits.max_event_bytes)).max();
        let biggest = biggest.unwrap_or_default().max(Limits::default().max_event_bytes);
        shelf.takes(biggest);
        let service = Service::over(stores.clone()).kept_by(shelf.clone());
        let protection = protection(options.protection, &config.server);
        let tls = protection.tls.is_some();
        let addresses = Addresses {
            calls: options.listen.or(config.server.listen).unwrap_or(DEFAULT_LISTEN),
            metrics: options.metrics_listen.or(config.server.metrics_listen),
        };
        let health = move || stores.list().into_iter().map(health).collect();
        let server = listen(Arc::new(service), Arc::new(health), biggest, addresses, protection, false).await?;
        let only = open.first().filter(|_| alone).and_then(|listed| listed.handle.clone());
        let names = open.iter().map(|listed| listed.name.to_string()).collect();
        ready(&Serving { address: server.local_addr(), metrics: server.metrics_addr(), stores: names, tls });
        tokio::select! {
            stopped = server.run(told_to_stop()) => {
                if stopped.cut_off > 0 {
                    tracing::warn!("{} connections were cut off in the middle of a call", stopped.cut_off);
                }
            }
            reason = failed_disk(only) => {
                let hint = "look at the disk, then start it again: what was acknowledged is there";
                return Err(Failure::new(Exit::Unavailable, reason).hint(hint));
            }
        }
        shelf.close_all().await.map_err(|error| failure(error.into()))
    }

    async fn open(&self, data: &Path, access: Access, principal: Option<&str>) -> Result<Arc<dyn Api>, Failure> {
        // Reading folds what the log has and the store has not, so both open the folder in the same way.
        let _ = access;
        let store = Embedded::open(data, Options::default()).await.map_err(failure)?;
        Ok(principal.map_or_else(|| store.api(), |name| store.api_as(name)))
    }

    async fn survey(&self, options: &CopyOptions) -> Result<Survey, Failure> {
        let plan = plan(options)?;
        let survey = tokio::task::spawn_blocking(move || moving::survey(&Plan { until: None, ..plan })).await;
        let survey = survey.map_err(internal)?.map_err(move_failure)?;
        Ok(Survey { store: survey.store_name, end: survey.range.end.0 })
    }

    async fn copy_log(
        &self,
        options: CopyOptions,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Copied, Failure> {
        let plan = plan(&options)?;
        let moved = tokio::task::block_in_place(|| moving::run(&plan, &mut |done, all| progress(done, all)));
        let moved = moved.map_err(move_failure)?;
        Ok(Copied {
            store: moved.store_name,
            log_id: Incarnation(moved.log_id).to_string(),
            records: moved.records,
            digest: moved.digest.to_string(),
            resumed_at: moved.resumed_at.0,
            incarnation: moved.incarnation.to_string(),
            transport_id: Incarnation(moved.transport_id).to_string(),
            opened: moved.opened.0,
            kept: moved.kept.map(|kept| kept.display().to_string()),
            sealed: moved.sealed,
        })
    }

    async fn unseal(&self, data: &Path, author: &str, principal: &str) -> Result<Reopened, Failure> {
        let opened = tokio::task::block_in_place(|| moving::unseal(data, author, principal));
        let (incarnation, position) = opened.map_err(move_failure)?;
        Ok(Reopened { incarnation: incarnation.to_string(), position: position.0 })
    }

    async fn fetch_snapshot(&self, api: Arc<dyn Api>, options: FetchOptions) -> Result<Fetched, Failure> {
        let kafka = options.kafka.map(kafka_config).transpose()?;
        let fetched = fetch::into_folder(&*api, &options.store, kafka.as_ref(), &options.data).await.map_err(fetch_failure)?;
        let header = &fetched.header;
        Ok(Fetched {
            store: header.store_name.clone(),
            log_id: header.log_id.to_string(),
            position: header.position.0,
            state: header.state.to_string(),
            revision: header.revision.0,
            revisions: fetched.revisions,
            objects: fetched.objects,
        })
    }

    async fn rebuild(&self, data: &Path) -> Result<Rebuilt, Failure> {
        let data = data.to_owned();
        let rebuilt = blocking(move || folder::rebuild(&data)).await?;
        let aside = rebuilt.aside.map(|aside| aside.display().to_string());
        Ok(Rebuilt { aside, folded: rebuilt.folded, reason: rebuilt.reason })
    }

    async fn doctor(&self, data: &Path, deep: bool) -> Result<Vec<Finding>, Failure> {
        let data = data.to_owned();
        Ok(tokio::task::spawn_blocking(move || doctor::examine(&data, deep)).await.map_err(internal)?)
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

    async fn scratch(&self, folder: &Path, load: &Load) -> Result<Scratch, Failure> {
        let topic = load.kafka.as_deref().map(|brokers| tokio::task::block_in_place(|| ScratchTopic::make(brokers)));
        let topic = topic.transpose()?;
        let dir = folder.to_owned();
        match &topic {
            Some(topic) => {
                tokio::task::block_in_place(|| topic.folder(&dir))?;
            }
            None => {
                let begin = Begin { retention: DEFAULT_RETENTION, ..Begin::default() };
                blocking(move || folder::create(&dir, "scratch", &begin)).await?;
            }
        }
        let store = Embedded::open(folder, Options::default()).await.map_err(failure)?;
        let handle = store.handle().clone();
        let biggest = handle.view().limits.max_event_bytes;
        let health = move || vec![health_of(&handle)];
        let server = listen(store.gate(), Arc::new(health), biggest, FREE, Protection::default(), true).await?;
        let address = server.local_addr().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            server.run(async { _ = stopped.await }).await;
            if let Err(error) = store.close().await {
                tracing::error!(%error, "the scratch store did not close in order");
            }
        });
        Ok(Scratch { address, guard: Box::new((stop, topic)) })
    }

    async fn bench(&self, part: Part, load: &Load) -> Result<Option<Measured>, Failure> {
        bench::run(part, load).await
    }
}

fn log_id(text: &str) -> Result<[u8; 16], Failure> {
    let id = convert::parse_incarnation(text).map(|id| id.0);
    id.map_err(|error| Failure::invalid(error.to_string()).hint("`confold status` of a replica of that store shows its log id"))
}

fn shape(asked: TopicShape) -> Shape {
    Shape { replication: asked.replication, min_insync: asked.min_insync }
}

/// What a command line says of a topic, as a configuration.
fn kafka_config(options: KafkaOptions) -> Result<Kafka, Failure> {
    let mut settings = BTreeMap::new();
    for (name, value) in options.settings {
        if ClientSettings::is_secret(&name) {
            let what = format!("{name} is a secret, and everybody on this machine can see command lines");
            let hint = format!("write {name}.file=PATH, or name a file of settings with --kafka-config");
            return Err(Failure::invalid(what).hint(hint));
        }
        settings.insert(name, value);
    }
    Ok(Kafka {
        brokers: options.brokers,
        topic: Some(options.topic),
        dev_unsafe: options.dev_unsafe,
        settings_file: options.settings_file,
        settings,
        ..Kafka::default()
    })
}

fn plan(options: &CopyOptions) -> Result<Plan, Failure> {
    let end = |end: &CopyEnd| -> Result<End, Failure> {
        Ok(match end {
            CopyEnd::Folder(dir) => End::Folder(dir.clone()),
            CopyEnd::Topic(kafka) => End::Topic(kafka_config(kafka.clone())?),
        })
    };
    Ok(Plan {
        from: end(&options.from)?,
        to: end(&options.to)?,
        create_topic: options.create_topic.map(shape),
        is_move: options.is_move,
        until: options.until.map(Position),
        resume: options.resume,
        principal: options.principal.clone(),
        author: options.author.clone(),
    })
}

fn fetch_failure(error: FetchError) -> Failure {
    let (exit, hint) = match &error {
        FetchError::Folder(_) | FetchError::Asked(_) => (Exit::Unavailable, ""),
        FetchError::Exists(_) => (Exit::Invalid, "`confold store rebuild` sets a store aside; then a snapshot can be fetched"),
        FetchError::NoLog(_) => (Exit::Invalid, "name the topic: --kafka BROKERS --topic NAME"),
        FetchError::Refused(SnapshotError::NoMark(_) | SnapshotError::Source(_)) => {
            (Exit::Unavailable, "try again, or ask another replica with --from")
        }
        FetchError::Refused(SnapshotError::Log(_) | SnapshotError::Store(_)) | FetchError::Io(..) => (Exit::Unavailable, ""),
        FetchError::Refused(_) => (Exit::Damaged, "nothing was taken over; ask another replica, and look into this one"),
    };
    let failure = match error {
        FetchError::Folder(error) => return failure(error),
        FetchError::Asked(status) => return Failure::from(status),
        error => Failure::new(exit, error.to_string()),
    };
    if hint.is_empty() { failure } else { failure.hint(hint) }
}

fn move_failure(error: MoveError) -> Failure {
    let exit = match error {
        MoveError::Folder(error) => return failure(error),
        MoveError::Differs { .. } => Exit::Damaged,
        MoveError::NotServing { .. } => Exit::Unavailable,
        MoveError::Refused { .. } => Exit::Refused,
        _ => Exit::Invalid,
    };
    let hint = error.hint();
    let failure = Failure::new(exit, error.to_string());
    if hint.is_empty() { failure } else { failure.hint(hint) }
}

/// What a file says for `serve`: the one that is named, or that of the folder that is served.
fn configuration(options: &ServeOptions) -> Result<Config, Failure> {
    let config = match (&options.config, &options.stores, &options.data[..]) {
        (Some(file), _, _) => Config::read(file),
        (None, Some(root), _) => Config::of_folder(root),
        (None, None, [folder]) => Config::of_folder(folder),
        // Which of several would it be?
        (None, None, _) => Ok(Config::default()),
    };
    config.map_err(|error| failure(error.into()))
}

fn on_dispute(options: &ServeOptions, config: &config::Server) -> confold_replica::OnDispute {
    let stop = match options.on_dispute {
        Some(asked) => asked == OnDispute::Stop,
        None => config.on_dispute == Some(config::OnDispute::Stop),
    };
    if stop { confold_replica::OnDispute::Stop } else { confold_replica::OnDispute::Serve }
}

/// What each caller may take, as the command line says it, or the file, or else as usual.
fn quota(given: Quota, config: &config::Server) -> service::Quota {
    let in_flight = given.calls_in_flight.or(config.calls_in_flight);
    let usual = service::Quota::default();
    service::Quota {
        calls_in_flight: in_flight.map_or(usual.calls_in_flight, |most| usize::try_from(most.get()).unwrap_or(usize::MAX)),
        calls_per_second: given.calls_per_second.or(config.calls_per_second),
        bytes_per_second: given.bytes_per_second.or(config.bytes_per_second),
    }
}

/// What was given on the command line, and what the file adds to it.
fn protection(given: Protection, config: &config::Server) -> Protection {
    let files = config.tls_cert.clone().zip(config.tls_key.clone());
    let of_config = files.map(|(certificate, key)| TlsFiles { certificate, key, client_ca: None, client_common_name: false });
    let tls = given.tls.or(of_config).map(|files| TlsFiles {
        client_ca: files.client_ca.or_else(|| config.client_ca.clone()),
        client_common_name: files.client_common_name || config.client_common_name,
        ..files
    });
    Protection { tls, require_token: given.require_token || config.require_token, insecure: given.insecure || config.insecure }
}

/// Serves a store on a free port of this machine, until what comes with the address is dropped.
pub async fn serve_here(store: &Embedded) -> Result<(SocketAddr, tokio::sync::oneshot::Sender<()>), Failure> {
    let handle = store.handle().clone();
    let biggest = handle.view().limits.max_event_bytes;
    let health = move || vec![health_of(&handle)];
    let server = listen(store.gate(), Arc::new(health), biggest, FREE, Protection::default(), true).await?;
    let address = server.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(server.run(async { _ = stopped.await }));
    Ok((address, stop))
}

async fn listen(
    gate: Arc<dyn Gate>,
    health: Arc<dyn HealthSource>,
    max_event_bytes: u64,
    addresses: Addresses,
    protection: Protection,
    echo: bool,
) -> Result<Server, Failure> {
    let mut limits = confold_server::Limits::default();
    // Each takes an open file, and a log or a database that gets none stops for good.
    limits.max_connections = limits.max_connections.min(open_files() / 2);
    limits.max_event_bytes = usize::try_from(max_event_bytes).unwrap_or(usize::MAX);
    let Protection { tls, require_token, insecure } = protection;
    let tls = tls.map(|files| confold_server::Tls {
        certificate: files.certificate,
        key: files.key,
        client_ca: files.client_ca,
        client_common_name: files.client_common_name,
    });
    let options = confold_server::Options {
        address: addresses.calls,
        metrics: addresses.metrics,
        limits,
        tls,
        require_token,
        insecure,
        echo,
        ..confold_server::Options::default()
    };
    Server::bind(options, gate, health).await.map_err(|error| {
        let exit = match error {
            BindError::Unprotected { .. } | BindError::Meet { .. } | BindError::Tls(_) => Exit::Invalid,
            _ => Exit::Unavailable,
        };
        Failure::new(exit, error.to_string())
    })
}

/// How many files this process may have open, once it has asked for as many as the system lets it have.
fn open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // A limit that cannot be raised is kept to as it is.
    _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let files = getrlimit(Resource::Nofile).current;
    files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

fn health(listed: Listed) -> StoreHealth {
    match &listed.handle {
        Some(handle) => health_of(handle),
        None => StoreHealth {
            store: listed.name.to_string(),
            state: confold_replica::service::state(listed.standing.state),
            reason: listed.standing.reason,
            lag: 0,
        },
    }
}

fn health_of(handle: &Handle) -> StoreHealth {
    let status = handle.status();
    StoreHealth {
        store: status.view.store_name.to_string(),
        state: confold_replica::service::state(status.standing.state),
        reason: status.standing.reason,
        lag: status.lag,
    }
}

/// Until the disk of the one store that is served has failed, with the reason. What stands there is only known to a process that
/// begins anew; a server of several stores goes on with the others.
async fn failed_disk(only: Option<Handle>) -> String {
    let Some(handle) = only else { return std::future::pending().await };
    let mut standing = handle.standing();
    match standing.wait_for(|now| now.state.is_final()).await.map(|now| now.reason.clone()) {
        Ok(reason) if handle.has_failed_disk() => {
            // Whoever waited is told before the connections break.
            tokio::time::sleep(LAST_ANSWERS).await;
            reason
        }
        _ => std::future::pending().await,
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FolderError> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(internal)?.map_err(failure)
}

pub(crate) fn failure(error: FolderError) -> Failure {
    let exit = match &error {
        FolderError::NoStore(_) | FolderError::Exists(_) | FolderError::NotEmpty(_) | FolderError::SameName(..) => Exit::Invalid,
        FolderError::Config(_) | FolderError::Unsafe(_) | FolderError::OtherStore(..) => Exit::Invalid,
        FolderError::Topic(TopicError::Denied { .. }) => Exit::Permission,
        FolderError::Topic(TopicError::Unreachable { .. }) => Exit::Unavailable,
        FolderError::Topic(_) | FolderError::Log(LogError::Missing { .. }) => Exit::Invalid,
        FolderError::Begin(_) => Exit::Invalid,
        FolderError::Log(LogError::Corrupt { .. } | LogError::Fenced { .. }) | FolderError::Stopped(..) => Exit::Damaged,
        FolderError::Store(error) if error.is_damage() => Exit::Damaged,
        _ => Exit::Unavailable,
    };
    let hint = error.hint();
    let failure = Failure::new(exit, error.to_string());
    if hint.is_empty() { failure } else { failure.hint(hint) }
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Damaged, error.to_string())
}
