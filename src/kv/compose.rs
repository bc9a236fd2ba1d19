//! Composing views: one that sees chosen slots of several views, in an order of its own.

use std::ops::Range;

use super::edit::shifted;
use super::join::{Taken, behind, place, within};
use super::view::Jump;
use super::{Entry, Join, KvCache, View, ViewId};
use crate::{Error, Result};

/// Slots of a view, as an ingredient of [`KvCache::compose`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose tokens.
    pub view: ViewId,
    /// Which of its slots; those that it does not see are passed over.
    pub slots: Range<i32>,
}

impl KvCache {
    /// A new view of these pieces, one behind the other in slots. A token that an earlier piece shows is not shown again.
    ///
    /// Positions are those of [`KvCache::join`]: kept with [`Join::Parallel`], and with [`Join::Sequential`] shifted, from
    /// the second piece on, to where the piece before ends. A piece begins where its first token stands, and ends where
    /// text goes on behind it ([`View::position_at`]).
    pub fn compose(&mut self, pieces: &[Piece], how: Join) -> Result<ViewId> {
        const OP: &str = "compose";
        let mut composed = View::default();
        let mut taken = Taken::default();
        let mut fresh: Vec<Entry> = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let view = self.views.get(OP, piece.view)?;
            if piece.slots.start < 0 || piece.slots.start > piece.slots.end || piece.slots.end > view.next_slot {
                let what = format!("a range within 0..{}", view.next_slot);
                return Err(Error::invalid(OP, "slots", what, format!("{:?}", piece.slots)));
            }
            fresh.clear();
            for entry in view.pieces(piece.slots.clone()) {
                // The same token is the same whatever shift it is seen under.
                taken.take(&Entry { shift: [0; 4], ..entry }, |run| fresh.push(Entry { shift: entry.shift, ..run }));
            }
            let Some(first) = fresh.first() else { continue };
            let offset = match how {
                Join::Sequential if i > 0 => behind(OP, &composed, view, first)?,
                _ => 0,
            };
            place(OP, &mut composed, view, &fresh, piece.slots.end, offset)?;
        }
        self.adopt(OP, composed)
    }

    /// Moves everything the view sees, and where it goes on, by as many positions on every axis. The cache is not touched.
    ///
    /// The view cannot write on in its last segment afterwards, whose keys are rotated at their old positions; its next
    /// token opens one.
    pub fn shift(&mut self, view: ViewId, by: i32) -> Result<()> {
        const OP: &str = "shift";
        let moved = self.views.get(OP, view)?;
        within(OP, i64::from(moved.next_position()) + i64::from(by))?;
        let shifts: Result<Vec<_>> = moved.entries.iter().map(|e| shifted(OP, e.shift, [by; 4])).collect();
        let shifts = shifts?;
        let moved = self.views.get_mut(OP, view)?;
        for (entry, shift) in moved.entries.iter_mut().zip(shifts) {
            entry.shift = shift;
        }
        if moved.jumps.first().is_none_or(|first| first.slot > 0) {
            moved.jumps.insert(0, Jump { slot: 0, position: 0 });
        }
        for jump in &mut moved.jumps {
            jump.position = jump.position.saturating_add(by);
        }
        Ok(())
    }
}
