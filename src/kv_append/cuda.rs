//! The CUDA part: variant, arguments, launch.

use std::sync::Arc;

use super::OP;
use super::params::{Params, Places, has_mean};
use super::plan::{KvAppendPlan, heads};
use super::problem::KvAppendArgs;
use crate::backend::cuda::{CHUNK, Gpu, Kernel, Launch, place};
use crate::backend::source::Variant;
use crate::backend::workspace::CudaSpace;
use crate::layer::{CODES, KvScale, LayerSpec, Rotation, ScalePlaces};
use crate::{DType, Result, Workspace};

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    params: Params,
    packed: u64,
    tables: u64,
    constants: u64,
    q: u64,
    k: u64,
    v: u64,
    steps: u64,
    k_scales: u64,
    v_scales: u64,
}

const _: () = assert!(size_of::<Args>() == 280);

/// Most threads of a block: more of them would only wait for each other at the barrier.
const MOST_THREADS: usize = 256;

/// Threads of a head: half its chunks, at most as many as a shuffle can reach.
fn team(dims: [usize; 2]) -> usize {
    (dims[0].max(dims[1]) / CHUNK).div_ceil(2).next_power_of_two().min(32)
}

/// Chunks of a head that one thread holds.
fn own(dims: [usize; 2]) -> usize {
    (dims[0].max(dims[1]) / CHUNK).div_ceil(team(dims)).max(2)
}

/// Threads of a block: a team for each head of the row, as far as they fit.
fn threads(dims: [usize; 2], heads: usize) -> usize {
    (heads * team(dims)).next_multiple_of(32).min(MOST_THREADS)
}

/// Bytes of the kernel's `Shared`: a chunk for each one that a thread holds, and a cosine and a sine per lane pair.
fn shared_bytes(dims: [usize; 2], threads: usize) -> usize {
    threads * own(dims) * 16 + dims[0] / 2 * 8
}

fn variant(
    dims: [usize; 2],
    [v_in_k, has_steps, has_mean, has_tail]: [bool; 4],
    heads: usize,
    rotation: Rotation,
    dtype: DType,
    (kv_dtype, kv_scale): (DType, KvScale),
) -> Variant {
    Variant::new("kv_append")
        .u32("HEAD_DIM", dims[0])
        .u32("HEAD_DIM_V", dims[1])
        .bool("V_IN_K", v_in_k)
        .u32("ROTATION", rotation as usize)
        .bool("HAS_MEAN", has_mean)
        .bool("HAS_TAIL", has_tail)
        .u32("TEAM", team(dims))
        .u32("OWN", own(dims))
        .u32("THREADS", threads(dims, heads))
        .bool("HAS_STEPS", has_steps)
        .u32("KV_SCALE", kv_scale.code())
        .u32("CODE_MOST", kv_dtype.most_code() as usize)
        .storage("packed", dtype)
        .storage("q", dtype)
        .storage("k", kv_dtype)
        .storage("v", kv_dtype)
}

fn dims(plan: &KvAppendPlan) -> [usize; 2] {
    [plan.spec.head_dim, plan.spec.head_dim_v]
}

pub(super) fn variant_of(spec: &LayerSpec, has_steps: bool) -> Variant {
    let dims = [spec.head_dim, spec.head_dim_v];
    let rotation = Rotation::of(spec.rope.as_ref());
    variant(
        dims,
        [spec.v_in_k, has_steps, has_mean(spec), spec.tail_dtype.is_some()],
        heads(spec),
        rotation,
        spec.dtype,
        (spec.kv_dtype, spec.kv_scale),
    )
}

