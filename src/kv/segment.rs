//! A segment: a run of tokens in pages of its own, appended to and never rewritten.

use super::Modality;

/// A run of tokens of one modality inside a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What the tokens are.
    pub modality: Modality,
    /// First token, counted from the start of the segment.
    pub start: u32,
    /// Number of tokens.
    pub len: u32,
    /// Whether the span grew by more than one append: such a span must not look ahead.
    pub split: bool,
}

/// Tokens in pages. Views share segments; a segment grows only at its end.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    pub(crate) pages: Vec<u32>,
    pub(crate) len: u32,
    pub(crate) spans: Vec<Span>,
    /// How far the views that hold this segment reach into it: one number per view entry, ascending. A page is
    /// referenced once for each that passes its first token, and goes back to the pool when none does.
    pub(crate) reaches: Vec<u32>,
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
}
