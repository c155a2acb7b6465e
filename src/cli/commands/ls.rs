use super::get::{disputed, elements};
use crate::{
    app::{App, ReadArgs, is_code, missing, state_text},
    error::{Failure, short},
    local::Access,
    output::{count, grouped, table},
    values::ValueFormat,
};
use confold_client::Connection;
use confold_model::code::Code;
use confold_wire::pb::{self, container::Kind, list_request::Start};
use futures::StreamExt;

/// List the keys of a container, or what a node has below it.
///
/// Keys come in order, a page at a time; --all streams every one of them at one revision.
///
/// Example: confold ls /devices --after olt-7 --limit 20
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The container, or a node
    #[arg(default_value = "/")]
    path: String,
    /// How many to show
    #[arg(long, default_value_t = 100, value_name = "N", conflicts_with = "all")]
    limit: u32,
    /// Show all, however many there are
    #[arg(long)]
    all: bool,
    /// Begin behind this key, whether or not it exists
    #[arg(long, value_name = "KEY", group = "start")]
    after: Option<String>,
    /// Begin at this key, or the next that exists
    #[arg(long, value_name = "KEY", group = "start")]
    from: Option<String>,
    /// Begin at this place, counted from 0
    #[arg(long, value_name = "N", group = "start")]
    from_index: Option<u64>,
    /// From the last to the first
    #[arg(long)]
    reverse: bool,
    /// Also show hashes
    #[arg(long, short, conflicts_with = "values")]
    long: bool,
    /// Show the values too, as `confold apply` reads them
    #[arg(long)]
    values: bool,
    /// With --values: how many levels of children
    #[arg(long, default_value_t = 0, value_name = "N", requires = "values")]
    depth: u16,
    /// With --values: only these fields
    #[arg(long = "field", value_name = "FIELDS", value_delimiter = ',', requires = "values")]
    fields: Vec<String>,
    #[command(flatten)]
    read: ReadArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let read = app.read(&args.read)?;
    let start = match (&args.after, &args.from, args.from_index) {
        (Some(key), ..) => Some(Start::AfterKey(key.clone())),
        (_, Some(key), _) => Some(Start::FromKey(key.clone())),
        (_, _, Some(index)) => Some(Start::FromIndex(index)),
        _ => None,
    };
    let format = if app.ui.json {
        ValueFormat::Json
    } else {
        ValueFormat::Yaml
    };
    let request = pb::ListRequest {
        store: connection.store.clone(),
        read: Some(read.clone()),
        path: args.path.clone(),
        reverse: args.reverse,
        page_size: if args.all { 0 } else { args.limit },
        depth: i32::from(args.depth),
        mask: args.fields.clone(),
        format: pb::Format::from(format).into(),
        no_values: !args.values,
        start,
        ..Default::default()
    };
    let result = if args.all {
        all(&args, app, &connection, request).await
    } else {
        page(&args, app, &connection, request).await
    };
    match result {
        Err(failure) if is_code(&failure, Code::NotAContainer) => children(&args, app, &connection, read).await,
        result => result,
    }
}

async fn page(args: &Args, app: &mut App, connection: &Connection, request: pb::ListRequest) -> Result<(), Failure> {
    let answer = connection.again(|| connection.api.list(request.clone())).await?;
    disputed(app, answer.read_at.as_ref());
    if app.ui.json {
        return app.ui.message("confold.v1.ListResponse", &answer);
    }
    print(args, app, &answer, true)?;
    let total = answer.container.as_ref().map_or(0, |container| container.count);
    if answer.more {
        let shown = grouped(answer.nodes.len() as u64);
        let next = match answer.next_after_key.as_str() {
            "" => format!("--from-index {}", answer.next_index),
            key => format!("--after {}", quoted(key)),
        };
        let text = format!(
            "{shown} of {} shown; go on with {next}, or see --all",
            count(total, "element", "elements")
        );
        app.ui.note(&text);
    } else if answer.nodes.is_empty() {
        let what = if total == 0 { "is empty" } else { "has nothing there" };
        app.ui.note(&format!(
            "{} {what} at {}",
            args.path,
            state_text(answer.read_at.as_ref())
        ));
    }
    Ok(())
}

async fn all(args: &Args, app: &mut App, connection: &Connection, request: pb::ListRequest) -> Result<(), Failure> {
    let mut pages = connection.again(|| connection.api.list_stream(request.clone())).await?;
    let mut first = true;
    while let Some(page) = pages.next().await {
        let page = page?;
        if app.ui.json {
            app.ui.message_line("confold.v1.ListResponse", &page)?;
        } else {
            print(args, app, &page, std::mem::take(&mut first))?;
        }
    }
    Ok(())
}

fn print(args: &Args, app: &mut App, page: &pb::ListResponse, first: bool) -> Result<(), Failure> {
    if args.values {
        let container = page.container.clone().unwrap_or_default();
        return elements(app, &container, &page.nodes, ValueFormat::Yaml, first);
    }
    let name = |node: &pb::Node| match (node.key.as_str(), node.index) {
        ("", Some(index)) => index.to_string(),
        (key, _) => key.to_owned(),
    };
    if args.long {
        let rows = page.nodes.iter().map(|node| {
            let below = node
                .children
                .iter()
                .map(|child| format!("{}:{}", child.field, child.count));
            vec![short(&node.hash), name(node), below.collect::<Vec<_>>().join(" ")]
        });
        return app.ui.data(&table(&[], rows.collect()));
    }
    for node in &page.nodes {
        app.ui.data(&name(node))?;
    }
    Ok(())
}

/// What a node has below it: its child fields, those that hold something.
async fn children(args: &Args, app: &mut App, connection: &Connection, read: pb::Read) -> Result<(), Failure> {
    let request = pb::GetRequest {
        store: connection.store.clone(),
        read: Some(read),
        path: args.path.clone(),
        format: pb::Format::Json.into(),
        ..Default::default()
    };
    let answer = connection.again(|| connection.api.get(request.clone())).await?;
    disputed(app, answer.read_at.as_ref());
    if app.ui.json {
        return app.ui.message("confold.v1.GetResponse", &answer);
    }
    let node = answer.nodes.first().ok_or_else(|| missing("the node"))?;
    let rows: Vec<Vec<String>> = node
        .children
        .iter()
        .map(|child| {
            let what = match child.kind() {
                Kind::Single | Kind::Unspecified => String::new(),
                Kind::List => format!("list of {}", grouped(child.count)),
                Kind::Keyed => count(child.count, "element", "elements"),
            };
            vec![child.path.clone(), what]
        })
        .collect();
    if rows.is_empty() {
        app.ui.note(&format!(
            "{} has nothing below it at {}",
            args.path,
            state_text(answer.read_at.as_ref())
        ));
    }
    app.ui.data(&table(&[], rows))
}

/// As a shell reads it.
fn quoted(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:%@+".contains(c);
    if key.chars().all(plain) {
        key.to_owned()
    } else {
        format!("'{}'", key.replace('\'', r"'\''"))
    }
}
