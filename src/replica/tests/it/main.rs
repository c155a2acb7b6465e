//! A whole replica on a memory log and a memory store.

mod convergence;
mod drive;
mod fencing;
mod house;
mod lives;
mod past;
mod poison;
mod propose;
mod step;
mod world;
