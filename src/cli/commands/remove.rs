use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
};
use confold_wire::pb::{self, text_operation::Kind};

/// Take elements out of their containers, with everything below them.
///
/// Several paths are one commit: all are removed or none.
///
/// Example: confold remove /devices/olt-1/ports/3
#[derive(clap::Args, Debug)]
#[command(visible_alias = "rm")]
pub struct Args {
    /// The elements, as in /devices/olt-1
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let remove = |path: &String| args.conditions.operation(path, Kind::Remove(pb::Absent {}));
    let request = pb::CommitRequest {
        guards: args
            .paths
            .iter()
            .filter_map(|path| args.conditions.guard(path))
            .collect(),
        operations: args.paths.iter().map(remove).collect(),
        ..Default::default()
    };
    app.commit(&connection, &args.write, request).await?;
    Ok(())
}
