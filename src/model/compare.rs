//! Compares two containers along their nibbles and visits, in key order, the keys on which they differ.
//!
//! Parts that hash alike are passed by unopened, so the cost is O(differences · log n). The two maps need not have one shape: a
//! prefix may end earlier on one side, and a bucket may stand against an inner.

use crate::content::{Loader, Node};
use crate::link::Link;
use crate::map::{Inner, NibblePath, Part};
use crate::objects::ObjectsError;
use std::ops::ControlFlow;

/// What stands beside a key on the old and on the new side.
pub(crate) type Both<'a> = [Option<&'a Link<Node>>; 2];

/// Whether to go on.
pub(crate) type Flow = Result<ControlFlow<()>, ObjectsError>;

/// Visits each key that is on one side only, or has another node on the other side. Each side has its loader.
pub(crate) fn compare(
    old: Option<&Part<Link<Node>>>,
    new: Option<&Part<Link<Node>>>,
    loaders: &[Loader<'_>; 2],
    visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow,
) -> Flow {
    let mut parts = Parts { loaders, path: NibblePath::default() };
    parts.compare(old.map(Side::of), new.map(Side::of), visit)
}

/// One side of a comparison: a part, of whose prefix `consumed` nibbles lie behind us.
#[derive(Clone, Copy)]
struct Side<'a> {
    part: &'a Part<Link<Node>>,
    consumed: usize,
}

impl<'a> Side<'a> {
    fn of(part: &'a Part<Link<Node>>) -> Side<'a> {
        Side { part, consumed: 0 }
    }
}

/// Compares two maps along their nibbles, in key order.
struct Parts<'a> {
    loaders: &'a [Loader<'a>; 2],
    path: NibblePath,
}

