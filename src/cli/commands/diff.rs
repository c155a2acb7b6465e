use crate::{
    app::{App, FreshArgs},
    error::Failure,
    local::Access,
    output::{BAD, CHANGED, GOOD},
    values::text_of,
};
use confold_wire::pb::{self, change::Kind};
use futures::StreamExt;
use similar::{ChangeTag, TextDiff};

/// Show what differs between two states.
///
/// `+` is added, `-` removed, `~` updated. Without states: what the last revision changed. States are written as for
/// `confold get --at`.
///
/// Example: confold diff 41 latest --path /devices/olt-1 --values
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The older state [default: latest~1]
    from: Option<String>,
    /// The newer state [default: latest]
    to: Option<String>,
    /// Only at or below this path; may hold `*` for one step and `**` for any number
    #[arg(long, value_name = "PATH", default_value = "/", hide_default_value = true)]
    path: String,
    /// Show the values too, line by line
    #[arg(long)]
    values: bool,
    /// Stop after this many changes
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    fresh: FreshArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let fresh = app.fresh(&args.fresh)?;
    let state = |at: Option<String>| pb::Read {
        at: at.unwrap_or_default(),
        ..fresh.clone()
    };
    let format = if app.ui.json {
        pb::Format::Json
    } else {
        pb::Format::Yaml
    };
    let request = pb::DiffRequest {
        store: connection.store.clone(),
        from: Some(state(Some(args.from.unwrap_or_else(|| "latest~1".to_owned())))),
        to: Some(state(args.to)),
        path: args.path,
        limit: args.limit.unwrap_or(0),
        values: args.values,
        format: format.into(),
    };
    let mut pages = connection.again(|| connection.api.diff_stream(request.clone())).await?;
    let (mut changes, mut more) = (0u64, false);
    let mut between = None;
    while let Some(page) = pages.next().await {
        let page = page?;
        if app.ui.json {
            app.ui.message_line("confold.v1.DiffResponse", &page)?;
            continue;
        }
        for change in &page.changes {
            print(app, change)?;
        }
        changes += page.changes.len() as u64;
        more |= page.more;
        between = between.or(page.from.zip(page.to));
    }
    if app.ui.json {
        return Ok(());
    }
    let between = match between {
        Some((from, to)) => format!(" between revision {} and revision {}", from.revision, to.revision),
        None => String::new(),
    };
    match changes {
        0 => app.ui.note(&format!("no difference{between}")),
        _ if more => app
            .ui
            .note(&format!("more than these {changes} changes{between}; see --limit")),
        _ => {}
    }
    Ok(())
}

fn print(app: &mut App, change: &pb::Change) -> Result<(), Failure> {
    let (style, sign) = match change.kind() {
        Kind::Added => (GOOD, '+'),
        Kind::Removed => (BAD, '-'),
        Kind::Updated | Kind::ListChanged | Kind::Unspecified => (CHANGED, '~'),
    };
    app.ui.styled(style, &format!("{sign} {}", change.path))?;
    if change.before.is_some() || change.after.is_some() {
        value_lines(app, text_of(change.before.as_ref()), text_of(change.after.as_ref()))?;
    }
    Ok(())
}

/// Two texts, line by line, indented.
pub fn value_lines(app: &mut App, before: &str, after: &str) -> Result<(), Failure> {
    let empty = |text: &str| text.trim() == "{}";
    let (before, after) = (
        if empty(before) { "" } else { before },
        if empty(after) { "" } else { after },
    );
    let diff = TextDiff::from_lines(before, after);
    for (index, group) in diff.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            app.ui.data("      …")?;
        }
        for line in group.iter().flat_map(|operation| diff.iter_changes(operation)) {
            let text = line.value().trim_end_matches('\n');
            match line.tag() {
                ChangeTag::Insert => app.ui.styled(GOOD, &format!("    + {text}"))?,
                ChangeTag::Delete => app.ui.styled(BAD, &format!("    - {text}"))?,
                ChangeTag::Equal => app.ui.data(&format!("      {text}"))?,
            }
        }
    }
    Ok(())
}
