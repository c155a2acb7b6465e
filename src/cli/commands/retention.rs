use crate::{
    app::{App, WriteArgs},
    error::Failure,
    local::Access,
    output::{count, table},
    parse,
};
use confold_wire::pb;
use std::time::Duration;

/// How long old revisions are kept
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Show(ShowArgs),
    Set(SetArgs),
}

/// Show how long old revisions are kept.
///
/// Example: confold retention show
#[derive(clap::Args, Debug)]
pub struct ShowArgs {}

/// Say how long old revisions are kept.
///
/// A revision is let go when it is neither among the latest --keep nor younger than --age, and not tagged.
///
/// Example: confold retention set --keep 1000 --age 30d
#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct SetArgs {
    /// Keep at least this many of the latest revisions
    #[arg(long, value_name = "N", group = "what", conflicts_with = "keep_all")]
    keep: Option<u64>,
    /// Keep every revision younger than this: 12h, 30d, 8w
    #[arg(long, value_name = "TIME", value_parser = parse::duration, group = "what", conflicts_with = "keep_all")]
    age: Option<Duration>,
    /// Let nothing go
    #[arg(long, group = "what")]
    keep_all: bool,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    match command {
        Command::Show(_) => show(app).await,
        Command::Set(args) => set(args, app).await,
    }
}

async fn show(app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let request = pb::GetRetentionRequest {
        store: connection.store.clone(),
    };
    let answer = connection
        .again(|| connection.api.get_retention(request.clone()))
        .await?;
    if app.ui.json {
        return app.ui.message("confold.v1.GetRetentionResponse", &answer);
    }
    let policy = policy_text(&answer.policy.unwrap_or_default());
    let rows = vec![
        vec!["keep".to_owned(), policy],
        vec!["floor".to_owned(), format!("revision {}", answer.floor)],
    ];
    app.ui.data(&table(&[], rows))
}

async fn set(args: SetArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let id = app.event_id(&connection, &args.write).await?;
    let request = pb::SetRetentionRequest {
        store: connection.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(&args.write.who)
        }),
        policy: Some(policy(args.keep, args.age, args.keep_all)),
    };
    let decision = connection
        .decide(id, || connection.api.set_retention(request.clone()))
        .await?;
    app.ui.decision(&decision)
}

pub fn policy(keep: Option<u64>, age: Option<Duration>, keep_all: bool) -> pb::RetentionPolicy {
    pb::RetentionPolicy {
        keep_revisions: keep.unwrap_or(0),
        keep_age_ms: age.map_or(0, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
        keep_all,
    }
}

pub fn policy_text(policy: &pb::RetentionPolicy) -> String {
    if policy.keep_all {
        return "everything".to_owned();
    }
    let age = parse::duration_text(u64::try_from(policy.keep_age_ms).unwrap_or(0));
    let revisions = count(policy.keep_revisions, "latest revision", "latest revisions");
    match (policy.keep_revisions, policy.keep_age_ms) {
        (0, 0) => "the latest revision and tagged ones".to_owned(),
        (0, _) => format!("what is younger than {age}"),
        (_, 0) => format!("the {revisions}"),
        _ => format!("the {revisions}, and what is younger than {age}"),
    }
}
