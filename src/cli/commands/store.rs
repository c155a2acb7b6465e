use super::{retention::policy, status};
use crate::{app::App, error::Failure, local::Access, parse, topic::CreateArgs};
use confold_wire::pb;
use std::{path::PathBuf, time::Duration};

/// Make, open, close and list the stores of a server that runs, or rebuild one that does not.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Create(CreateStore),
    Open(Named),
    Close(Close),
    List(List),
    Rebuild(Rebuild),
}

/// Make a store on a server that was started with --stores, and open it.
///
/// Its log is a folder of the server, or with --topic a topic of the brokers that the server's confold.toml names. A store
/// that is on the topic already is joined.
///
/// Example: confold store create lab --topic lab --create-topic
#[derive(clap::Args, Debug)]
pub struct CreateStore {
    /// Its name: letters, digits, `-`, `_` and `.`
    name: String,
    /// The topic of its log
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    #[command(flatten)]
    create: CreateArgs,
    /// Join the store with this log id, and refuse a topic that holds none or another one
    #[arg(long, value_name = "LOG_ID", requires = "topic")]
    join: Option<String>,
    /// The biggest event, for ever [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    max_event: Option<u64>,
    /// How many positions an event id stays usable, for ever [default: 1048576]
    #[arg(long, value_name = "N")]
    window: Option<u64>,
    /// Keep at least this many of the latest revisions
    #[arg(long, value_name = "N")]
    keep: Option<u64>,
    /// Keep every revision younger than this: 12h, 30d
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    age: Option<Duration>,
    /// Let no revision go
    #[arg(long, conflicts_with_all = ["keep", "age"])]
    keep_all: bool,
}

/// Open a store that was closed, or that lies in the server's folder of stores.
///
/// Example: confold store open lab
#[derive(clap::Args, Debug)]
pub struct Named {
    /// Its name
    name: String,
}

/// Close a store of a server; it stays closed, also over a restart, until it is opened again.
///
/// Calls under way end first. The other stores go on.
///
/// Example: confold store close lab
#[derive(clap::Args, Debug)]
pub struct Close {
    /// Its name
    name: String,
}

/// List the stores of a server, open or not.
///
/// Example: confold store list
#[derive(clap::Args, Debug)]
pub struct List {}

/// Set the database of a folder aside and fold the log anew at the next start.
///
/// The way out after a replica was quarantined, or fenced because its log was cut or made anew: the log is taken as it is
/// now. What was folded before is kept beside it as evidence, and what only it held is lost to the store. Says what it found
/// and does nothing without --yes.
///
/// Example: confold store rebuild ./data --yes
#[derive(clap::Args, Debug)]
pub struct Rebuild {
    /// The data folder; no server may have it open
    folder: PathBuf,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, app).await,
        Command::Open(Named { name }) => {
            let connection = app.connect(Access::Write).await?;
            let request = pb::OpenStoreRequest { name };
            let row = connection.again(|| connection.api.open_store(request.clone())).await?;
            show(app, "open", &row)
        }
        Command::Close(Close { name }) => {
            let connection = app.connect(Access::Write).await?;
            let request = pb::CloseStoreRequest { name };
            let row = connection.again(|| connection.api.close_store(request.clone())).await?;
            show(app, "closed", &row)
        }
        Command::List(List {}) => status::stores(status::StoresArgs {}, app).await,
        Command::Rebuild(args) => rebuild(args, app).await,
    }
}

async fn create(args: CreateStore, app: &mut App) -> Result<(), Failure> {
    if args.create.create_topic && args.topic.is_none() {
        return Err(Failure::invalid("--create-topic needs the topic: --topic NAME"));
    }
    let retention = (args.keep.is_some() || args.age.is_some() || args.keep_all)
        .then(|| policy(args.keep, args.age, args.keep_all));
    let shape = args.create.shape();
    let request = pb::CreateStoreRequest {
        name: args.name,
        topic: args.topic.unwrap_or_default(),
        create_topic: shape.map(|shape| pb::TopicShape {
            replication: shape.replication.unwrap_or_default(),
            min_insync: shape.min_insync.unwrap_or_default(),
        }),
        join: args.join.unwrap_or_default(),
        max_event_bytes: args.max_event.unwrap_or_default(),
        window: args.window.unwrap_or_default(),
        retention,
    };
    let connection = app.connect(Access::Write).await?;
    // Not tried again by itself: a first try that came through would be answered as a mistake.
    let row = connection.api.create_store(request).await?;
    show(app, "made", &row)
}

fn show(app: &mut App, did: &str, row: &pb::StoreRow) -> Result<(), Failure> {
    if app.ui.json {
        return app.ui.message("confold.v1.StoreRow", row);
    }
    let mut text = format!("{did}: {}", row.name);
    if !row.log_id.is_empty() {
        text.push_str(&format!(", log id {}, {}", row.log_id, status::state_text(row.state())));
    }
    app.ui.data(&text)
}

async fn rebuild(args: Rebuild, app: &mut App) -> Result<(), Failure> {
    let folder = app.context.folder.join(&args.folder);
    let shown = args.folder.display().to_string();
    if !args.yes {
        let failure = Failure::invalid(format!(
            "this sets aside what {shown} has folded, and takes the log as it is now: revisions that only this folder knows are \
             lost to the store"
        ));
        return Err(failure.hint("`confold doctor` says what the log holds; when that is right, add --yes"));
    }
    let rebuilt = app.context.local.rebuild(&folder).await?;
    if app.ui.json {
        return app.ui.json_value(&serde_json::json!(rebuilt));
    }
    if let Some(reason) = &rebuilt.reason {
        app.ui.note(&format!("it was stopped: {reason}"));
    }
    match (&rebuilt.aside, rebuilt.folded) {
        (None, _) => app.ui.data("nothing was folded yet: the next start folds the log")?,
        (Some(aside), folded) => {
            let upto = folded.map_or_else(
                || "it could not be read".to_owned(),
                |at| format!("folded up to position {at}"),
            );
            app.ui.data(&format!("kept: {aside}, {upto}"))?;
            app.ui.data("the next start folds the log anew")?;
        }
    }
    app.ui.label_hint("Next:", &format!("confold serve {shown}"));
    Ok(())
}
