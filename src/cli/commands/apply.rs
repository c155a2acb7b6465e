use super::diff::value_lines;
use crate::{
    app::{App, WhoArgs},
    apply::{
        document::{self, Part},
        plan::{Planner, Step, StepKind},
        send::{Sender, Summary},
    },
    error::{Failure, short},
    local::Access,
    output::{BAD, CHANGED, GOOD, count},
    parse,
    types::StoreTypes,
    values::{ValueFormat, read_all, read_file},
};
use confold_client::Connection;
use confold_model::{canonicalise::ChildFields, code::Code, path::Target};
use confold_wire::pb;
use serde_json::json;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Make the store as files say.
///
/// A file holds documents. A document is the root message, as in `devices: [...]`, or a mapping from paths to values, as
/// in `/devices/olt-1: {...}`. Each node or element that it names becomes exactly what the document says, with everything
/// below it; of the root's own data only the named fields change. What no document names stays, unless --prune.
///
/// All of it is one commit where it fits into one event. More is cut into several; applying the same files again does
/// only what is left. Big trees are best given as JSON, which is read as it comes, or as several YAML documents.
///
/// Example: confold apply -f schemas/examples/network.yaml --dry-run
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Files, folders of files (.json, .yaml, .yml, .textproto), or `-` for standard input
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    files: Vec<String>,
    /// How files without a telling extension are written
    #[arg(long)]
    format: Option<ValueFormat>,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Also remove the elements of the named containers that no document names
    #[arg(long)]
    prune: bool,
    /// Refuse what does not fit into one commit
    #[arg(long)]
    atomic: bool,
    /// Refuse to change READ_ONLY fields
    #[arg(long)]
    strict: bool,
    /// Cut commits at this size [default: what one event holds]
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    commit_size: Option<u64>,
    #[command(flatten)]
    who: WhoArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app
        .connect(if args.dry_run { Access::Read } else { Access::Write })
        .await?;
    let sources = sources(app, &args)?;
    let types = StoreTypes::of(&connection, None).await?;
    apply(app, connection, &types, sources, &args).await
}

/// Applies documents that are part of this program.
pub async fn apply_text(app: &mut App, connection: Connection, name: &str, text: &'static str) -> Result<(), Failure> {
    let types = StoreTypes::of(&connection, None).await?;
    let source = Source {
        name: name.to_owned(),
        format: ValueFormat::Yaml,
        place: Place::Reader(Box::new(text.as_bytes())),
    };
    let args = Args {
        files: Vec::new(),
        format: None,
        dry_run: false,
        prune: false,
        atomic: true,
        strict: false,
        commit_size: None,
        who: WhoArgs::default(),
    };
    apply(app, connection, &types, vec![source], &args).await
}

async fn apply(
    app: &mut App,
    connection: Connection,
    types: &StoreTypes,
    sources: Vec<Source>,
    args: &Args,
) -> Result<(), Failure> {
    let budget = budget(&connection, args.commit_size).await?;
    let mut planner = Planner::new(types, budget - budget / 8, args.prune);
    let mut parts = read_ahead(sources, types)?;
    if args.dry_run {
        return dry_run(app, &connection, types, &mut planner, &mut parts).await;
    }
    let mut sender = Sender::new(app, connection, &args.who, budget, args.atomic, args.strict);
    while let Some(part) = parts.recv().await {
        if let Some(step) = plan(&mut planner, part?)? {
            sender.step(&mut planner, step).await?;
        }
    }
    for (container, named) in planner.named() {
        sender.prune(&container, &named).await?;
    }
    sender.finish().await?;
    let summary = sender.summary.clone();
    for note in &planner.notes {
        app.ui.label_hint("Note:", note);
    }
    print_summary(app, &summary)
}

fn plan(planner: &mut Planner<'_>, (part, file): (Part, Arc<str>)) -> Result<Option<Step>, Failure> {
    planner
        .part(part)
        .map_err(|failure| failure.cause(format!("so it stands in {file}")))
}

fn print_summary(app: &mut App, summary: &Summary) -> Result<(), Failure> {
    let last = summary.last.clone().unwrap_or_default();
    if app.ui.json {
        return app.ui.json_value(&json!({
            "operations": summary.operations,
            "commits": summary.commits,
            "changed": summary.changed,
            "root": last.root,
            "position": last.position,
            "token": last.token,
        }));
    }
    if summary.commits == 0 {
        return app.ui.data("nothing to apply");
    }
    let what = format!(
        "{} in {}",
        count(summary.operations, "operation", "operations"),
        count(summary.commits, "commit", "commits")
    );
    if summary.changed == 0 {
        return app.ui.data(&format!("unchanged: {what}; everything is so already"));
    }
    let revision = last
        .revision
        .map(|revision| format!(", revision {revision}"))
        .unwrap_or_default();
    let root = match last.root.as_str() {
        "" => String::new(),
        root => format!(", root {}", short(root)),
    };
    app.ui.data(&format!("applied: {what}{revision}{root}"))
}

