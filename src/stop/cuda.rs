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
    steps: u64,
}

const _: () = assert!(size_of::<Args>() == 64);

/// Threads of a block: a warp.
const THREADS: usize = 32;

pub(super) fn variant(has_steps: bool) -> Variant {
    Variant::new("stop").u32("THREADS", THREADS).bool("HAS_STEPS", has_steps)
}

/// The compiled kernel and the uploaded tables.
pub(super) fn ready(plan: &StopPlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<(Arc<Kernel>, CudaSpace)> {
    let kernel = gpu.kernel(&variant(plan.steps.is_some()))?;
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
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().block(gpu, OP, "steps")?.address(),
        None => 0,
    };
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let args = Args { params: Params::new(plan), tables: space.tables, sampled, state, steps };
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.rows.len(),
        threads: THREADS,
        shared_bytes: 0,
        args: bytemuck::bytes_of(&args),
    })
}
