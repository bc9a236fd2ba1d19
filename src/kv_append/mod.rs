//! From the packed projection to q and to pages of K and V, in one launch: split, norm, rotate, scale, store.
//!
//! ```text
//! q[row, h]        = q_scale * temperature(position[0]) * rotate(q_norm(packed.q[row, h]))
//! k[page, h, slot] =                                      rotate(k_norm(packed.k[row, h]))     page * page_size + slot = places[row]
//! v[page, h, slot] = v_scale * v_norm(packed.v[row, h])        rotated too where the layer says so (`v_rope`)
//! ```
//! A [`KvAppendPlan`] is made once per step and layer kind and run once per layer of that kind. Arithmetic is f32 on a
//! device and f64 in the reference, with one rounding at each store. The gate stays in the packed tensor: the epilogue
//! of the attention reads it there.

#[cfg(feature = "cuda")]
mod cuda;
mod params;
mod plan;
mod problem;
mod reference;
#[cfg(feature = "webgpu")]
mod webgpu;

pub use plan::KvAppendPlan;
pub use problem::{KvAppendArgs, KvAppendProblem, PADDING};

use crate::calls::{plan_calls, plan_warm_up};

/// The operation's name in messages.
const OP: &str = "kv_append";

plan_calls! {
    /// Writes q, and k and v at the plan's places.
    KvAppendPlan, KvAppendArgs
}
plan_warm_up!(KvAppendPlan);

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

/// Name and CUDA C++ text of a layer kind's variant, for tests that compile them offline.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn cuda_variant_of(spec: &crate::layer::LayerSpec) -> (String, String) {
    let variant = cuda::variant_of(spec, false);
    (format!("kv_append {}", variant.options()), variant.cuda())
}
