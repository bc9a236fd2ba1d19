//! Edits of a view's list: fork, truncate, drop, share, release. None of them touches a byte of KV.

use std::ops::Range;

use super::view::Jump;
use super::{Appended, Entry, KvCache, View, ViewId};
use crate::{Error, Result};

impl KvCache {
    /// A child that sees everything the view sees. Its own tokens go to segments of its own.
    pub fn fork(&mut self, view: ViewId) -> Result<ViewId> {
        let child = self.views.get("fork", view)?.clone();
        self.adopt("fork", child)
    }

    /// A child that sees the slots before `slot`, which becomes its next slot.
    ///
    /// It goes on where the token at `slot` stands ([`View::position_at`]): inside of a span with positions of its own that
    /// is to be set with [`KvCache::set_next_position`].
    pub fn fork_at(&mut self, view: ViewId, slot: i32) -> Result<ViewId> {
        let parent = self.views.get("fork_at", view)?;
        check_slot("fork_at", parent, slot)?;
        let mut child =
            View { entries: parent.pieces(0..slot).collect(), next_slot: slot, jumps: parent.jumps.clone() };
        child.end_at(slot);
        self.adopt("fork_at", child)
    }

    /// `n` children.
    pub fn fork_many(&mut self, view: ViewId, n: usize) -> Result<Vec<ViewId>> {
        const OP: &str = "fork_many";
        let parent = self.views.get(OP, view)?.clone();
        if n > self.views.room() {
            return Err(Error::invalid(OP, "n", format!("at most {}", self.views.room()), n));
        }
        for entry in &parent.entries {
            self.reach(entry, n);
        }
        self.views.reserve(n);
        Ok((0..n).map(|_| self.views.insert(parent.clone())).collect())
    }

    /// Forgets the slots from `slot` on, which becomes the next slot. It goes on as a child of [`KvCache::fork_at`] does.
    ///
    /// Truncating to where an append began undoes it, save for the mark of a span that grew.
    pub fn truncate(&mut self, view: ViewId, slot: i32) -> Result<()> {
        const OP: &str = "truncate";
        let target = self.views.get_mut(OP, view)?;
        check_slot(OP, target, slot)?;
        let keep = target.entries.partition_point(|e| e.slot_end() <= slot);
        let gone = target.entries.split_off(keep);
        let cut = gone.first().and_then(|e| e.cut(&(0..slot)));
        target.entries.extend(cut);
        target.end_at(slot);
        if let Some(entry) = &cut {
            self.reach(entry, 1);
        }
        gone.iter().for_each(|entry| self.unreach(entry));
        Ok(())
    }

    /// Forgets a range of slots in the middle; the others keep their slots and positions, and the next slot stays.
    ///
    /// Pages go back to the pool only from the end of a segment: those in the middle wait for what follows them.
    pub fn drop_range(&mut self, view: ViewId, slots: Range<i32>) -> Result<()> {
        const OP: &str = "drop_range";
        let target = self.views.get_mut(OP, view)?;
        if slots.start < 0 || slots.start > slots.end || slots.end > target.next_slot {
            let what = format!("a range within 0..{}", target.next_slot);
            return Err(Error::invalid(OP, "slots", what, format!("{slots:?}")));
        }
        if slots.is_empty() {
            return Ok(());
        }
        let first = target.entries.partition_point(|e| e.slot_end() <= slots.start);
        let last = target.entries.partition_point(|e| e.slot_base < slots.end);
        let hit: Vec<Entry> = target.pieces(slots.clone()).collect();
        if hit.is_empty() {
            return Ok(());
        }
        let touched = target.entries.get(first..last).unwrap_or_default();
        let before = touched.first().and_then(|e| e.cut(&(0..slots.start)));
        let after = touched.last().and_then(|e| e.cut(&(slots.end..i32::MAX)));
        let kept: Vec<Entry> = before.into_iter().chain(after).collect();
        let gone: Vec<Entry> = target.entries.splice(first..last, kept.iter().copied()).collect();
        kept.iter().for_each(|entry| self.reach(entry, 1));
        gone.iter().for_each(|entry| self.unreach(entry));
        Ok(())
    }

