use crate::{
    app::App,
    bench::{self, Load, Measured, Part, Target},
    error::{Exit, Failure},
    output::{grouped, table},
    parse,
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// Measure how fast a store is on this machine, beside the limits measured in the same run.
///
/// Works on a new store in a temporary folder, served by this program; with --server on an empty store of that server.
///
/// Example: confold bench --children 10000 --for 5s
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Nodes in the container that is worked on
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    children: u64,
    /// Bytes of one record, about
    #[arg(long, value_name = "SIZE", value_parser = parse::size, default_value = "340")]
    record: u64,
    /// How long each part runs
    #[arg(long = "for", value_name = "TIME", value_parser = parse::duration, default_value = "3s")]
    duration: Duration,
    /// Only parts whose names contain this; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// The folder for temporary files, on the disk that is to be measured
    #[arg(long, value_name = "DIR")]
    folder: Option<String>,
    /// Measure the log on Kafka, on topics that are made there and removed again: HOST:PORT, several separated by commas
    #[arg(long, value_name = "BROKERS", conflicts_with = "server")]
    kafka: Option<String>,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let load = Load {
        children: args.children.max(1),
        record_bytes: usize::try_from(args.record).unwrap_or(usize::MAX).clamp(100, 1 << 20),
        duration: args.duration,
        kafka: args.kafka.clone(),
    };
    let all = if load.kafka.is_some() { Part::on_kafka() } else { Part::all() };
    let wanted = |part: &Part| args.only.is_empty() || args.only.iter().any(|text| part.name().contains(text));
    let parts: Vec<Part> = all.iter().copied().filter(wanted).collect();
    if parts.is_empty() {
        let names = all.into_iter().map(Part::name).collect::<Vec<_>>().join("; ");
        return Err(Failure::invalid("no part has such a name").hint(format!("the parts are: {names}")));
    }
    let failed = |error: std::io::Error| Failure::new(Exit::Damaged, format!("cannot make a folder: {error}"));
    let folder = match &args.folder {
        Some(folder) => tempfile::tempdir_in(app.file(folder)),
        None => tempfile::tempdir(),
    }
    .map_err(failed)?;
    let (target, _guard) = match &app.global.server {
        Some(address) => {
            let store = app.global.store.clone().unwrap_or_default();
            (target(app, address.clone(), store)?, None)
        }
        None => {
            let scratch = app.context.local.scratch(folder.path(), &load).await?;
            (target(app, scratch.address, String::new())?, Some(scratch.guard))
        }
    };
    let mut done: BTreeMap<Part, Measured> = BTreeMap::new();
    let mut prepared = false;
    for part in parts {
        app.ui.note(&format!("measuring {}", part.name()));
        let measured = match part {
            Part::Blake3 => Some(bench::blake3(&load)),
            Part::Fdatasync => Some(bench::fdatasync(&load, folder.path())?),
            Part::Fold
            | Part::DurableFold
            | Part::Echo { .. }
            | Part::Bare { .. }
            | Part::InProcess { .. }
            | Part::HttpReads { .. }
            | Part::Diff
            | Part::OpenAndRead
            | Part::NewReplica => app.context.local.bench(part, &load).await?,
            _ => {
                if !prepared {
                    bench::prepare(&target, &load).await?;
                    prepared = true;
                }
                bench::run(part, &target, &load).await?
            }
        };
        if let Some(measured) = measured {
            done.insert(part, measured);
        }
    }
    print(app, &load, &done)
}

fn target(app: &App, address: String, store: String) -> Result<Target, Failure> {
    Ok(Target {
        connect: app.context.connect.clone(),
        options: app.remote(&address)?,
        address,
        store,
    })
}

fn print(app: &mut App, load: &Load, done: &BTreeMap<Part, Measured>) -> Result<(), Failure> {
    let share = |part: &Part, measured: &Measured| {
        let limit = done.get(&part.limit(load)?)?;
        Some(measured.rate / limit.rate)
    };
    if app.ui.json {
        let parts = done.iter().map(
            |(part, measured)| json!({ "part": part.name(), "measured": measured, "of_limit": share(part, measured) }),
        );
        return app.ui.json_value(&json!({
            "children": load.children,
            "record_bytes": load.record_bytes,
            "seconds": load.duration.as_secs_f64(),
            "parts": parts.collect::<Vec<_>>(),
        }));
    }
    let rows = done.iter().map(|(part, measured)| {
        let time = |us: Option<f64>| us.map(|us| format!("{us:.0} µs")).unwrap_or_default();
        vec![
            part.name(),
            rate(measured.rate),
            time(measured.p50_us),
            time(measured.p99_us),
            share(part, measured)
                .map(|share| format!("{:.0} %", share * 100.0))
                .unwrap_or_default(),
            measured.note.clone(),
        ]
    });
    app.ui
        .data(&table(&["PART", "RATE", "P50", "P99", "OF LIMIT", ""], rows.collect()))
}

/// What is rarer than ten a second is told with a fraction.
fn rate(rate: f64) -> String {
    match rate {
        ..10.0 => format!("{rate:.1}/s"),
        _ => format!("{}/s", grouped(rate as u64)),
    }
}
