//! A view: what one agent sees.

use std::ops::Range;

use crate::{Error, Result};

/// Names a segment of a [`KvCache`](super::KvCache).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub(crate) u32);

/// Names a view of a [`KvCache`](super::KvCache). A name is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Tokens `start .. start + len` of a segment, at slots `slot_base ..` of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The segment.
    pub segment: SegmentId,
    /// First token seen, counted from the start of the segment.
    pub start: u32,
    /// Number of tokens seen.
    pub len: u32,
    /// Slot of the first token seen.
    pub slot_base: i32,
    /// Added to the positions of these tokens, per axis: the cache keeps them rotated at their old positions.
    pub shift: [i32; 4],
}

impl Entry {
    /// The slot of token `t` of the segment (`t` may lie outside the entry).
    pub fn slot_of(&self, t: u32) -> i32 {
        self.slot_base + (t as i32 - self.start as i32)
    }
    /// One past the last slot.
    pub fn slot_end(&self) -> i32 {
        self.slot_base + self.len as i32
    }
    /// One past the last token seen, counted from the start of the segment.
    pub(crate) fn end(&self) -> u32 {
        self.start + self.len
    }
    /// The part of the entry at these slots.
    pub(crate) fn cut(&self, slots: &Range<i32>) -> Option<Entry> {
        let (from, to) = (self.slot_base.max(slots.start), self.slot_end().min(slots.end));
        (from < to).then(|| Entry {
            start: self.start + (from - self.slot_base) as u32,
            len: (to - from) as u32,
            slot_base: from,
            ..*self
        })
    }
}

/// An ordered list of entries. Slots ascend along it; there are gaps where something was dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub(crate) entries: Vec<Entry>,
    pub(crate) next_slot: i32,
    /// In slot order; none where all positions are slots.
    pub(crate) jumps: Vec<Jump>,
}

/// A slot whose position is not one past that of the slot before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jump {
    pub slot: i32,
    pub position: i32,
}

impl View {
    /// Entries in slot order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
    /// The slot that the next appended token gets.
    pub fn next_slot(&self) -> i32 {
        self.next_slot
    }
    /// The position at which text goes on: one past the greatest position used so far.
    pub fn next_position(&self) -> i32 {
        self.position_at(self.next_slot)
    }
    /// The position at which a text token was written at `slot`, or text goes on there: of spans with positions of their
    /// own (`append_at`) where they begin, and a position per slot from there; of a place that was written again
    /// (`refill`) where its first token stood.
    pub fn position_at(&self, slot: i32) -> i32 {
        let before = self.jumps.partition_point(|j| j.slot <= slot);
        let from = before.checked_sub(1).map_or(Jump { slot: 0, position: 0 }, |last| self.jumps[last]);
        from.position.saturating_add(slot.saturating_sub(from.slot))
    }
    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.entries.iter().map(|e| e.len as usize).sum()
    }
    /// Whether no token is seen.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The parts of entries at these slots, in order.
    pub(crate) fn pieces(&self, slots: Range<i32>) -> impl Iterator<Item = Entry> + '_ {
        let first = self.entries.partition_point(|e| e.slot_end() <= slots.start);
        self.entries.iter().skip(first).map_while(move |e| e.cut(&slots))
    }

    /// Refuses slots that the view does not see without a gap.
    pub(crate) fn check_seen(&self, op: &'static str, slots: &Range<i32>) -> Result<()> {
        let seen: i64 = self.pieces(slots.clone()).map(|e| i64::from(e.len)).sum();
        if seen != i64::from(slots.end) - i64::from(slots.start) {
            let what = format!("slots that the view sees, of 0..{}", self.next_slot);
            return Err(Error::invalid(op, "slots", what, format!("{slots:?}")));
        }
        Ok(())
    }

    /// What is written next stands at `position`; jumps from there on are forgotten.
    pub(crate) fn go_on_at(&mut self, position: i32) {
        let kept = self.jumps.partition_point(|j| j.slot < self.next_slot);
        self.jumps.truncate(kept);
        if self.next_position() != position {
            self.jumps.push(Jump { slot: self.next_slot, position });
        }
    }

    /// The view ends at `slot`, which is its own or its next: what stands there goes on there. Entries are the caller's.
    pub(crate) fn end_at(&mut self, slot: i32) {
        self.next_slot = slot;
        self.go_on_at(self.next_position().max(0));
    }

    /// The jumps inside of slots of the view, none at the first, as they are at slots from `slot` on under a shift.
    pub(crate) fn jumps_within(&self, slots: Range<i32>, slot: i32, shift: i32) -> impl Iterator<Item = Jump> + '_ {
        let first = self.jumps.partition_point(|j| j.slot <= slots.start);
        let inside = self.jumps.iter().skip(first).take_while(move |j| j.slot < slots.end);
        inside.map(move |j| Jump { slot: slot + (j.slot - slots.start), position: j.position.saturating_add(shift) })
    }

    /// Adds an entry after the last one. A run that goes on where the last entry ends is the same run: views that read
    /// a growing segment bit by bit stay short.
    pub(crate) fn push(&mut self, entry: Entry) {
        match self.entries.last_mut() {
            Some(last)
                if last.segment == entry.segment
                    && last.end() == entry.start
                    && last.slot_end() == entry.slot_base
                    && last.shift == entry.shift =>
            {
                last.len += entry.len;
            }
            _ => self.entries.push(entry),
        }
    }
}
