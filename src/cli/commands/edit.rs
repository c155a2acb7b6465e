use crate::{
    app::{App, ReadArgs, WriteArgs, missing, state_text},
    error::{Exit, Failure},
    local::Access,
    values::text_of,
};
use confold_model::code::Code;
use confold_wire::pb::{self, text_base::Was, text_operation::Kind, value::Form};
use std::{fs, io::Write as _};

/// Change a node in your editor.
///
/// Opens its data as YAML in $VISUAL or $EDITOR and commits what you save, on the base of what you were shown: where
/// somebody else changed the same meanwhile, it is a conflict, and your file is kept.
///
/// Example: confold edit /devices/olt-1 --deep
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node
    path: String,
    /// With everything below it
    #[arg(long)]
    deep: bool,
    /// Refuse to change READ_ONLY fields
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let request = pb::GetRequest {
        store: connection.store.clone(),
        path: args.path.clone(),
        read: Some(app.read(&ReadArgs::default())?),
        depth: if args.deep { -1 } else { 0 },
        format: pb::Format::Yaml.into(),
        ..Default::default()
    };
    let answer = connection.again(|| connection.api.get(request.clone())).await?;
    if answer.container.is_some() {
        return Err(Failure::of(Code::IsAContainer, "it is a container").at(&args.path));
    }
    let node = answer.nodes.first().ok_or_else(|| missing("the node"))?;
    let at = answer.read_at.as_ref().ok_or_else(|| missing("the revision"))?;
    let before = text_of(node.value.as_ref()).to_owned();
    let header = format!(
        "# {} of type {} at {}.\n# Lines that begin with # are ignored; to change nothing, leave it as it is.\n",
        args.path,
        answer.r#type,
        state_text(Some(at))
    );

    let file = draft(&format!("{header}{before}"))?;
    in_editor(app, &file)?;
    let text = fs::read_to_string(file.path())
        .map_err(|error| Failure::invalid(format!("cannot read the edited file: {error}")))?;
    let after = without_comments(&text);
    if after.trim() == without_comments(&before).trim() {
        app.ui.note("nothing was changed");
        return Ok(());
    }
    let value = pb::Value {
        form: Some(Form::Yaml(after)),
        r#type: answer.r#type.clone(),
    };
    // A whole subtree is compared node by node with what stood there; the server knows that tree by its revision.
    let (kind, was) = match args.deep {
        false => (
            Kind::Update(pb::TextUpdate {
                value: Some(value),
                mask: Vec::new(),
            }),
            Was::Hash(node.data_hash.clone()),
        ),
        true => (Kind::Replace(value), Was::AsOf(format!("rev:{}", at.revision))),
    };
    let operation = pb::TextOperation {
        path: args.path.clone(),
        strict: args.strict,
        base: Some(pb::TextBase { was: Some(was) }),
        kind: Some(kind),
    };
    let request = pb::CommitRequest {
        operations: vec![operation],
        ..Default::default()
    };
    let result = app.commit(&connection, &args.write, request).await;
    result
        .map(drop)
        .map_err(|failure| keep(failure, file, &args, at.revision))
}

/// What was typed must not be lost.
fn keep(failure: Failure, file: tempfile::NamedTempFile, args: &Args, revision: u64) -> Failure {
    let (_, path) = match file.keep() {
        Ok(kept) => kept,
        Err(error) => return failure.cause(format!("and your text could not be kept: {error}")),
    };
    let path = path.display();
    let command = if args.deep { "replace" } else { "update" };
    let failure = failure.cause(format!("your text is kept in {path}"));
    if failure.code() == Some(Code::Conflict) {
        let show = format!(
            "see what changed with `confold diff {revision} latest --path {}`",
            args.path
        );
        return failure.hint(format!(
            "{show}; then `confold {command} {} {path}` takes your text as it is",
            args.path
        ));
    }
    failure.hint(format!(
        "mend it, then `confold {command} {} {path} --base {revision}`",
        args.path
    ))
}

/// Lets the user change a file.
pub fn in_editor(app: &App, file: &tempfile::NamedTempFile) -> Result<(), Failure> {
    let editor = app
        .variable("VISUAL")
        .or_else(|| app.variable("EDITOR"))
        .unwrap_or_else(|| "vi".to_owned());
    match (app.context.edit)(&editor, file.path()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::invalid(format!("{editor} failed; nothing was changed"))),
        Err(error) => {
            let failure = Failure::invalid(format!("cannot start {editor}: {error}"));
            Err(failure.hint("name an editor in EDITOR"))
        }
    }
}

pub fn draft(text: &str) -> Result<tempfile::NamedTempFile, Failure> {
    let failed = |error| Failure::new(Exit::Damaged, format!("cannot write a file for the editor: {error}"));
    let mut file = tempfile::Builder::new()
        .prefix("confold-")
        .suffix(".yaml")
        .tempfile()
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.flush().map_err(failed)?;
    Ok(file)
}

/// Only whole lines of comment: a `#` elsewhere may be part of a text.
fn without_comments(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |all, line| all + line + "\n")
}
