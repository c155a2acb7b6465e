//! Every call of the API over a whole replica on a memory log and a memory store.

mod any;
mod at;
mod diff;
mod history;
mod list;
mod outcome;
mod read;
mod rights;
mod schema;
mod stores;
mod stream;
mod tags;
mod upkeep;
mod world;
mod write;
