//! The WebGPU launch: one workgroup per row.

use std::sync::Arc;

use super::{OP, SamplingArgs, SamplingPlan};
use crate::backend::webgpu::{Access, Gpu, Launch};
use crate::tensor::Memory;
use crate::{Buffer, Error, Result, Workspace};

pub(super) fn run(
    plan: &SamplingPlan,
    gpu: &Arc<Gpu>,
    args: &SamplingArgs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let mut encoder = gpu.encoder();
    encode(plan, gpu, args, workspace, &mut encoder)?;
    gpu.submit(encoder);
    Ok(())
}

pub(super) fn encode(
    plan: &SamplingPlan,
    gpu: &Arc<Gpu>,
    args: &SamplingArgs<'_>,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let logits = memory(gpu, args.logits.buffer(), "logits")?;
    let out = memory(gpu, args.out, "out")?;
    let params = plan.params(args.logits)?;
    if plan.table.is_empty() {
        return Ok(());
    }
    let kernel = gpu.kernel(&plan.variant, &[Access::Read, Access::Read, Access::ReadWrite])?;
    if workspace.webgpu.as_ref().is_some_and(|w| !Arc::ptr_eq(&w.gpu, gpu)) {
        return Err(Error::invalid(OP, "workspace", "one made for the plan's device", "one for another"));
    }
    let held = workspace.load(OP, plan.id, 0, || bytemuck::cast_slice(&plan.table).to_vec())?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[&held.tables, logits, out],
        groups: plan.table.len(),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut held.bindings, &mut pass, &launch)
}

fn memory<'a>(gpu: &Arc<Gpu>, buffer: &'a Buffer, argument: &'static str) -> Result<&'a wgpu::Buffer> {
    match &buffer.memory {
        Memory::WebGpu(owner, b) if Arc::ptr_eq(owner, gpu) => Ok(b),
        _ => Err(Error::invalid(OP, argument, "memory of the plan's device", "memory of another")),
    }
}
