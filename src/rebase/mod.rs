//! Turns stored keys by a position shift, in place and once, for engines that want contiguous positions.
//!
//! ```text
//! k[page, h, slot] = rotate(k[page, h, slot], shift[run]) + delta[run, h]    page * page_size + slot = a place of the run
//! rotate: lanes (a, b) of pair j -> (a cos - b sin, b cos + a sin), angle = shift[axis[j]] * inv_freq[j]
//! ```
//! The attention factor (`mscale`) is in the keys already and is not applied again. `delta` is optional: a correction per
//! run and head, as reuse of caches across contexts computes it (arXiv 2510.12872).
//!
//! **Never in a loop.** Every rebase rounds the keys once more; 64 of them cost a bf16 cache some percent of its output
//! (`docs/rebase.md` has the measurements). A view's shift costs nothing and never drifts: it turns the query. Rebase
//! what is to stay where it is, after the last move.
//!
//! [`KvCache::rebase`](crate::kv::KvCache::rebase) keeps the book: it refuses tokens that somebody else sees, forgets the
//! view's shifts and says which places move by how much. The plan made of it runs on every layer that rotates.

#[cfg(feature = "cuda")]
mod cuda;
mod params;
mod plan;
mod problem;
mod reference;
#[cfg(feature = "webgpu")]
mod webgpu;

pub use plan::RebasePlan;
pub use problem::{RebaseArgs, RebaseProblem};

use crate::calls::{plan_calls, plan_warm_up};

/// The operation's name in messages.
const OP: &str = "rebase";

plan_calls! {
    /// Turns the keys of one layer. Twice is twice the shift.
    RebasePlan, RebaseArgs
}
plan_warm_up!(RebasePlan);

/// Name and WGSL text of every kind of variant, for tests that compile them offline.
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    webgpu::variants()
}

/// Name and CUDA C++ text of every kind of variant, for tests that compile them offline.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn cuda_variants() -> Vec<(String, String)> {
    cuda::variants()
}
