//! Pages of a container, one by one or as a stream; the elements of one call are of one revision.

use super::at::{Reading, is_latest};
use super::read::{Elements, Render, SLICE, Shown, container_row};
use super::refusal::{hex, refusal};
use super::rights::{Asked, Rights};
use super::{Refusal, blocking};
use confold_model::code::{Code, Rejection};
use confold_model::path::{Path, Target};
use confold_model::schema::ChildField;
use confold_wire::api::Stream;
use confold_wire::pb::{self, list_request::Start};
use tonic::Status;

/// Pages up to this size without values or depth are read on the calling thread.
const SMALL_PAGE: usize = 32;

pub(super) async fn list(served: Asked, mut request: pb::ListRequest) -> Result<pb::ListResponse, Refusal> {
    let read = request.read.take().unwrap_or_default();
    let view = served.view(&read).await?;
    let small = request.depth == 0 && served.options.page.size(request.page_size.into()) <= SMALL_PAGE;
    if small && is_latest(&read.at) {
        return Listing::open(&served, Reading::latest(view), request)?
            .page()
            .map(|(answer, _)| answer);
    }
    blocking(move || {
        let reading = served.open(&view, &read.at, read.schema_of_its_time)?;
        Listing::open(&served, reading, request)?
            .page()
            .map(|(answer, _)| answer)
    })
    .await
}

/// Each page is read when the one before was taken: a slow client costs no thread and no memory but the view.
pub(super) async fn stream(
    served: Asked,
    mut request: pb::ListRequest,
) -> Result<Stream<Result<pb::ListResponse, Status>>, Refusal> {
    let read = request.read.take().unwrap_or_default();
    let reading = served.reading(read).await?;
    let first = blocking(move || Listing::open(&served, reading, request)).await?;
    let pages = futures::stream::try_unfold(Some(first), |listing| async {
        let Some(listing) = listing else { return Ok(None) };
        let (answer, next) = blocking(move || listing.page()).await?;
        Ok::<_, Status>(Some((answer, next)))
    });
    Ok(Box::pin(pages))
}

/// Where a call stands in its container.
struct Listing {
    served: Asked,
    reading: Reading,
    request: pb::ListRequest,
    path: Path,
    elements: Elements,
    /// Index of the next element to show; with `reverse` of the one behind it.
    next: u64,
    /// Elements still wanted; `None`: all.
    left: Option<u64>,
}

impl Listing {
    fn open(served: &Asked, reading: Reading, request: pb::ListRequest) -> Result<Listing, Refusal> {
        let schema = reading.schema()?.clone();
        let refuse = |rejection| refusal(rejection, Some(&schema));
        let path = schema.parse_path(&request.path).map_err(refuse)?;
        let Target::Container { child, .. } = schema.resolve(&path).map_err(refuse)? else {
            let detail = "this is a node, not a container".to_owned();
            return Err(refuse(Rejection::new(Code::NotAContainer, detail).at(path)));
        };
        let elements = Elements::open(&reading, served, &served.now()?, &path)?;
        let rank = |text: &str| -> Result<(u64, bool), Refusal> {
            let Some(field) = child.key() else {
                let detail = format!("{} is a list without keys: start from an index", child.name);
                return Err(refuse(Rejection::new(Code::NotKeyed, detail).at(path.clone())));
            };
            let key = field
                .parse(text)
                .map_err(|rejection| refuse(rejection.at(path.clone())))?;
            Ok(elements.rank(&key, served.objects())?)
        };
        let (count, reverse) = (elements.len(), request.reverse);
        let next = match &request.start {
            None => {
                if reverse {
                    count
                } else {
                    0
                }
            }
            // Behind the key, on the side to which the list goes.
            Some(Start::AfterKey(key)) => {
                let (below, present) = rank(key)?;
                below + u64::from(present && !reverse)
            }
            Some(Start::FromKey(key)) => {
                let (below, present) = rank(key)?;
                below + u64::from(present && reverse)
            }
            Some(Start::FromIndex(index)) => {
                if reverse {
                    index.saturating_add(1).min(count)
                } else {
                    (*index).min(count)
                }
            }
        };
        let left = (request.limit > 0).then_some(request.limit);
        Ok(Listing {
            served: served.clone(),
            reading,
            path,
            elements,
            next,
            left,
            request,
        })
    }

