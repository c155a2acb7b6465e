use super::status::state_text;
use crate::{
    app::App,
    error::{Exit, Failure},
    local::{Access, Finding, Level},
    output::{BAD, CHANGED, GOOD},
};
use confold_wire::pb::{self, State};
use serde_json::json;
use std::path::PathBuf;

/// Look for what is wrong with a store, and say what to do.
///
/// Of a folder that no server has open it examines log, digests and hashes; where the log is a topic it asks the brokers about
/// its settings, and says how strong an acknowledgement is with them. Otherwise it asks a server the same of each of its stores.
/// Exits with 5 where something is damaged, or will be.
///
/// Example: confold doctor ./data --deep
///
/// Example: confold doctor --server replica-1:7411
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The data folder; --data or CONFOLD_DATA where not given, else a server is asked
    #[arg(conflicts_with = "server")]
    folder: Option<PathBuf>,
    /// Read every record and every object, however long it takes
    #[arg(long)]
    deep: bool,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let findings = match args.folder.or_else(|| app.data()) {
        Some(folder) => {
            app.context
                .local
                .doctor(&app.context.folder.join(folder), args.deep)
                .await?
        }
        None => of_server(app).await?,
    };
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if app.ui.json {
        app.ui.json_value(&json!({ "findings": findings }))?;
    } else {
        let width = findings
            .iter()
            .map(|finding| finding.what.chars().count())
            .max()
            .unwrap_or(0);
        for finding in &findings {
            let (style, word) = match finding.level {
                Level::Ok => (GOOD, "ok"),
                Level::Warning => (CHANGED, "warning"),
                Level::Damage => (BAD, "DAMAGE"),
            };
            let line = format!("{word:<8}  {:<width$}  {}", finding.what, finding.detail);
            app.ui.styled(style, &line)?;
            if !finding.hint.is_empty() {
                app.ui.data(&format!("          {}", finding.hint))?;
            }
        }
    }
    match worst {
        Level::Damage => Err(Failure::new(Exit::Damaged, "something is damaged; see above")),
        Level::Ok | Level::Warning => Ok(()),
    }
}

/// What a server says of each of its stores.
async fn of_server(app: &App) -> Result<Vec<Finding>, Failure> {
    let connection = app.connect(Access::Read).await?;
    let stores = match connection.store.as_str() {
        "" => {
            connection
                .again(|| connection.api.list_stores(pb::ListStoresRequest {}))
                .await?
                .stores
        }
        name => vec![pb::StoreRow {
            name: name.to_owned(),
            ..Default::default()
        }],
    };
    let mut findings = Vec::new();
    for store in stores {
        // Of one that is not open there is nothing to ask.
        if !store.reason.is_empty() && store.log.is_empty() {
            findings.push(state_of(&store.name, store.state(), &store.reason));
            continue;
        }
        let request = pb::StatusRequest {
            store: store.name.clone(),
        };
        let status = connection.again(|| connection.api.status(request.clone())).await?;
        findings.extend(of_status(&status));
    }
    Ok(findings)
}

/// A store's state, and what to do about it.
fn state_of(store: &str, state: State, reason: &str) -> Finding {
    let (level, hint) = match state {
        State::Serving => (Level::Ok, ""),
        State::Unspecified | State::Starting | State::CatchingUp => (Level::Warning, "wait until it has caught up"),
        State::Degraded => (
            Level::Warning,
            "reads go on; mend what the reason names, then restart it",
        ),
        State::Fenced => (
            Level::Damage,
            "point it at its own log; a copied folder is brought to life by a restore",
        ),
        State::Quarantined => (
            Level::Damage,
            "keep its folder for the debugger and start a new replica",
        ),
        State::Halted => (
            Level::Damage,
            "start a build that knows the level, or one without the fault",
        ),
        State::SnapshotNeeded => (Level::Damage, "start it from a snapshot of another replica"),
        State::Closed => (Level::Warning, "`confold store open NAME` opens it again"),
    };
    let mut detail = state_text(state).to_owned();
    if !reason.is_empty() {
        detail = format!("{detail}; {reason}");
    }
    Finding {
        level,
        what: format!("{store}: state"),
        detail,
        hint: hint.to_owned(),
    }
}

