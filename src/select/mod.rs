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

use crate::{Device, Result, Workspace};

const OP: &str = "select";

impl SelectPlan {
    /// Scores and chooses. Allocates nothing after the first call with the same arguments and never waits.
    ///
    /// # Errors
    /// [`crate::Error`] when an argument does not fit the plan; nothing is written then.
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(unused_variables))]
    pub fn run(&self, args: &SelectArgs<'_>, workspace: &mut Workspace) -> Result<()> {
        args.validate(self)?;
        match &self.device {
            Device::Reference => reference::run(self, args),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => cuda::run(self, gpu, args, workspace),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => gpu.run(|encoder| webgpu::encode(self, gpu, args, workspace, encoder)),
        }
    }

    /// Compiles and uploads what runs on a CUDA device need, so that they can be captured into a graph. Other devices need
    /// nothing.
    ///
    /// # Errors
    /// [`crate::Error::Compile`] with the compiler's log, [`crate::Error::Invalid`] for a workspace of another device.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn warm_up(&self, workspace: &mut Workspace) -> Result<()> {
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => cuda::ready(self, gpu, workspace).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Encodes the launch into the caller's encoder, on a WebGPU device.
    #[cfg(feature = "webgpu")]
    pub fn encode(
        &self,
        args: &SelectArgs<'_>,
        workspace: &mut Workspace,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<()> {
        args.validate(self)?;
        match &self.device {
            Device::WebGpu(gpu) => webgpu::encode(self, gpu, args, workspace, encoder),
            other => Err(crate::Error::invalid(OP, "plan", "one made for a WebGPU device", other)),
        }
    }
}

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
    plan::variants().iter().map(|v| (format!("select {}", v.options()), v.cuda())).collect()
}
