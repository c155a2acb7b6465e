use crate::{
    app::{App, ReadArgs, missing, state_text},
    error::Failure,
    local::Access,
    output::count,
    values::{ValueFormat, text_of},
};
use confold_wire::pb::{self, container::Kind};

/// Show a node, or all elements of a container.
///
/// By default the node's own data, as YAML; what lies below is counted on stderr. A container is shown as a mapping from
/// paths to values, which `confold apply` reads.
///
/// Example: confold get /devices/olt-1 --depth 1 --at v1.2
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node or container
    #[arg(default_value = "/")]
    path: String,
    /// How many levels of children to show
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "deep")]
    depth: u16,
    /// Show everything below
    #[arg(long)]
    deep: bool,
    /// Only these fields of the data: names with dots, commas between them
    #[arg(long = "field", value_name = "FIELDS", value_delimiter = ',')]
    fields: Vec<String>,
    /// How to write values [default: yaml]
    #[arg(long, conflicts_with = "json")]
    format: Option<ValueFormat>,
    #[command(flatten)]
    read: ReadArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let format = match (app.ui.json, args.format) {
        (true, _) => ValueFormat::Json,
        (false, format) => format.unwrap_or(ValueFormat::Yaml),
    };
    let (path, field) = match args.path.split_once(':') {
        Some((path, field)) => (if path.is_empty() { "/" } else { path }, Some(field.to_owned())),
        None => (args.path.as_str(), None),
    };
    let request = pb::GetRequest {
        store: connection.store.clone(),
        read: Some(app.read(&args.read)?),
        path: path.to_owned(),
        depth: if args.deep { -1 } else { i32::from(args.depth) },
        mask: args.fields.into_iter().chain(field).collect(),
        format: pb::Format::from(format).into(),
        max_bytes: 0,
    };
    let answer = connection.again(|| connection.api.get(request.clone())).await?;
    disputed(app, answer.read_at.as_ref());
    if app.ui.json {
        return app.ui.message("confold.v1.GetResponse", &answer);
    }
    let everything = request.mask.is_empty();
    match &answer.container {
        None => {
            let node = answer.nodes.first().ok_or_else(|| missing("the node"))?;
            match node.value.as_ref().and_then(|value| value.form.as_ref()) {
                Some(pb::value::Form::Proto(bytes)) => app.ui.raw(bytes)?,
                _ => app.ui.data(text_of(node.value.as_ref()))?,
            }
            if everything {
                hidden(app, node);
            }
        }
        Some(container) => {
            elements(app, container, &answer.nodes, format, true)?;
            if answer.nodes.is_empty() {
                app.ui
                    .note(&format!("{path} is empty at {}", state_text(answer.read_at.as_ref())));
            }
        }
    }
    Ok(())
}

/// Elements of a container as `confold apply` reads them: `path:` and the value below it, of a list without keys the
/// items below the list's path. Not in YAML: a comment with the path, then the value. `first`: the listing begins here.
pub fn elements(
    app: &mut App,
    container: &pb::Container,
    nodes: &[pb::Node],
    format: ValueFormat,
    first: bool,
) -> Result<(), Failure> {
    let list = container.kind() == Kind::List;
    if list && first && format == ValueFormat::Yaml && !nodes.is_empty() {
        app.ui.data(&format!("{}:", container.path))?;
    }
    for node in nodes {
        let text = text_of(node.value.as_ref());
        let empty = text.trim() == "{}" || text.trim().is_empty();
        let text = match (format, list, empty) {
            (ValueFormat::Yaml, true, true) => "- {}".to_owned(),
            (ValueFormat::Yaml, true, false) => indented(text, "- "),
            (ValueFormat::Yaml, false, true) => format!("{}: {{}}", node.path),
            (ValueFormat::Yaml, false, false) => format!("{}:\n{}", node.path, indented(text, "  ")),
            _ => format!("# {}\n{text}", node.path),
        };
        app.ui.data(&text)?;
    }
    Ok(())
}

/// A text moved to the right by two, with these two characters before its first line.
fn indented(text: &str, first: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for (index, line) in text.lines().enumerate() {
        // A blank line can only stand in a block of text, where its indentation does not matter.
        if !line.is_empty() {
            out.push_str(if index == 0 { first } else { "  " });
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// Says on stderr what lies below and was not shown.
fn hidden(app: &mut App, node: &pb::Node) {
    for container in node.children.iter().filter(|container| container.hidden) {
        let what = match container.kind() {
            Kind::Single => format!("{} has something in it", container.path),
            _ => format!(
                "{} has {}",
                container.path,
                count(container.count, "element", "elements")
            ),
        };
        let how = match container.kind() {
            Kind::Keyed => format!("--depth 1, or `confold ls {}`", container.path),
            _ => format!("--depth 1, or `confold get {}`", container.path),
        };
        app.ui.note(&format!("not shown: {what}; see it with {how}"));
    }
}

/// Warns where replicas disagree.
pub fn disputed(app: &mut App, at: Option<&pb::ReadAt>) {
    if at.is_some_and(|at| at.disputed) {
        app.ui.label_error(
            "Warning:",
            "replicas disagree, and it is not known yet which is right; see `confold status`",
        );
    }
}
