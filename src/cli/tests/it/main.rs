//! The command line as people and scripts meet it: whole outputs, stderr and exit status included. Lines that begin
//! with `>` are what the service was asked, lines that begin with `!` were printed on stderr.

mod applying;
mod failing;
mod fake;
mod growing;
mod helping;
mod keeping;
mod reading;
mod rights;
mod securing;
mod world;
mod writing;
