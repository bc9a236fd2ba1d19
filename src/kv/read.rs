//! What a view's tokens are and where they lie.

use std::collections::HashMap;
use std::ops::Range;

use super::{Appended, Entry, Header, KvCache, Lifetimes, SegmentId, ViewId};
use crate::{Error, Result};

impl KvCache {
    /// Flat places (`page * page_size + slot in page`) of the slots, in order. The view must see every one of them.
    pub fn places(&self, view: ViewId, slots: Range<i32>) -> Result<Vec<u32>> {
        let mut places = Vec::new();
        self.push_places("places", view, slots, &mut places)?;
        Ok(places)
    }

    /// Adds the places of what was appended to `out`, which is all that may allocate; on an error `out` is as it was.
    pub fn write_places(&self, appended: &Appended, out: &mut Vec<u32>) -> Result<()> {
        const OP: &str = "write_places";
        let end = i32::try_from(appended.len).ok().and_then(|len| appended.first_slot.checked_add(len));
        let end = end.ok_or_else(|| {
            Error::invalid(OP, "appended", "what an append returned", format!("{} tokens", appended.len))
        })?;
        self.push_places(OP, appended.view, appended.first_slot..end, out)
    }

    fn push_places(&self, op: &'static str, view: ViewId, slots: Range<i32>, out: &mut Vec<u32>) -> Result<()> {
        let view = self.views.get(op, view)?;
        view.check_seen(op, &slots)?;
        let before = out.len();
        for piece in view.pieces(slots) {
            if let Err(error) = self.push_piece(op, &piece, out) {
                out.truncate(before);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn push_piece(&self, op: &'static str, piece: &Entry, out: &mut Vec<u32>) -> Result<()> {
        let segment = self.segment_of(op, piece.segment)?;
        let (first, last) = (piece.start / self.page_size, piece.end().div_ceil(self.page_size));
        let pages = segment
            .pages
            .get(first as usize..last as usize)
            .ok_or_else(|| Error::invalid(op, "slots", "tokens that have a page", format!("{piece:?}")))?;
        let (mut token, end) = (piece.start, piece.end());
        for &page in pages {
            let inside = token % self.page_size;
            let run = (self.page_size - inside).min(end - token);
            let place = page * self.page_size + inside;
            out.extend(place..place + run);
            token += run;
        }
        Ok(())
    }

    /// Bounds of birth and death, in the view's slots, of those tokens of a page that the entry sees:
    /// [`Header::NONE`] if it sees none of them. The page is counted from the start of the entry's segment.
    ///
    /// A span ends where the entry stops seeing it: how far another view goes on is not this view's business.
    pub fn page_header(
        &self,
        view: ViewId,
        entry: usize,
        page_of_entry_segment: usize,
        lifetimes: &Lifetimes,
    ) -> Result<Header> {
        const OP: &str = "page_header";
        let entries = self.views.get(OP, view)?.entries();
        let entry = entries
            .get(entry)
            .ok_or_else(|| Error::invalid(OP, "entry", format!("less than {}", entries.len()), entry))?;
        let segment = self.segment_of(OP, entry.segment)?;
        if page_of_entry_segment >= segment.pages.len() {
            let what = format!("less than {}", segment.pages.len());
            return Err(Error::invalid(OP, "page_of_entry_segment", what, page_of_entry_segment));
        }
        let page_start = page_of_entry_segment as u32 * self.page_size;
        let (from, to) = (entry.start.max(page_start), entry.end().min(page_start + self.page_size));
        if from >= to {
            return Ok(Header::NONE);
        }
        let first = segment.spans.partition_point(|span| span.start + span.len <= from);
        let spans = segment.spans.iter().skip(first).take_while(|span| span.start < to);
        Ok(spans.fold(Header::NONE, |header, span| {
            let span_end = (span.start + span.len).min(entry.end());
            let (low, high) = (span.start.max(from), span_end.min(to));
            let slot = |token| slot_of(entry, token);
            let lifetime = lifetimes.get(span.modality);
            header.merge(Header::of(&lifetime, slot(low), slot(high - 1), slot(span.start), slot(span_end)))
        }))
    }

    /// Tokens that would be held if every view had its own copy.
    pub fn tokens_unshared(&self, views: &[ViewId]) -> Result<usize> {
        views.iter().map(|&view| Ok(self.views.get("tokens_unshared", view)?.len())).sum()
    }

    /// Distinct tokens that the views see, each counted once however many see it.
    pub fn tokens_shared(&self, views: &[ViewId]) -> Result<usize> {
        let mut seen: HashMap<SegmentId, Vec<(u32, u32)>> = HashMap::new();
        for &view in views {
            for entry in self.views.get("tokens_shared", view)?.entries() {
                seen.entry(entry.segment).or_default().push((entry.start, entry.end()));
            }
        }
        let distinct = |mut ranges: Vec<(u32, u32)>| {
            ranges.sort_unstable();
            let count = |(sum, done): (usize, u32), (start, end): (u32, u32)| {
                (sum + end.saturating_sub(start.max(done)) as usize, done.max(end))
            };
            ranges.into_iter().fold((0, 0), count).0
        };
        Ok(seen.into_values().map(distinct).sum())
    }
}

/// [`Entry::slot_of`] for spans that go on past the entry: what does not fit a slot is later than every slot.
fn slot_of(entry: &Entry, token: u32) -> i32 {
    let slot = i64::from(entry.slot_base) + i64::from(token) - i64::from(entry.start);
    slot.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}
