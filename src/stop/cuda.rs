//! The CUDA launch: one warp per row.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::StopPlan;
use super::problem::StopArgs;
use crate::backend::cuda::{Gpu, Kernel, Launch};
use crate::backend::source::Variant;
use crate::backend::workspace::CudaSpace;
use crate::{Result, Workspace};

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    params: Params,
    tables: u64,
    sampled: u64,
    state: u64,
    pad: u64,
}

const _: () = assert!(size_of::<Args>() == 64);

/// Threads of a block: a warp.
const THREADS: usize = 32;

pub(super) fn variant() -> Variant {
    Variant::new("stop").u32("THREADS", THREADS)
}

/// The compiled kernel and the uploaded tables.
pub(super) fn ready(plan: &StopPlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<(Arc<Kernel>, CudaSpace)> {
    let kernel = gpu.kernel(&variant())?;
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, 0, || plan.tables())?))
}

pub(super) fn run(plan: &StopPlan, gpu: &Arc<Gpu>, args: &StopArgs, workspace: &mut Workspace) -> Result<()> {
    let sampled = args.sampled.block(gpu, OP, "sampled")?.address();
    let state = args.state.buffer().block(gpu, OP, "state")?.address();
    if !sampled.is_multiple_of(16) {
        let what = format!("sampled at address {sampled:#x} on CUDA");
        return Err(crate::Error::unsupported(OP, what, "multiples of 16 bytes"));
    }
    if plan.rows.is_empty() {
        return Ok(());
    }
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let args = Args { params: Params::new(plan), tables: space.tables, sampled, state, pad: 0 };
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.rows.len(),
        threads: THREADS,
        shared_bytes: 0,
        args: bytemuck::bytes_of(&args),
    })
}
