//! The WebGPU launch: one workgroup per row.

use std::sync::Arc;

use super::params::SamplingParams;
use super::{OP, SamplingArgs, SamplingPlan};
use crate::backend::webgpu::{Access, Gpu, Launch};
use crate::{Error, Result, Tensor, Workspace};

pub(super) fn encode(
    plan: &SamplingPlan,
    gpu: &Arc<Gpu>,
    args: &SamplingArgs<'_>,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let logits = args.logits.buffer().on(gpu, OP, "logits")?;
    let out = args.out.on(gpu, OP, "out")?;
    let params = params(plan, args.logits)?;
    if plan.table.is_empty() {
        return Ok(());
    }
    let kernel = gpu.kernel(&plan.variant, &[Access::Read, Access::Read, Access::ReadWrite, Access::Read])?;
    let held = workspace.load(OP, gpu, plan.id, 0, || bytemuck::cast_slice(&plan.table).to_vec())?;
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().on(gpu, OP, "steps")?,
        None => &held.absent[0],
    };
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[&held.tables, logits, out, steps],
        groups: plan.table.len(),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut held.bindings, &mut pass, &launch)
}

/// The uniform for a view of the logits.
fn params(plan: &SamplingPlan, logits: &Tensor) -> Result<SamplingParams> {
    let problem = &plan.problem;
    let end = logits.offset() + problem.rows.len().saturating_sub(1) * logits.strides()[0] + problem.vocab;
    if end >= 1 << 31 {
        return Err(Error::unsupported(OP, format!("logits that end at element {end}"), "less than 2^31"));
    }
    // The kernel loads whole chunks; only a buffer that the caller made can end inside one.
    let bytes = end.next_multiple_of(4) * problem.logits_dtype.size();
    if logits.buffer().bytes() < bytes {
        let got = format!("{} bytes", logits.buffer().bytes());
        return Err(Error::invalid(OP, "logits buffer", format!("{bytes} bytes: whole groups of 4 elements"), got));
    }
    Ok(SamplingParams::new(problem, logits.offset() as u32, logits.strides()[0] as u32))
}
