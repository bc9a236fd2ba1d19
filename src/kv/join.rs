//! Joining views: one that sees everything its branches see.

use std::collections::HashMap;
use std::ops::Range;

use super::edit::shifted;
use super::{Entry, KvCache, SegmentId, View, ViewId};
use crate::{Error, Result};

/// How [`KvCache::join`] places the branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// Branches keep their positions: all start where they forked.
    Parallel,
    /// Each branch is shifted behind the one before it. The cache is not touched; the shift is applied to queries.
    Sequential,
}

/// Token ranges taken so far, disjoint and ascending, by segment and by the shift under which the branch sees them.
#[derive(Default)]
pub(super) struct Taken(HashMap<(SegmentId, [i32; 4]), Vec<Range<u32>>>);

impl Taken {
    /// Takes the entry's tokens; `fresh` is called with each run that was not taken before.
    pub(super) fn take(&mut self, entry: &Entry, mut fresh: impl FnMut(Entry)) {
        let ranges = self.0.entry((entry.segment, entry.shift)).or_default();
        let mut all = entry.start..entry.end();
        let first = ranges.partition_point(|r| r.end < all.start);
        let last = ranges.partition_point(|r| r.start <= all.end);
        let mut at = entry.start;
        let mut gap = |from: u32, to: u32| {
            if from < to {
                fresh(Entry { start: from, len: to - from, slot_base: entry.slot_of(from), ..*entry });
            }
        };
        for r in ranges.iter().take(last).skip(first) {
            gap(at, r.start.min(entry.end()));
            at = at.max(r.end);
            all = all.start.min(r.start)..all.end.max(r.end);
        }
        gap(at, entry.end());
        ranges.splice(first..last, [all]);
    }
}

impl KvCache {
    /// A new view of everything the branches see; what they share is taken once.
    ///
    /// The first branch is taken as it is. Of each further one, the tokens that are not there yet follow at the next
    /// slots; a token is there if some branch before sees it with the same shift.
    ///
    /// With [`Join::Sequential`] those tokens are shifted, on every axis, from where the first of them stands to the joined
    /// view's `next_position`, which moves on to where the branch then ends. With [`Join::Parallel`] the joined view's
    /// `next_position` is the greatest of the branches'.
    pub fn join(&mut self, branches: &[ViewId], how: Join) -> Result<ViewId> {
        const OP: &str = "join";
        let Some((&first, others)) = branches.split_first() else {
            return Err(Error::invalid(OP, "branches", "1 view or more", "none"));
        };
        let first = self.views.get(OP, first)?;
        let mut joined = first.clone();
        let mut taken = Taken::default();
        if !others.is_empty() {
            first.entries.iter().for_each(|entry| taken.take(entry, |_| ()));
        }

        let mut fresh = Vec::new();
        for &branch in others {
            let branch = self.views.get(OP, branch)?;
            fresh.clear();
            branch.entries.iter().for_each(|entry| taken.take(entry, |run| fresh.push(run)));
            let offset = match (how, fresh.first()) {
                (Join::Parallel, _) => 0,
                (Join::Sequential, Some(first)) => behind(OP, &joined, branch, first)?,
                (Join::Sequential, None) => continue,
            };
            place(OP, &mut joined, branch, &fresh, branch.next_slot, offset)?;
        }
        self.adopt(OP, joined)
    }
}

/// How many positions further on a run of `view` begins where text goes on in `joined`.
pub(super) fn behind(op: &'static str, joined: &View, view: &View, first: &Entry) -> Result<i32> {
    within(op, i64::from(joined.next_position()) - i64::from(view.position_at(first.slot_base)))
}

/// Puts runs of `view` in front of its slot `end` at the next slots, `offset` positions further on. Text goes on where it
/// would in `view` at `end`, or where it did before if that is behind.
pub(super) fn place(
    op: &'static str,
    joined: &mut View,
    view: &View,
    runs: &[Entry],
    end: i32,
    offset: i32,
) -> Result<()> {
    let stands = |slot: i32| within(op, i64::from(view.position_at(slot)) + i64::from(offset));
    let before = joined.next_position();
    for run in runs {
        let slot_base = joined.next_slot;
        joined.go_on_at(stands(run.slot_base)?);
        joined.jumps.extend(view.jumps_within(run.slot_base..run.slot_end(), slot_base, offset));
        joined.next_slot = within(op, i64::from(slot_base) + i64::from(run.len))?;
        joined.push(Entry { slot_base, shift: shifted(op, run.shift, [offset; 4])?, ..*run });
    }
    joined.go_on_at(before.max(stands(end)?));
    Ok(())
}

pub(super) fn within(op: &'static str, n: i64) -> Result<i32> {
    i32::try_from(n)
        .map_err(|_| Error::invalid(op, "branches", "slots and positions within 32 bits in the new view", n))
}
