//! The tile of a device and layer kind.

use super::splits::Splits;
use crate::Device;
#[cfg(feature = "cuda")]
use crate::kv::{Death, Modality};
use crate::layer::LayerSpec;

/// The tile of a device and layer kind: the only tuning there is, decided by the adapter and never by the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Lanes of a workgroup.
    pub lanes: usize,
    /// Query vectors (rows x heads of a part of a group).
    pub queries: usize,
    /// Keys.
    pub keys: usize,
    /// Splits of a decode row. Fixed, so that bits do not depend on the batch.
    pub splits: Splits,
    /// Lanes of a subgroup for the shader that uses them, in which a lane owns its queries; 0 elsewhere.
    pub subgroup: usize,
    /// Whether the driver gives each of its threads a contiguous part of the workgroups, so that long items must be
    /// spread over the list; otherwise they come first.
    pub is_spread: bool,
    /// Whether the launch also merges: then rows that see nothing need an item too.
    pub merges: bool,
    pub reason: &'static str,
}

impl Tile {
    /// A row of CUDA's part of the table: splits begin with 512 keys, or the tiles that fit, and the launch merges.
    #[cfg(feature = "cuda")]
    pub fn of_cuda(lanes: usize, queries: usize, keys: usize, reason: &'static str) -> Tile {
        let splits = Splits { keys: (512 / keys * keys) as u32, of_a_size: u32::MAX };
        Tile { lanes, queries, keys, splits, subgroup: 0, is_spread: false, merges: true, reason }
    }

    /// With splits that grow, on a device that runs `workgroups` at once. Not where windows or choices leave few keys of
    /// a long segment: those would be in one split.
    #[cfg(feature = "cuda")]
    pub fn with_growing_splits(self, spec: &LayerSpec, workgroups: usize) -> Tile {
        let lives_on = |modality| spec.lifetimes.get(modality).death == Death::Never;
        if spec.indexer.is_some() || !Modality::ALL.into_iter().all(lives_on) {
            return self;
        }
        let of_a_size = (workgroups / self.shares(spec)).max(2) as u32;
        Tile { splits: Splits { of_a_size, ..self.splits }, ..self }
    }

    /// Query heads of one item: the most that divide a group and fit into a tile.
    pub fn heads(&self, spec: &LayerSpec) -> usize {
        (1..=spec.group().min(self.queries)).rev().find(|n| spec.group().is_multiple_of(*n)).unwrap_or(1)
    }

    /// Items per KV head that share its query heads.
    pub fn head_parts(&self, spec: &LayerSpec) -> usize {
        spec.group() / self.heads(spec)
    }

    /// Workgroups of an item: one per KV head, part of its query heads and part of the value.
    pub fn shares(&self, spec: &LayerSpec) -> usize {
        spec.num_kv_heads * self.head_parts(spec) * value_parts(spec)
    }

    /// The table: adapter and layer kind.
    pub fn new(device: &Device, spec: &LayerSpec) -> Tile {
        let tile = |lanes, is_spread, reason| Tile {
            lanes,
            queries: 64,
            keys: 48,
            splits: Splits { keys: 480, of_a_size: u32::MAX },
            subgroup: 0,
            is_spread,
            merges: false,
            reason,
        };
        match device {
            // A software driver pays for every load: with subgroups, one serves all their queries. The time to compile
            // grows with what a lane keeps, by the head's width, and with the lanes of a subgroup.
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) if gpu.is_software() && matches!(gpu.subgroup(), 4 | 8 | 16) => {
                let widest = spec.head_dim.max(spec.head_dim_v).next_power_of_two().max(64);
                let queries = (256.min(2048 / gpu.subgroup()) / widest).max(1);
                Tile { subgroup: gpu.subgroup(), ..tile(64 / queries, true, "a software driver with subgroups") }
            }
            // Without them a lane keeps as many queries as compile in a second or two.
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) if gpu.is_software() && spec.head_dim_v <= 64 => tile(32, true, "a software driver"),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) if gpu.is_software() => tile(64, true, "a software driver, wide heads"),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => super::cuda::tile(gpu.arch(), spec),
            // Few registers per lane and many lanes. Not yet measured on hardware.
            _ => tile(128, false, "a GPU"),
        }
    }
}

/// Parts of the value that an item accumulates one at a time: a lane keeps 256 lanes of a query's output at most. Each
/// part computes the scores again.
pub(crate) fn value_parts(spec: &LayerSpec) -> usize {
    spec.head_dim_v.div_ceil(256)
}
