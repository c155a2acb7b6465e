use super::{set::updates, unset::cleared};
use crate::{
    app::{App, WriteArgs},
    error::Failure,
    local::Access,
    parse,
    types::StoreTypes,
    values::read_file,
};
use confold_client::Connection;
use confold_wire::{
    json,
    pb::{self, text_guard::Expect, text_operation::Kind},
};
use prost::Message;
use std::collections::BTreeMap;

/// Commit several operations as one event: all of them or none.
///
/// Operations come from options, from a file with a commit request as JSON or YAML (as over HTTP: `operations` and
/// `guards`), or both. Each path is named at most once.
///
/// Example: confold commit --put /devices/olt-2=device.json --set /devices/olt-1:admin_state=DISABLED --if-absent
/// /devices/olt-9
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A commit request as JSON or YAML, `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<String>,
    /// Make a node equal to a value, and create it where it is absent
    #[arg(long, value_name = "PATH=VALUE", value_parser = parse::pair)]
    put: Vec<(String, String)>,
    /// Add a new element
    #[arg(long, value_name = "PATH=VALUE", value_parser = parse::pair)]
    add: Vec<(String, String)>,
    /// Replace a node's data
    #[arg(long, value_name = "PATH=VALUE", value_parser = parse::pair)]
    update: Vec<(String, String)>,
    /// Make an existing node or container equal to a value
    #[arg(long, value_name = "PATH=VALUE", value_parser = parse::pair)]
    replace: Vec<(String, String)>,
    /// Remove an element
    #[arg(long, value_name = "PATH")]
    remove: Vec<String>,
    /// Set a field
    #[arg(long, value_name = "PATH:FIELD=VALUE", value_parser = parse::assignment)]
    set: Vec<parse::Assignment>,
    /// Clear a field
    #[arg(long, value_name = "PATH:FIELD", value_parser = parse::field_ref)]
    unset: Vec<(String, String)>,

    /// Only if the path is as it was at this state
    #[arg(long, value_name = "PATH=STATE", value_parser = parse::pair, help_heading = "Conditions")]
    if_at: Vec<(String, String)>,
    /// Only if the path, with all below it, has this hash
    #[arg(long, value_name = "PATH=HASH", value_parser = parse::pair, help_heading = "Conditions")]
    if_hash: Vec<(String, String)>,
    /// Only if nothing is there
    #[arg(long, value_name = "PATH", help_heading = "Conditions")]
    if_absent: Vec<String>,
    /// Merge every operation onto this state
    #[arg(long, value_name = "STATE", help_heading = "Conditions")]
    base: Option<String>,
    /// Refuse to change READ_ONLY fields
    #[arg(long, help_heading = "Conditions")]
    strict: bool,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let mut request = from_file(app, args.file.as_deref())?;
    let mut kinds: Vec<(String, Kind)> = Vec::new();
    for (path, source) in &args.put {
        kinds.push((path.clone(), Kind::Put(app.value(source, None)?)));
    }
    for (path, source) in &args.add {
        kinds.push((path.clone(), Kind::Add(app.value(source, None)?)));
    }
    for (path, source) in &args.replace {
        kinds.push((path.clone(), Kind::Replace(app.value(source, None)?)));
    }
    for (path, source) in &args.update {
        let value = Some(app.value(source, None)?);
        kinds.push((
            path.clone(),
            Kind::Update(pb::TextUpdate {
                value,
                mask: Vec::new(),
            }),
        ));
    }
    for path in &args.remove {
        kinds.push((path.clone(), Kind::Remove(pb::Absent {})));
    }
    for (path, update) in fields(&connection, &args).await? {
        kinds.push((path, Kind::Update(update)));
    }
    for (path, kind) in kinds {
        let base = args.base.clone().map(|at| pb::TextBase {
            was: Some(pb::text_base::Was::AsOf(at)),
        });
        request.operations.push(pb::TextOperation {
            path,
            strict: args.strict,
            base,
            kind: Some(kind),
        });
    }
    let guard = |path: String, expect| pb::TextGuard {
        path,
        expect: Some(expect),
    };
    request
        .guards
        .extend(args.if_at.into_iter().map(|(path, at)| guard(path, Expect::SameAs(at))));
    request.guards.extend(
        args.if_hash
            .into_iter()
            .map(|(path, hash)| guard(path, Expect::Subtree(hash))),
    );
    request.guards.extend(
        args.if_absent
            .into_iter()
            .map(|path| guard(path, Expect::Absent(pb::Absent {}))),
    );
    if request.operations.is_empty() {
        return Err(
            Failure::invalid("no operation to commit").hint("name one, as in --remove /devices/olt-1, or a file")
        );
    }
    app.commit(&connection, &args.write, request).await?;
    Ok(())
}

/// Fields that are set and cleared, as one update per path.
async fn fields(connection: &Connection, args: &Args) -> Result<BTreeMap<String, pb::TextUpdate>, Failure> {
    let mut all = BTreeMap::new();
    if !args.set.is_empty() {
        let types = StoreTypes::of(connection, None).await?;
        all = updates(&args.set, &types)?;
    }
    for (path, field) in &args.unset {
        all.entry(path.clone())
            .or_insert_with(|| cleared(Vec::new()))
            .mask
            .push(field.clone());
    }
    Ok(all)
}

fn from_file(app: &mut App, file: Option<&str>) -> Result<pb::CommitRequest, Failure> {
    let Some(name) = file else {
        return Ok(pb::CommitRequest::default());
    };
    let bytes = if name == "-" {
        app.stdin()?
    } else {
        read_file(&app.file(name), name)?
    };
    let invalid = |error: &dyn std::fmt::Display| Failure::invalid(format!("{name} is no commit request: {error}"));
    let text = String::from_utf8(bytes).map_err(|error| invalid(&error))?;
    // YAML reads JSON too.
    let bytes = json::types()?
        .from_yaml("confold.v1.CommitRequest", &text)
        .map_err(|error| invalid(&error))?;
    let request = pb::CommitRequest::decode(bytes.as_slice()).map_err(|error| invalid(&error))?;
    Ok(pb::CommitRequest {
        store: String::new(),
        proposal: None,
        ..request
    })
}