/// Every rotation at some head dims, the wider ones with a mean; storages take turns.
pub(super) fn variants() -> Vec<(String, String)> {
    use DType::{BF16, F16, F32};
    let mut storages = [(F32, F32), (F16, BF16), (BF16, F16), (BF16, F32)].into_iter().cycle();
    let mut codes = CODES.into_iter().cycle();
    let mut all = Vec::new();
    for (dims, heads) in
        [([8, 8], 3), ([64, 64], 20), ([80, 80], 9), ([64, 128], 12), ([256, 256], 24), ([576, 512], 9)]
    {
        for (i, (rotation, (dtype, kv_dtype))) in Rotation::ALL.into_iter().zip(storages.by_ref()).enumerate() {
            let v = variant(
                dims,
                [dims == [576, 512], i % 2 == 1, dims[0] > 64, false],
                heads,
                rotation,
                dtype,
                (kv_dtype, KvScale::None),
            );
            all.push((format!("kv_append {}", v.options()), v.cuda()));
            if let Some(stored) = codes.next().filter(|_| dims[0] > 8) {
                let is_latent = dims == [576, 512];
                for has_tail in [false, true].into_iter().filter(|has_tail| is_latent || !has_tail) {
                    let flags = [is_latent, i % 2 == 0, dims[0] > 64, has_tail];
                    let v = variant(dims, flags, heads, rotation, dtype, stored);
                    all.push((format!("kv_append {}", v.options()), v.cuda()));
                }
            }
        }
    }
    all
}

/// The launch in words, for the plan's `Display`.
pub(super) fn describe(plan: &KvAppendPlan) -> String {
    let threads = threads(dims(plan), plan.heads());
    let rotation = Rotation::of(plan.spec.rope.as_ref());
    format!(
        "{} blocks of {threads}, rotation {rotation:?} ({})",
        plan.rows(),
        variant_of(&plan.spec, plan.steps.is_some()).options()
    )
}

/// The compiled kernel and the uploaded tables.
pub(super) fn ready(
    plan: &KvAppendPlan,
    gpu: &Arc<Gpu>,
    workspace: &mut Workspace,
) -> Result<(Arc<Kernel>, CudaSpace)> {
    let kernel = gpu.kernel(&variant_of(&plan.spec, plan.steps.is_some()))?;
    Ok((kernel, workspace.load_cuda(OP, gpu, plan.id, 0, || plan.tables())?))
}

pub(super) fn run(plan: &KvAppendPlan, gpu: &Arc<Gpu>, args: &KvAppendArgs, workspace: &mut Workspace) -> Result<()> {
    let (packed, [packed_row]) = place(gpu, OP, "packed", args.packed, CHUNK)?;
    let (q, [q_row, q_head]) = place(gpu, OP, "q", args.q, CHUNK)?;
    // A chunk of a tail takes two of codes.
    let k_align = if plan.spec.tail_dtype.is_some() { 2 * CHUNK } else { CHUNK };
    let (k, [k_page, k_head, k_slot]) = place(gpu, OP, "k", args.k, k_align)?;
    let (v, [v_page, v_head, v_slot]) = place(gpu, OP, "v", args.v, CHUNK)?;
    let constants = args.constants.buffer.block(gpu, OP, "constants")?.address();
    if plan.rows() == 0 {
        return Ok(());
    }
    let (kernel, space) = ready(plan, gpu, workspace)?;
    let places = Places {
        packed: [0, packed_row],
        q: [0, q_row, q_head],
        k: [0, k_page, k_head, k_slot],
        v: [0, v_page, v_head, v_slot],
        scales: ScalePlaces { offsets: [0; 2], ..ScalePlaces::of(OP, args.k, args.v)? },
    };
    let [k_scales, v_scales] = ScalePlaces::addresses(gpu, OP, args.k, args.v)?;
    let params = Params::new(plan, &places);
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().block(gpu, OP, "steps")?.address(),
        None => 0,
    };
    let args = Args { params, packed, tables: space.tables, constants, q, k, v, steps, k_scales, v_scales };
    let threads = threads(dims(plan), plan.heads());
    gpu.launch(&Launch {
        kernel: &kernel,
        groups: plan.rows(),
        threads,
        shared_bytes: shared_bytes(dims(plan), threads),
        args: bytemuck::bytes_of(&args),
    })
}
