//! [`RebasePlan`]: the validated problem, ready for every layer of its kind. Host arithmetic only.

use super::OP;
use super::problem::RebaseProblem;
use crate::layer::LayerSpec;
use crate::{Device, Result};

/// One key that moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Move {
    pub place: u32,
    pub shift: [i32; 4],
    /// The run that the token belongs to.
    pub run: u32,
}

/// A validated [`RebaseProblem`] on a device: made once, run once per layer of the kind.
#[derive(Clone)]
pub struct RebasePlan {
    pub(super) device: Device,
    /// Names the plan's tables in a workspace.
    pub(super) id: u64,
    pub(super) spec: LayerSpec,
    /// Its keys as they are turned: of codes with a tail, the tail alone.
    pub(super) keys: LayerSpec,
    pub(super) page_size: usize,
    pub(super) num_pages: usize,
    pub(super) runs: usize,
    pub(super) has_delta: bool,
    /// The tokens whose keys change: those of runs that turn no lane of this layer and get no delta are left out.
    pub(super) moves: Vec<Move>,
}

impl RebasePlan {
    /// Validates the problem for `device`. Touches no device memory.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a layer, pool or place that makes no sense, [`crate::Error::Unsupported`] for more
    /// than the device's launch can hold.
    pub fn new(device: &Device, problem: &RebaseProblem) -> Result<Self> {
        problem.validate()?;
        let spec = problem.spec;
        let turns = |shift: &[i32; 4]| {
            spec.rope.as_ref().is_some_and(|rope| {
                rope.axis.iter().zip(&rope.inv_freq).any(|(&axis, &f)| f != 0.0 && shift[axis as usize] != 0)
            })
        };
        let mut moves = Vec::new();
        for (run, index) in problem.runs.iter().zip(0u32..) {
            if problem.has_delta || turns(&run.shift) {
                moves.extend(run.places.iter().map(|&place| Move { place, shift: run.shift, run: index }));
            }
        }
        let most = 1 << 31;
        if moves.len().saturating_mul(spec.num_kv_heads) > most {
            let what = format!("{} tokens of {} heads", moves.len(), spec.num_kv_heads);
            return Err(crate::Error::unsupported(OP, what, format!("{most} heads in one launch")));
        }
        Ok(RebasePlan {
            device: device.clone(),
            id: crate::backend::next_plan_id(),
            spec: spec.clone(),
            keys: spec.turning_keys(),
            page_size: problem.page_size,
            num_pages: problem.num_pages,
            runs: problem.runs.len(),
            has_delta: problem.has_delta,
            moves,
        })
    }

    /// Tokens whose keys change.
    pub fn tokens(&self) -> usize {
        self.moves.len()
    }

    /// The tables of a launch: places, shifts, runs.
    pub(super) fn tables(&self) -> Vec<u32> {
        let places = self.moves.iter().map(|m| m.place);
        let shifts = self.moves.iter().flat_map(|m| m.shift).map(|s| s as u32);
        places.chain(shifts).chain(self.moves.iter().map(|m| m.run)).collect()
    }
}

impl std::fmt::Display for RebasePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = &self.keys;
        let bytes = 2 * self.tokens() * s.num_kv_heads * s.head_dim * s.kv_dtype.size();
        write!(f, "{OP} {} on {}: {} tokens of {} runs", s.name, self.device, self.tokens(), self.runs)?;
        write!(f, ", {} heads of {} in {}", s.num_kv_heads, s.head_dim, s.kv_dtype)?;
        write!(f, "{}, {bytes} bytes at least", if self.has_delta { ", with a delta" } else { "" })?;
        match &self.device {
            Device::Reference => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => write!(f, "; 1 launch, {}", super::cuda::describe(self)),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(_) => write!(f, "; 1 launch, {}", super::webgpu::describe(self)),
        }
    }
}