fn of_status(status: &pb::StatusResponse) -> Vec<Finding> {
    let finding = |level, what: &str, detail: String, hint: &str| Finding {
        level,
        what: format!("{}: {what}", status.store),
        detail,
        hint: hint.to_owned(),
    };
    let mut findings = vec![state_of(&status.store, status.state(), &status.reason)];
    if status.disputed {
        let hint = "compare the state hashes in `confold status` of each replica";
        findings.push(finding(
            Level::Damage,
            "agreement",
            "replicas disagree about a state hash".to_owned(),
            hint,
        ));
    } else {
        findings.push(finding(Level::Ok, "agreement", "no replica disagrees".to_owned(), ""));
    }
    findings.extend(log(status));
    findings.extend(replicas(status));
    if status.root_message.is_empty() {
        findings.push(finding(
            Level::Warning,
            "schema",
            "none yet".to_owned(),
            "push one: `confold schema push DIR --root MESSAGE`",
        ));
    }
    if status.level < status.build_level {
        let detail = format!(
            "level {} is in force, this build knows {}",
            status.level, status.build_level
        );
        findings.push(finding(
            Level::Ok,
            "level",
            detail,
            "activate it when all replicas know it: `confold admin activate`",
        ));
    }
    findings
}

/// What the log itself is like, and what an acknowledgement on it is worth.
fn log(status: &pb::StatusResponse) -> Vec<Finding> {
    let finding = |level, what: &str, detail: String, hint: &str| Finding {
        level,
        what: format!("{}: {what}", status.store),
        detail,
        hint: hint.to_owned(),
    };
    let held = format!(
        "{}, positions {} to {}, {} not folded yet",
        if status.log.is_empty() { "a log" } else { &status.log },
        status.log_start,
        status.log_end.saturating_sub(1),
        status.lag
    );
    let mut findings = vec![finding(Level::Ok, "log", held, "")];
    let Some(report) = &status.log_report else {
        if status.log == "file" {
            let worth = "an acknowledged write is on the disk of this machine, and nowhere else".to_owned();
            findings.push(finding(Level::Ok, "acknowledgement", worth, "copies are for you to make: `confold export log`"));
        }
        return findings;
    };
    let brokers = format!("{} on {}", report.topic, report.brokers.join(", "));
    findings.push(finding(Level::Ok, "topic", brokers, ""));
    for problem in &report.problems {
        let level = if problem.refused { Level::Damage } else { Level::Warning };
        let detail = format!("{} is {}, wanted is {}", problem.setting, problem.value, problem.wanted);
        findings.push(finding(level, "topic", detail, &problem.what_to_do));
    }
    findings.push(finding(Level::Ok, "acknowledgement", report.acknowledgement.clone(), ""));
    if status.replicas.len() < 2 {
        let alone = "no other replica has announced a mark: nobody would notice if this one computed something wrong";
        let hint = "start another one: `confold init DIR --kafka BROKERS --topic NAME`, then `confold serve DIR`";
        findings.push(finding(Level::Warning, "replicas", alone.to_owned(), hint));
    }
    findings
}

/// A replica that was silent for so long no longer counts where the log may be trimmed.
const SILENT_MS: i64 = 7 * 24 * 3600 * 1000;

fn replicas(status: &pb::StatusResponse) -> Vec<Finding> {
    let finding = |level, detail: String, hint: &str| Finding {
        level,
        what: format!("{}: replicas", status.store),
        detail,
        hint: hint.to_owned(),
    };
    let mut findings = Vec::new();
    for row in &status.replicas {
        let name = crate::error::short(&row.replica);
        let silent = status.time_ms - row.time_ms;
        if row.agrees == Some(false) {
            let detail = format!("{name} announced another state at mark {}", row.position);
            findings.push(finding(Level::Damage, detail, "compare with the others: docs/operations.md, Replicas that disagree"));
        } else if silent > SILENT_MS {
            let detail = format!("{name} has said nothing for {} days", silent / 86_400_000);
            findings.push(finding(Level::Warning, detail, "start it; while it is silent it does not count"));
        } else {
            let this = if row.replica == status.replica { " (this)" } else { "" };
            let durable = format!("{name}{this}: mark {}, durable up to {}", row.position, row.durable);
            findings.push(finding(Level::Ok, durable, ""));
        }
    }
    findings
}
