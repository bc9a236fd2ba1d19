//! The WebGPU part: variant, launch.

use std::sync::Arc;

use super::OP;
use super::params::Params;
use super::plan::RebasePlan;
use super::problem::RebaseArgs;
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::layer::{Pairing, Rope};
use crate::{DType, Result, Workspace};

/// Bindings after the params: tables, constants, delta, k.
const ACCESS: [Access; 4] = [Access::Read, Access::Read, Access::Read, Access::ReadWrite];

/// Invocations of a workgroup, as in the kernel.
const GROUP: usize = 64;

fn variant(head_dim: usize, rope: Option<&Rope>, has_delta: bool, dtype: DType) -> Variant {
    Variant::new("rebase")
        .u32("HEAD_DIM", head_dim)
        .bool("IS_HALF", rope.is_some_and(|r| r.pairing == Pairing::Half))
        .bool("HAS_DELTA", has_delta)
        .storage("k", dtype)
        .storage("delta", DType::F32)
}

fn variant_of(plan: &RebasePlan) -> Variant {
    variant(plan.keys.head_dim, plan.keys.rope.as_ref(), plan.has_delta, plan.keys.kv_dtype)
}

/// Every pairing and storage, with and without a delta.
pub(super) fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for pairing in [Pairing::Half, Pairing::Adjacent] {
        for has_delta in [false, true] {
            for dtype in DType::ALL {
                let v = variant(64, Some(&Rope::plain(64, 1e4, pairing)), has_delta, dtype);
                all.push((format!("rebase {}", v.options()), v.wgsl()));
            }
        }
    }
    all
}

/// The launch in words, for the plan's `Display`.
pub(super) fn describe(plan: &RebasePlan) -> String {
    let groups = (plan.tokens() * plan.keys.num_kv_heads).div_ceil(GROUP);
    format!("{groups} workgroups of {GROUP} ({})", variant_of(plan).options())
}

pub(super) fn encode(
    plan: &RebasePlan,
    gpu: &Arc<Gpu>,
    args: &RebaseArgs,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let constants = args.constants.buffer.on(gpu, OP, "constants")?;
    let k = args.turning().buffer().on(gpu, OP, "k")?;
    let delta = args.delta.map(|t| t.buffer().on(gpu, OP, "delta")).transpose()?;
    let delta_places = args.delta.map_or(Ok([0; 3]), |t| chunks(OP, "delta", t))?;
    let params = Params::new(plan, chunks(OP, "k", args.turning())?, delta_places);
    if plan.tokens() == 0 {
        return Ok(());
    }
    let kernel = gpu.kernel(&variant_of(plan), &ACCESS)?;
    let space = workspace.load(OP, gpu, plan.id, 0, || plan.tables())?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[&space.tables, constants, delta.unwrap_or(&space.absent[0]), k],
        groups: (plan.tokens() * plan.keys.num_kv_heads).div_ceil(GROUP),
    };
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
    gpu.encode(&mut space.bindings, &mut pass, &launch)
}
