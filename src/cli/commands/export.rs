use crate::{
    app::App,
    error::{Failure, short},
    local::Access,
    output::{count, grouped},
};
use confold_wire::pb;

/// Take out what a store is made of
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Log(LogArgs),
}

/// Write the log into a folder of its own: every event, byte for byte, with digests.
///
/// The folder has the format of the embedded log, and everything else can be made from it again.
///
/// Example: confold export log backup
#[derive(clap::Args, Debug)]
pub struct LogArgs {
    /// Where to write; must not exist
    folder: String,
    /// The first position [default: the log's start]
    #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// The last position [default: the log's end]
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    let Command::Log(args) = command;
    let folder = app.file(&args.folder);
    if folder.exists() {
        return Err(Failure::invalid(format!("{} exists already", args.folder)).hint("name a new folder"));
    }
    let connection = app.connect(Access::Read).await?;
    let request = pb::ExportLogRequest {
        store: connection.store.clone(),
        from: args.from,
        to: args.to,
    };
    let records = connection.again(|| connection.api.export_log(request.clone())).await?;
    let local = app.context.local.clone();
    let mut told = 0;
    let ui = &mut app.ui;
    let mut progress = |records: u64| {
        if records >= told + 1_000_000 {
            told = records;
            ui.note(&format!("{} so far", count(records, "record", "records")));
        }
    };
    let exported = local.export(records, &folder, &mut progress).await?;
    if app.ui.json {
        return app.ui.json_value(&serde_json::to_value(&exported).unwrap_or_default());
    }
    app.ui.data(&format!(
        "{} from position {}, {} bytes, log digest {}",
        count(exported.records, "record", "records"),
        exported.first,
        grouped(exported.bytes),
        short(&exported.digest)
    ))
}
