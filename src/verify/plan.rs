//! [`VerifyPlan`]: the trees as tables. Host arithmetic only.

use super::problem::{VerifyArgs, VerifyProblem};
use super::{DraftTree, OP, reference};
use crate::{Device, Result, Workspace};

/// A validated [`VerifyProblem`] on a device.
#[derive(Clone)]
pub struct VerifyPlan {
    pub(super) device: Device,
    /// Names the plan's tables in a workspace.
    pub(super) id: u64,
    pub(super) trees: Vec<DraftTree>,
    pub(super) rows: usize,
}

impl VerifyPlan {
    /// Validates the problem for `device`. Touches no device memory.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for trees that overlap, leave the launch, or name a parent that comes later.
    pub fn new(device: &Device, problem: &VerifyProblem) -> Result<Self> {
        problem.validate()?;
        let id = crate::backend::next_plan_id();
        Ok(VerifyPlan { device: device.clone(), id, trees: problem.trees.to_vec(), rows: problem.rows })
    }

    /// Sequences of the batch.
    pub fn sequences(&self) -> usize {
        self.trees.len()
    }

    /// Words of a sequence's record in the output.
    pub(super) fn stride(&self) -> usize {
        4 + self.trees.iter().map(|t| t.parents.len()).max().unwrap_or(0).next_multiple_of(4)
    }

    /// Bytes of the output.
    pub fn output_bytes(&self) -> usize {
        self.sequences() * self.stride() * 4
    }

    /// The tables of a launch: per sequence its first row, its number of drafts and the word where its parents begin; then
    /// the parents.
    pub(super) fn tables(&self) -> Vec<u32> {
        let mut at = 3 * self.trees.len() as u32;
        let mut tables = Vec::new();
        for tree in &self.trees {
            let drafts = tree.parents.len() as u32;
            tables.extend([tree.first_row, drafts, at]);
            at += drafts;
        }
        tables.extend(self.trees.iter().flat_map(|tree| &tree.parents));
        tables
    }

    /// Accepts what it can. Does not wait; allocates nothing after the first run.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if a buffer does not fit the plan.
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(unused_variables))]
    pub fn run(&self, args: &VerifyArgs, workspace: &mut Workspace) -> Result<()> {
        args.validate(self.rows, self.output_bytes())?;
        match &self.device {
            Device::Reference => reference::run(self, args),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => super::cuda::run(self, gpu, args, workspace),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => gpu.run(|encoder| super::webgpu::encode(self, gpu, args, workspace, encoder)),
        }
    }

    /// Compiles and uploads what runs on a CUDA device need, so that they can be captured into a graph. Other devices
    /// need nothing.
    ///
    /// # Errors
    /// [`crate::Error::Compile`] with the compiler's log, [`crate::Error::Invalid`] for a workspace of another device.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn warm_up(&self, workspace: &mut Workspace) -> Result<()> {
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => super::cuda::ready(self, gpu, workspace).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// As [`VerifyPlan::run`], into the caller's encoder. Submit it before the workspace serves another plan.
    #[cfg(feature = "webgpu")]
    pub fn encode(
        &self,
        args: &VerifyArgs,
        workspace: &mut Workspace,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<()> {
        args.validate(self.rows, self.output_bytes())?;
        match &self.device {
            Device::WebGpu(gpu) => super::webgpu::encode(self, gpu, args, workspace, encoder),
            other => Err(crate::Error::invalid(OP, "device", "a plan for a WebGPU device", other)),
        }
    }
}

impl std::fmt::Display for VerifyPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let drafts: usize = self.trees.iter().map(|t| t.parents.len()).sum();
        write!(f, "{OP} on {}: {drafts} drafts of {} sequences", self.device, self.sequences())
    }
}

impl std::fmt::Debug for VerifyPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
