//! n-ary merge of attention states, and the epilogue that must come after it.
//!
//! A state is `(out, lse)` over some set of keys, `lse` in natural logarithm; an empty set is `(0, -inf)`, the identity.
//! States of disjoint sets merge exactly (FlashAttention, arXiv 2205.14135; the monoid of cascade inference):
//!
//! ```text
//! m = max_i lse_i      w_i = exp(lse_i - m)      out = sum w_i out_i / sum w_i      lse = m + ln(sum w_i)
//! ```
//!
//! A sink is one more state with `out = 0` and `lse = sink logit`. Epilogue, on each head: the rotation by the row's
//! position undone, where the layer turns its values; norm; gate; the scale of codes.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod params;
mod plan;
pub(crate) mod problem;
pub(crate) mod reference;
#[cfg(feature = "webgpu")]
pub(crate) mod webgpu;

pub use plan::MergePlan;
pub use problem::{MergeArgs, MergeProblem};

#[cfg(feature = "webgpu")]
use problem::OP;

use crate::calls::{plan_calls, plan_warm_up};

plan_calls! {
    /// Merges.
    MergePlan, MergeArgs
}
plan_warm_up!(MergePlan);

/// Every shader variant of the operation as `(name, WGSL)`, for offline validation.
#[doc(hidden)]
#[cfg(feature = "webgpu")]
pub fn shader_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dtype in crate::DType::ALL {
        use crate::layer::Rotation::{Adjacent, Half, None};
        for (dim, rotation, flags) in [
            (8, None, [true, false]),
            (64, None, [false; 2]),
            (64, Half, [true; 2]),
            (256, None, [true, false]),
            (512, Adjacent, [true, false]),
        ] {
            let out = if flags == [true; 2] { crate::DType::E4M3 } else { dtype };
            let v = webgpu::variant(dim, [dtype, out], rotation, flags);
            all.push((format!("merge {}", v.options()), v.wgsl()));
        }
    }
    all
}

/// Every kind of variant as `(name, CUDA C++)`, for offline compilation.
#[doc(hidden)]
#[cfg(feature = "cuda")]
pub fn cuda_variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dtype in crate::DType::ALL {
        use crate::layer::Rotation::{Adjacent, Half, None};
        let kinds = [(8, None), (64, None), (128, Half), (256, None), (512, None), (512, Adjacent), (512, Half)];
        for (dim, rotation) in kinds {
            let v = cuda::variant(dim, rotation, [dtype; 2]);
            all.push((format!("merge {}", v.options()), v.cuda()));
        }
        let v = cuda::variant(512, Half, [dtype, crate::DType::E4M3]);
        all.push((format!("merge {}", v.options()), v.cuda()));
    }
    all
}
