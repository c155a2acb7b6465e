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

/// Write the log into a file: every event, byte for byte, with digests.
///
/// The file has the format of the embedded log, and everything else can be made from it again.
///
/// Example: confold export log backup.log
#[derive(clap::Args, Debug)]
pub struct LogArgs {
    /// The file to write; must not exist
    file: String,
    /// The first position [default: the log's start]
    #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// The last position [default: the log's end]
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    let Command::Log(args) = command;
    let file = app.file(&args.file);
    if file.exists() {
        return Err(Failure::invalid(format!("{} exists already", args.file)).hint("name a new file"));
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
    let exported = local.export(records, &file, &mut progress).await?;
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
