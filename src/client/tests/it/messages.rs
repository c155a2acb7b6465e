//! The messages of schemas/examples/network.proto, as a program would have them.

#[derive(Clone, PartialEq, prost::Message)]
pub struct Network {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub clock: Option<Clock>,
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<Device>,
    #[prost(message, repeated, tag = "4")]
    pub vlans: Vec<Vlan>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Clock {
    #[prost(string, tag = "1")]
    pub timezone: String,
    #[prost(message, repeated, tag = "2")]
    pub ntp_servers: Vec<NtpServer>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct NtpServer {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(bool, tag = "2")]
    pub prefer: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(string, tag = "4")]
    pub description: String,
    #[prost(string, tag = "5")]
    pub serial_number: String,
    #[prost(message, repeated, tag = "9")]
    pub ports: Vec<Port>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Port {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub label: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Vlan {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(string, tag = "2")]
    pub name: String,
}

pub fn device(id: &str, address: &str) -> Device {
    Device {
        id: id.to_owned(),
        address: address.to_owned(),
        ..Default::default()
    }
}

pub fn port(number: u32, label: &str) -> Port {
    Port {
        number,
        label: label.to_owned(),
    }
}

pub fn vlan(number: u32, name: &str) -> Vlan {
    Vlan {
        number,
        name: name.to_owned(),
    }
}
