//! Reading and writing a store from a program.
//!
//! [`Client`] works on any [`Api`](confold_wire::api::Api): on [`Remote`], which speaks gRPC to a server, or on a store
//! that is open in the same process. It reads and writes typed messages, keeps what a caller must not get wrong (one
//! event id per intention, the same one in every attempt) and offers transactions.
//!
//! ```no_run
//! # #[derive(Clone, PartialEq, prost::Message)] struct Device { #[prost(string, tag = "4")] description: String }
//! # async fn example() -> Result<(), confold_client::Error> {
//! use confold_client::{Client, PathText, Remote};
//! use std::sync::Arc;
//!
//! let client = Client::new(Arc::new(Remote::connect("127.0.0.1:7411")?)).author("ada");
//! let path = PathText::root().child("devices").key("olt-1");
//! client
//!     .run(3, async |tx| {
//!         let mut device: Device = tx.get(&path).await?;
//!         device.description = "in the cellar".to_owned();
//!         tx.update(&path, &device).await
//!     })
//!     .await?;
//! # Ok(()) }
//! ```

mod client;
mod compose;
mod connection;
mod error;
mod path;
mod pipeline;
mod remote;
mod secure;
mod transaction;

pub use client::{Client, Found};
pub use confold_wire::caller::BearerToken;
pub use connection::{Connection, Nonces, Retries};
pub use error::Error;
pub use path::{PathText, encode_key};
pub use pipeline::{Answer, Pipeline};
pub use remote::{MAX_MESSAGE_BYTES, Options, Remote};
pub use secure::{Tls, token_from_file};
pub use transaction::Transaction;
