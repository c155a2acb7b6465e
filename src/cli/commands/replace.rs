use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
    values::{SOURCE_HELP, ValueFormat},
};
use confold_wire::pb::text_operation::Kind;

/// Make an existing node, or a whole container, equal to a value.
///
/// Like `confold put`, but refuses to create. For a container the value is the parent with that one field set, which is
/// how lists without keys are changed.
///
/// Example: confold replace /clock/ntp_servers '{ntp_servers: [{address: ntp1.example.net}]}'
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node or container, as in /clock/ntp_servers
    path: String,
    #[arg(help = SOURCE_HELP)]
    value: String,
    /// How the value is written [default: by the file's extension, else yaml]
    #[arg(long)]
    format: Option<ValueFormat>,
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let value = app.value(&args.value, args.format)?;
    let connection = app.connect(Access::Write).await?;
    app.commit(
        &connection,
        &args.write,
        args.conditions.request(&args.path, Kind::Replace(value)),
    )
    .await?;
    Ok(())
}
