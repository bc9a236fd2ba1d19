//! The WebGPU launch: one workgroup per row.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::StopPlan;
use super::problem::StopArgs;
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch};
use crate::{Result, Workspace};

/// Bindings after the params: tables, sampled, state, steps.
const ACCESS: [Access; 4] = [Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite];

pub(super) fn variant(has_steps: bool) -> Variant {
    Variant::new("stop").bool("HAS_STEPS", has_steps)
}

pub(super) fn encode(
    plan: &StopPlan,
    gpu: &Arc<Gpu>,
    args: &StopArgs,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let sampled = args.sampled.on(gpu, OP, "sampled")?;
    let state = args.state.buffer().on(gpu, OP, "state")?;
    if plan.rows.is_empty() {
        return Ok(());
    }
    let kernel = gpu.kernel(&variant(plan.steps.is_some()), &ACCESS)?;
    let space = workspace.load(OP, gpu, plan.id, 0, || plan.tables())?;
    let params = Params::new(plan);
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().on(gpu, OP, "steps")?,
        None => &space.absent[0],
    };
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[&space.tables, sampled, state, steps],
        groups: plan.rows.len(),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut space.bindings, &mut pass, &launch)
}
