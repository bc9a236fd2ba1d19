//! The WebGPU launch: one invocation per sequence.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::VerifyPlan;
use super::problem::VerifyArgs;
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch};
use crate::{Result, Workspace};

/// Bindings after the params: tables, sampled, drafts, out.
const ACCESS: [Access; 4] = [Access::Read, Access::Read, Access::Read, Access::ReadWrite];

/// Invocations of a workgroup, as in the kernel.
const GROUP: usize = 64;

pub(super) fn variant() -> Variant {
    Variant::new("verify")
}

pub(super) fn encode(
    plan: &VerifyPlan,
    gpu: &Arc<Gpu>,
    args: &VerifyArgs,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let sampled = args.sampled.on(gpu, OP, "sampled")?;
    let drafts = args.drafts.on(gpu, OP, "drafts")?;
    let out = args.out.on(gpu, OP, "out")?;
    if plan.sequences() == 0 {
        return Ok(());
    }
    let kernel = gpu.kernel(&variant(), &ACCESS)?;
    let space = workspace.load(OP, gpu, plan.id, 0, || plan.tables())?;
    let params = Params::new(plan);
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[&space.tables, sampled, drafts, out],
        groups: plan.sequences().div_ceil(GROUP),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut space.bindings, &mut pass, &launch)
}
