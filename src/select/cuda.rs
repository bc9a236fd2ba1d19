//! The CUDA launch: blocks that score, of which the last of a row chooses.

use std::sync::Arc;

use super::params::SelectParams;
use super::plan::{LANES, Work, variant};
use super::{OP, SelectArgs, SelectPlan};
use crate::backend::cuda::{CHUNK, Gpu, Kernel, Launch, place};
use crate::backend::source::Variant;
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
    arrivals: u64,
}

const _: () = assert!(size_of::<Args>() == 120);

/// Slots that a block scores: the keys of one row are many blocks' work.
const SLOTS_OF_BLOCK: usize = LANES;

/// Bytes of the kernel's `Shared`: 256 bins, a count per thread, four words.
const SHARED: usize = (256 + LANES + 4) * 4;

/// A variant with what only this kernel has.
pub(super) fn of_blocks(variant: Variant) -> Variant {
    variant.u32("SLOTS_OF_BLOCK", SLOTS_OF_BLOCK)
}

/// The compiled kernel, the uploaded tables with a zero per row behind them, and the scratch memory.
pub(super) fn ready(plan: &SelectPlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<(Arc<Kernel>, CudaSpace)> {
    let tables = tables(plan)?;
    let kernel = gpu.kernel(&of_blocks(variant(plan.spec.dim, plan.spec.dtype, plan.spec.k_dtype)))?;
    let scratch = plan.num_rows * plan.words * 32 * 4;
    let words = || [tables, &vec![0; plan.num_rows]].concat();
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, scratch, words)?))
}

fn tables(plan: &SelectPlan) -> Result<&[u32]> {
    match &plan.work {
        Work::Tables(tables) => Ok(tables),
        _ => Err(Error::invalid(OP, "plan", "one made for CUDA", "one made for the reference")),
    }
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
    let arrivals = space.tables + tables(plan)?.len() as u64 * 4;
    let args = Args { params, q, k, weights, tables: space.tables, scores: space.scratch, selection, arrivals };
    let launched = gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.num_rows * (plan.words * 32).div_ceil(SLOTS_OF_BLOCK),
        threads: LANES,
        shared_bytes: SHARED,
        args: bytemuck::bytes_of(&args),
    });
    if launched.is_err() {
        // Rows may have been counted that the next launch would take for its own.
        workspace.forget();
    }
    launched
}
