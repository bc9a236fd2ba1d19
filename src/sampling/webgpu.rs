//! The WebGPU launch: one workgroup per row.

use std::sync::Arc;

use super::{OP, SamplingArgs, SamplingPlan};
use crate::backend::webgpu::{Access, Gpu, Launch};
use crate::{Result, Workspace};

pub(super) fn encode(
    plan: &SamplingPlan,
    gpu: &Arc<Gpu>,
    args: &SamplingArgs<'_>,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let logits = args.logits.buffer().on(gpu, OP, "logits")?;
    let out = args.out.on(gpu, OP, "out")?;
    let params = plan.params(args.logits)?;
    if plan.table.is_empty() {
        return Ok(());
    }
    let kernel = gpu.kernel(&plan.variant, &[Access::Read, Access::Read, Access::ReadWrite])?;
    let held = workspace.load(OP, gpu, plan.id, 0, || bytemuck::cast_slice(&plan.table).to_vec())?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[&held.tables, logits, out],
        groups: plan.table.len(),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut held.bindings, &mut pass, &launch)
}
