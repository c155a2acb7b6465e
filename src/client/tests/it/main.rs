//! The library against a store made of the model's own rules, which loses answers on purpose; and over a socket.

mod messages;
mod pipeline;
mod remote;
mod retries;
mod store;
mod transactions;
mod typed;
