//! The fold as a whole: random logs against a naive model, golden logs, the order of checks.

mod acts;
mod fuzz;
mod golden;
mod naive;
mod order;
mod properties;
mod support;
mod tables;