impl Parts<'_> {
    /// Both sides stand behind the same nibbles.
    fn compare(
        &mut self,
        old: Option<Side<'_>>,
        new: Option<Side<'_>>,
        visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow,
    ) -> Flow {
        let (old, new) = match (old, new) {
            (Some(old), Some(new)) => (old, new),
            (Some(only), None) => return self.all(0, only, visit),
            (None, Some(only)) => return self.all(1, only, visit),
            (None, None) => return Ok(ControlFlow::Continue(())),
        };
        let (Part::Inner(old_inner), Part::Inner(new_inner)) = (old.part, new.part) else {
            // One of them has at most 16 keys; were the other much larger, all of it would differ.
            return self.merge(old, new, visit);
        };
        let (old_rest, new_rest) = (&old_inner.skipped[old.consumed..], &new_inner.skipped[new.consumed..]);
        let shared = old_rest.iter().zip(new_rest).take_while(|(old, new)| old == new).count();
        let depth = self.path.len;
        self.path.extend(&old_rest[..shared]);
        let flow = match (old_rest.get(shared), new_rest.get(shared)) {
            (None, None) => self.inners(old_inner, new_inner, visit),
            // The prefix of one side ends here, the other goes on as if it were the only branch.
            (None, Some(&next)) => {
                let below = Side { part: new.part, consumed: new.consumed + shared + 1 };
                self.inner_and_side(0, old_inner, next, below, visit)
            }
            (Some(&next), None) => {
                let below = Side { part: old.part, consumed: old.consumed + shared + 1 };
                self.inner_and_side(1, new_inner, next, below, visit)
            }
            (Some(old_next), Some(new_next)) => {
                let old = Side { part: old.part, consumed: old.consumed + shared };
                let new = Side { part: new.part, consumed: new.consumed + shared };
                let sides = if old_next < new_next { [(0, old), (1, new)] } else { [(1, new), (0, old)] };
                match self.all(sides[0].0, sides[0].1, visit)? {
                    ControlFlow::Continue(()) => self.all(sides[1].0, sides[1].1, visit),
                    stop => Ok(stop),
                }
            }
        };
        self.path.truncate(depth);
        flow
    }

    /// Two inners that branch at the same place.
    fn inners(
        &mut self,
        old: &Inner<Link<Node>>,
        new: &Inner<Link<Node>>,
        visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow,
    ) -> Flow {
        let own = [old.own.as_deref(), new.own.as_deref()];
        if differ(own) && visit(&self.path.bytes, own)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        for nibble in 0..16 {
            let (old, new) = (old.branch(nibble), new.branch(nibble));
            if let (Some(old), Some(new)) = (old, new)
                && old.link.hash_alone() == new.link.hash_alone()
            {
                continue;
            }
            let old = old.map(|branch| branch.link.load(&self.loaders[0], self.path.place(nibble, branch.count))).transpose()?;
            let new = new.map(|branch| branch.link.load(&self.loaders[1], self.path.place(nibble, branch.count))).transpose()?;
            let (old, new) = (old.map(|part| Side::of(part)), new.map(|part| Side::of(part)));
            if self.below(nibble, old, new, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// An inner of side `which` against the other side, which has only keys that go on with `next`.
    fn inner_and_side(
        &mut self,
        which: usize,
        inner: &Inner<Link<Node>>,
        next: u8,
        other: Side<'_>,
        visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow,
    ) -> Flow {
        if let Some(own) = &inner.own
            && visit(&self.path.bytes, on(which, own))?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        for nibble in 0..16 {
            let other = (nibble == next).then_some(other);
            let mine = match inner.branch(nibble) {
                Some(branch) => {
                    let place = self.path.place(nibble, branch.count);
                    Some(Side::of(branch.link.load(&self.loaders[which], place)?))
                }
                None => None,
            };
            let (old, new) = if which == 0 { (mine, other) } else { (other, mine) };
            if self.below(nibble, old, new, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn below(
        &mut self,
        nibble: u8,
        old: Option<Side<'_>>,
        new: Option<Side<'_>>,
        visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow,
    ) -> Flow {
        self.path.extend(&[nibble]);
        let flow = self.compare(old, new, visit);
        self.path.truncate(self.path.len - 1);
        flow
    }

    /// Everything on one side.
    fn all(&mut self, which: usize, side: Side<'_>, visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow) -> Flow {
        let inner = match side.part {
            Part::Bucket(bucket) => {
                for (index, link) in bucket.values.iter().enumerate() {
                    if visit(bucket.key(index), on(which, link))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                return Ok(ControlFlow::Continue(()));
            }
            Part::Inner(inner) => inner,
        };
        let depth = self.path.len;
        self.path.extend(&inner.skipped[side.consumed..]);
        if let Some(own) = &inner.own
            && visit(&self.path.bytes, on(which, own))?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        for (nibble, branch) in inner.numbered() {
            let part = branch.link.load(&self.loaders[which], self.path.place(nibble, branch.count))?;
            self.path.extend(&[nibble]);
            let flow = self.all(which, Side::of(part), visit)?;
            self.path.truncate(self.path.len - 1);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        self.path.truncate(depth);
        Ok(ControlFlow::Continue(()))
    }

    /// Entry by entry, where at least one side is a bucket.
    fn merge(&mut self, old: Side<'_>, new: Side<'_>, visit: &mut dyn FnMut(&[u8], Both<'_>) -> Flow) -> Flow {
        let (bucket, which, other) = match (old.part, new.part) {
            (Part::Bucket(bucket), _) => (bucket, 0, new),
            (_, Part::Bucket(bucket)) => (bucket, 1, old),
            _ => return Ok(ControlFlow::Continue(())),
        };
        let mut next = 0;
        let flow = self.all(1 - which, other, &mut |key, theirs| {
            while next < bucket.values.len() && bucket.key(next) < key {
                next += 1;
                if visit(bucket.key(next - 1), on(which, &bucket.values[next - 1]))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if next < bucket.values.len() && bucket.key(next) == key {
                next += 1;
                let ours = on(which, &bucket.values[next - 1]);
                let both = [theirs[0].or(ours[0]), theirs[1].or(ours[1])];
                return if differ(both) { visit(key, both) } else { Ok(ControlFlow::Continue(())) };
            }
            visit(key, theirs)
        })?;
        if flow.is_break() {
            return Ok(flow);
        }
        for index in next..bucket.values.len() {
            if visit(bucket.key(index), on(which, &bucket.values[index]))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn on(which: usize, link: &Link<Node>) -> Both<'_> {
    if which == 0 { [Some(link), None] } else { [None, Some(link)] }
}

fn differ(both: Both<'_>) -> bool {
    let [old, new] = both.map(|link| link.map(|link| link.hash_alone()));
    old != new
}