/// What one commit may hold: the store's limit, with room for the envelope and for paths and hashes around the values.
async fn budget(connection: &Connection, asked: Option<u64>) -> Result<usize, Failure> {
    let request = pb::StatusRequest {
        store: connection.store.clone(),
    };
    let status = connection.again(|| connection.api.status(request.clone())).await?;
    let limit = status.limits.map_or(0, |limits| limits.max_event_bytes);
    let limit = if limit == 0 { 16 << 20 } else { limit };
    let most = limit - limit / 16;
    let budget = asked.map_or(most, |asked| asked.clamp(1, most));
    Ok(usize::try_from(budget).unwrap_or(usize::MAX))
}

// --- Files ----------------------------------------------------------------------------------------------------------

struct Source {
    name: String,
    format: ValueFormat,
    place: Place,
}

enum Place {
    File(PathBuf),
    Reader(Box<dyn Read + Send>),
}

fn sources(app: &mut App, args: &Args) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for name in &args.files {
        if name == "-" {
            let format = args.format.unwrap_or(ValueFormat::Yaml);
            let input = std::mem::replace(&mut app.context.input, Box::new(std::io::empty()));
            let place = Place::Reader(input);
            sources.push(Source {
                name: "standard input".to_owned(),
                format,
                place,
            });
            continue;
        }
        let path = app.file(name);
        if path.is_dir() {
            let found = files_of(&path)?;
            if found.is_empty() {
                return Err(Failure::invalid(format!(
                    "{name}: no .json, .yaml, .yml or .textproto file in it"
                )));
            }
            sources.extend(found);
            continue;
        }
        let Some(format) = args.format.or_else(|| ValueFormat::of_file(&path)) else {
            return Err(
                Failure::invalid(format!("{name}: the name does not say how it is written")).hint("say --format"),
            );
        };
        fs::metadata(&path).map_err(|error| Failure::invalid(format!("{name}: {error}")))?;
        sources.push(Source {
            name: name.clone(),
            format,
            place: Place::File(path),
        });
    }
    Ok(sources)
}

/// The files of a folder and its subfolders that hold documents, by name.
fn files_of(folder: &Path) -> Result<Vec<Source>, Failure> {
    let failed = |error: std::io::Error| Failure::invalid(format!("{}: {error}", folder.display()));
    let mut entries = fs::read_dir(folder)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they can lead in circles.
        if entry.file_type().map_err(failed)?.is_dir() {
            sources.extend(files_of(&path)?);
        } else if let Some(format) = ValueFormat::of_file(&path).filter(|format| *format != ValueFormat::Binary) {
            sources.push(Source {
                name: path.display().to_string(),
                format,
                place: Place::File(path),
            });
        }
    }
    Ok(sources)
}

/// Reads on a thread of its own, a bounded number of parts ahead.
/// What the reading thread hands over: a part and the name of its file, or why it stopped.
type Parts = mpsc::Receiver<Result<(Part, Arc<str>), Failure>>;

fn read_ahead(sources: Vec<Source>, types: &StoreTypes) -> Result<Parts, Failure> {
    const AHEAD: usize = 1024;
    let (send, parts) = mpsc::channel(AHEAD);
    let root = (types.types.clone(), types.root_message.clone());
    tokio::task::spawn_blocking(move || {
        for source in sources {
            let name: Arc<str> = source.name.as_str().into();
            let result = read_source(source, &root, &mut |part| {
                // The other end is gone only after a failure of its own.
                send.blocking_send(Ok((part, name.clone())))
                    .map_err(|_| Failure::invalid("stopped"))
            });
            if let Err(failure) = result {
                _ = send.blocking_send(Err(failure));
                return;
            }
        }
    });
    Ok(parts)
}

fn read_source(
    source: Source,
    (types, root): &(confold_wire::dynamic::Types, String),
    sink: &mut document::Sink<'_>,
) -> Result<(), Failure> {
    let Source { name, format, place } = source;
    if matches!(format, ValueFormat::Json | ValueFormat::Yaml) {
        return match place {
            Place::Reader(input) => document::read(&name, format, input, sink),
            Place::File(path) => {
                let file = fs::File::open(&path).map_err(|error| Failure::invalid(format!("{name}: {error}")))?;
                document::read(&name, format, file, sink)
            }
        };
    }
    // The other formats hold the root message as a whole.
    let bytes = match place {
        Place::File(path) => read_file(&path, &name)?,
        Place::Reader(input) => read_all(input, &name)?,
    };
    let named = |failure: Failure| failure.while_doing(format!("cannot read {name}"));
    let bytes = match format {
        ValueFormat::Textproto => {
            let text = String::from_utf8(bytes).map_err(|error| Failure::invalid(format!("{name}: {error}")))?;
            types
                .from_text(root, &text)
                .map_err(|error| named(Failure::from(error)))?
        }
        _ => bytes,
    };
    let value = types
        .to_json(root, &bytes)
        .map_err(|error| named(Failure::from(error)))?;
    document::parts(value, sink)
}

