use crate::{
    app::{App, WriteArgs},
    error::Failure,
    local::Access,
    parse,
};
use confold_wire::{convert::parse_event_id, pb};
use std::time::Duration;

/// Tell what became of an event.
///
/// Makes nothing definite by itself: of an event that was not seen, a copy may still be on its way. See
/// `confold withdraw`.
///
/// Example: confold outcome 4182-0f3a1c5e7b9d2f4a6c8e0b1d3f5a7c9e --wait 5s
#[derive(clap::Args, Debug)]
pub struct OutcomeArgs {
    #[arg(value_name = "EVENT_ID")]
    id: String,
    /// Wait this long for an event that was not seen yet
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    wait: Option<Duration>,
}

pub async fn outcome(args: OutcomeArgs, app: &mut App) -> Result<(), Failure> {
    check(&args.id)?;
    if let Some(wait) = args.wait {
        // The call has to last as long as it is asked to wait.
        app.global.timeout = Some(app.timeout().max(wait));
    }
    let connection = app.connect(Access::Read).await?;
    let request = pb::OutcomeRequest {
        store: connection.store.clone(),
        event_id: args.id,
        wait_ms: args
            .wait
            .map_or(0, |wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)),
    };
    let decision = connection.again(|| connection.api.outcome(request.clone())).await?;
    app.ui.decision(&decision)
}

/// Make the end of an event definite: tell its outcome, or bar it for good.
///
/// Example: confold withdraw 4182-0f3a1c5e7b9d2f4a6c8e0b1d3f5a7c9e
#[derive(clap::Args, Debug)]
pub struct WithdrawArgs {
    #[arg(value_name = "EVENT_ID")]
    id: String,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn withdraw(args: WithdrawArgs, app: &mut App) -> Result<(), Failure> {
    check(&args.id)?;
    let connection = app.connect(Access::Write).await?;
    let id = app.event_id(&connection, &args.write).await?;
    let request = pb::WithdrawRequest {
        store: connection.store.clone(),
        event_id: args.id,
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(&args.write.who)
        }),
    };
    let decision = connection
        .decide(id, || connection.api.withdraw(request.clone()))
        .await?;
    app.ui.decision(&decision)
}

fn check(id: &str) -> Result<(), Failure> {
    parse_event_id(id)
        .map(drop)
        .map_err(|error| Failure::invalid(error.to_string()))
}
