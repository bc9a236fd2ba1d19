//! The CUDA part: variants, arguments, launches. Per round one launch over slices and one over rows.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::LmHeadPlan;
use super::problem::LmHeadArgs;
use crate::backend::cuda::{CHUNK, Gpu, Kernel, Launch, place};
use crate::backend::source::Variant;
use crate::backend::workspace::CudaSpace;
use crate::{DType, Error, Result, Workspace};

/// The argument of the kernel over slices.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ProjectArgs {
    params: Params,
    rows: u64,
    hidden: u64,
    weight: u64,
    partials: u64,
    steps: u64,
    pad: u64,
}

/// The argument of the kernel over rows.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CombineArgs {
    params: Params,
    rows: u64,
    partials: u64,
    sampled: u64,
    steps: u64,
}

const _: () = assert!(size_of::<ProjectArgs>() == 112 && size_of::<CombineArgs>() == 96);

/// Threads of a block, as in the kernels.
const THREADS: usize = 256;

/// Bytes of the combining kernel's `Shared`: six words per warp.
const COMBINE_BYTES: usize = THREADS / 32 * 24;

/// Rows of a block: in tensor-core products one or two tiles, else what a thread's registers hold.
fn block_rows(rows: usize, is_mma: bool) -> usize {
    match (is_mma, rows) {
        (false, _) => 8,
        (true, 0..=16) => 16,
        (true, _) => 32,
    }
}

fn project(rows: usize, is_mma: bool, types: [DType; 2], [soft_cap, has_steps]: [bool; 2]) -> Variant {
    Variant::new("lm_head")
        .u32("ROWS", block_rows(rows, is_mma))
        .bool("MMA", is_mma)
        .bool("SOFT_CAP", soft_cap)
        .bool("HAS_STEPS", has_steps)
        .storage("hidden", types[0])
        .storage("weight", types[1])
}

fn combine([soft_cap, has_steps]: [bool; 2]) -> Variant {
    Variant::new("lm_head_combine").bool("SOFT_CAP", soft_cap).bool("HAS_STEPS", has_steps)
}

/// Tensor-core products of both types and sizes, some others; caps and steps take turns.
pub(super) fn variants() -> Vec<(String, String)> {
    use DType::{BF16, F16, F32};
    let mut all: Vec<Variant> = [[false, true], [true, false]].map(combine).to_vec();
    all.extend(
        [(16, F16, false), (64, F16, true), (16, BF16, true), (64, BF16, false)]
            .map(|(rows, dtype, cap)| project(rows, true, [dtype, dtype], [cap, cap == (rows == 64)])),
    );
    all.extend(
        [(F32, F32, false), (F32, BF16, true), (F16, BF16, false)]
            .map(|(h, w, cap)| project(8, false, [h, w], [cap, h == w])),
    );
    all.iter().map(|v| (format!("{} {}", v.kernel, v.options()), v.cuda())).collect()
}

/// Where the tensors lie: addresses and row strides in chunks.
struct Places {
    hidden: (u64, u32),
    weight: (u64, u32),
    is_mma: bool,
}

fn places(plan: &LmHeadPlan, gpu: &Arc<Gpu>, args: &LmHeadArgs) -> Result<Places> {
    let (hidden, [hidden_row]) = place(gpu, OP, "hidden", args.hidden, CHUNK)?;
    let (weight, [weight_row]) = place(gpu, OP, "weight", args.weight, CHUNK)?;
    let p = &plan.problem;
    // By where rows lie and what they are, never by how many there are.
    let is_wide = |address: u64, row: u32| address.is_multiple_of(16) && row.is_multiple_of(2);
    let is_mma = p.hidden_dtype == p.weight_dtype
        && p.hidden_dtype != DType::F32
        && p.width.is_multiple_of(8)
        && is_wide(hidden, hidden_row)
        && is_wide(weight, weight_row);
    Ok(Places { hidden: (hidden, hidden_row), weight: (weight, weight_row), is_mma })
}

/// The compiled kernels and the uploaded tables.
pub(super) fn ready(
    plan: &LmHeadPlan,
    gpu: &Arc<Gpu>,
    args: &LmHeadArgs,
    workspace: &mut Workspace,
) -> Result<([Arc<Kernel>; 2], CudaSpace)> {
    let (p, is_mma) = (&plan.problem, places(plan, gpu, args)?.is_mma);
    let options = [p.soft_cap.is_some(), plan.steps.is_some()];
    let project = gpu.kernel(&project(p.rows.len(), is_mma, [p.hidden_dtype, p.weight_dtype], options))?;
    let combine = gpu.kernel(&combine(options))?;
    let tables = || bytemuck::cast_slice(&plan.table).to_vec();
    Ok(([project, combine], workspace.load_cuda(OP, gpu, plan.id, plan.scratch_bytes(), tables)?))
}

pub(super) fn run(plan: &LmHeadPlan, gpu: &Arc<Gpu>, args: &LmHeadArgs, workspace: &mut Workspace) -> Result<()> {
    let Places { hidden, weight, is_mma } = places(plan, gpu, args)?;
    let sampled = args.out.block(gpu, OP, "out")?.address();
    if !sampled.is_multiple_of(16) {
        return Err(Error::unsupported(OP, format!("out at address {sampled:#x} on CUDA"), "multiples of 16 bytes"));
    }
    let rows = plan.problem.rows.len();
    if rows == 0 {
        return Ok(());
    }
    let ([project, combine], space) = ready(plan, gpu, args, workspace)?;
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().block(gpu, OP, "steps")?.address(),
        None => 0,
    };
    for round in 0..plan.rounds {
        let params = Params::new(plan, round, [0, hidden.1], [0, weight.1]);
        let (rows_table, partials) = (space.tables, space.scratch);
        let (hidden, weight) = (hidden.0, weight.0);
        let args = ProjectArgs { params, rows: rows_table, hidden, weight, partials, steps, pad: 0 };
        gpu.launch(&Launch {
            kernel: &project,
            groups: plan.slices() * rows.div_ceil(block_rows(rows, is_mma)),
            threads: THREADS,
            shared_bytes: block_rows(rows, is_mma) * super::SLICE * 4,
            args: bytemuck::bytes_of(&args),
        })?;
        let args = CombineArgs { params, rows: rows_table, partials, sampled, steps };
        gpu.launch(&Launch {
            kernel: &combine,
            groups: rows,
            threads: THREADS,
            shared_bytes: COMBINE_BYTES,
            args: bytemuck::bytes_of(&args),
        })?;
    }
    Ok(())
}
