use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
    values::{SOURCE_HELP, ValueFormat},
};
use confold_wire::pb::text_operation::Kind;

/// Make a node and everything below it equal to a value.
///
/// Creates it where it is absent. Children that the value does not name are gone afterwards; to change only the node's
/// own data use `confold update`.
///
/// Example: confold put /devices/olt-2 device.json
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node, as in /devices/olt-2
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
        args.conditions.request(&args.path, Kind::Put(value)),
    )
    .await?;
    Ok(())
}
