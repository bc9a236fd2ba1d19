//! A segment: a run of tokens in pages of its own, appended to and never rewritten.

use super::{Modality, ViewId};

/// A run of tokens of one modality inside a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What the tokens are.
    pub modality: Modality,
    /// First token, counted from the start of the segment.
    pub start: u32,
    /// Number of tokens.
    pub len: u32,
    /// Tokens that were appended at once when the span began; 0 if it is the rest of another segment's span.
    pub whole: u32,
}

impl Span {
    /// One past the last token.
    pub fn end(&self) -> u32 {
        self.start + self.len
    }
    /// Whether a view that sees the segment up to token `reach` sees a span that grew by more than one append. Its
    /// first tokens did not see its last ones, so such a span must not look ahead.
    pub fn is_split(&self, reach: u32) -> bool {
        self.end().min(reach) > self.start + self.whole
    }
}

/// Tokens in pages. Views share segments; a segment grows only at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    pub(crate) pages: Vec<u32>,
    pub(crate) len: u32,
    pub(crate) spans: Vec<Span>,
    /// How far the views that hold this segment reach into it: one number per view entry, ascending. A page is
    /// referenced once for each that passes its first token, and goes back to the pool when none does.
    pub(crate) reaches: Vec<u32>,
    /// The view that opened the segment: the only one that appends to it.
    pub(crate) owner: Option<ViewId>,
}

impl Segment {
    /// Page numbers in token order. The last page may be partly filled.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }
    /// Tokens written.
    pub fn len(&self) -> u32 {
        self.len
    }
    /// Whether no token is written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Spans in token order; together they cover `0..len`.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The span that holds a token, by its place in the list.
    pub(crate) fn span_at(&self, token: u32) -> Option<usize> {
        let after = self.spans.partition_point(|span| span.start <= token);
        (token < self.len).then_some(after.checked_sub(1)?)
    }

    /// Counts `n` entries more that reach to `reach`.
    pub(crate) fn add_reaches(&mut self, reach: u32, n: usize) {
        let at = self.reaches.partition_point(|&r| r <= reach);
        self.reaches.resize(self.reaches.len() + n, reach);
        if let Some(tail) = self.reaches.get_mut(at..) {
            tail.rotate_right(n);
        }
    }

    /// Counts one entry less that reaches to `reach`.
    pub(crate) fn remove_reach(&mut self, reach: u32) {
        if let Ok(at) = self.reaches.binary_search(&reach) {
            self.reaches.remove(at);
        }
    }

    /// Forgets the tokens that no entry reaches; whether any is left.
    pub(crate) fn shrink(&mut self) -> bool {
        let most = self.reaches.last().copied().unwrap_or(0);
        if most < self.len {
            self.len = most;
            let keep = self.spans.partition_point(|span| span.start < most);
            self.spans.truncate(keep);
            if let Some(last) = self.spans.last_mut() {
                last.len = last.len.min(most - last.start);
            }
        }
        most > 0
    }
}