    /// The next page, and what comes behind it where there is more. What the caller may see of it is asked again.
    fn page(mut self) -> Result<(pb::ListResponse, Option<Listing>), Refusal> {
        let schema = self.reading.schema()?.clone();
        let rights = self.served.now()?;
        self.elements.check(&self.reading, &rights, &self.path)?;
        let Target::Container { child, .. } = schema
            .resolve(&self.path)
            .map_err(|rejection| refusal(rejection, Some(&schema)))?
        else {
            return Err(Refusal::new(Code::NotAContainer, "this is a node, not a container"));
        };
        let mut wanted = self.served.options.page.size(self.request.page_size.into()) as u64;
        wanted = self.left.map_or(wanted, |left| wanted.min(left));
        let nodes = self.nodes(child, wanted, &rights)?;
        self.left = self.left.map(|left| left - (nodes.len() as u64).min(left));
        let rest = if self.request.reverse {
            self.next
        } else {
            self.elements.len() - self.next
        };
        let more = rest > 0 && self.left != Some(0);
        let answer = pb::ListResponse {
            read_at: Some(self.reading.read_at(&rights)),
            container: Some(container_row(
                schema.print_path(&self.path),
                child,
                self.elements.len(),
                self.elements.hash().as_ref().map(hex).unwrap_or_default(),
            )),
            r#type: schema.message(child.message).full_name.clone(),
            more,
            next_after_key: if more {
                nodes.last().map(|node| node.key.clone()).unwrap_or_default()
            } else {
                String::new()
            },
            next_index: match (more, self.request.reverse) {
                (false, _) => 0,
                (true, false) => self.next,
                (true, true) => self.next - 1,
            },
            nodes,
        };
        Ok((answer, more.then_some(self)))
    }

    /// Up to `wanted` elements, fewer where the answer would grow too big, but one at least.
    fn nodes(&mut self, child: &ChildField, wanted: u64, rights: &Rights) -> Result<Vec<pb::Node>, Refusal> {
        let request = &self.request;
        let shown = Shown {
            depth: request.depth,
            mask: &request.mask,
            format: request.format,
            values: !request.no_values,
        };
        // Whether an element still fits is decided here; one alone may have the server's whole limit.
        let mut render = Render::new(&self.served, &self.reading, child.message, shown, 0)?;
        let most = match usize::try_from(request.max_bytes) {
            Ok(0) | Err(_) => self.served.options.piece_bytes,
            Ok(asked) => asked.min(render.limit()),
        };
        let mut nodes = Vec::new();
        while (nodes.len() as u64) < wanted {
            let take = (wanted - nodes.len() as u64).min(SLICE);
            let (start, take) = match request.reverse {
                true => (self.next.saturating_sub(take), take.min(self.next)),
                false => (self.next, take),
            };
            let mut slice = self.elements.slice(start, take, self.served.objects())?;
            if slice.is_empty() {
                break;
            }
            let count = slice.len() as u64;
            if request.reverse {
                slice.reverse();
            }
            for (offset, (key, node)) in (0..).zip(slice) {
                let index = if request.reverse {
                    start + count - 1 - offset
                } else {
                    start + offset
                };
                let before = render.used();
                render.restart();
                let place = self.elements.place(rights, &self.path, &key);
                let node = render.element(&self.path, child, &key, index, &node, place)?;
                if !nodes.is_empty() && before + render.used() > most {
                    return Ok(nodes);
                }
                render.add(before);
                self.next = if request.reverse { index } else { index + 1 };
                nodes.push(node);
            }
        }
        Ok(nodes)
    }
}
