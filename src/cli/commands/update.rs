use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
    values::{SOURCE_HELP, ValueFormat},
};
use confold_wire::pb::{self, text_operation::Kind};

/// Replace the data of a node that exists; its children stay.
///
/// With --mask only the named fields are replaced; one that the value leaves out is cleared.
///
/// Example: confold update /devices/olt-1 '{location: {site: berlin-2}}' --mask location.site
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node, as in /devices/olt-1
    path: String,
    #[arg(help = SOURCE_HELP)]
    value: String,
    /// Only these fields: names with dots, commas between them
    #[arg(long, value_name = "FIELDS", value_delimiter = ',')]
    mask: Vec<String>,
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
    let update = Kind::Update(pb::TextUpdate {
        value: Some(value),
        mask: args.mask,
    });
    app.commit(&connection, &args.write, args.conditions.request(&args.path, update))
        .await?;
    Ok(())
}
