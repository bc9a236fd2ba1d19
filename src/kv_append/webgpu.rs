//! The WebGPU part: variant, params, launch.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::KvAppendPlan;
use super::problem::KvAppendArgs;
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, CHUNK, Gpu, Launch, chunks};
use crate::layer::{ConstantPlaces, Pairing, Rope};
use crate::{DType, Error, Result, Workspace};

/// Bindings after the params: packed, tables, constants, q, k, v.
const ACCESS: [Access; 6] =
    [Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite, Access::ReadWrite];

/// Invocations of a workgroup, as in the kernel.
const GROUP: usize = 64;

/// Values of the kernel's `ROTATION`, in its order.
#[derive(Clone, Copy, Debug)]
enum Rotation {
    None,
    Half,
    Adjacent,
    HalfLanes,
    AdjacentLanes,
}

impl Rotation {
    const ALL: [Rotation; 5] =
        [Rotation::None, Rotation::Half, Rotation::Adjacent, Rotation::HalfLanes, Rotation::AdjacentLanes];

    /// By chunks where chunks hold whole pairs (adjacent) or meet their partners lane by lane (half), else by lanes.
    fn of(rope: Option<&Rope>) -> Self {
        let Some(rope) = rope else { return Rotation::None };
        let is_aligned = rope.first_lane.is_multiple_of(CHUNK);
        match rope.pairing {
            Pairing::Half if is_aligned && rope.inv_freq.len().is_multiple_of(CHUNK) => Rotation::Half,
            Pairing::Half => Rotation::HalfLanes,
            Pairing::Adjacent if is_aligned && rope.lanes().is_multiple_of(CHUNK) => Rotation::Adjacent,
            Pairing::Adjacent => Rotation::AdjacentLanes,
        }
    }
}

fn variant(dims: [usize; 2], rotation: Rotation, dtype: DType, kv_dtype: DType) -> Variant {
    Variant::new("kv_append")
        .u32("HEAD_DIM", dims[0])
        .u32("HEAD_DIM_V", dims[1])
        .u32("ROTATION", rotation as usize)
        .storage("packed", dtype)
        .storage("q", dtype)
        .storage("k", kv_dtype)
        .storage("v", kv_dtype)
}

fn variant_of(plan: &KvAppendPlan) -> Variant {
    let s = &plan.spec;
    variant([s.head_dim, s.head_dim_v], Rotation::of(s.rope.as_ref()), s.dtype, s.kv_dtype)
}

/// Every rotation and storage at some head dims.
pub(super) fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dims in [[8, 8], [64, 64], [80, 80], [128, 128], [64, 128], [256, 256]] {
        for rotation in Rotation::ALL {
            for dtype in DType::ALL {
                for kv_dtype in DType::ALL {
                    let name = format!("kv_append.{}.{}.{rotation:?}.{dtype}.{kv_dtype}", dims[0], dims[1]);
                    all.push((name, variant(dims, rotation, dtype, kv_dtype).wgsl()));
                }
            }
        }
    }
    all
}

/// The launch in words, for the plan's `Display`.
pub(super) fn describe(plan: &KvAppendPlan) -> String {
    let groups = (plan.rows() * plan.heads()).div_ceil(GROUP);
    let rotation = Rotation::of(plan.spec.rope.as_ref());
    format!("{groups} workgroups of {GROUP}, rotation {rotation:?} ({})", variant_of(plan).options())
}

