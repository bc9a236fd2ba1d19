//! Attention of any mix of query rows over lists of KV segments.
//!
//! One call serves the prefill of a mixed stream, single-token decode of N agents and blocks of draft tokens: they
//! differ only in which rows see which segments. For query row `r` at slot `q`, head `h` of KV head `g`:
//!
//! ```text
//! s_k   = softmax_scale * dot(R(-shift) q[r, h], k[k, g])        capped: s_k = cap * tanh(s_k / cap)
//! out   = sum_k exp(s_k) v[k, g] / (sum_k exp(s_k) + exp(sink))  over keys with birth[k] <= q < death[k]
//! lse   = ln(sum_k exp(s_k) + exp(sink))
//! ```
//!
//! `shift` is the position shift of the key's entry in the view: `R(p) R(k + shift)^T = R(p - shift) R(k)^T`, so keys
//! stay as they are (Hogwild!, arXiv 2504.06261). The call is one work-list launch, however deep the views nest: on CUDA
//! the workgroup that writes the last partial state of a row [merges](crate::merge) it, on WebGPU a second launch
//! does, unless the states are the rows already.
//! A row that sees nothing gives `out = 0`, `lse = -inf`.

#[cfg(feature = "cuda")]
mod cuda;
mod merge_lists;
mod params;
mod plan;
pub(crate) mod problem;
mod reference;
#[cfg(feature = "cuda")]
mod sm90;
mod splits;
mod tables;
mod tile;
#[cfg(feature = "webgpu")]
mod webgpu;
mod worklist;

pub use plan::{AttentionPlan, Stats};
pub use problem::{AttentionArgs, AttentionProblem, QueryRows};

use problem::OP;

use crate::calls::{plan_calls, plan_warm_up};
#[cfg(feature = "cuda")]
use crate::{Device, Error, Result, Workspace};

plan_calls! {
    /// Attends.
    AttentionPlan, AttentionArgs
}
plan_warm_up!(AttentionPlan);

#[cfg(feature = "cuda")]
impl AttentionPlan {
    /// Merges the partial states of the last run once more, in a launch of their own, for tests: the same bits.
    #[doc(hidden)]
    pub fn merge_again(&self, args: &AttentionArgs<'_>, workspace: &mut Workspace) -> Result<()> {
        args.validate(self)?;
        match &self.device {
            Device::Cuda(gpu) => cuda::merge_again(self, gpu, args, workspace),
            other => Err(Error::invalid(OP, "plan", "one made for CUDA", other)),
        }
    }
}

/// Every shader variant of the operation as `(name, WGSL)`, for offline validation: a covering set, not the product.
#[doc(hidden)]
#[cfg(feature = "webgpu")]
pub fn shader_variants() -> Vec<(String, String)> {
    webgpu::covering_variants().iter().map(|v| (format!("attention {}", v.options()), v.wgsl())).collect()
}

/// Every kind of variant as `(name, CUDA C++)`, for offline compilation: a covering set, not the product.
#[doc(hidden)]
#[cfg(feature = "cuda")]
pub fn cuda_variants() -> Vec<(String, String)> {
    cuda::covering_variants().iter().map(|v| (format!("attention {}", v.options()), v.cuda())).collect()
}

/// Those that only compile for `sm_90a`.
#[doc(hidden)]
#[cfg(feature = "cuda")]
pub fn cuda_variants_sm90() -> Vec<(String, String)> {
    cuda::covering_variants_sm90().iter().map(|v| (format!("attention_sm90 {}", v.options()), v.cuda())).collect()
}

/// The portable variant of a layer kind as `(name, CUDA C++)`, without gaps, shifts and steps, for offline compilation.
#[doc(hidden)]
#[cfg(feature = "cuda")]
pub fn cuda_variant_of(spec: &crate::layer::LayerSpec) -> (String, String) {
    let variant = cuda::portable_variant(spec);
    (format!("attention {}", variant.options()), variant.cuda())
}
