//! The WebGPU part: variant, params, launch.

use std::sync::Arc;

use super::OP;
use super::params::{Params, Places, has_mean, validate_layout};
use super::plan::KvAppendPlan;
use super::problem::KvAppendArgs;
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::layer::{CODES, KvScale, Rotation, ScalePlaces};
use crate::{DType, Error, Result, Workspace};

/// Bindings after the params: packed, tables, constants, q, k, v, steps, scales.
const ACCESS: [Access; 8] = {
    use Access::{Read, ReadWrite};
    [Read, Read, Read, ReadWrite, ReadWrite, ReadWrite, Read, ReadWrite]
};

/// Invocations of a workgroup, as in the kernel.
const GROUP: usize = 64;

fn variant(
    dims: [usize; 2],
    [v_in_k, has_steps, has_mean, has_tail]: [bool; 4],
    rotation: Rotation,
    dtype: DType,
    (kv_dtype, kv_scale): (DType, KvScale),
) -> Variant {
    Variant::new("kv_append")
        .u32("HEAD_DIM", dims[0])
        .u32("HEAD_DIM_V", dims[1])
        .bool("V_IN_K", v_in_k)
        .u32("ROTATION", rotation as usize)
        .bool("HAS_STEPS", has_steps)
        .bool("HAS_MEAN", has_mean)
        .bool("HAS_TAIL", has_tail)
        .u32("KV_SCALE", kv_scale.code())
        .u32("CODE_MOST", kv_dtype.most_code() as usize)
        .storage("packed", dtype)
        .storage("q", dtype)
        .storage("k", kv_dtype)
        .storage("v", kv_dtype)
}

fn variant_of(plan: &KvAppendPlan) -> Variant {
    let s = &plan.spec;
    let flags = [s.v_in_k, plan.steps.is_some(), has_mean(s), s.tail_dtype.is_some()];
    variant([s.head_dim, s.head_dim_v], flags, Rotation::of(s.rope.as_ref()), s.dtype, (s.kv_dtype, s.kv_scale))
}

/// Every rotation and storage at some head dims.
pub(super) fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for dims in [[8, 8], [64, 64], [80, 80], [128, 128], [64, 128], [256, 256], [576, 512]] {
        for rotation in Rotation::ALL {
            for dtype in DType::ALL {
                for kv_dtype in DType::ALL {
                    let has_steps = dtype == kv_dtype;
                    let name = format!("kv_append.{}.{}.{rotation:?}.{dtype}.{kv_dtype}", dims[0], dims[1]);
                    // Half of the dims with a mean, so that every rotation meets both.
                    all.push((
                        name,
                        variant(
                            dims,
                            [dims == [576, 512], has_steps, dims[0] > 64, false],
                            rotation,
                            dtype,
                            (kv_dtype, KvScale::None),
                        )
                        .wgsl(),
                    ));
                }
            }
            for (kv_dtype, kv_scale) in CODES {
                let name = format!("kv_append.{}.{}.{rotation:?}.{kv_dtype}.{kv_scale:?}", dims[0], dims[1]);
                let is_latent = dims == [576, 512];
                for has_tail in [false, true].into_iter().filter(|has_tail| is_latent || !has_tail) {
                    let flags = [is_latent, true, dims[0] > 64, has_tail];
                    let v = variant(dims, flags, rotation, DType::BF16, (kv_dtype, kv_scale));
                    all.push((if has_tail { format!("{name}.tail") } else { name.clone() }, v.wgsl()));
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
    validate_layout(plan, "WebGPU")?;
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
    let scales = ScalePlaces::buffer(OP, args.k, args.v)?;
    let params = Params::new(
        plan,
        &Places {
            packed: chunks(OP, "packed", args.packed)?,
            q: chunks(OP, "q", args.q)?,
            k: chunks(OP, "k", args.k)?,
            v: chunks(OP, "v", args.v)?,
            scales: ScalePlaces::of(OP, args.k, args.v)?,
        },
    );
    if plan.rows() == 0 {
        return Ok(());
    }
    let kernel = gpu.kernel(&variant_of(plan), &ACCESS)?;
    let space = workspace.load(OP, gpu, plan.id, 0, || plan.tables())?;
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().on(gpu, OP, "steps")?,
        None => &space.absent[0],
    };
    let scales = scales.map_or(Ok(&space.absent[1]), |scales| scales.on(gpu, OP, "scales"))?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[packed, &space.tables, constants, q, k, v, steps, scales],
        groups: (plan.rows() * plan.heads()).div_ceil(GROUP),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut space.bindings, &mut pass, &launch)
}
