use crate::{
    app::{App, ReadArgs, WriteArgs, missing},
    error::{Exit, Failure, short},
    local::Access,
    output::count,
    types::StoreTypes,
};
use confold_client::Connection;
use confold_model::schema::{ChildKind, Kind, MessageType, Schema, Shape, TypeId};
use confold_wire::{
    pb,
    schema_source::{self, Compiled},
};
use std::{fmt::Write as _, fs, path::PathBuf};

/// Which messages the configuration is made of
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Push(PushArgs),
    Check(CheckArgs),
    Show(ShowArgs),
}

#[derive(clap::Args, Debug)]
pub struct Sources {
    /// A folder of .proto files, one .proto file, or a compiled descriptor set
    source: String,
    /// Full name of the root message; needed at the first push
    #[arg(long, value_name = "MESSAGE")]
    root: Option<String>,
    /// Another folder to look for imports in
    #[arg(long, short = 'I', value_name = "DIR")]
    include: Vec<PathBuf>,
}

/// Put a schema in force.
///
/// Compiles .proto files here, without protoc. A schema may only grow: what would change the meaning of anything stored
/// is refused with every offender named.
///
/// Example: confold schema push schemas/examples --root example.Network
#[derive(clap::Args, Debug)]
pub struct PushArgs {
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    write: WriteArgs,
}

/// Tell whether a schema would be accepted, and what it adds.
///
/// Example: confold schema check schemas/examples
#[derive(clap::Args, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    sources: Sources,
}

/// Show the schema in force, from the root message down.
///
/// Example: confold schema show example.Device
#[derive(clap::Args, Debug)]
pub struct ShowArgs {
    /// Only this message, by its full name
    message: Option<String>,
    /// Write the descriptor set into a file instead
    #[arg(long, value_name = "FILE", conflicts_with = "message")]
    descriptor_set: Option<String>,
    #[command(flatten)]
    read: ReadArgs,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    match command {
        Command::Push(args) => {
            let compiled = compile(app, &args.sources)?;
            let connection = app.connect(Access::Write).await?;
            push(
                app,
                &connection,
                compiled,
                args.sources.root.unwrap_or_default(),
                &args.write,
            )
            .await
        }
        Command::Check(args) => check(args, app).await,
        Command::Show(args) => show(args, app).await,
    }
}

/// Pushes a compiled schema and prints its end.
pub async fn push(
    app: &mut App,
    connection: &Connection,
    compiled: Compiled,
    root_message: String,
    write: &WriteArgs,
) -> Result<(), Failure> {
    let id = app.event_id(connection, write).await?;
    let request = pb::PushSchemaRequest {
        store: connection.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(&write.who)
        }),
        descriptor_set: compiled.descriptor_set.into(),
        root_message,
        dry_run: false,
    };
    let answer = connection
        .decide(id, || connection.api.push_schema(request.clone()))
        .await?;
    if app.ui.json {
        return app.ui.message("confold.v1.PushSchemaResponse", &answer);
    }
    additions(app, &answer.additions)?;
    let decision = answer.decision.ok_or_else(|| missing("the decision"))?;
    app.ui.decision(&decision)
}

async fn check(args: CheckArgs, app: &mut App) -> Result<(), Failure> {
    let compiled = compile(app, &args.sources)?;
    let connection = app.connect(Access::Read).await?;
    let request = pb::PushSchemaRequest {
        store: connection.store.clone(),
        proposal: None,
        descriptor_set: compiled.descriptor_set.into(),
        root_message: args.sources.root.unwrap_or_default(),
        dry_run: true,
    };
    let answer = connection.again(|| connection.api.push_schema(request.clone())).await?;
    if app.ui.json {
        app.ui.message("confold.v1.PushSchemaResponse", &answer)?;
    } else {
        additions(app, &answer.additions)?;
    }
    if answer.problems.is_empty() {
        if !app.ui.json {
            let what = if answer.additions.is_empty() {
                "and adds nothing"
            } else {
                "with these additions"
            };
            app.ui.note(&format!("it would be accepted, {what}"));
        }
        return Ok(());
    }
    let failure = Failure::of(confold_model::code::Code::SchemaInvalid, "it would be refused");
    let failure = failure.hint("mend what is named above");
    Err(answer.problems.into_iter().fold(failure, Failure::cause))
}