/// What this device asks of a plan besides the validity of the problem.
pub(super) fn validate(plan: &KvAppendPlan) -> Result<()> {
    let l = &plan.layout;
    for (name, part) in [("q", l.q), ("k", l.k), ("v", l.v)] {
        if !part.offset.is_multiple_of(CHUNK) || !part.head_stride.is_multiple_of(CHUNK) {
            let what = format!("layout.{name} at {} + h * {} on WebGPU", part.offset, part.head_stride);
            return Err(Error::unsupported(OP, what, "multiples of 4 elements"));
        }
    }
    // Leaves room for the surplus of the folded grid below 2^32.
    let most = 1 << 31;
    match plan.rows().checked_mul(plan.heads()).filter(|&n| n <= most) {
        Some(_) => Ok(()),
        None => {
            let what = format!("{} rows of {} heads", plan.rows(), plan.heads());
            Err(Error::unsupported(OP, what, format!("{most} heads in one launch")))
        }
    }
}

pub(super) fn encode(
    plan: &KvAppendPlan,
    gpu: &Arc<Gpu>,
    args: &KvAppendArgs,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let packed = args.packed.buffer().on(gpu, OP, "packed")?;
    let constants = args.constants.buffer.on(gpu, OP, "constants")?;
    let q = args.q.buffer().on(gpu, OP, "q")?;
    let k = args.k.buffer().on(gpu, OP, "k")?;
    let v = args.v.buffer().on(gpu, OP, "v")?;
    let params = params(plan, args)?;
    if plan.rows() == 0 {
        return Ok(());
    }
    let kernel = gpu.kernel(&variant_of(plan), &ACCESS)?;
    let space = workspace.load(OP, gpu, plan.id, 0, || {
        let positions = plan.positions.iter().flatten().map(|&p| p as u32);
        plan.places.iter().copied().chain(positions).chain(plan.temperatures()).collect()
    })?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[packed, &space.tables, constants, q, k, v],
        groups: (plan.rows() * plan.heads()).div_ceil(GROUP),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut space.bindings, &mut pass, &launch)
}

fn params(plan: &KvAppendPlan, args: &KvAppendArgs) -> Result<Params> {
    let (s, l) = (&plan.spec, &plan.layout);
    let [packed, packed_row] = chunks(OP, "packed", args.packed)?;
    let [q_base, q_row, q_head] = chunks(OP, "q", args.q)?;
    let [k_base, k_page, k_head, k_slot] = chunks(OP, "k", args.k)?;
    let [v_base, v_page, v_head, v_slot] = chunks(OP, "v", args.v)?;
    // A part lies within the packed tensor, whose last element fits u32.
    let chunk = |elements: usize| (elements / CHUNK) as u32;
    let step = |stride: usize, heads: usize| if heads > 1 { chunk(stride) } else { 0 };
    let rope = s.rope.as_ref();
    Ok(Params {
        rows: plan.rows() as u32,
        q_heads: s.num_q_heads as u32,
        kv_heads: s.num_kv_heads as u32,
        page_size: plan.page_size as u32,
        packed_row,
        packed_q: packed + chunk(l.q.offset),
        packed_k: packed + chunk(l.k.offset),
        packed_v: packed + chunk(l.v.offset),
        packed_q_head: step(l.q.head_stride, s.num_q_heads),
        packed_k_head: step(l.k.head_stride, s.num_kv_heads),
        packed_v_head: step(l.v.head_stride, s.num_kv_heads),
        rope_table: ConstantPlaces::of(s).rope as u32,
        q_base,
        q_row,
        q_head,
        first_lane: rope.map_or(0, |r| r.first_lane as u32),
        k_base,
        k_page,
        k_head,
        k_slot,
        v_base,
        v_page,
        v_head,
        v_slot,
        q_norm: s.q_norm.code(),
        k_norm: s.k_norm.code(),
        v_norm: s.v_norm.code(),
        pairs: rope.map_or(0, |r| r.inv_freq.len() as u32),
        q_eps: s.q_norm.eps(),
        k_eps: s.k_norm.eps(),
        v_eps: s.v_norm.eps(),
        mscale: rope.map_or(1.0, |r| r.mscale),
        q_scale: s.q_scale,
        temperature: u32::from(s.q_temperature.is_some()),
        pad_1: 0,
        pad_2: 0,
    })
}
