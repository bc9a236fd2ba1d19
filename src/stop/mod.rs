//! Knows on the device which agents have stopped: end token, budget, or a confidence that fell.
//!
//! Per row of what `sampling` (or `lm_head`) drew, if the row's slot is alive:
//!
//! ```text
//! ring[draws % window] = confidence of the row        draws = draws + 1
//! group = mean of the ring, once it is full
//! stopped: no distribution  if the token is NO_TOKEN
//!          end token        if the token is one of them
//!          budget           if draws = the row's budget
//!          confidence       if group < threshold          the first of these that holds; alive = 0 then, for ever
//! ```
//!
//! A row whose slot is not alive is silenced: its token becomes [`NO_TOKEN`](crate::sampling::NO_TOKEN), its numbers NaN, so
//! that nothing behind it takes the draw for one that counts. The state stays on the device. A step of many agents, some of
//! them finished, is the same launches as before: nobody waits. Over a counter of steps ([`StopPlan::over`]) the launches of
//! later steps pass finished rows over; the host reads the flags whenever it likes and then leaves finished agents out of its
//! next plans.
//!
//! Group confidence is DeepConf's (arXiv 2508.15260): confidence is `-(1/k) sum ln p` over the k most probable tokens, high
//! where the mass is on few; a group is the last `window` draws. A group never counts before the window is full.
//!
//! ```
//! use colatent::stop::{StopArgs, StopPlan, StopProblem, StopRow, StopState, Stopped};
//! use colatent::{Buffer, Device, Workspace};
//!
//! let device = Device::reference();
//! let state = StopState::new(&device, 2, 1)?; // two slots, groups of one draw
//! let rows = [StopRow { slot: 0, budget: 9 }, StopRow { slot: 1, budget: 9 }];
//! let problem = StopProblem { rows: &rows, slots: 2, window: 1, threshold: 0.5, end_tokens: &[7] };
//! let plan = StopPlan::new(&device, &problem)?;
//! let sampled = Buffer::zeros(&device, 32)?;
//! let drawn = [[7, 0, 0, 2f32.to_bits()], [3, 0, 0, 0.25f32.to_bits()]]; // an end token; a draw of low confidence
//! sampled.write(0, drawn.as_flattened().iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>().as_slice())?;
//! plan.run(&StopArgs { sampled: &sampled, state: &state }, &mut Workspace::new(&device)?)?;
//! let slots = state.read()?;
//! assert_eq!(slots[0].stopped, Some(Stopped::EndToken));
//! assert_eq!(slots[1].stopped, Some(Stopped::Confidence));
//! # Ok::<(), colatent::Error>(())
//! ```

#[cfg(feature = "cuda")]
mod cuda;
mod params;
mod plan;
mod problem;
mod reference;
mod state;
#[cfg(feature = "webgpu")]
mod webgpu;

pub use plan::StopPlan;
pub use problem::{StopArgs, StopProblem, StopRow};
pub use state::{Slot, StopState, Stopped};

use crate::calls::{plan_calls, plan_warm_up};

/// The operation's name in messages.
const OP: &str = "stop";

plan_calls! {
    /// Takes a draw of every row into the state.
    StopPlan, StopArgs
}
plan_warm_up!(StopPlan);

/// Name and text of the WGSL variants, for the checks of the shaders.
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub fn shader_variants() -> Vec<(String, String)> {
    [false, true].map(|has_steps| (format!("stop HAS_STEPS={has_steps}"), webgpu::variant(has_steps).wgsl())).into()
}

/// Name and text of the CUDA variants, for offline compilation.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn cuda_variants() -> Vec<(String, String)> {
    [false, true].map(|has_steps| (format!("stop HAS_STEPS={has_steps}"), cuda::variant(has_steps).cuda())).into()
}
