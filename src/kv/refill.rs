//! Places used again: a token written where one was dropped, without moving any other.

use super::{Appended, Entry, KvCache, ViewId};
use crate::{Error, Result};

impl KvCache {
    /// Makes room for one token in a slot that the view dropped, in the place of the token that was there. Nothing else
    /// moves and no page is taken; the token stands at the view's `next_position`, which moves on by one.
    ///
    /// A key carries its position, so a later row does not mind the order of slots (arXiv 2510.01290 reuses slots so). It
    /// asks from the view's last slot, and only where keys never die: a window counts slots.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a slot that is seen, or never was the view's own to write; and where another view reaches
    /// into its segment, which might see the token that was there.
    pub fn refill(&mut self, view: ViewId, slot: i32) -> Result<Appended> {
        const OP: &str = "refill";
        let refuse = |expected: &str, got: String| Err(Error::invalid(OP, "slot", expected, got));
        let target = self.views.get(OP, view)?;
        let after = target.entries.partition_point(|e| e.slot_base <= slot);
        // An owned segment stands at consecutive slots of its owner's view, so a neighbour of the hole says what was there.
        let neighbours = target.entries.get(after.saturating_sub(1)..(after + 1).min(target.entries.len()));
        let found = neighbours.unwrap_or_default().iter().find_map(|e| {
            let segment = self.segments.get(e.segment)?;
            let token = i64::from(e.start) + i64::from(slot) - i64::from(e.slot_base);
            let owned = segment.owner == Some(view) && e.shift == [0; 4];
            (owned && (0..i64::from(segment.len)).contains(&token)).then_some((*e, token as u32, segment))
        });
        let Some((neighbour, token, segment)) = found else {
            return refuse("a dropped slot inside a segment of the view's own", slot.to_string());
        };
        if (neighbour.start..neighbour.end()).contains(&token) {
            return refuse("a dropped slot", format!("{slot}, which the view sees"));
        }
        let own = target.entries.iter().filter(|e| e.segment == neighbour.segment).count();
        if segment.reaches.len() != own {
            return refuse("a slot of a segment that no other view reaches", format!("{slot}"));
        }
        let first_position = target.next_position();
        let Some(next_position) = first_position.checked_add(1) else {
            return Err(Error::invalid(OP, "view", format!("positions up to {}", i32::MAX), first_position));
        };

        // The hole is inside the segment, so no reach past its end is given up: pages stay.
        let hole = Entry { start: token, len: 1, slot_base: slot, ..neighbour };
        let old = self.views.get_mut(OP, view)?;
        let before = std::mem::take(&mut old.entries);
        for entry in before.iter().take(after).chain([&hole]).chain(before.iter().skip(after)) {
            old.push(*entry);
        }
        old.go_on_at(next_position);
        let now: Vec<Entry> = old.entries.iter().filter(|e| e.segment == hole.segment).copied().collect();
        now.iter().for_each(|entry| self.reach(entry, 1));
        before.iter().filter(|e| e.segment == hole.segment).for_each(|entry| self.unreach(entry));
        Ok(Appended { view, first_slot: slot, len: 1, first_position })
    }
}
