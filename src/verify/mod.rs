//! Accepts drafts: how far the tokens that a drafter proposed are the tokens that the model draws, and what comes next.
//!
//! ```text
//! rows of a sequence    row 0 reads the last accepted token; row i > 0 reads draft token i, a child of row parent[i] < i
//! target[i]             the token that `sampling` drew from the logits of row i, at the step of the row's depth
//! current = 0           for every i = 1, 2, ..: if parent[i] = current and draft[i] = target[current], current = i
//! accepted = depth of the last current        token = target[current]: the one more that comes for free
//! ```
//!
//! **Lossless, greedy or sampled.** A draft is accepted iff it is the token that the model drew at its place. Since the
//! noise of a draw is a function of (seed, agent, step, token id), the tokens that come out are, bit for bit, those of
//! decoding without drafts: drafts change how many come out per step and nothing else. Their law is the target's law.
//!
//! **How much is accepted.** For drafts that are fixed before the draw (a greedy drafter, a lookup, a block or tree of
//! likely tokens), a place is accepted with probability sum of p over its distinct children: no lossless rule accepts more
//! of them. A drafter that samples from q of its own shares the noise: drawn with the target's (seed, agent, step), its
//! token is accepted with probability at least `(1 - d) / (1 + d)`, where d is the total variation distance of p and q
//! (Daliri, Musco, Suresh, arXiv 2408.07978); rejection sampling (Leviathan, Kalman, Matias, arXiv 2211.17192) would reach
//! `1 - d`, at the price of tokens that depend on the drafter.
//!
//! ```
//! use colatent::sampling::NO_TOKEN;
//! use colatent::verify::{DraftTree, VerifyArgs, VerifyOutput, VerifyPlan, VerifyProblem};
//! use colatent::{Buffer, Device, Workspace};
//!
//! let device = Device::reference();
//! let tree = DraftTree { first_row: 0, parents: vec![0, 1, 0] }; // a chain of two, and another first token
//! let plan = VerifyPlan::new(&device, &VerifyProblem { trees: &[tree], rows: 4 })?;
//! let (sampled, drafts) = (Buffer::zeros(&device, 64)?, Buffer::zeros(&device, 16)?);
//! let rows = [[7u32, 0, 0, 0], [8, 0, 0, 0], [9, 0, 0, 0], [3, 0, 0, 0]]; // what `sampling` wrote
//! sampled.write(0, rows.as_flattened().iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>().as_slice())?;
//! drafts.write(0, [NO_TOKEN, 7, 8, 5].map(u32::to_le_bytes).as_flattened())?;
//! let out = Buffer::zeros(&device, plan.output_bytes())?;
//! plan.run(&VerifyArgs { sampled: &sampled, drafts: &drafts, out: &out }, &mut Workspace::new(&device)?)?;
//! let verified = &VerifyOutput::read(&plan, &out)?[0];
//! assert_eq!((verified.path.as_slice(), verified.token), ([1, 2].as_slice(), 9)); // 7 and 8 are accepted, 9 follows
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

pub use plan::VerifyPlan;
pub use problem::{DraftTree, VerifyArgs, VerifyProblem};

use crate::calls::{plan_calls, plan_warm_up};
use crate::{Buffer, Result};

/// The operation's name in messages.
const OP: &str = "verify";

plan_calls! {
    /// Accepts what it can.
    VerifyPlan, VerifyArgs
}
plan_warm_up!(VerifyPlan);

/// What a place of the path holds behind its end.
const NO_ROW: u32 = u32::MAX;

/// What came of one sequence's drafts.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The rows of the accepted drafts, in order; their tokens are the drafts of these rows. Empty if none was accepted.
    pub path: Vec<u32>,
    /// The token that follows, drawn by the model: [`NO_TOKEN`](crate::sampling::NO_TOKEN) where its row has no
    /// distribution.
    pub token: u32,
    /// The row that it was drawn from: the last of the path, or the sequence's first row.
    pub row: u32,
    /// Natural logarithm of its probability.
    pub log_prob: f32,
}

/// The layout of the output: per sequence the words accepted, token, row, log_prob, then a place for each row that the
/// largest tree could accept, rounded up to 4 words; places behind the end of the path hold 2^32 - 1.
pub struct VerifyOutput;

impl VerifyOutput {
    /// Reads the output of a plan. Waits for the device.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if the buffer is too small, [`crate::Error::Device`] if the device failed.
    pub fn read(plan: &VerifyPlan, out: &Buffer) -> Result<Vec<Verified>> {
        out.expect_bytes(OP, "out", plan.output_bytes())?;
        let bytes = out.read()?;
        let words: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let records = words.chunks_exact(plan.stride()).take(plan.sequences());
        Ok(records
            .map(|r| Verified {
                path: r[4..].iter().copied().take(r[0] as usize).collect(),
                token: r[1],
                row: r[2],
                log_prob: f32::from_bits(r[3]),
            })
            .collect())
    }
}

/// Name and text of the WGSL kernel, for the checks of the shaders.
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    vec![("verify".into(), webgpu::variant().wgsl())]
}

/// Name and text of the CUDA kernel, for offline compilation.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn cuda_variants() -> Vec<(String, String)> {
    vec![("verify".into(), cuda::variant().cuda())]
}
