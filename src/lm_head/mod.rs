//! The last projection and the draw in one: tokens from hidden states, without a tensor of logits.
//!
//! ```text
//! l[row, t] = sum over d of hidden[row, d] * weight[t, d]          products and sums in f32 on a device
//! token, log_prob, entropy, confidence = sampling(l[row])          see the operation `sampling`
//! ```
//!
//! The vocabulary is cut into slices of 256 tokens. A slice's logits live in registers and workgroup memory until the slice
//! has left what a draw needs of them: its largest logit, two sums, the kept token of the greatest noisy score, and, where
//! a row asks for them, its largest logits in order. A second, small launch merges the slices of a row. The noise of a
//! token is that of `sampling`: a function of (seed, agent, step, token id).
//!
//! - **Top-k and min-p** need to know the row before they know a token, so rows with them take both launches twice: the
//!   second time with the row's threshold. It costs a second read of the weight, and is exact, ties included.
//! - **Top-p** needs the mass of everything above a token and is refused: write the logits and use `sampling`. A greedy row
//!   does not mind truncation and is never refused.
//! - **Confidence** and top-k are served up to 256.
//!
//! Sources: fused projection and Gumbel argmax, FlashSampling (arXiv:2603.15854); the rest as in `sampling`.
//!
//! ```
//! use colatent::lm_head::{LmHeadArgs, LmHeadPlan, LmHeadProblem};
//! use colatent::sampling::{SamplingOutput, SamplingRow};
//! use colatent::{Buffer, DType, Device, Tensor, Workspace};
//!
//! let device = Device::reference();
//! let problem = LmHeadProblem {
//!     hidden_dtype: DType::F32,
//!     weight_dtype: DType::F32,
//!     rows: vec![SamplingRow { temperature: 0.0, ..SamplingRow::default() }],
//!     width: 4,
//!     vocab: 3,
//!     output_multiplier: 1.0,
//!     soft_cap: None,
//!     seed: 7,
//! };
//! let plan = LmHeadPlan::new(&device, &problem)?;
//! let hidden = Tensor::from_f32(&device, DType::F32, &[1, 4], &[1.0, 0.0, 2.0, 0.0])?;
//! let weight = [0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0];
//! let weight = Tensor::from_f32(&device, DType::F32, &[3, 4], &weight)?;
//! let out = Buffer::zeros(&device, SamplingOutput::bytes(1))?;
//! plan.run(&LmHeadArgs { hidden: &hidden, weight: &weight, out: &out }, &mut Workspace::new(&device)?)?;
//! assert_eq!(SamplingOutput::read(&out, 1)?[0].token, 1);
//! # Ok::<(), colatent::Error>(())
//! ```

#[cfg(feature = "cuda")]
mod cuda;
mod params;
mod plan;
mod problem;
mod reference;
#[cfg(feature = "webgpu")]
mod webgpu;

pub use plan::LmHeadPlan;
pub use problem::{LmHeadArgs, LmHeadProblem};

use crate::calls::plan_calls;

/// The operation's name in messages.
const OP: &str = "lm_head";

plan_calls! {
    /// Draws every row's token.
    LmHeadPlan, LmHeadArgs
}

/// Tokens of a slice, and so the most that a top-k or a confidence may ask for.
const SLICE: usize = 256;

/// Name and WGSL text of every kind of variant, for tests that compile them offline.
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    webgpu::variants()
}

/// Name and CUDA C++ text of a covering set of variants, for tests that compile them offline.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn cuda_variants() -> Vec<(String, String)> {
    cuda::variants()
}