    /// Publishes slots of `from` to `to`, at `to`'s next slots, with `shift` added to the positions per axis.
    ///
    /// `to`'s `next_position` stays: what the published tokens mean to it is the caller's to say, with
    /// [`KvCache::set_next_position`].
    pub fn share(&mut self, from: ViewId, slots: Range<i32>, to: ViewId, shift: [i32; 4]) -> Result<Appended> {
        const OP: &str = "share";
        let source = self.views.get(OP, from)?;
        let target = self.views.get(OP, to)?;
        if from == to {
            return Err(Error::invalid(OP, "to", "another view than `from`", format!("{to:?}")));
        }
        if slots.is_empty() {
            return Err(Error::invalid(OP, "slots", "1 slot or more", format!("{slots:?}")));
        }
        source.check_seen(OP, &slots)?;
        // Seen slots are at least 0, so the length of the range is within i32.
        let (first_slot, len) = (target.next_slot, slots.end - slots.start);
        let next_slot = first_slot
            .checked_add(len)
            .ok_or_else(|| Error::invalid(OP, "slots", format!("slots up to {}", i32::MAX), format!("{len} more")))?;
        let mut pieces: Vec<Entry> = source.pieces(slots.clone()).collect();
        let stands = source.position_at(slots.start);
        let jumps: Vec<Jump> = source.jumps_within(slots.clone(), first_slot, shift[0]).collect();
        for piece in &mut pieces {
            piece.slot_base = first_slot + (piece.slot_base - slots.start);
            piece.shift = shifted(OP, piece.shift, shift)?;
        }
        for piece in pieces {
            let target = self.views.get_mut(OP, to)?;
            let (before, count) = (target.entries.last().copied(), target.entries.len());
            target.push(piece);
            let grew = target.entries.len() == count;
            self.reach(&piece, 1);
            if let (Some(before), true) = (before, grew) {
                self.unreach(&before);
            }
        }
        let target = self.views.get_mut(OP, to)?;
        let first_position = target.next_position();
        target.go_on_at(stands.saturating_add(shift[0]));
        target.jumps.extend(jumps);
        target.next_slot = next_slot;
        target.go_on_at(first_position);
        Ok(Appended { view: to, first_slot, len: len as u32, first_position })
    }

    /// Gives the view up. Pages that nobody else reaches go back to the pool.
    pub fn release(&mut self, view: ViewId) -> Result<()> {
        let gone = self.views.remove("release", view)?;
        gone.entries.iter().for_each(|entry| self.unreach(entry));
        Ok(())
    }

    /// Names a new view and counts its entries.
    pub(super) fn adopt(&mut self, op: &'static str, view: View) -> Result<ViewId> {
        if self.views.room() == 0 {
            return Err(Error::invalid(op, "view", "a name left for another view", "none"));
        }
        view.entries.iter().for_each(|entry| self.reach(entry, 1));
        Ok(self.views.insert(view))
    }

    /// Counts `n` entries like this one.
    pub(super) fn reach(&mut self, entry: &Entry, n: usize) {
        if let Some(segment) = self.segments.get_mut(entry.segment) {
            segment.add_reaches(entry.end(), n);
        }
    }

    /// Counts an entry out and gives back what nobody reaches any more. Where an entry is replaced, the new one is counted
    /// first: what both reach must not be given back in between.
    pub(super) fn unreach(&mut self, entry: &Entry) {
        let Some(segment) = self.segments.get_mut(entry.segment) else { return };
        segment.remove_reach(entry.end());
        let alive = segment.shrink();
        let keep = segment.len.div_ceil(self.page_size) as usize;
        self.pool.give_back(&mut segment.pages, keep);
        if !alive {
            self.segments.remove(entry.segment);
        }
    }
}

/// Refuses slots at which a view cannot be cut.
fn check_slot(op: &'static str, view: &View, slot: i32) -> Result<()> {
    if !(0..=view.next_slot).contains(&slot) {
        return Err(Error::invalid(op, "slot", format!("0 to {}", view.next_slot), slot));
    }
    Ok(())
}

/// The sum of two shifts.
pub(super) fn shifted(op: &'static str, shift: [i32; 4], by: [i32; 4]) -> Result<[i32; 4]> {
    let mut sum = shift;
    for (axis, by) in sum.iter_mut().zip(by) {
        *axis = axis.checked_add(by).ok_or_else(|| {
            Error::invalid(op, "shift", "shifts whose sum is within 32 bits", format!("{shift:?} and {by}"))
        })?;
    }
    Ok(sum)
}