// --- Dry run --------------------------------------------------------------------------------------------------------

/// Beyond this many, operations are only counted.
const SHOWN: u64 = 1_000;

async fn dry_run(
    app: &mut App,
    connection: &Connection,
    types: &StoreTypes,
    planner: &mut Planner<'_>,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let (mut operations, mut changes) = (0u64, 0u64);
    while let Some(part) = parts.recv().await {
        let Some(step) = plan(planner, part?)? else { continue };
        operations += 1;
        if operations <= SHOWN && show(app, connection, types, &step).await? {
            changes += 1;
        }
    }
    let mut removed = 0u64;
    for (container, named) in planner.named() {
        let request = pb::ListRequest {
            store: connection.store.clone(),
            path: container,
            no_values: true,
            ..Default::default()
        };
        let mut pages = connection.again(|| connection.api.list_stream(request.clone())).await?;
        while let Some(page) = futures::StreamExt::next(&mut pages).await {
            for node in page?.nodes.iter().filter(|node| !named.contains(&node.path)) {
                removed += 1;
                if removed <= SHOWN {
                    app.ui.styled(BAD, &format!("- {}", node.path))?;
                }
            }
        }
    }
    for note in &planner.notes {
        app.ui.label_hint("Note:", note);
    }
    let text = match operations {
        0..=SHOWN => format!(
            "{changes} of {} would change something",
            count(operations, "operation", "operations")
        ),
        _ => format!(
            "{} in all; the first {SHOWN} were compared",
            count(operations, "operation", "operations")
        ),
    };
    let text = if removed > 0 {
        format!("{text}, {} would be removed", count(removed, "element", "elements"))
    } else {
        text
    };
    app.ui.note(&text);
    Ok(())
}

/// Prints what one step would change; `false` where it is so already.
async fn show(app: &mut App, connection: &Connection, types: &StoreTypes, step: &Step) -> Result<bool, Failure> {
    let (path, target) = types.target(&step.path)?;
    let own_data = matches!(step.kind, StepKind::Update { .. });
    let request = pb::GetRequest {
        store: connection.store.clone(),
        path: step.path.clone(),
        depth: if own_data { 0 } else { -1 },
        format: pb::Format::Proto.into(),
        ..Default::default()
    };
    let answer = match connection.again(|| connection.api.get(request.clone())).await {
        Ok(answer) => Some(answer),
        Err(error) if error.code() == Some(Code::NotFound) => None,
        Err(error) => return Err(error.into()),
    };
    let proto = |node: &pb::Node| match node.value.as_ref().and_then(|value| value.form.clone()) {
        Some(pb::value::Form::Proto(bytes)) => bytes.to_vec(),
        _ => Vec::new(),
    };
    let (ty, depth, before) = match target {
        Target::Node { ty, .. } => (
            ty,
            path.depth(),
            answer.as_ref().and_then(|answer| answer.nodes.first()).map(proto),
        ),
        Target::Container { parent, child } => {
            let elements: Vec<Vec<u8>> = answer.iter().flat_map(|answer| &answer.nodes).map(proto).collect();
            (
                parent,
                path.depth() - 1,
                Some(types.schema.join(parent, &[], &[(child.number, elements)])),
            )
        }
    };
    let refused = |error: confold_model::canon::ValueError| Failure::of(error.code, error.text).at(&step.path);
    let value = match &step.kind {
        StepKind::Large { value, .. } => types.types.from_json_value(&step.message, value)?,
        _ => step.value.clone(),
    };
    let canonical = types
        .schema
        .canonicalise(ty, &value, depth, ChildFields::Allowed)
        .map_err(refused)?;
    for field in &canonical.cleared {
        app.ui
            .label_hint("Note:", &format!("{}: {field} is REAL_TIME and not stored", step.path));
    }
    let (mut after, mut before) = (canonical.bytes, before);
    let mut suffix = String::new();
    if let StepKind::Update { mask } = &step.kind {
        let mut fields = Vec::new();
        for name in mask {
            fields.push(types.types.field(&step.message, name)?.0);
        }
        fields.sort();
        after = types.schema.masked(ty, &after, &fields);
        before = before.map(|before| types.schema.masked(ty, &before, &fields));
        suffix = format!(" ({})", mask.join(", "));
    }
    let Some(before) = before else {
        app.ui.styled(GOOD, &format!("+ {}", step.path))?;
        return Ok(true);
    };
    if before == after {
        return Ok(false);
    }
    app.ui.styled(CHANGED, &format!("~ {}{suffix}", step.path))?;
    let (before, after) = (
        types.types.to_yaml(&step.message, &before)?,
        types.types.to_yaml(&step.message, &after)?,
    );
    value_lines(app, &before, &after)?;
    Ok(true)
}
