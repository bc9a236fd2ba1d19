//! The CUDA launch: one block per row.

use std::sync::Arc;

use super::params::SamplingParams;
use super::{OP, SamplingArgs, SamplingPlan};
use crate::backend::cuda::{Gpu, Kernel, Launch, place};
use crate::backend::source::Variant;
use crate::backend::workspace::CudaSpace;
use crate::{DType, Error, Result, Workspace};

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    params: SamplingParams,
    rows: u64,
    logits: u64,
    sampled: u64,
    steps: u64,
}

const _: () = assert!(size_of::<Args>() == 64);

/// Threads of a block for a small vocabulary and for others: a row has one block, so its loads have to fill a
/// multiprocessor.
const THREADS: [usize; 2] = [128, 1024];

/// Threads of a block: the small one where a thread has at most 4 loads of 16 bytes.
fn threads(vocab: usize, dtype: DType) -> usize {
    let [small, large] = THREADS;
    if vocab * dtype.size() <= small * 4 * 16 { small } else { large }
}

/// Bytes of the kernel's `Shared`: counts of 256 bins in 32 columns, their carries and sums, a list of 2048 logits, six
/// words per warp and some, in steps of 8.
fn shared_bytes(threads: usize) -> usize {
    let warps = threads / 32;
    256 * 32 * 4 + 256 * 4 + 256 * 8 + warps * 24 + 2048 * 4 + 16
}

pub(super) fn variant(vocab: usize, dtype: DType, soft_cap: bool, has_steps: bool) -> Variant {
    super::plan::variant(dtype, soft_cap, has_steps).u32("THREADS", threads(vocab, dtype))
}

/// All of them.
pub(super) fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for vocab in [1000, 150_000] {
        for dtype in DType::ALL {
            for soft_cap in [false, true] {
                let v = variant(vocab, dtype, soft_cap, soft_cap == (vocab == 1000));
                all.push((format!("sampling {}", v.options()), v.cuda()));
            }
        }
    }
    all
}

/// The compiled kernel and the uploaded tables.
pub(super) fn ready(
    plan: &SamplingPlan,
    gpu: &Arc<Gpu>,
    workspace: &mut Workspace,
) -> Result<(Arc<Kernel>, CudaSpace)> {
    let kernel = gpu.kernel(&plan.variant)?;
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, 0, || bytemuck::cast_slice(&plan.table).to_vec())?))
}

pub(super) fn run(
    plan: &SamplingPlan,
    gpu: &Arc<Gpu>,
    args: &SamplingArgs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let (logits, []) = place(gpu, OP, "logits", args.logits, 1)?;
    let sampled = args.out.block(gpu, OP, "out")?.address();
    let problem = &plan.problem;
    let stride = args.logits.strides().first().copied().unwrap_or(0);
    if problem.rows.len() > 1 && stride > u32::MAX as usize {
        return Err(Error::unsupported(OP, format!("logits with row stride {stride} on CUDA"), "less than 2^32"));
    }
    if !sampled.is_multiple_of(16) {
        return Err(Error::unsupported(OP, format!("out at address {sampled:#x} on CUDA"), "multiples of 16 bytes"));
    }
    if problem.rows.is_empty() {
        return Ok(());
    }
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let params = SamplingParams::new(problem, 0, stride as u32);
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().block(gpu, OP, "steps")?.address(),
        None => 0,
    };
    let args = Args { params, rows: space.tables, logits, sampled, steps };
    let threads = threads(problem.vocab, problem.logits_dtype);
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: problem.rows.len(),
        threads,
        shared_bytes: shared_bytes(threads),
        args: bytemuck::bytes_of(&args),
    })
}
