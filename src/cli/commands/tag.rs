use crate::{
    app::{App, FreshArgs, WriteArgs},
    error::{Failure, short},
    local::Access,
    output::table,
};
use confold_wire::pb;

/// Name a revision.
///
/// A tagged revision stays readable for ever. A name that exists moves.
///
/// Example: confold tag v1.2 42
#[derive(clap::Args, Debug)]
pub struct TagArgs {
    /// A letter, then letters, digits and `._/-`; not `latest`
    name: String,
    /// What to tag, written as for `confold get --at`, or `event:ID` [default: latest]
    state: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn tag(args: TagArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let id = app.event_id(&connection, &args.write).await?;
    let request = pb::TagRequest {
        store: connection.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(&args.write.who)
        }),
        name: args.name,
        at: args.state.unwrap_or_default(),
    };
    let decision = connection.decide(id, || connection.api.tag(request.clone())).await?;
    app.ui.decision(&decision)
}

/// Take names off their revisions: all of them or none.
///
/// Example: confold untag v1.1 v1.2
#[derive(clap::Args, Debug)]
pub struct UntagArgs {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    write: WriteArgs,
}

pub async fn untag(args: UntagArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Write).await?;
    let id = app.event_id(&connection, &args.write).await?;
    let request = pb::UntagRequest {
        store: connection.store.clone(),
        proposal: Some(pb::Proposal {
            event_id: id.to_string(),
            ..app.proposal(&args.write.who)
        }),
        names: args.names,
    };
    let decision = connection.decide(id, || connection.api.untag(request.clone())).await?;
    app.ui.decision(&decision)
}

/// List the names of revisions.
///
/// Example: confold tags
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    fresh: FreshArgs,
}

pub async fn list(args: ListArgs, app: &mut App) -> Result<(), Failure> {
    let connection = app.connect(Access::Read).await?;
    let request = pb::ListTagsRequest {
        store: connection.store.clone(),
        read: Some(app.fresh(&args.fresh)?),
    };
    let answer = connection.again(|| connection.api.list_tags(request.clone())).await?;
    if app.ui.json {
        return app.ui.message("confold.v1.ListTagsResponse", &answer);
    }
    if answer.tags.is_empty() {
        app.ui.note("no tags; name a revision with `confold tag NAME`");
        return Ok(());
    }
    let row = |tag: &pb::TagEntry| {
        vec![
            tag.name.clone(),
            tag.revision.to_string(),
            app.ui.time(tag.time_ms),
            short(&tag.root),
        ]
    };
    let rows = answer.tags.iter().map(row).collect();
    app.ui.data(&table(&["NAME", "REVISION", "MADE", "ROOT"], rows))
}
