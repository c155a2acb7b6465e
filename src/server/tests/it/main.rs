//! The server as clients see it: real sockets, and an `Api` that writes down what reaches it.

mod authority;
mod callers;
mod calls;
mod errors;
mod fake;
mod hostile;
mod lifecycle;
mod net;
mod observed;
mod tls;
