//! The paged KV cache's book-keeping: pages, segments, views. Host side only; it moves no byte of KV.
//!
//! A [`KvCache`] serves all layers of a model whose pages are allocated alike: page `p` of the book-keeping is page
//! `p` in every layer's K and V tensors, `[page, kv head, slot, dim]`.

mod cache;
mod compose;
mod edit;
mod join;
mod lifetime;
mod modality;
mod pool;
mod read;
mod rebase;
mod refill;
mod segment;
mod slab;
mod view;

pub use cache::{Appended, KvCache};
pub use compose::Piece;
pub use join::Join;
pub use lifetime::{Birth, Death, Header, Lifetime, Lifetimes, TileClass};
pub use modality::Modality;
pub use rebase::Rebased;
pub use segment::{Segment, Span};
pub use view::{Entry, SegmentId, View, ViewId};
