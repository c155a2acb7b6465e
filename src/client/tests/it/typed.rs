use crate::{
    messages::{Clock, Device, Network, NtpServer, Port, device, port, vlan},
    store::Mini,
};
use confold_client::{Client, PathText};
use confold_model::code::Code;
use std::sync::Arc;

fn client(store: &Mini) -> Client {
    Client::new(Arc::new(store.clone())).author("ada")
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let store = Mini::new();
    let client = client(&store);
    client
        .update(
            "/",
            &Network {
                name: "lab".to_owned(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let mut olt = device("sw/core", "192.0.2.1");
    olt.ports = vec![port(1, "a"), port(2, "b")];
    client.add("/devices", &olt).await.unwrap();
    let path = PathText::root().child("devices").key("sw/core");
    // G1
    assert_eq!(
        client.get::<Device>(&path).await.unwrap(),
        device("sw/core", "192.0.2.1")
    );
    assert_eq!(client.get_deep::<Device>(&path).await.unwrap(), olt);
    client
        .update_fields(
            &path,
            &Device {
                description: "d".to_owned(),
                ..Default::default()
            },
            &["description"],
        )
        .await
        .unwrap();
    assert_eq!(client.get::<Device>(&path).await.unwrap().address, "192.0.2.1");
    client.put("/devices/olt-2", &device("olt-2", "")).await.unwrap();
    client.remove(path.child("ports").key(2)).await.unwrap();
    // G2
    let all = client.list::<Device>("/devices", -1).await.unwrap();
    assert_eq!(
        all.iter().map(|found| found.value.id.as_str()).collect::<Vec<_>>(),
        ["olt-2", "sw/core"]
    );
    assert_eq!(all[1].value.ports, [port(1, "a")]);
    let servers = vec![NtpServer {
        address: "ntp".to_owned(),
        prefer: true,
    }];
    client
        .replace(
            "/clock/ntp_servers",
            &Clock {
                ntp_servers: servers,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(
        client.list::<NtpServer>("/clock/ntp_servers", 0).await.unwrap().len(),
        1
    );
    assert_eq!(store.revisions(), 6);
}

#[tokio::test]
async fn what_is_absent_is_none_and_what_is_refused_has_its_code() {
    let store = Mini::new();
    let client = client(&store);
    assert!(client.find::<Device>("/devices/x", 0).await.unwrap().is_none());
    let code = |error: confold_client::Error| error.code();
    assert_eq!(
        client.get::<Device>("/devices/x").await.map_err(code),
        Err(Some(Code::NotFound))
    );
    assert_eq!(
        client.get::<Device>("/devices").await.map_err(code),
        Err(Some(Code::IsAContainer))
    );
    assert_eq!(
        client.remove("/devices/x").await.map_err(code),
        Err(Some(Code::NotFound))
    );
    client.add("/vlans", &vlan(7, "a")).await.unwrap();
    // A1
    assert_eq!(
        client.add("/vlans", &vlan(7, "b")).await.map_err(code),
        Err(Some(Code::AlreadyExists))
    );
    // S5: a single child is always there.
    assert_eq!(client.get::<Clock>("/clock").await.unwrap(), Clock::default());
}

// P1, P2, P4, P5: a proxy is a path, whatever is there.
#[tokio::test]
async fn a_proxy_is_a_scope_and_may_be_made_before_its_path_exists() {
    let store = Mini::new();
    let client = client(&store);
    let olt = client.proxy("/devices/olt-1");
    let ports = olt.proxy("ports");
    client.add("/devices", &device("olt-1", "a")).await.unwrap();
    ports.add("", &port(3, "x")).await.unwrap();
    ports.put("3", &port(3, "y")).await.unwrap();
    assert_eq!(olt.get::<Port>("/ports/3").await.unwrap(), port(3, "y"));
    client.remove("/devices/olt-1").await.unwrap();
    assert!(olt.find::<Device>("", 0).await.unwrap().is_none());
    client.add("/devices", &device("olt-1", "b")).await.unwrap();
    assert_eq!(olt.get::<Device>("/").await.unwrap(), device("olt-1", "b"));
    // P6: a transaction of a proxy is one of the whole store, on relative paths.
    let mut tx = olt.transaction().await.unwrap();
    tx.add("ports/9", &port(9, "")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(client.get::<Port>("/devices/olt-1/ports/9").await.unwrap(), port(9, ""));
}
