use crate::{app::App, error::Failure};
use clap_complete::Shell;

/// Print a script that completes commands and options in a shell.
///
/// Example: confold completions bash > /etc/bash_completion.d/confold
#[derive(clap::Args, Debug)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args, app: &mut App) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::command(&app.context.version),
        "confold",
        &mut script,
    );
    app.ui.raw(&script)
}
