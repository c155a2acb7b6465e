use crate::{
    app::{App, WriteArgs},
    error::Failure,
    local::Access,
};
use confold_wire::pb;

/// Let go of old revisions for good.
///
/// Every revision up to the new floor is gone, unless it is tagged; the latest always stays. Without --floor the
/// retention policy decides, as it does by itself from time to time.
///
/// Example: confold prune --floor latest~1000
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The last state to let go, written as for `confold get --at`
    #[arg(long, value_name = "STATE")]
    floor: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn run(args: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let id = app.event_id(&connection, &args.write).await?;
    let request = pb::PruneRequest {
        store: connection.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(&args.write.who)
        }),
        floor: args.floor.unwrap_or_default(),
    };
    let decision = connection.decide(id, || connection.api.prune(request.clone())).await?;
    app.ui.decision(&decision)
}
