//! What the service costs in process, without a socket: leaf reads, pages, commits on one stream.
//!
//! `cargo run --release -p confold-replica --example service_speed [-- CHILDREN]`

use confold_log::memory::MemoryLog;
use confold_replica::service::Service;
use confold_replica::{Housekeeping, Options, Replica, begin};
use confold_store::memory::MemoryStore;
use confold_wire::api::Api;
use confold_wire::pb::{self, text_operation::Kind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;

const EACH: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let children: u32 = std::env::args().nth(1).map_or(Ok(1_000), |text| text.parse())?;
    let log = MemoryLog::new([1; 16]);
    begin(&log, "speed", &Default::default())?;
    let options = Options {
        housekeeping: Housekeeping::ByHand,
        ..Options::default()
    };
    let handle = Replica::open(Arc::new(log), Arc::new(MemoryStore::new()), options)?;
    handle.ready().await;
    let service = Service::new(vec![handle]);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemas/examples/network.proto");
    let descriptor_set = confold_wire::schema_source::descriptor_set_of(file.as_ref(), &[])?
        .descriptor_set
        .into();
    let root_message = "example.Network".to_owned();
    service
        .push_schema(pb::PushSchemaRequest {
            descriptor_set,
            root_message,
            ..Default::default()
        })
        .await?;
    for number in 0..children {
        service
            .commit(pb::CommitRequest {
                operations: vec![put(number, 0)],
                ..Default::default()
            })
            .await?;
    }

    for (name, format) in [("proto", pb::Format::Proto), ("JSON", pb::Format::Json)] {
        let mut number = 0;
        let started = Instant::now();
        while started.elapsed() < EACH {
            number += 1;
            let path = format!("/devices/dev-{}", number * 7919 % children);
            service
                .get(pb::GetRequest {
                    path,
                    format: format.into(),
                    ..Default::default()
                })
                .await?;
        }
        report(&format!("leaf reads, {name}"), number, started);
    }

    let (mut pages, started) = (0, Instant::now());
    while started.elapsed() < EACH {
        pages += 1;
        service
            .list(pb::ListRequest {
                path: "/devices".into(),
                ..Default::default()
            })
            .await?;
    }
    report("pages of 100, proto", pages, started);

    let commits = 100_000;
    let requests = (0..commits).map(move |number| {
        let commit = pb::CommitRequest {
            operations: vec![put(number % children, number)],
            ..Default::default()
        };
        Ok(pb::CommitStreamRequest {
            correlation: number.into(),
            commit: Some(commit),
        })
    });
    let started = Instant::now();
    let mut answers = service.commit_stream(Box::pin(tokio_stream::iter(requests))).await?;
    let mut answered = 0;
    while let Some(answer) = answers.next().await {
        answer?;
        answered += 1;
    }
    report("commits on one stream", answered, started);
    Ok(())
}

/// A device of about 250 bytes, in protobuf's own form.
fn put(number: u32, version: u32) -> pb::TextOperation {
    let id = format!("dev-{number}");
    let description = format!("{version:0>220}");
    let mut bytes = vec![0x0a, u8::try_from(id.len()).unwrap_or_default()];
    bytes.extend_from_slice(id.as_bytes());
    bytes.extend_from_slice(&[0x22, 0xdc, 0x01]);
    bytes.extend_from_slice(description.as_bytes());
    let value = pb::Value {
        form: Some(pb::value::Form::Proto(bytes.into())),
        ..Default::default()
    };
    pb::TextOperation {
        path: format!("/devices/{id}"),
        kind: Some(Kind::Put(value)),
        ..Default::default()
    }
}

fn report(what: &str, count: u32, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{what:<24}{:>10.0} /s   {:.1} us each",
        f64::from(count) / seconds,
        seconds * 1e6 / f64::from(count)
    );
}
