//! One file per command.

mod add;
mod admin;
mod apply;
mod bench;
mod commit;
mod completions;
mod diff;
mod doctor;
mod edit;
mod export;
mod get;
mod init;
mod log;
mod ls;
mod moving;
mod outcome;
mod policy;
mod prune;
mod put;
mod remove;
mod replace;
mod retention;
mod schema;
mod serve;
mod set;
mod show;
mod snapshot;
mod status;
mod store;
mod sync;
mod tag;
mod token;
mod unset;
mod update;

use crate::{
    app::{App, Global},
    error::{EXIT_HELP, Failure},
};
pub use log::who;

use clap::{Parser, Subcommand};

/// A configuration store in which every change is one event on a log.
///
/// The configuration is a tree of protobuf messages. Paths name its nodes: /devices/olt-1/ports/3. Every command works on
/// a server, or with --data on a folder that no server has open. Data is printed on stdout, everything else on stderr.
#[derive(Parser, Debug)]
#[command(name = "confold", version, after_long_help = EXIT_HELP, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Status(status::Args),
    Stores(status::StoresArgs),
    #[command(subcommand)]
    Store(store::Command),
    #[command(subcommand)]
    Schema(schema::Command),

    Get(get::Args),
    Ls(ls::Args),
    Diff(diff::Args),
    Log(log::Args),
    Show(show::Args),

    Put(put::Args),
    Update(update::Args),
    Set(set::Args),
    Unset(unset::Args),
    Add(add::Args),
    Remove(remove::Args),
    Replace(replace::Args),
    Edit(edit::Args),
    Apply(apply::Args),
    Commit(commit::Args),
    Outcome(outcome::OutcomeArgs),
    Withdraw(outcome::WithdrawArgs),

    Tag(tag::TagArgs),
    Untag(tag::UntagArgs),
    Tags(tag::ListArgs),
    Prune(prune::Args),
    #[command(subcommand)]
    Retention(retention::Command),

    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Token(token::Command),

    Sync(sync::Args),
    #[command(subcommand)]
    Export(export::Command),
    Restore(moving::RestoreArgs),
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    #[command(subcommand)]
    Admin(admin::Command),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Completions(completions::Args),
}

impl Command {
    pub async fn run(self, app: &mut App) -> Result<(), Failure> {
        match self {
            Command::Init(args) => init::run(args, app).await,
            Command::Serve(args) => serve::run(args, app).await,
            Command::Status(args) => status::run(args, app).await,
            Command::Stores(args) => status::stores(args, app).await,
            Command::Store(command) => store::run(command, app).await,
            Command::Schema(command) => schema::run(command, app).await,
            Command::Get(args) => get::run(args, app).await,
            Command::Ls(args) => ls::run(args, app).await,
            Command::Diff(args) => diff::run(args, app).await,
            Command::Log(args) => log::run(args, app).await,
            Command::Show(args) => show::run(args, app).await,
            Command::Put(args) => put::run(args, app).await,
            Command::Update(args) => update::run(args, app).await,
            Command::Set(args) => set::run(args, app).await,
            Command::Unset(args) => unset::run(args, app).await,
            Command::Add(args) => add::run(args, app).await,
            Command::Remove(args) => remove::run(args, app).await,
            Command::Replace(args) => replace::run(args, app).await,
            Command::Edit(args) => edit::run(args, app).await,
            Command::Apply(args) => apply::run(args, app).await,
            Command::Commit(args) => commit::run(args, app).await,
            Command::Outcome(args) => outcome::outcome(args, app).await,
            Command::Withdraw(args) => outcome::withdraw(args, app).await,
            Command::Tag(args) => tag::tag(args, app).await,
            Command::Untag(args) => tag::untag(args, app).await,
            Command::Tags(args) => tag::list(args, app).await,
            Command::Prune(args) => prune::run(args, app).await,
            Command::Retention(command) => retention::run(command, app).await,
            Command::Policy(command) => policy::run(command, app).await,
            Command::Token(command) => token::run(command, app).await,
            Command::Sync(args) => sync::run(args, app).await,
            Command::Export(command) => export::run(command, app).await,
            Command::Restore(args) => moving::restore(args, app).await,
            Command::Snapshot(command) => snapshot::run(command, app).await,
            Command::Admin(command) => admin::run(command, app).await,
            Command::Doctor(args) => doctor::run(args, app).await,
            Command::Bench(args) => bench::run(args, app).await,
            Command::Completions(args) => completions::run(&args, app),
        }
    }
}
