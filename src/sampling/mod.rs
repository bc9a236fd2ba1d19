//! Draws one token per row of logits: temperature, top-k, top-p, min-p, then the Gumbel-max trick; with the token comes
//! its log-probability and the entropy of its row.
//!
//! For a row of logits `l`:
//!
//! ```text
//! x        = l * output_multiplier
//! x        = soft_cap * tanh(x / soft_cap)                        if a soft cap is set
//! x        = x / temperature                                      if temperature > 0
//! p        = softmax(x)
//! log_prob = ln p[token]          entropy = -sum p ln p           (nats; before truncation)
//! confidence = -(1/k) sum ln p over the k most probable tokens     (nats; before truncation; if k > 0)
//! kept     = top-k and top-p and min-p, below
//! token    = argmax over kept of x[i] + g[i],  g[i] = -ln(-ln u[i])
//! ```
//!
//! - **Soft cap**: Gemma 2 (arXiv:2408.00118), section 2. **Output multiplier**: maximal update parametrisation
//!   (arXiv:2203.03466).
//! - **Top-k** (Fan, Lewis, Dauphin, arXiv:1805.04833) keeps every token whose logit is at least the k-th largest.
//! - **Top-p** (Holtzman et al., arXiv:1904.09751) renormalises over what top-k kept and keeps token `i` iff the mass
//!   of the strictly larger logits is below `p`.
//! - **Min-p** (Nguyen et al., arXiv:2407.01082) keeps `p[i] >= min_p * max p`.
//! - Truncation is by value: of equal logits all are kept or none. "Equal" and "larger" are about the stored logits,
//!   so the rounding of the transform above neither makes nor breaks a tie.
//! - **Gumbel-max** (Maddison, Tarlow, Minka, arXiv:1411.0030): that argmax is distributed as the softmax over `kept`.
//!   `u` comes from Philox4x32-10 (Salmon et al., SC 2011) with key = seed (low word, high word) and counter =
//!   (token id / 4, agent, step, 0), word token id % 4: `u = ((word >> 8) + 1/2) / 2^24`. The noise of a token depends on
//!   (seed, agent, step, token id) and on nothing else: not on the row, its neighbours, the launch or the device.
//! - **Temperature 0** is greedy: the largest logit, the lowest id among equals; truncation does not matter and the
//!   reported numbers use temperature 1.
//! - **Confidence** (DeepConf, arXiv:2508.15260): over the tokens of positive probability where those are fewer than k. Of
//!   equal logits at the k-th place as many count as there are places.
//! - A logit of `-inf` has probability 0 and is never drawn. A row without a finite logit, or with NaN or `+inf`, has
//!   no distribution: its token is [`NO_TOKEN`], its numbers NaN.
//!
//! ```
//! use colatent::sampling::{SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
//! use colatent::{Buffer, DType, Device, Tensor, Workspace};
//!
//! let device = Device::reference();
//! let row = SamplingRow { temperature: 0.7, top_p: 0.9, ..SamplingRow::default() };
//! let problem = SamplingProblem {
//!     logits_dtype: DType::F32,
//!     rows: vec![row, SamplingRow { temperature: 0.0, ..row }],
//!     vocab: 3,
//!     output_multiplier: 1.0,
//!     soft_cap: None,
//!     seed: 7,
//! };
//! let plan = SamplingPlan::new(&device, &problem)?;
//! let logits = Tensor::from_f32(&device, DType::F32, &[2, 3], &[0.0, 9.0, f32::NEG_INFINITY, 1.0, 2.0, 3.0])?;
//! let out = Buffer::zeros(&device, SamplingOutput::bytes(2))?;
//! plan.run(&SamplingArgs { logits: &logits, out: &out }, &mut Workspace::new(&device)?)?;
//! let drawn = SamplingOutput::read(&out, 2)?;
//! assert_eq!((drawn[0].token, drawn[1].token), (1, 2));
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

pub(crate) use params::RowParams;
pub use plan::{SamplingArgs, SamplingPlan};
pub(crate) use plan::{row_params, to_normal};
pub use problem::{SamplingProblem, SamplingRow};
pub(crate) use reference::{nothing, sample};

use crate::calls::{plan_calls, plan_warm_up};
use crate::{Buffer, Error, Result};

const OP: &str = "sampling";

plan_calls! {
    /// Draws every row's token.
    SamplingPlan, SamplingArgs
}
plan_warm_up!(SamplingPlan);

/// The token of a row that has no distribution.
pub const NO_TOKEN: u32 = u32::MAX;

/// What was drawn for one row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sampled {
    /// The token's id, or [`NO_TOKEN`].
    pub token: u32,
    /// Natural logarithm of the token's probability, before truncation.
    pub log_prob: f32,
    /// Entropy of the row's distribution in nats, before truncation.
    pub entropy: f32,
    /// Mean negative log-probability of the row's most probable tokens in nats, before truncation: high where the mass is
    /// on few. 0 where the row asks for none.
    pub confidence: f32,
}

/// The layout of the output: 16 bytes per row, which are the words token, log_prob, entropy and confidence.
pub struct SamplingOutput;

impl SamplingOutput {
    /// Bytes of the output of `rows` rows.
    pub const fn bytes(rows: usize) -> usize {
        rows * 16
    }

    /// Reads the first `rows` rows of an output buffer. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the buffer is too small, [`Error::Device`] if the device failed.
    pub fn read(out: &Buffer, rows: usize) -> Result<Vec<Sampled>> {
        if rows > out.bytes() / 16 {
            return Err(Error::invalid(
                OP,
                "out",
                format!("{rows} rows of 16 bytes"),
                format!("{} bytes", out.bytes()),
            ));
        }
        let word = |r: &[u8], i: usize| [r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]];
        let read_row = |r: &[u8]| Sampled {
            token: u32::from_le_bytes(word(r, 0)),
            log_prob: f32::from_le_bytes(word(r, 1)),
            entropy: f32::from_le_bytes(word(r, 2)),
            confidence: f32::from_le_bytes(word(r, 3)),
        };
        Ok(out.read()?.chunks_exact(16).take(rows).map(read_row).collect())
    }
}

/// Name and text of every WGSL variant, for the checks of the shaders.
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    let all = crate::DType::ALL
        .into_iter()
        .flat_map(|d| [false, true].map(|cap| plan::variant(d, cap, cap != (d == crate::DType::F16))));
    all.map(|v| (format!("{} {}", v.kernel, v.options()), v.wgsl())).collect()
}

/// Name and text of every CUDA variant, for offline compilation.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn cuda_variants() -> Vec<(String, String)> {
    cuda::variants()
}