async fn show(args: ShowArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let request = pb::GetSchemaRequest {
        store: connection.store.clone(),
        read: Some(app.read(&args.read)?),
    };
    let answer = connection.again(|| connection.api.get_schema(request.clone())).await?;
    if let Some(name) = args.descriptor_set {
        let failed = |error| Failure::new(Exit::Invalid, format!("cannot write {name}: {error}"));
        fs::write(app.file(&name), &answer.descriptor_set).map_err(failed)?;
        app.ui.note(&format!(
            "{} written to {name}",
            count(answer.descriptor_set.len() as u64, "byte", "bytes")
        ));
        return Ok(());
    }
    if app.ui.json {
        return app.ui.message("confold.v1.GetSchemaResponse", &answer);
    }
    let types = StoreTypes::new(&answer.descriptor_set, &answer.root_message)?;
    app.ui.note(&format!(
        "root message {}, pushed at position {}, hash {}",
        answer.root_message,
        answer.position,
        short(&answer.hash)
    ));
    let schema = &types.schema;
    let wanted: Vec<TypeId> = match &args.message {
        None => schema.types().filter(|ty| !schema.message(*ty).map_entry).collect(),
        Some(name) => {
            types.types.message(name)?;
            let unreachable = || {
                Failure::of(
                    confold_model::code::Code::NotFound,
                    format!("{name} is not part of the tree"),
                )
            };
            vec![schema.message_by_name(name).ok_or_else(unreachable)?]
        }
    };
    for ty in wanted {
        app.ui.data(&message_text(schema, schema.message(ty)))?;
    }
    Ok(())
}

fn compile(app: &App, sources: &Sources) -> Result<Compiled, Failure> {
    let includes: Vec<PathBuf> = sources
        .include
        .iter()
        .map(|folder| app.context.folder.join(folder))
        .collect();
    Ok(schema_source::descriptor_set_of(&app.file(&sources.source), &includes)?)
}

fn additions(app: &mut App, lines: &[String]) -> Result<(), Failure> {
    lines.iter().try_for_each(|line| app.ui.data(&format!("+ {line}")))
}

/// A message as a tree sees it: its data, then its children.
fn message_text(schema: &Schema, message: &MessageType) -> String {
    let mut text = format!("{}\n", message.full_name);
    for field in &message.fields {
        let mut line = format!(
            "  {} = {}: {}",
            field.name,
            field.number,
            type_text(schema, field.kind, field.shape)
        );
        match message.child(field.number).map(|child| &child.kind) {
            None => {}
            Some(ChildKind::Single) => line.push_str("  [child]"),
            Some(ChildKind::List) => line.push_str("  [children, a list]"),
            Some(ChildKind::Keyed(key)) => _ = write!(line, "  [children by {}]", key.name),
        }
        match field.access {
            confold_model::schema::Access::Config => {}
            confold_model::schema::Access::ReadOnly => line.push_str("  [READ_ONLY]"),
            confold_model::schema::Access::RealTime => line.push_str("  [REAL_TIME]"),
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn type_text(schema: &Schema, kind: Kind, shape: Shape) -> String {
    let name = match kind {
        Kind::Message(ty) => schema.message(ty).full_name.clone(),
        Kind::Enum(id) => schema.enum_type(id).full_name.clone(),
        kind => kind.word().to_owned(),
    };
    match (shape, kind) {
        (Shape::Map, Kind::Message(entry)) => {
            let entry = schema.message(entry);
            let part = |number| {
                entry
                    .field(number)
                    .map(|field| type_text(schema, field.kind, Shape::Implicit))
                    .unwrap_or_default()
            };
            format!("map<{}, {}>", part(1), part(2))
        }
        (Shape::Repeated | Shape::Map, _) => format!("repeated {name}"),
        (Shape::Presence, Kind::Message(_)) | (Shape::Implicit, _) => name,
        (Shape::Presence, _) => format!("optional {name}"),
    }
}
