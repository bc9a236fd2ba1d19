//! What every device's kernel is told: the same fields in the same order as in `shaders/rebase.wgsl` and
//! `cuda/rebase.cu`.

use std::mem::{offset_of, size_of};

use super::plan::RebasePlan;
use crate::layer::ConstantPlaces;

/// Offsets and strides count chunks of 4 elements from the start of their buffers.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub tokens: u32,
    pub kv_heads: u32,
    pub page_size: u32,
    pub rope_table: u32,
    pub k_base: u32,
    pub k_page: u32,
    pub k_head: u32,
    pub k_slot: u32,
    pub delta_base: u32,
    pub delta_run: u32,
    pub delta_head: u32,
    pub first_lane: u32,
    pub pairs: u32,
    pub pad_0: u32,
    pub pad_1: u32,
    pub pad_2: u32,
}

impl Params {
    /// The numbers of a call of the plan whose tensors lie there, in chunks: first the offset, then the strides without
    /// the last dimension's.
    pub fn new(plan: &RebasePlan, k: [u32; 4], delta: [u32; 3]) -> Self {
        let [k_base, k_page, k_head, k_slot] = k;
        let [delta_base, delta_run, delta_head] = delta;
        let rope = plan.keys.rope.as_ref();
        Params {
            tokens: plan.tokens() as u32,
            kv_heads: plan.keys.num_kv_heads as u32,
            page_size: plan.page_size as u32,
            rope_table: ConstantPlaces::of(&plan.spec).rope as u32,
            k_base,
            k_page,
            k_head,
            k_slot,
            delta_base,
            delta_run,
            delta_head,
            first_lane: rope.map_or(0, |r| r.first_lane as u32),
            pairs: rope.map_or(0, |r| r.inv_freq.len() as u32),
            pad_0: 0,
            pad_1: 0,
            pad_2: 0,
        }
    }
}

const _: () = assert!(size_of::<Params>() == 64 && offset_of!(Params, k_base) == 16);
const _: () = assert!(offset_of!(Params, delta_base) == 32 && offset_of!(Params, pairs) == 48);
