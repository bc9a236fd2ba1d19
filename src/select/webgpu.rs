//! The WebGPU launch: one workgroup per row.

use std::sync::Arc;

use super::params::SelectParams;
use super::plan::{Work, variant};
use super::{OP, SelectArgs, SelectPlan};
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::{Error, Result, Workspace};

pub(super) fn encode(
    plan: &SelectPlan,
    gpu: &Arc<Gpu>,
    args: &SelectArgs<'_>,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let Work::Tables(tables) = &plan.work else {
        return Err(Error::invalid(OP, "plan", "one made for WebGPU", "one made for the reference"));
    };
    let q: [u32; 3] = chunks(OP, "q", args.q)?;
    let k: [u32; 3] = chunks(OP, "k", args.k)?;
    let weights = [args.weights.offset() as u32, args.weights.strides()[0] as u32];
    let params = SelectParams::new(plan, q, k, weights);
    if plan.num_rows == 0 {
        return Ok(());
    }
    use Access::{Read, ReadWrite};
    let kernel = gpu.kernel(
        &variant(plan.spec.dim, plan.spec.dtype, plan.spec.k_dtype),
        &[Read, Read, Read, Read, ReadWrite, ReadWrite],
    )?;
    let w = workspace.load(OP, gpu, plan.id, plan.num_rows * plan.words * 32 * 4, || tables.clone())?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[
            args.q.buffer().on(gpu, OP, "q")?,
            args.k.buffer().on(gpu, OP, "k")?,
            args.weights.buffer().on(gpu, OP, "weights")?,
            &w.tables,
            &w.scratch,
            args.selection.on(gpu, OP, "selection")?,
        ],
        groups: plan.num_rows,
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut w.bindings, &mut pass, &launch)
}
