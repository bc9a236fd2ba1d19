//! Chooses, per query row, the keys that sparse attention sees: an indexer's scores, then the greatest of them.
//!
//! For query row `r`, index heads `j` and every key `s` that the row sees by its lifetimes:
//!
//! ```text
//! score[r, s] = sum_j weight[r, j] * max(0, dot(q[r, j], k[s]))
//! unit u      = slots u * block .. (u + 1) * block of the view; its score is the mean over its keys that are seen
//! chosen      = the `count` units of the greatest scores; of equal ones those of the lowest slots; all, if there are fewer
//! bit s % 32 of word s / 32 of row r = s is seen and its unit is chosen
//! ```
//!
//! The scores are those of DeepSeek V3.2's lightning indexer, with one key for all index heads; `block = 1` chooses tokens.
//! One selection serves every layer that shares the indexer.

#[cfg(feature = "cuda")]
mod cuda;
mod params;
mod plan;
mod problem;
mod reference;
#[cfg(feature = "webgpu")]
mod webgpu;

pub use plan::SelectPlan;
pub use problem::{SelectArgs, SelectProblem, SelectSpec};

use crate::calls::{plan_calls, plan_warm_up};

const OP: &str = "select";

plan_calls! {
    /// Scores and chooses.
    SelectPlan, SelectArgs
}
plan_warm_up!(SelectPlan);

/// Every shader variant of the operation as `(name, WGSL)`, for offline validation.
#[doc(hidden)]
#[cfg(feature = "webgpu")]
pub fn shader_variants() -> Vec<(String, String)> {
    plan::variants().iter().map(|v| (format!("select {}", v.options()), v.wgsl())).collect()
}

/// Every kind of variant as `(name, CUDA C++)`, for offline compilation.
#[doc(hidden)]
#[cfg(feature = "cuda")]
pub fn cuda_variants() -> Vec<(String, String)> {
    plan::variants().into_iter().map(cuda::of_blocks).map(|v| (format!("select {}", v.options()), v.cuda())).collect()
}
