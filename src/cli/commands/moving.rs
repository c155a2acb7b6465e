//! Taking a store from one log to another, and bringing a copy to life.

use crate::{
    app::App,
    error::{Failure, short},
    local::{Copied, CopyEnd, CopyOptions, KafkaOptions},
    output::count,
    topic::{ClientArgs, CreateArgs, TopicArgs},
};
use std::path::PathBuf;

/// Take a store to another log: the same positions, times, revisions, roots and tags.
///
/// FROM and TO are data folders or topics, written kafka://BROKERS/TOPIC; FROM may also be the folder of an exported log. A
/// folder that is a target is made a data folder, ready to be served. Every record is checked by the log's digest while it is
/// copied, and the whole copy is read again at the end. Killed at any moment, it goes on with --resume.
///
/// The copy begins a new incarnation. Without --move the source lives on, and the two differ from there. With --move the
/// source is sealed first: it takes nothing more, and its data folder is pointed to the new log. Where the store has rules,
/// --as names somebody who may administer it.
///
/// Example: confold log copy ./data kafka://broker-1:9092/network --create-topic --move
///
/// Example: confold log copy kafka://broker-1:9092/network ./copy
///
/// Example: confold log copy ./data ./rescued --until 4181
#[derive(clap::Args, Clone, Debug)]
pub struct CopyArgs {
    /// What to copy
    from: String,
    /// Where to; new, or what an interrupted copy left
    to: String,
    /// Seal the source first, so that nothing is written there any more
    #[arg(long = "move", conflicts_with = "until")]
    is_move: bool,
    /// Leave out what stands behind this position: the way out of a log with a gap, or of an event that no build can fold
    #[arg(long, value_name = "POSITION")]
    until: Option<u64>,
    /// Go on with a copy that was interrupted
    #[arg(long)]
    resume: bool,
    /// Do what --until says it will do
    #[arg(long, requires = "until")]
    yes: bool,
    #[command(flatten)]
    create: CreateArgs,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    who: AuthorArgs,
}

/// Give up a move: the store lives on where it is.
///
/// Ends the seal with a new incarnation. What was copied meanwhile must not be brought to life any more: it would be another
/// store.
///
/// Example: confold log unseal ./data
#[derive(clap::Args, Clone, Debug)]
pub struct UnsealArgs {
    /// The data folder; no server may have it open
    folder: PathBuf,
    #[command(flatten)]
    who: AuthorArgs,
}

/// Bring an exported or copied log to life, in a new data folder.
///
/// Never by just starting a copied folder: two that go on under one name would disagree. The restored store has the same
/// revisions, roots and tags and begins a new incarnation. With --kafka its log is a topic.
///
/// Example: confold restore backup ./data
///
/// Example: confold restore backup ./data --kafka broker-1:9092 --topic network --create-topic
#[derive(clap::Args, Clone, Debug)]
pub struct RestoreArgs {
    /// An exported log, or a copy of a data folder
    folder: PathBuf,
    /// The new data folder
    data: PathBuf,
    /// Go on with a restore that was interrupted
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    who: AuthorArgs,
}

/// Who seals and opens. Where the store has rules, --as names somebody who may administer it.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Who")]
pub struct AuthorArgs {
    /// Who does it, as history shows it [default: the user's name]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
}

impl AuthorArgs {
    /// In their own words, and by whose right.
    fn names(&self, app: &App) -> (String, String) {
        let user = || app.variable("USER").or_else(|| app.variable("USERNAME"));
        let author = self.author.clone().or_else(user).unwrap_or_default();
        (author, app.acting_as().unwrap_or_default())
    }
}

pub async fn copy(args: CopyArgs, app: &mut App) -> Result<(), Failure> {
    let (author, principal) = args.who.names(app);
    let options = CopyOptions {
        from: end(app, &args.from, &args.client)?,
        to: end(app, &args.to, &args.client)?,
        create_topic: args.create.shape(),
        is_move: args.is_move,
        until: args.until,
        resume: args.resume,
        author,
        principal,
    };
    if options.from == options.to {
        return Err(Failure::invalid(format!("{} is source and target", args.from)));
    }
    if let Some(until) = args.until {
        let survey = app.context.local.survey(&options).await?;
        let left = survey.end.saturating_sub(until + 1);
        let kept = count(until + 1, "record", "records");
        let lost = match left {
            0 => "nothing that can be read stands behind it".to_owned(),
            left => format!(
                "lost: {} behind it, positions {} to {}, with everything that was acknowledged there",
                count(left, "record", "records"),
                until + 1,
                survey.end - 1
            ),
        };
        app.ui
            .note(&format!("kept: {kept}, positions 0 to {until} of {}", args.from));
        app.ui.note(&lost);
        if !args.yes {
            return Err(Failure::invalid("nothing was copied yet").hint("add --yes when this is what you want"));
        }
    }
    let copied = run(app, options).await?;
    print(app, &args.from, &args.to, &copied, args.is_move)
}

