use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
    values::{SOURCE_HELP, ValueFormat},
};
use confold_wire::pb::text_operation::Kind;

/// Add a new element to a keyed container, with its children.
///
/// The key is a field of the value. An element that is there already is refused with ALREADY_EXISTS.
///
/// Example: confold add /devices device.json
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The container, as in /devices; or the element with its key
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
        args.conditions.request(&args.path, Kind::Add(value)),
    )
    .await?;
    Ok(())
}
