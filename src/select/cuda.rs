//! The CUDA launch: one block per row.

use std::sync::Arc;

use super::params::SelectParams;
use super::plan::{LANES, Work, variant};
use super::{OP, SelectArgs, SelectPlan};
use crate::backend::cuda::{CHUNK, Gpu, Kernel, Launch, place};
use crate::backend::workspace::CudaSpace;
use crate::{Error, Result, Workspace};

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    params: SelectParams,
    q: u64,
    k: u64,
    weights: u64,
    tables: u64,
    scores: u64,
    selection: u64,
}

const _: () = assert!(size_of::<Args>() == 112);

/// Bytes of the kernel's `Shared`: 256 bins, a count per thread, four words.
const SHARED: usize = (256 + LANES + 4) * 4;

/// The compiled kernel, the uploaded tables and the scratch memory.
pub(super) fn ready(plan: &SelectPlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<(Arc<Kernel>, CudaSpace)> {
    let Work::Tables(tables) = &plan.work else {
        return Err(Error::invalid(OP, "plan", "one made for CUDA", "one made for the reference"));
    };
    let kernel = gpu.kernel(&variant(plan.spec.dim, plan.spec.dtype, plan.spec.k_dtype))?;
    let scratch = plan.num_rows * plan.words * 32 * 4;
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, scratch, || tables.clone())?))
}

pub(super) fn run(plan: &SelectPlan, gpu: &Arc<Gpu>, args: &SelectArgs<'_>, workspace: &mut Workspace) -> Result<()> {
    let (q, [q_row, q_head]) = place(gpu, OP, "q", args.q, CHUNK)?;
    let (k, [k_page, k_token]) = place(gpu, OP, "k", args.k, CHUNK)?;
    let (weights, []) = place(gpu, OP, "weights", args.weights, 1)?;
    let selection = args.selection.block(gpu, OP, "selection")?.address();
    if plan.num_rows == 0 {
        return Ok(());
    }
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let strides = [0, args.weights.strides()[0] as u32];
    let params = SelectParams::new(plan, [0, q_row, q_head], [0, k_page, k_token], strides);
    let args = Args { params, q, k, weights, tables: space.tables, scores: space.scratch, selection };
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.num_rows,
        threads: LANES,
        shared_bytes: SHARED,
        args: bytemuck::bytes_of(&args),
    })
}
