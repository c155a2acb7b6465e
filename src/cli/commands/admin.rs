use crate::{
    app::{App, WriteArgs},
    error::Failure,
    local::Access,
};
use confold_wire::pb;

/// Rare steps in a store's life
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Activate(ActivateArgs),
    SetClock(SetClockArgs),
}

/// Move the store to the next level of behaviour.
///
/// Accepted once every replica has announced that it knows the level; builds that do not know it stop there.
///
/// Example: confold admin activate 2
#[derive(clap::Args, Debug)]
pub struct ActivateArgs {
    /// The level in force + 1
    level: u32,
    #[command(flatten)]
    write: WriteArgs,
}

/// Set the store's time to the time of this event, also backwards: the cure for one wrong stamp.
///
/// Example: confold admin set-clock --reason 'the log ran an hour ahead'
#[derive(clap::Args, Debug)]
pub struct SetClockArgs {
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(command: Command, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let write = match &command {
        Command::Activate(args) => &args.write,
        Command::SetClock(args) => &args.write,
    };
    let id = app.event_id(&connection, write).await?;
    let proposal = Some(pb::Proposal {
        event_id: id.to_string(),
        ..app.proposal(&write.who)
    });
    let store = connection.store.clone();
    let decision = match command {
        Command::Activate(args) => {
            let request = pb::ActivateRequest {
                store,
                proposal,
                level: args.level,
            };
            connection
                .decide(id, || connection.api.activate(request.clone()))
                .await?
        }
        Command::SetClock(_) => {
            let request = pb::SetClockRequest { store, proposal };
            connection
                .decide(id, || connection.api.set_clock(request.clone()))
                .await?
        }
    };
    app.ui.decision(&decision)
}
