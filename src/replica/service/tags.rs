//! Names for revisions.

use super::at::{Reading, is_latest};
use super::propose::{Intention, propose};
use super::refusal::refusal;
use super::rights::Asked;
use super::{Refusal, blocking};
use crate::past::PastError;
use confold_model::event::Body;
use confold_model::fold::check_tag_name;
use confold_wire::pb;

/// T1, T5.
pub(super) async fn tag(
    served: Asked,
    mut request: pb::TagRequest,
) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let built = body(&served, request).await;
    propose(served, intention, built.map(Into::into)).await
}

async fn body(served: &Asked, request: pb::TagRequest) -> Result<Body<'static>, Refusal> {
    check_tag_name(&request.name)
        .map_err(|rejection| refusal(rejection, None).hint("write [A-Za-z][A-Za-z0-9._/-]*, and not latest"))?;
    let view = served.handle.view();
    let revision = if is_latest(&request.at) {
        view.revision
    } else {
        let (served, view) = (served.clone(), view.clone());
        blocking(move || Ok(served.resolve(&view, &request.at)?.revision)).await?
    };
    // What is gone stays gone, so this needs no log. Revision 0 is for the fold to refuse.
    if revision.0 > 0 && !view.is_kept(revision) {
        let nearest = view.nearest_kept(revision);
        return Err(PastError::Pruned {
            revision,
            floor: view.floor,
            nearest,
        }
        .into());
    }
    Ok(Body::Tag {
        name: request.name.into(),
        revision,
    })
}

/// T2.
pub(super) async fn untag(
    served: Asked,
    mut request: pb::UntagRequest,
) -> Result<pb::Decision, Refusal> {
    let intention = Intention::of(&served, &mut request)?;
    let built = match request.names.is_empty() {
        true => Err(Refusal::argument("no tag is named", "name the tags to take away")),
        false => Ok(Body::Untag {
            names: request.names.into_iter().map(Into::into).collect(),
        }
        .into()),
    };
    propose(served, intention, built).await
}

pub(super) async fn list(
    served: Asked,
    mut request: pb::ListTagsRequest,
) -> Result<pb::ListTagsResponse, Refusal> {
    let read = request.read.take().unwrap_or_default();
    let view = served.view(&read).await?;
    blocking(move || {
        let rights = served.now()?;
        let mut tags = Vec::with_capacity(view.tags.len());
        for (name, tag) in view.tags.iter() {
            let row = served.handle.store()?.revision(tag.revision)?;
            tags.push(pb::TagEntry {
                name: name.clone(),
                revision: tag.revision.0,
                root: row.as_ref().map(|row| rights.root(&row.root)).unwrap_or_default(),
                time_ms: row.map_or(0, |row| row.time.0),
            });
        }
        Ok(pb::ListTagsResponse {
            read_at: Some(Reading::latest(view).read_at(&rights)),
            tags,
        })
    })
    .await
}
