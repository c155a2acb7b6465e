use crate::{
    app::{App, ConditionArgs, WriteArgs},
    error::Failure,
    local::Access,
    parse::{self, Assignment},
    types::StoreTypes,
};
use confold_wire::pb::{self, text_operation::Kind};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Set single fields of nodes that exist.
///
/// Words are written as they are; lists, maps and messages as JSON. Several fields are one commit: all are set or none.
///
/// Example: confold set /devices/olt-1:admin_state=DISABLED /devices/olt-1:location.site=berlin-2
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Field and value, as in /devices/olt-1:admin_state=DISABLED
    #[arg(required = true, value_name = "PATH:FIELD=VALUE")]
    fields: Vec<String>,
    #[command(flatten)]
    conditions: ConditionArgs,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let assignments = assignments(&args.fields)?;
    let connection = app.connect(Access::Write).await?;
    let types = StoreTypes::of(&connection, None).await?;
    let mut request = pb::CommitRequest::default();
    for (path, update) in updates(&assignments, &types)? {
        request.guards.extend(args.conditions.guard(&path));
        request
            .operations
            .push(args.conditions.operation(&path, Kind::Update(update)));
    }
    app.commit(&connection, &args.write, request).await?;
    Ok(())
}

/// `PATH:FIELD=VALUE`, or two words `PATH:FIELD VALUE` where there are just two.
fn assignments(words: &[String]) -> Result<Vec<Assignment>, Failure> {
    if let [target, value] = words
        && !target.contains('=')
        && parse::assignment(value).is_err()
    {
        let (path, field) = parse::field_ref(target).map_err(Failure::invalid)?;
        return Ok(vec![Assignment {
            path,
            field,
            value: value.clone(),
        }]);
    }
    words
        .iter()
        .map(|word| parse::assignment(word).map_err(Failure::invalid))
        .collect()
}

/// One masked update per path, in the order of the paths.
pub fn updates(assignments: &[Assignment], types: &StoreTypes) -> Result<BTreeMap<String, pb::TextUpdate>, Failure> {
    let mut documents: BTreeMap<String, (Json, Vec<String>)> = BTreeMap::new();
    for assignment in assignments {
        let ty = types.node_type(&assignment.path)?;
        let assigned = types
            .types
            .assign(types.name(ty), &assignment.field, &assignment.value)
            .map_err(|error| Failure::from(error).at(&assignment.path))?;
        let (document, mask) = documents.entry(assignment.path.clone()).or_default();
        if mask.contains(&assignment.field) {
            let text = format!("the field {} is set twice", assignment.field);
            return Err(Failure::invalid(text).at(&assignment.path));
        }
        merge(document, assigned);
        mask.push(assignment.field.clone());
    }
    let update = |(path, (document, mask)): (String, (Json, Vec<String>))| {
        let form = Some(pb::value::Form::Json(document.to_string()));
        (
            path,
            pb::TextUpdate {
                value: Some(pb::Value {
                    form,
                    r#type: String::new(),
                }),
                mask,
            },
        )
    };
    Ok(documents.into_iter().map(update).collect())
}

fn merge(document: &mut Json, more: Json) {
    match (document, more) {
        (Json::Object(document), Json::Object(more)) => {
            for (name, value) in more {
                merge(document.entry(name).or_insert(Json::Null), value);
            }
        }
        (document, more) => *document = more,
    }
}
