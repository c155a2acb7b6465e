use super::moving;
use crate::{
    app::{App, FreshArgs},
    error::Failure,
    local::Access,
    output::{CHANGED, DIM},
};
use confold_wire::pb::{self, decision::Outcome};

/// Show who changed what, when and why; the latest first.
///
/// With a path only what touched something at, below or above it.
///
/// Example: confold log /devices/olt-1 --limit 5
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only events that touched this; may hold `*` for one step and `**` for any number
    #[arg(default_value = "", hide_default_value = true)]
    path: String,
    /// How many to show
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    limit: u32,
    /// Only behind this state
    #[arg(long, value_name = "STATE")]
    from: Option<String>,
    /// Only up to this state
    #[arg(long, value_name = "STATE")]
    to: Option<String>,
    /// Only by this author
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The oldest first
    #[arg(long)]
    oldest_first: bool,
    /// Also events that changed no configuration: tags, schemas, what was refused
    #[arg(long)]
    all: bool,
    /// One line per event
    #[arg(long)]
    brief: bool,
    /// Go on behind the event at this position
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    #[command(flatten)]
    fresh: FreshArgs,
}

/// What is done to a log as a whole.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Copy(moving::CopyArgs),
    Unseal(moving::UnsealArgs),
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    match args.command {
        Some(Command::Copy(args)) => return moving::copy(args, app).await,
        Some(Command::Unseal(args)) => return moving::unseal(args, app).await,
        None => {}
    }
    let connection = app.connect(Access::Read).await?;
    let request = pb::LogRequest {
        store: connection.store.clone(),
        read: Some(app.fresh(&args.fresh)?),
        path: args.path,
        from: args.from.unwrap_or_default(),
        to: args.to.unwrap_or_default(),
        author: args.by.unwrap_or_default(),
        oldest_first: args.oldest_first,
        all: args.all,
        limit: args.limit,
        after: args.after,
        brief: args.brief,
    };
    let answer = connection.again(|| connection.api.log(request.clone())).await?;
    if app.ui.json {
        return app.ui.message("confold.v1.LogResponse", &answer);
    }
    for row in &answer.rows {
        print(app, row)?;
    }
    if answer.rows.is_empty() {
        app.ui.note("no events");
    }
    if let Some(position) = answer.next_after {
        app.ui.note(&format!("there is more: go on with --after {position}"));
    }
    Ok(())
}

pub fn print(app: &mut App, row: &pb::LogRow) -> Result<(), Failure> {
    let text = headline(app, row);
    match row.outcome() {
        Outcome::Committed if row.revision.is_some() => app.ui.data(&text)?,
        Outcome::Rejected => app.ui.styled(CHANGED, &text)?,
        _ => app.ui.styled(DIM, &text)?,
    }
    for line in &row.summary {
        app.ui.data(&format!("    {line}"))?;
    }
    Ok(())
}

/// `r42  2026-11-21 10:00:00  ada  why it was done  (v1.2)`
fn headline(app: &App, row: &pb::LogRow) -> String {
    let what = match row.revision {
        Some(revision) => format!("r{revision}"),
        None => format!("@{}", row.position),
    };
    let mut text = format!("{what:<6} {}", app.ui.time(row.time_ms));
    let mut part = |part: &str| {
        if !part.is_empty() {
            text.push_str("  ");
            text.push_str(part);
        }
    };
    part(&who(row));
    if row.revision.is_none() {
        part(&row.kind);
    }
    match row.outcome() {
        Outcome::Rejected => part(&format!("rejected: {}", row.code)),
        Outcome::Unchanged => part("unchanged"),
        _ => {}
    }
    part(&row.reason);
    if !row.tags.is_empty() {
        part(&format!("({})", row.tags.join(", ")));
    }
    text
}

/// The author's own words, and who the server knows it was.
pub fn who(row: &pb::LogRow) -> String {
    match (row.author.as_str(), row.principal.as_str()) {
        ("", principal) => principal.to_owned(),
        (author, "") => author.to_owned(),
        (author, principal) if author == principal => author.to_owned(),
        (author, principal) => format!("{author} ({principal})"),
    }
}
