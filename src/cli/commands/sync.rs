use crate::{
    app::{App, state_text},
    error::Failure,
    local::Access,
};
use confold_wire::pb;

/// Wait until everything that was acknowledged before is seen here.
///
/// Prints a token; any read with it sees at least that.
///
/// Example: confold get /devices/olt-1 --token "$(confold sync)"
#[derive(clap::Args, Debug)]
pub struct Args {}

pub async fn run(_: Args, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let request = pb::SyncRequest {
        store: connection.store.clone(),
        deadline_ms: app.deadline_ms(),
    };
    let answer = connection.again(|| connection.api.sync(request.clone())).await?;
    if app.ui.json {
        return app.ui.message("confold.v1.SyncResponse", &answer);
    }
    app.ui.note(&format!("at {}", state_text(answer.read_at.as_ref())));
    app.ui.data(answer.read_at.as_ref().map_or("", |at| &at.token))
}
