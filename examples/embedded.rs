//! A store inside your own process, with your own types: `cargo run --release --example embedded`.

use confold::client::Error;
use confold::replica::Options;
use confold::wire::{pb, schema_source};
use confold::{Embedded, folder::FolderError};
use prost::Message;
use std::path::Path;

// In a program of your own these come from prost-build; the schema is schemas/examples/network.proto.
#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(string, tag = "4")]
    description: String,
}

#[derive(Clone, PartialEq, Message)]
struct Port {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(string, tag = "2")]
    label: String,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Status(#[from] tonic::Status),
    #[error(transparent)]
    Schema(#[from] schema_source::SchemaSourceError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    Embedded::create(&data, "inventory")?;
    let store = Embedded::open(&data, Options::default()).await?;

    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/examples");
    let request = pb::PushSchemaRequest {
        descriptor_set: schema_source::descriptor_set_of(&schema, &[])?.descriptor_set.into(),
        root_message: "example.Network".into(),
        ..Default::default()
    };
    store.api().push_schema(request).await?;

    let client = store.client().author("example");
    let device = Device { id: "olt-1".into(), address: "192.0.2.1".into(), description: "first".into() };
    client.add("/devices", &device).await?;
    println!("added {}", client.get::<Device>("/devices/olt-1").await?.id);

    // A transaction reads one revision and commits on it as one event, or not at all.
    let mut transaction = client.transaction().await?;
    let mut device: Device = transaction.get("/devices/olt-1").await?;
    device.description = "second".into();
    transaction.update("/devices/olt-1", &device).await?;
    transaction.add("/devices/olt-1/ports/1", &Port { number: 1, label: "uplink".into() }).await?;
    let decision = transaction.commit().await?;
    println!("revision {}", decision.revision());

    // Somebody else changed what this one read: a conflict, and nothing happened.
    let mut late = client.transaction().await?;
    let mut stale: Device = late.get("/devices/olt-1").await?;
    client.update("/devices/olt-1", &Device { description: "third".into(), ..device.clone() }).await?;
    stale.description = "too late".into();
    late.update("/devices/olt-1", &stale).await?;
    match late.commit().await {
        Err(error) if error.is_conflict() => println!("conflict, as it should be"),
        other => println!("unexpected: {other:?}"),
    }

    // The past stays readable.
    let before = client.clone().reading(pb::Read { at: "latest~1".into(), ..Default::default() });
    println!("now {}", client.get::<Device>("/devices/olt-1").await?.description);
    println!("before {}", before.get::<Device>("/devices/olt-1").await?.description);
    store.close().await?;
    Ok(())
}
