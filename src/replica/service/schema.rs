//! Schemas: pushed, or only looked over, and read as they were at any revision.

use super::at::Reading;
use super::propose::{Intention, propose};
use super::refusal::hex;
use super::rights::Asked;
use super::{Refusal, blocking};
use crate::view::View;
use confold_model::code::Code;
use confold_model::event::Body;
use confold_model::ids::{Hash, Position};
use confold_model::schema::{ChildKind, Kind, MessageType, Schema, SchemaProblem};
use confold_wire::dynamic::Types;
use confold_wire::pb;
use std::collections::BTreeSet;

/// S9: what is wrong is said before the log, as later schemas only add: what does not fit this replica's latest schema
/// fits no later one either.
pub(super) async fn push(
    served: Asked,
    mut request: pb::PushSchemaRequest,
) -> Result<pb::PushSchemaResponse, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let view = served.handle.view();
    let (request, checked) = blocking(move || {
        let checked = check(&view, &request);
        Ok((request, checked))
    })
    .await?;
    let mut answer = pb::PushSchemaResponse {
        decision: None,
        problems: checked.problems,
        additions: checked.additions,
        root_message: checked.root_message,
    };
    if request.dry_run {
        return Ok(answer);
    }
    let built = match answer.problems.is_empty() {
        true => {
            let descriptor_set = Vec::from(request.descriptor_set).into();
            Ok(Body::Schema {
                descriptor_set,
                root_message: answer.root_message.clone().into(),
            }
            .into())
        }
        false => Err(Refusal::new(Code::SchemaInvalid, answer.problems.join("; "))),
    };
    answer.decision = Some(propose(served, intention, built).await?);
    Ok(answer)
}

struct Checked {
    problems: Vec<String>,
    additions: Vec<String>,
    root_message: String,
}

fn check(view: &View, request: &pb::PushSchemaRequest) -> Checked {
    let root_message = match request.root_message.as_str() {
        "" => view.root_message.to_string(),
        named => named.to_owned(),
    };
    let mut problems = Vec::new();
    if root_message.is_empty() {
        problems.push("the first schema must name its root message".to_owned());
    } else if !view.root_message.is_empty() && root_message != *view.root_message {
        problems.push(format!(
            "the root message is {} and stays so, not {root_message}",
            view.root_message
        ));
    }
    let lines = |found: Vec<SchemaProblem>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut additions = Vec::new();
    if problems.is_empty() {
        match Schema::compile(&request.descriptor_set, &root_message) {
            Err(found) => problems.extend(lines(found)),
            Ok(schema) => {
                if let Some(Err(found)) = view.schema.as_ref().map(|old| old.compatible(&schema)) {
                    problems.extend(lines(found));
                }
                // What JSON and text are made with is pickier than the fold.
                if let Err(error) = Types::new(&request.descriptor_set) {
                    problems.push(error.to_string());
                }
                additions = added(view.schema.as_deref(), &schema);
            }
        }
    }
    Checked {
        problems,
        additions,
        root_message,
    }
}

/// What a schema has that the one in force has not, by name.
fn added(old: Option<&Schema>, new: &Schema) -> Vec<String> {
    let mut lines = Vec::new();
    let mut enums = BTreeSet::new();
    for ty in new.types() {
        let message = new.message(ty);
        let was = old.and_then(|old| Some(old.message(old.message_by_name(&message.full_name)?)));
        match was {
            None if !message.map_entry => lines.push(format!("message {}", message.full_name)),
            None => {}
            Some(was) => lines.extend(added_fields(was, message, new)),
        }
        enums.extend(message.fields.iter().filter_map(|field| match field.kind {
            Kind::Enum(id) => Some(id),
            _ => None,
        }));
    }
    // Enums have no look-up by name: the old ones are those that the old messages use.
    let old_enums: Vec<_> = old
        .into_iter()
        .flat_map(|old| old.types().map(move |ty| (old, old.message(ty))))
        .collect();
    let old_enum = |name: &str| {
        old_enums.iter().find_map(|(old, message)| {
            message.fields.iter().find_map(|field| match field.kind {
                Kind::Enum(id) if old.enum_type(id).full_name == name => Some(old.enum_type(id)),
                _ => None,
            })
        })
    };
    for id in enums {
        let now = new.enum_type(id);
        match old_enum(&now.full_name) {
            None => lines.push(format!("enum {}", now.full_name)),
            Some(was) => {
                let fresh = now.values.iter().filter(|value| !was.values.contains(value));
                lines.extend(fresh.map(|(number, name)| format!("enum value {}.{name} = {number}", now.full_name)));
            }
        }
    }
    lines.sort();
    lines
}

fn added_fields(was: &MessageType, now: &MessageType, schema: &Schema) -> Vec<String> {
    let line = |field: &confold_model::schema::Field| {
        let name = format!("{}.{} = {}", now.full_name, field.name, field.number);
        match now
            .child(field.number)
            .map(|child| (&child.kind, schema.message(child.message)))
        {
            None => format!("field {name} ({})", field.kind.word()),
            Some((ChildKind::Single, child)) => format!("single child {name} ({})", child.full_name),
            Some((ChildKind::List, child)) => format!("list {name} ({})", child.full_name),
            Some((ChildKind::Keyed(key), child)) => {
                format!("container {name} ({}, keyed by {})", child.full_name, key.name)
            }
        }
    };
    now.fields
        .iter()
        .filter(|field| was.field(field.number).is_none())
        .map(line)
        .collect()
}

pub(super) async fn get(
    served: Asked,
    mut request: pb::GetSchemaRequest,
) -> Result<pb::GetSchemaResponse, Refusal> {
    let read = request.read.take().unwrap_or_default();
    let view = served.view(&read).await?;
    blocking(move || {
        let rights = served.now()?;
        let mut read_at = Reading::latest(view.clone()).read_at(&rights);
        let mut position = view.position;
        if !super::at::is_latest(&read.at) {
            // The schema of a revision that is gone stands in the state all the same.
            let named = served.resolve(&view, &read.at)?;
            let row = served.handle.store()?.revision(named.revision)?;
            position = named
                .position
                .or(row.as_ref().map(|row| row.position))
                .unwrap_or(Position(0));
            read_at.revision = named.revision.0;
            read_at.root = rights.root(&row.as_ref().map_or(confold_model::node::EMPTY_NODE, |row| row.root));
            read_at.time_ms = row.map_or(0, |row| row.time.0);
        }
        let Some((pushed_at, descriptor_set)) = view.descriptor_set_at(position) else {
            let detail = format!("no schema was in force at position {position}");
            return Err(Refusal::new(Code::NotFound, detail).hint("push one with `confold schema push`"));
        };
        Ok(pb::GetSchemaResponse {
            read_at: Some(read_at),
            descriptor_set: descriptor_set.clone(),
            root_message: view.root_message.to_string(),
            position: pushed_at.0,
            hash: hex(&Hash::of(descriptor_set)),
        })
    })
    .await
}
