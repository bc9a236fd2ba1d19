//! The CUDA launch: one thread per sequence.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::VerifyPlan;
use super::problem::VerifyArgs;
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
    drafts: u64,
    out: u64,
}

const _: () = assert!(size_of::<Args>() == 48);

/// Threads of a block: sequences are few, and their threads would only wait for each other.
const THREADS: usize = 32;

pub(super) fn variant() -> Variant {
    Variant::new("verify").u32("THREADS", THREADS)
}

/// The compiled kernel and the uploaded tables.
pub(super) fn ready(plan: &VerifyPlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<(Arc<Kernel>, CudaSpace)> {
    let kernel = gpu.kernel(&variant())?;
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, 0, || plan.tables())?))
}

pub(super) fn run(plan: &VerifyPlan, gpu: &Arc<Gpu>, args: &VerifyArgs, workspace: &mut Workspace) -> Result<()> {
    let sampled = args.sampled.block(gpu, OP, "sampled")?.address();
    let drafts = args.drafts.block(gpu, OP, "drafts")?.address();
    let out = args.out.block(gpu, OP, "out")?.address();
    for (name, address) in [("sampled", sampled), ("drafts", drafts), ("out", out)] {
        if !address.is_multiple_of(4) {
            let what = format!("{name} at address {address:#x} on CUDA");
            return Err(crate::Error::unsupported(OP, what, "multiples of 4 bytes"));
        }
    }
    if plan.sequences() == 0 {
        return Ok(());
    }
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let args = Args { params: Params::new(plan), tables: space.tables, sampled, drafts, out };
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.sequences().div_ceil(THREADS),
        threads: THREADS,
        shared_bytes: 0,
        args: bytemuck::bytes_of(&args),
    })
}
