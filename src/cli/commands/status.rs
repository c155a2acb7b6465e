use super::retention::policy_text;
use crate::{
    app::App,
    error::{Failure, short},
    local::Access,
    output::{grouped, table},
    parse,
};
use confold_wire::pb::{self, State};

/// Show how a store and its replica are doing.
///
/// Example: confold status --store lab
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also show all counters
    #[arg(long)]
    counters: bool,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let request = pb::StatusRequest {
        store: connection.store.clone(),
    };
    let status = connection.again(|| connection.api.status(request.clone())).await?;
    if app.ui.json {
        return app.ui.message("confold.v1.StatusResponse", &status);
    }
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    row("store", status.store.clone());
    row("state", state_text(status.state()).to_owned());
    row("why", status.reason.clone());
    row("revision", status.revision.to_string());
    row("root", status.root.clone());
    let lag = if status.lag == 0 {
        String::new()
    } else {
        format!(", {} behind the log", status.lag)
    };
    row("position", format!("{}{lag}", status.position));
    row("durable", status.durable.to_string());
    let log = format!("{} to {}", status.log_start, status.log_end);
    row(
        "log",
        if status.log.is_empty() {
            log
        } else {
            format!("{}, {log}", status.log)
        },
    );
    row("log id", status.log_id.clone());
    if status.incarnation != status.log_id {
        row("incarnation", status.incarnation.clone());
    }
    row("time", app.ui.time(status.time_ms));
    row(
        "schema",
        if status.root_message.is_empty() {
            "none yet".to_owned()
        } else {
            status.root_message.clone()
        },
    );
    row("floor", format!("revision {}", status.floor));
    row("keep", status.retention.as_ref().map(policy_text).unwrap_or_default());
    row("tags", grouped(status.tags));
    row(
        "level",
        format!("{} (this build knows {})", status.level, status.build_level),
    );
    row("build", status.build.clone());
    if let Some(limits) = &status.limits {
        row(
            "limits",
            format!(
                "event {} bytes, depth {}, path {} bytes, key {} bytes",
                grouped(limits.max_event_bytes),
                limits.depth,
                limits.path_bytes,
                limits.key_bytes
            ),
        );
    }
    row("window", format!("{} positions", grouped(status.window)));
    if let Some(mark) = &status.last_mark {
        row(
            "last mark",
            format!("position {}, state {}", mark.position, short(&mark.state)),
        );
    }
    row("up for", parse::duration_text(status.uptime_ms / 1000 * 1000));
    app.ui.data(&table(&[], rows))?;
    if status.disputed {
        app.ui
            .label_error("Warning:", "replicas disagree, and it is not known yet which is right");
    }
    if !status.replicas.is_empty() {
        let replica = |row: &pb::ReplicaRow| {
            let name = if row.replica == status.replica {
                format!("{} (this)", short(&row.replica))
            } else {
                short(&row.replica)
            };
            vec![
                name,
                row.position.to_string(),
                row.durable.to_string(),
                short(&row.state),
                match row.agrees {
                    Some(true) => "yes",
                    Some(false) => "NO",
                    None => "",
                }
                .to_owned(),
                row.level.to_string(),
                row.build.clone(),
                app.ui.time(row.time_ms),
            ]
        };
        let rows = status.replicas.iter().map(replica).collect();
        let headings = ["REPLICA", "MARK", "DURABLE", "STATE HASH", "AGREES", "LEVEL", "BUILD", "SEEN"];
        let text = format!("\n{}", table(&headings, rows));
        app.ui.data(&text)?;
    }
    if args.counters {
        let rows = status
            .counters
            .iter()
            .map(|counter| vec![counter.name.clone(), grouped(counter.value)]);
        let text = format!("\n{}", table(&["COUNTER", "VALUE"], rows.collect()));
        app.ui.data(&text)?;
    }
    Ok(())
}

/// List the stores of a server.
///
/// Example: confold stores
#[derive(clap::Args, Debug)]
pub struct StoresArgs {}

pub async fn stores(_: StoresArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let answer = connection
        .again(|| connection.api.list_stores(pb::ListStoresRequest {}))
        .await?;
    if app.ui.json {
        return app.ui.message("confold.v1.ListStoresResponse", &answer);
    }
    let row = |store: &pb::StoreRow| {
        vec![
            store.name.clone(),
            state_text(store.state()).to_owned(),
            store.revision.to_string(),
            store.log_id.clone(),
        ]
    };
    let rows = answer.stores.iter().map(row).collect();
    app.ui.data(&table(&["STORE", "STATE", "REVISION", "LOG ID"], rows))
}

pub fn state_text(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Starting => "starting",
        State::CatchingUp => "catching up",
        State::Serving => "serving",
        State::Degraded => "degraded: reads go on, writes are refused",
        State::Fenced => "fenced: the log is not the one that was folded",
        State::Quarantined => "quarantined: its own state is not to be trusted",
        State::Halted => "halted",
        State::SnapshotNeeded => "snapshot needed: its position is below the log's start",
        State::Closed => "closed",
    }
}
