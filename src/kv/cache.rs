//! The cache: a pool of pages and the operations on views.

use super::{Modality, Segment, SegmentId, Span, View, ViewId};
use crate::{Error, Result};

/// How [`KvCache::join`] places the branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// Branches keep their positions: all start where they forked.
    Parallel,
    /// Each branch is shifted behind the one before it. The cache is not touched; the shift is applied to queries.
    Sequential,
}

/// What an append made room for: `len` tokens at slots `first_slot ..` of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The view that grew.
    pub view: ViewId,
    /// Slot of the first new token.
    pub first_slot: i32,
    /// Number of new tokens.
    pub len: u32,
    /// Position of the first new token if positions just count on.
    pub first_position: i32,
}

/// Pages, segments and views.
#[derive(Debug, Clone)]
pub struct KvCache {
    page_size: usize,
}

impl KvCache {
    /// A cache of `num_pages` pages of `page_size` tokens.
    pub fn new(page_size: usize, num_pages: usize) -> Result<Self> { todo!() }
    /// Refuses to split spans of these modalities across appends, whatever the layers: see [`super::Lifetime::looks_ahead`].
    pub fn with_atomic(self, modalities: &[Modality]) -> Self { todo!() }
    /// Tokens per page.
    pub fn page_size(&self) -> usize { self.page_size }
    /// Pages in all.
    pub fn num_pages(&self) -> usize { todo!() }
    /// Pages free.
    pub fn free_pages(&self) -> usize { todo!() }
    /// How many view entries reach into the page.
    pub fn page_refs(&self, page: u32) -> usize { todo!() }
    /// A view by name.
    pub fn view(&self, id: ViewId) -> Result<&View> { todo!() }
    /// A segment by name. Names come from entries of live views.
    pub fn segment(&self, id: SegmentId) -> Result<&Segment> { todo!() }
    /// A new empty view.
    pub fn create(&mut self) -> ViewId { todo!() }
    /// Makes room for a new span of `len` tokens whose positions count on from `next_position`.
    pub fn append(&mut self, view: ViewId, modality: Modality, len: usize) -> Result<Appended> { todo!() }
    /// Like [`KvCache::append`] for tokens with positions of their own; `next_position` is where text goes on afterwards
    /// (`max(t, h, w) + 1` for an image).
    pub fn append_at(&mut self, view: ViewId, modality: Modality, len: usize, next_position: i32) -> Result<Appended> { todo!() }
    /// Continues the last span of the view with `len` tokens more: a chunk of a prefill.
    pub fn extend(&mut self, view: ViewId, len: usize) -> Result<Appended> { todo!() }
    /// Flat places (`page * page_size + slot in page`) of the slots, in order.
    pub fn places(&self, view: ViewId, slots: std::ops::Range<i32>) -> Result<Vec<u32>> { todo!() }
    /// A child that sees everything the view sees.
    pub fn fork(&mut self, view: ViewId) -> Result<ViewId> { todo!() }
    /// A child that sees the slots before `slot`.
    pub fn fork_at(&mut self, view: ViewId, slot: i32) -> Result<ViewId> { todo!() }
    /// `n` children.
    pub fn fork_many(&mut self, view: ViewId, n: usize) -> Result<Vec<ViewId>> { todo!() }
    /// A new view of everything the branches see; what they share is taken once.
    pub fn join(&mut self, branches: &[ViewId], how: Join) -> Result<ViewId> { todo!() }
    /// Forgets the slots from `slot` on.
    pub fn truncate(&mut self, view: ViewId, slot: i32) -> Result<()> { todo!() }
    /// Forgets a range of slots in the middle; the others keep their slots and positions.
    pub fn drop_range(&mut self, view: ViewId, slots: std::ops::Range<i32>) -> Result<()> { todo!() }
    /// Publishes slots of `from` to `to`, at `to`'s next slots.
    pub fn share(&mut self, from: ViewId, slots: std::ops::Range<i32>, to: ViewId, shift: [i32; 4]) -> Result<Appended> { todo!() }
    /// Gives the view up. Pages that nobody else reaches go back to the pool.
    pub fn release(&mut self, view: ViewId) -> Result<()> { todo!() }
}
