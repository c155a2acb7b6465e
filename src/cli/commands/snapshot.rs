use crate::{
    app::App,
    error::{Failure, short},
    local::FetchOptions,
    output::count,
    topic::ClientArgs,
};
use std::path::PathBuf;

/// Begin a replica without reading the log from its start
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Fetch(FetchArgs),
}

/// Make a data folder from a snapshot of another replica.
///
/// The snapshot is the whole state at a mark. It is taken over only when its state hash stands in a checkpoint on the log, every object
/// hashes to what its parent calls it, and its history hashes to the one in the state; a damaged or forged one is refused and
/// leaves nothing behind. `confold serve DIR` then folds on from the mark.
///
/// The other replica is asked with the options for TLS and tokens, as any server is.
///
/// Example: confold snapshot fetch ./data --from https://replica-1:7411 --kafka broker-1:9092 --topic network
#[derive(clap::Args, Debug)]
pub struct FetchArgs {
    /// The data folder: new, or one whose store was set aside by `confold store rebuild`
    folder: PathBuf,
    /// The replica to ask; it needs to let this caller administer the store
    #[arg(long, value_name = "ADDR")]
    from: String,
    /// The brokers of the log, for a new folder: HOST:PORT, several separated by commas
    #[arg(long, value_name = "BROKERS", requires = "topic", help_heading = "Kafka")]
    kafka: Option<String>,
    /// The topic of the log, for a new folder
    #[arg(long, value_name = "NAME", requires = "kafka", help_heading = "Kafka")]
    topic: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    let Command::Fetch(args) = command;
    let here = app.context.folder.clone();
    let kafka = args.kafka.as_ref().zip(args.topic.as_ref());
    let options = FetchOptions {
        data: here.join(&args.folder),
        store: app.store(),
        kafka: kafka.map(|(brokers, topic)| args.client.options(&here, brokers, topic)),
    };
    let api = (app.context.connect)(&args.from, &app.remote(&args.from)?)?;
    let local = app.context.local.clone();
    let fetched = local.fetch_snapshot(api, options).await?;
    if app.ui.json {
        return app.ui.json_value(&serde_json::json!(fetched));
    }
    app.ui.data(&format!(
        "fetched: {} at mark {}, state {}, confirmed by the log",
        fetched.store,
        fetched.position,
        short(&fetched.state)
    ))?;
    app.ui.data(&format!(
        "revision {}, {}, {}",
        fetched.revision,
        count(fetched.revisions, "revision of history", "revisions of history"),
        count(fetched.objects, "object", "objects")
    ))?;
    app.ui
        .label_hint("Next:", &format!("confold serve {}", args.folder.display()));
    Ok(())
}
