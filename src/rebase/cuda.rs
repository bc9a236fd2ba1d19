//! The CUDA part: variant, arguments, launch.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::RebasePlan;
use super::problem::RebaseArgs;
use crate::backend::cuda::{CHUNK, Gpu, Kernel, Launch, place};
use crate::backend::source::Variant;
use crate::backend::workspace::CudaSpace;
use crate::layer::Rotation;
use crate::{DType, Result, Workspace};

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    params: Params,
    tables: u64,
    constants: u64,
    k: u64,
    delta: u64,
}

const _: () = assert!(size_of::<Args>() == 96);

/// Most threads of a block.
const MOST_THREADS: usize = 256;

/// Threads of a head: half its chunks, at most a warp.
fn team(head_dim: usize) -> usize {
    (head_dim / CHUNK).div_ceil(2).next_power_of_two().min(32)
}

/// Chunks of a head that one thread holds.
fn own(head_dim: usize) -> usize {
    (head_dim / CHUNK).div_ceil(team(head_dim)).max(2)
}

/// Threads of a block: a team for each head of the token, as far as they fit.
fn threads(head_dim: usize, heads: usize) -> usize {
    (heads * team(head_dim)).next_multiple_of(32).min(MOST_THREADS)
}

/// Bytes of the kernel's `Shared`: a chunk for each one that a thread holds, and a cosine and a sine per lane pair.
fn shared_bytes(head_dim: usize, threads: usize) -> usize {
    threads * own(head_dim) * 16 + head_dim / 2 * 8
}

fn variant(head_dim: usize, heads: usize, rotation: Rotation, has_delta: bool, dtype: DType) -> Variant {
    Variant::new("rebase")
        .u32("HEAD_DIM", head_dim)
        .u32("ROTATION", rotation as usize)
        .u32("TEAM", team(head_dim))
        .u32("OWN", own(head_dim))
        .u32("THREADS", threads(head_dim, heads))
        .bool("HAS_DELTA", has_delta)
        .storage("k", dtype)
}

fn variant_of(plan: &RebasePlan) -> Variant {
    let (s, rotation) = (&plan.keys, Rotation::of(plan.keys.rope.as_ref()));
    variant(s.head_dim, s.num_kv_heads, rotation, plan.has_delta, s.kv_dtype)
}

/// Every rotation at some head dims; storages and deltas take turns.
pub(super) fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut storages = DType::ALL.into_iter().cycle();
    for (head_dim, heads) in [(64, 2), (80, 8), (128, 8), (256, 4), (576, 1)] {
        for rotation in Rotation::ALL {
            // Without a rotation there is something to do only with a delta.
            let has_delta = rotation == Rotation::None || head_dim == 80;
            let v = variant(head_dim, heads, rotation, has_delta, storages.next().unwrap_or(DType::F32));
            all.push((format!("rebase {}", v.options()), v.cuda()));
        }
    }
    all
}

/// The launch in words, for the plan's `Display`.
pub(super) fn describe(plan: &RebasePlan) -> String {
    let threads = threads(plan.keys.head_dim, plan.keys.num_kv_heads);
    format!("{} blocks of {threads} ({})", plan.tokens(), variant_of(plan).options())
}

/// The compiled kernel and the uploaded tables.
pub(super) fn ready(plan: &RebasePlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<(Arc<Kernel>, CudaSpace)> {
    let kernel = gpu.kernel(&variant_of(plan))?;
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, 0, || plan.tables())?))
}

pub(super) fn run(plan: &RebasePlan, gpu: &Arc<Gpu>, args: &RebaseArgs, workspace: &mut Workspace) -> Result<()> {
    let (k, [k_page, k_head, k_slot]) = place(gpu, OP, "k", args.turning(), CHUNK)?;
    let (delta, [delta_run, delta_head]) = match args.delta {
        Some(delta) => place(gpu, OP, "delta", delta, CHUNK)?,
        None => (0, [0; 2]),
    };
    let constants = args.constants.buffer.block(gpu, OP, "constants")?.address();
    if plan.tokens() == 0 {
        return Ok(());
    }
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let params = Params::new(plan, [0, k_page, k_head, k_slot], [0, delta_run, delta_head]);
    let args = Args { params, tables: space.tables, constants, k, delta };
    let threads = threads(plan.keys.head_dim, plan.keys.num_kv_heads);
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.tokens(),
        threads,
        shared_bytes: shared_bytes(plan.keys.head_dim, threads),
        args: bytemuck::bytes_of(&args),
    })
}
