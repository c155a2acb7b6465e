//! A snapshot taken of a replica that serves on.

use super::bytes::{Framer, Kind, write_header, write_id, write_object, write_revision, write_state_row, write_touched, write_tree};
use super::{Header, PART_BYTES, SnapshotError};
use crate::core::Core;
use crate::handle::Handle;
use crate::kept::{Hold, rows_at};
use crate::past::Pin;
use bytes::Bytes;
use confold_model::event::Malformed;
use confold_model::ids::{Position, Revision};
use confold_model::node::EMPTY_NODE;
use confold_model::state::State;
use confold_model::walk::Walk;
use confold_store::{Order, PathDigest, PersistedTree, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The stream, piece by piece as it is asked for. As long as it lives, the state and the trees that it needs stay.
pub struct Export {
    core: Arc<Core>,
    header: Header,
    framer: Option<Framer>,
    stage: Stage,
    rows: std::vec::IntoIter<(u16, Vec<u8>, Vec<u8>)>,
    trees: Vec<PersistedTree>,
    walk: Walk,
    _hold: Hold,
    _pins: Vec<Pin>,
}

enum Stage {
    Begin,
    Header,
    State,
    Trees,
    Objects,
    Revisions(Revision),
    Ids(Position),
    Touched((PathDigest, Revision)),
    End,
    Over,
}

/// Of the newest mark on which another replica agrees, or of the newest mark where there is none. May take seconds where the
/// window is full; the fold goes on meanwhile.
pub fn export(handle: &Handle) -> Result<Export, SnapshotError> {
    let core = handle.core.clone();
    let view = handle.view();
    let kept = |position: &Position| view.kept.iter().any(|mark| mark.position == *position);
    let newest = view.agreement.agreed.filter(kept).or(view.mark.map(|mark| mark.position)).unwrap_or_default();
    let (hold, mark) = {
        let folder = core.folder.lock();
        let folder = folder.as_ref().ok_or_else(|| SnapshotError::NoMark("stopped folding".to_owned()))?;
        let hold = folder.hold_at_or_below(newest).ok_or_else(|| SnapshotError::NoMark("passed no mark yet".to_owned()))?;
        let mark = folder.mark(hold.mark.position);
        (hold, mark.ok_or_else(|| SnapshotError::NoMark("forgotten what it computed there".to_owned()))?)
    };
    let rows = rows_at(core.rows()?, mark.position)?;
    let state = State::load(rows.clone()).map_err(|Malformed(what)| StoreError::damaged(format!("the state kept of a mark: {what}")))?;
    if state.clone().hash() != mark.state {
        return Err(StoreError::damaged(format!("the state kept of mark {} hashes to another value", mark.position)).into());
    }
    let header = Header {
        store_name: view.store_name.to_string(),
        log_id: state.log_id(),
        incarnation: state.incarnation(),
        transport_id: state.transport_id(),
        position: mark.position,
        time: state.time(),
        before: hold.mark.before,
        digest: state.digest(),
        chain: state.chain(),
        state: mark.state,
        root: state.root(),
        revision: state.revision(),
        floor: state.floor(),
        source: core.replica,
    };
    let (trees, pins) = trees(&core, &state, mark.position)?;
    let mut walk = Walk::new();
    let roots = trees.iter().map(|tree| tree.root).filter(|root| *root != EMPTY_NODE);
    roots.for_each(|root| walk.add_root(root));
    Ok(Export {
        header,
        framer: None,
        stage: Stage::Begin,
        rows: rows.into_iter(),
        trees,
        walk,
        core,
        _hold: hold,
        _pins: pins,
    })
}

/// The mark's own tree, those of tagged revisions, and the nearest at or below the floor: what the log may not be able to make again.
fn trees(core: &Core, state: &State, mark: Position) -> Result<(Vec<PersistedTree>, Vec<Pin>), StoreError> {
    let revision = state.revision();
    let own = PersistedTree { revision, position: mark, root: state.root(), mark: true };
    let mut wanted: BTreeSet<Revision> = state.tagged().filter(|tagged| *tagged < revision).collect();
    wanted.extend(core.store.persisted_at_or_below(state.floor())?.map(|tree| tree.revision).filter(|below| *below < revision));
    let (mut trees, mut pins) = (Vec::new(), Vec::new());
    for revision in wanted {
        let found = core.pins.choose(|kept| {
            let stays = kept.is_none_or(|kept| revision > kept.up_to || kept.revisions.contains(&revision));
            let mut found = core.store.persisted(revision..=revision, Order::Ascending, 1)?;
            Ok(found.pop().filter(|_| stays))
        })?;
        if let Some((tree, pin)) = found {
            trees.push(tree);
            pins.push(pin);
        }
    }
    if revision > Revision(0) {
        trees.push(own);
    }
    Ok((trees, pins))
}

const PAGE: usize = 1024;

impl Export {
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn piece(&mut self) -> Result<Option<Bytes>, SnapshotError> {
        loop {
            let mut out = Vec::new();
            let (kind, next) = match self.stage {
                Stage::Begin => {
                    let (framer, first) = Framer::begin();
                    self.framer = Some(framer);
                    self.stage = Stage::Header;
                    return Ok(Some(first));
                }
                Stage::Header => {
                    out = write_header(&self.header);
                    (Kind::Header, Stage::State)
                }
                Stage::State => {
                    while out.len() < PART_BYTES
                        && let Some(row) = self.rows.next()
                    {
                        write_state_row(&mut out, &row);
                    }
                    (Kind::State, if out.is_empty() { Stage::Trees } else { Stage::State })
                }
                Stage::Trees => {
                    self.trees.iter().for_each(|tree| write_tree(&mut out, tree));
                    (Kind::Trees, Stage::Objects)
                }
                Stage::Objects => {
                    while out.len() < PART_BYTES
                        && let Some(object) = self.walk.next(&*self.core.store)
                    {
                        write_object(&mut out, &object.map_err(StoreError::from)?.1);
                    }
                    (Kind::Objects, if out.is_empty() { Stage::Revisions(Revision(1)) } else { Stage::Objects })
                }
                Stage::Revisions(from) => {
                    let rows = self.core.store.revisions(from..=self.header.revision, Order::Ascending, PAGE)?;
                    rows.iter().for_each(|row| write_revision(&mut out, row));
                    let next = rows.last().map(|row| Stage::Revisions(Revision(row.revision.0 + 1)));
                    (Kind::Revisions, next.unwrap_or(Stage::Ids(Position(0))))
                }
                Stage::Ids(from) => {
                    let mut rows = self.core.store.ids(from, PAGE)?;
                    rows.retain(|row| row.position <= self.header.position);
                    rows.iter().for_each(|row| write_id(&mut out, row));
                    let next = rows.last().map(|row| Stage::Ids(row.position.next()));
                    (Kind::Ids, next.unwrap_or(Stage::Touched((PathDigest([0; 12]), Revision(0)))))
                }
                Stage::Touched(from) => {
                    let rows = self.core.store.all_touched(from, PAGE)?;
                    let past = rows.iter().filter(|row| row.revision <= self.header.revision);
                    past.for_each(|row| write_touched(&mut out, row));
                    let next = rows.last().map(|row| Stage::Touched((row.path, Revision(row.revision.0 + 1))));
                    (Kind::Touched, next.unwrap_or(Stage::End))
                }
                Stage::End => {
                    self.stage = Stage::Over;
                    return Ok(self.framer.take().map(Framer::end));
                }
                Stage::Over => return Ok(None),
            };
            self.stage = next;
            if let (false, Some(framer)) = (out.is_empty(), &mut self.framer) {
                return Ok(Some(framer.part(kind, &out)));
            }
        }
    }
}

impl Iterator for Export {
    type Item = Result<Bytes, SnapshotError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.piece();
        if piece.is_err() {
            self.stage = Stage::Over;
        }
        piece.transpose()
    }
}
