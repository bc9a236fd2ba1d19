//! The attention kernel for Hopper (`cuda/attention_sm90.cu`): which layer kinds it serves, tile and memory.

use super::cuda::Args;
use super::tile::Tile;
use super::worklist::WorkList;
use super::{AttentionArgs, AttentionPlan};
use crate::backend::cuda::{Arch, Boxes, Gpu, TensorMap};
use crate::layer::LayerSpec;
use crate::{DType, Tensor};

/// Entry point and stem of the file.
pub(super) const KERNEL: &str = "attention_sm90";

/// Head dims of keys and values that it is written for; others go to the portable kernel.
pub(super) const HEAD_DIMS: [(usize, usize); 5] = [(64, 64), (96, 96), (128, 128), (256, 256), (192, 128)];

/// Two warpgroups that multiply and one that loads.
const THREADS: usize = 3 * 128;

/// Queries of a warpgroup, and of a workgroup.
const CONSUMER_QUERIES: usize = 64;
const QUERIES: usize = 2 * CONSUMER_QUERIES;

/// Shared memory of a workgroup, and what is there besides queries, keys and values: barriers and the item.
const SHARED_LIMIT: usize = 232_448;
const FIXED: usize = 1024;

/// More stages than these hide nothing.
const MOST_STAGES: usize = 4;

/// Keys of a box, which a bulk copy brings: fewer take more copies than they save.
const FEWEST_IN_BOX: usize = 32;

/// The kernel's argument: the portable one's, and maps of K and V behind it.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct BulkArgs {
    args: Args,
    padding: [u64; (size_of::<Args>().next_multiple_of(128) - size_of::<Args>()) / 8],
    keys: TensorMap,
    values: TensorMap,
    has_maps: u32,
    num_consumers: u32,
    num_shares: u32,
    rest: u32,
    tickets: u64,
    put_off: u64,
    padding_behind: [u64; 12],
}

const _: () = assert!(size_of::<BulkArgs>() == 768);

/// Whether the kernel serves the layer kind: its products take one 16-bit type, outputs do not turn back,
/// and it reads no selection.
pub(super) fn serves(arch: Arch, spec: &LayerSpec) -> bool {
    arch == (Arch { major: 9, minor: 0 })
        && spec.dtype == spec.kv_dtype
        && spec.dtype != DType::F32
        && !spec.v_rope
        && spec.indexer.is_none()
        && HEAD_DIMS.contains(&(spec.head_dim, spec.head_dim_v))
}

/// Its rows of the table of tiles. Splits begin with 512 keys, or the tiles that fit. Not yet measured on hardware.
pub(super) fn tile(spec: &LayerSpec) -> Tile {
    // A thread keeps outputs, scores and weights in registers, and there is room for two stages with turned queries too,
    // but for the widest heads.
    let (keys, reason) = match (spec.head_dim, spec.head_dim_v) {
        (256, _) => (64, "products of warpgroups, heads of 256"),
        (192, _) => (96, "products of warpgroups, heads of 192 and 128"),
        _ => (128, "products of warpgroups, heads up to 128"),
    };
    Tile::of_cuda(THREADS, QUERIES, keys, reason)
}

/// Stages of keys and values, and bytes of shared memory, as `cuda/common/ring.cuh` lays them out.
pub(super) fn memory(spec: &LayerSpec, keys: usize, query_parts: usize) -> (usize, usize) {
    let size = spec.kv_dtype.size();
    let fixed = query_parts * QUERIES * spec.head_dim * size + FIXED;
    let stage = keys * (spec.head_dim + spec.head_dim_v) * size;
    let stages = ((SHARED_LIMIT - fixed) / stage).clamp(1, MOST_STAGES);
    (stages, fixed + stages * stage)
}

/// Keys of a box: what a tile is made of and no page cuts. 0 where pages are too small, or of a size that fits no tile.
pub(super) fn keys_of_box(tile: &Tile, page_size: usize) -> usize {
    let (mut a, mut b) = (tile.keys, page_size);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    if a < FEWEST_IN_BOX { 0 } else { a }
}

/// Workgroups of a launch of `shares` shares of items: as many as run at once, each takes some.
pub(super) fn workgroups(gpu: &Gpu, shares: usize) -> usize {
    shares.min(gpu.num_sms())
}

/// The argument, with maps of K and V as `tensors` has them, if there are boxes and the driver makes maps of such strides.
/// Addresses of the counter of items that were taken and of the list of those that were put off.
pub(super) fn bulk_args(
    plan: &AttentionPlan,
    list: &WorkList,
    gpu: &Gpu,
    args: Args,
    tensors: &AttentionArgs<'_>,
    [tickets, put_off]: [u64; 2],
) -> BulkArgs {
    let keys = keys_of_box(&plan.tile, plan.page_size);
    let map = |tensor: &Tensor, address: u64| {
        let [pages, heads, slots, lanes] = *tensor.shape() else { return None };
        let stride = |dim: usize| (tensor.strides()[dim] * tensor.dtype().size()) as u64;
        // A row of a panel of shared memory, as `cuda/common/panel.cuh` has it.
        let row = if lanes.is_multiple_of(64) { 64 } else { 32 };
        let (dims, strides) = ([lanes, slots, heads, pages], [stride(2), stride(1), stride(0)]);
        gpu.tensor_map(&Boxes { address, dims, strides, size: [row, keys] })
    };
    let maps = (keys != 0).then(|| Some((map(tensors.k, args.k)?, map(tensors.v, args.v)?))).flatten();
    let (keys, values) = maps.unwrap_or(bytemuck::Zeroable::zeroed());
    let most_queries = list.most_rows as usize * plan.tile.heads(&plan.spec);
    BulkArgs {
        args,
        keys,
        values,
        has_maps: u32::from(maps.is_some()),
        num_consumers: most_queries.div_ceil(CONSUMER_QUERIES).clamp(1, 2) as u32,
        num_shares: list.num_shares(&plan.tile, &plan.spec) as u32,
        tickets,
        put_off,
        ..bytemuck::Zeroable::zeroed()
    }
}
