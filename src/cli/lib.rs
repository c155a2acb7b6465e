//! The command line: [`run`] takes words and a [`Context`], prints, and says how it ended.
//!
//! Data goes to stdout, everything else to stderr. It works through [`Api`](confold_wire::api::Api) on a server or on a
//! folder alike; what needs a disk comes in as [`Local`](local::Local).

mod app;
mod apply;
pub mod bench;
mod commands;
mod context;
mod error;
pub mod local;
mod output;
mod parse;
mod protection;
mod topic;
mod types;
mod values;

pub use context::{Connect, Context, Edit};
pub use error::{EXIT_HELP, Exit, Failure};

use app::App;
use clap::{CommandFactory, FromArgMatches};
use commands::Cli;
use std::ffi::OsString;

/// Runs one command to its end. `words` begins with the program's name.
pub fn run(words: impl IntoIterator<Item = OsString>, mut context: Context) -> Exit {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            _ = writeln!(context.err, "Error: cannot start: {error}");
            return Exit::Damaged;
        }
    };
    runtime.block_on(run_async(words, context))
}

/// The same inside a runtime that is there already.
pub async fn run_async(words: impl IntoIterator<Item = OsString>, context: Context) -> Exit {
    let words: Vec<OsString> = words.into_iter().collect();
    let cli = match parse(&words, &context) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, context),
    };
    let mut app = App::new(context, cli.global);
    let result = cli.command.run(&mut app).await;
    let result = result.and_then(|()| app.ui.flush());
    match result {
        Ok(()) => Exit::Done,
        Err(failure) => {
            failure.print(&mut app.ui);
            failure.exit
        }
    }
}

/// The command itself, for completions and for whoever documents it.
pub fn command(version: &str) -> clap::Command {
    Cli::command().version(version.to_owned())
}

fn parse(words: &[OsString], context: &Context) -> Result<Cli, clap::Error> {
    let mut command = command(&context.version);
    if let Some(width) = context.width {
        command = command.term_width(width.clamp(40, 120));
    }
    Cli::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// Help and version are what was asked for; anything else is a mistake.
fn usage(error: &clap::Error, mut context: Context) -> Exit {
    let plain = context.variable("NO_COLOR").is_some();
    let (stream, terminal) = match error.use_stderr() {
        true => (&mut context.err, context.err_is_terminal),
        false => (&mut context.out, context.out_is_terminal),
    };
    let text = error.render();
    let text = if terminal && !plain {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    // clap writes its own label in lower case.
    let text = match text.strip_prefix("error: ") {
        Some(rest) => format!("Error: {rest}"),
        None => text,
    };
    _ = stream.write_all(text.as_bytes());
    if error.use_stderr() { Exit::Invalid } else { Exit::Done }
}
