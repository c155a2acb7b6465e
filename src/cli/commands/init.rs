use super::{apply, retention::policy, schema};
use crate::{
    app::{App, WhoArgs, WriteArgs},
    error::Failure,
    local::{Access, InitOptions},
    parse,
    topic::TopicArgs,
};
use confold_client::Connection;
use confold_wire::schema_source;
use std::{fs, path::PathBuf, time::Duration};

const SAMPLE_PROTO: &str = include_str!("../../../schemas/examples/network.proto");
const SAMPLE_YAML: &str = include_str!("../../../schemas/examples/network.yaml");
const SAMPLE_ROOT: &str = "example.Network";

/// Make a data folder with a new store, or one that joins the store on a Kafka topic.
///
/// Without --kafka the log is a folder on this machine, and the store new. With it the log is a topic: an empty one gets a new
/// store, any other is joined, so the same command makes every replica. --sample adds a small schema and data to play with,
/// --schema a schema of your own. Both can be pushed later as well.
///
/// Example: confold init ./data --sample
///
/// Example: confold init ./data --kafka broker-1:9092,broker-2:9092 --topic network --create-topic
///
/// Example: confold init ./data --kafka localhost:9092 --topic try --create-topic --replication 1 --dev-unsafe
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The folder; made where it does not exist
    folder: PathBuf,
    /// The store's name [default: main, or that of the store that is joined]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Join the store with this log id, and refuse a topic that holds none or another one
    #[arg(long, value_name = "LOG_ID", requires = "kafka")]
    join: Option<String>,
    /// Push a small schema and data to play with
    #[arg(long, conflicts_with = "schema")]
    sample: bool,
    /// Push this schema: a folder of .proto files, one .proto file, or a compiled descriptor set
    #[arg(long, value_name = "DIR", requires = "root")]
    schema: Option<PathBuf>,
    /// Full name of the schema's root message
    #[arg(long, value_name = "MESSAGE", requires = "schema")]
    root: Option<String>,
    /// Another folder to look for imports in
    #[arg(long, short = 'I', value_name = "DIR", requires = "schema")]
    include: Vec<PathBuf>,
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
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    who: WhoArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    // What is wrong with the schema is said before anything is made.
    let folder = app.context.folder.clone();
    let includes: Vec<PathBuf> = args.include.iter().map(|include| folder.join(include)).collect();
    let compiled = match (&args.schema, args.sample) {
        (Some(source), _) => Some(schema_source::descriptor_set_of(&folder.join(source), &includes)?),
        (None, true) => Some(sample()?),
        (None, false) => None,
    };
    let retention = (args.keep.is_some() || args.age.is_some() || args.keep_all)
        .then(|| policy(args.keep, args.age, args.keep_all));
    let options = InitOptions {
        data: folder.join(&args.folder),
        store: args.name.clone(),
        kafka: args.topic.options(&folder),
        join: args.join.clone(),
        max_event_bytes: args.max_event,
        window: args.window,
        retention,
    };
    let made = app.context.local.init(options).await?;
    let shown = args.folder.display();
    made.notes.iter().for_each(|note| app.ui.note(note));
    let did = if made.joined { "joined" } else { "made" };
    app.ui
        .note(&format!("{did} the store {} in {shown}, log id {}", made.store, made.log_id));
    if let Some(compiled) = compiled {
        let api = app
            .context
            .local
            .open(&folder.join(&args.folder), Access::Write, None)
            .await?;
        let mut connection = Connection::new(api, made.store);
        connection.nonces = app.context.nonces.clone();
        let root = args.root.unwrap_or_else(|| SAMPLE_ROOT.to_owned());
        let write = WriteArgs {
            who: args.who,
            event_id: None,
        };
        app.ui.note("pushing the schema");
        schema::push(app, &connection, compiled, root, &write).await?;
        if args.sample {
            app.ui.note("applying the sample");
            apply::apply_text(app, connection, "the sample", SAMPLE_YAML).await?;
        }
    }
    app.ui.label_hint("Next:", &format!("confold serve {shown}"));
    Ok(())
}

fn sample() -> Result<schema_source::Compiled, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(crate::Exit::Damaged, format!("cannot write the sample: {error}"));
    let folder = tempfile::tempdir().map_err(failed)?;
    fs::write(folder.path().join("network.proto"), SAMPLE_PROTO).map_err(failed)?;
    Ok(schema_source::descriptor_set_of(folder.path(), &[])?)
}
