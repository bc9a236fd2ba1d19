//! Rebase: a view's shifts become part of its keys. The book-keeping; the keys are turned by [`crate::rebase`].

use super::{Entry, KvCache, ViewId};
use crate::{Error, Result};

/// Tokens whose keys are to be turned by one shift.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebased {
    /// Per token `page * page_size + slot in page`.
    pub places: Vec<u32>,
    /// Positions that the keys move by, per axis.
    pub shift: [i32; 4],
}

impl KvCache {
    /// Gives up the view's shifts: every entry that is seen under a shift becomes one without, and what is returned says
    /// which keys have to be turned by how much. Until a [`RebasePlan`](crate::rebase::RebasePlan) has done that to the
    /// keys of every layer that rotates, once each, the cache and the keys disagree.
    ///
    /// Attention plans made before still turn queries by the old shifts.
    ///
    /// # Errors
    /// [`Error::Invalid`] if another entry, of this view or of another, sees one of the tokens: it would see them moved.
    /// Release or truncate it first. The cache is as it was then.
    pub fn rebase(&mut self, view: ViewId) -> Result<Vec<Rebased>> {
        const OP: &str = "rebase";
        let is_shifted = |entry: &&Entry| entry.shift != [0; 4];
        let shifted: Vec<Entry> = self.views.get(OP, view)?.entries.iter().filter(is_shifted).copied().collect();
        let mut runs = Vec::with_capacity(shifted.len());
        for entry in &shifted {
            let sees = |e: &&Entry| e.segment == entry.segment && e.start < entry.end() && entry.start < e.end();
            let seen = self.views.iter().flat_map(|view| &view.entries).filter(sees).count();
            if seen > 1 {
                let got = format!("slots {}..{} are seen by {seen} entries", entry.slot_base, entry.slot_end());
                return Err(Error::invalid(OP, "view", "shifted tokens that no other entry sees", got));
            }
            let mut places = Vec::with_capacity(entry.len as usize);
            self.push_piece(OP, entry, &mut places)?;
            runs.push(Rebased { places, shift: entry.shift });
        }
        let target = self.views.get_mut(OP, view)?;
        target.entries.iter_mut().for_each(|entry| entry.shift = [0; 4]);
        Ok(runs)
    }
}
