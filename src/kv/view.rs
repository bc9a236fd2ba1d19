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
    pub(crate) next_position: i32,
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
        self.next_position
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
