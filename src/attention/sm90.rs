//! The attention kernel for Hopper (`cuda/attention_sm90.cu`): which layer kinds it serves, tile and memory.

use super::worklist::Tile;
use crate::DType;
use crate::backend::cuda::Arch;
use crate::layer::LayerSpec;

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

/// Whether the kernel serves the layer kind: its products take one 16-bit type, and outputs do not turn back.
pub(super) fn serves(arch: Arch, spec: &LayerSpec) -> bool {
    arch == (Arch { major: 9, minor: 0 })
        && spec.dtype == spec.kv_dtype
        && spec.dtype != DType::F32
        && !spec.v_rope
        && HEAD_DIMS.contains(&(spec.head_dim, spec.head_dim_v))
}

/// Its rows of the table of tiles. Splits are 512 keys, or the tiles that fit. Not yet measured on hardware.
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
