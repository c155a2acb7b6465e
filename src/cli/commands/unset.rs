use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
    parse,
};
use confold_wire::pb::{self, text_operation::Kind};
use std::collections::BTreeMap;

/// Clear single fields of nodes that exist.
///
/// Several fields are one commit: all are cleared or none.
///
/// Example: confold unset /devices/olt-1:description
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Fields, as in /devices/olt-1:location.site
    #[arg(required = true, value_name = "PATH:FIELD")]
    fields: Vec<String>,
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let mut masks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for word in &args.fields {
        let (path, field) = parse::field_ref(word).map_err(Failure::invalid)?;
        masks.entry(path).or_default().push(field);
    }
    let connection = app.connect(Access::Write).await?;
    let mut request = pb::CommitRequest::default();
    for (path, mask) in masks {
        request.guards.extend(args.conditions.guard(&path));
        request
            .operations
            .push(args.conditions.operation(&path, Kind::Update(cleared(mask))));
    }
    app.commit(&connection, &args.write, request).await?;
    Ok(())
}

/// The masked fields are not in the value, so they are cleared.
pub fn cleared(mask: Vec<String>) -> pb::TextUpdate {
    pb::TextUpdate {
        value: Some(pb::Value::default()),
        mask,
    }
}