pub async fn restore(args: RestoreArgs, app: &mut App) -> Result<(), Failure> {
    let folder = app.context.folder.clone();
    let (author, principal) = args.who.names(app);
    let data = folder.join(&args.data);
    let kafka = args.topic.options(&folder);
    let to = kafka
        .clone()
        .map_or_else(|| CopyEnd::Folder(data.clone()), CopyEnd::Topic);
    let options = CopyOptions {
        from: CopyEnd::Folder(folder.join(&args.folder)),
        to,
        create_topic: kafka.as_ref().and_then(|kafka| kafka.create_topic),
        is_move: false,
        until: None,
        resume: args.resume,
        author,
        principal,
    };
    let copied = run(app, options).await?;
    if let Some(kafka) = kafka {
        let join = Some(copied.log_id.clone());
        let options = crate::local::InitOptions {
            data,
            kafka: Some(kafka),
            join,
            ..Default::default()
        };
        app.context.local.init(options).await?;
    }
    let (from, to) = (args.folder.display().to_string(), args.data.display().to_string());
    print(app, &from, &to, &copied, false)?;
    app.ui.label_hint("Next:", &format!("confold serve {to}"));
    Ok(())
}

pub async fn unseal(args: UnsealArgs, app: &mut App) -> Result<(), Failure> {
    let (author, principal) = args.who.names(app);
    let folder = app.context.folder.join(&args.folder);
    let opened = app.context.local.unseal(&folder, &author, &principal).await?;
    if app.ui.json {
        return app.ui.json_value(&serde_json::json!(opened));
    }
    let text = format!(
        "opened: incarnation {}, position {}",
        opened.incarnation, opened.position
    );
    app.ui.data(&text)?;
    app.ui
        .note("a copy that was made meanwhile must not be brought to life any more");
    Ok(())
}

async fn run(app: &mut App, options: CopyOptions) -> Result<Copied, Failure> {
    let local = app.context.local.clone();
    let ui = &mut app.ui;
    let mut told = 0;
    let mut progress = |done: u64, all: u64| {
        let tenth = (all / 10).max(100_000);
        if done >= told + tenth && done < all {
            told = done;
            ui.note(&format!("{done} of {}", count(all, "record", "records")));
        }
    };
    local.copy_log(options, &mut progress).await
}

fn print(app: &mut App, from: &str, to: &str, copied: &Copied, is_move: bool) -> Result<(), Failure> {
    if app.ui.json {
        return app.ui.json_value(&serde_json::json!(copied));
    }
    if copied.resumed_at > 0 {
        app.ui.note(&format!("went on at position {}", copied.resumed_at));
    }
    app.ui.data(&format!(
        "copied: {}, log digest {}; read again and equal",
        count(copied.records, "record", "records"),
        short(&copied.digest)
    ))?;
    app.ui.data(&format!(
        "opened: incarnation {}, position {}",
        copied.incarnation, copied.opened
    ))?;
    if let Some(kept) = &copied.kept {
        app.ui
            .note(&format!("{from} stands on {to} now; its old log is kept in {kept}"));
    } else if is_move {
        app.ui.note(&format!("{from} is sealed: it takes nothing more"));
    } else if !copied.sealed {
        app.ui.note(&format!(
            "{from} was not sealed: it lives on, and from here the two are different stores"
        ));
    }
    Ok(())
}

/// `kafka://BROKERS/TOPIC`, or a folder.
fn end(app: &App, text: &str, client: &ClientArgs) -> Result<CopyEnd, Failure> {
    let folder = &app.context.folder;
    let Some(rest) = text.strip_prefix("kafka://") else {
        return Ok(CopyEnd::Folder(folder.join(text)));
    };
    match rest.split_once('/') {
        Some((brokers, topic)) if !brokers.is_empty() && !topic.is_empty() && !topic.contains('/') => {
            let options: KafkaOptions = client.options(folder, brokers, topic);
            Ok(CopyEnd::Topic(options))
        }
        _ => Err(Failure::invalid(format!("{text} is no topic")).hint("write kafka://HOST:PORT,HOST:PORT/TOPIC")),
    }
}
