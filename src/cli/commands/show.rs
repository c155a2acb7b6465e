use super::log::who;
use crate::{
    app::{App, missing},
    error::Failure,
    local::Access,
    output::{count, table},
    values::text_of,
};
use confold_wire::{
    pb::{self, show_request::Which, text_base::Was, text_guard::Expect, text_operation::Kind},
    status,
};

/// Show one event in full: who, when, why, under which conditions, and what it does.
///
/// Example: confold show 42
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The event that made this revision, written as for `confold get --at` [default: latest]
    #[arg(group = "which")]
    revision: Option<String>,
    /// The event at this position of the log
    #[arg(long, value_name = "N", group = "which")]
    position: Option<u64>,
    /// The event with this id
    #[arg(long, value_name = "ID", group = "which")]
    event: Option<String>,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let which = match (args.position, args.event) {
        (Some(position), _) => Which::Position(position),
        (_, Some(id)) => Which::EventId(id),
        _ => Which::At(args.revision.unwrap_or_else(|| "latest".to_owned())),
    };
    let format = if app.ui.json {
        pb::Format::Json
    } else {
        pb::Format::Yaml
    };
    let request = pb::ShowRequest {
        store: connection.store.clone(),
        format: format.into(),
        record: false,
        which: Some(which),
    };
    let answer = connection.again(|| connection.api.show(request.clone())).await?;
    if app.ui.json {
        return app.ui.message("confold.v1.ShowResponse", &answer);
    }
    let row = answer.row.as_ref().ok_or_else(|| missing("the event"))?;
    let mut facts = vec![];
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push(vec![name.to_owned(), value]);
        }
    };
    fact(
        "revision",
        row.revision.map(|revision| revision.to_string()).unwrap_or_default(),
    );
    fact("position", row.position.to_string());
    fact("kind", row.kind.clone());
    fact("outcome", outcome(row));
    fact("time", app.ui.time(row.time_ms));
    if answer.client_time_ms != 0 {
        fact("client's time", app.ui.time(answer.client_time_ms));
    }
    fact("author", who(row));
    fact("reason", row.reason.clone());
    fact("tags", row.tags.join(", "));
    fact("event id", row.event_id.clone());
    fact("root", row.root.clone());
    fact("log digest", answer.log_digest.clone());
    fact("chain", answer.chain.clone());
    fact("intent", answer.intent.clone());
    let size = (answer.bytes > 0).then(|| count(answer.bytes, "byte", "bytes"));
    fact("size", size.unwrap_or_default());
    app.ui.data(&table(&[], facts))?;
    for line in &answer.facts {
        app.ui.data(&format!("  {line}"))?;
    }
    for guard in &answer.guards {
        app.ui
            .data(&format!("\nif {} {}", guard.path, expected(guard.expect.as_ref())))?;
    }
    for operation in &answer.operations {
        print(app, operation)?;
    }
    if let Some(error) = &answer.error {
        app.ui.label_error("Rejected:", &status::message(error));
    }
    Ok(())
}

fn print(app: &mut App, operation: &pb::TextOperation) -> Result<(), Failure> {
    let (word, value) = match &operation.kind {
        Some(Kind::Update(update)) => ("update", update.value.as_ref()),
        Some(Kind::Add(value)) => ("add", Some(value)),
        Some(Kind::Put(value)) => ("put", Some(value)),
        Some(Kind::Replace(value)) => ("replace", Some(value)),
        Some(Kind::Remove(_)) => ("remove", None),
        None => ("do nothing to", None),
    };
    let base = match operation.base.as_ref().and_then(|base| base.was.as_ref()) {
        None => String::new(),
        Some(Was::Hash(hash)) => format!(", based on {hash}"),
        Some(Was::Absent(_)) => ", based on nothing there".to_owned(),
        Some(Was::AsOf(at)) => format!(", based on what was there at {at}"),
    };
    let mask = match &operation.kind {
        Some(Kind::Update(update)) if !update.mask.is_empty() => format!(" ({})", update.mask.join(", ")),
        _ => String::new(),
    };
    let strict = if operation.strict { ", strict" } else { "" };
    app.ui
        .data(&format!("\n{word} {}{mask}{base}{strict}", operation.path))?;
    for line in text_of(value).lines() {
        app.ui.data(&format!("    {line}"))?;
    }
    Ok(())
}

fn expected(expect: Option<&Expect>) -> String {
    match expect {
        None => "holds".to_owned(),
        Some(Expect::Subtree(hash)) => format!("and all below it is {hash}"),
        Some(Expect::Data(hash)) => format!("has the data {hash}"),
        Some(Expect::Container(hash)) => format!("as a container is {hash}"),
        Some(Expect::Absent(_)) => "is absent".to_owned(),
        Some(Expect::SameAs(at)) => format!("is as it was at {at}"),
    }
}

fn outcome(row: &pb::LogRow) -> String {
    use pb::decision::Outcome;
    match row.outcome() {
        Outcome::Committed => "committed".to_owned(),
        Outcome::Unchanged => "unchanged".to_owned(),
        Outcome::Rejected => format!("rejected: {}", row.code),
        _ => String::new(),
    }
}
