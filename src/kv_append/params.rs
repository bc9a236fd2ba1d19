//! What every device's kernel is told: the params struct, the same fields in the same order as in
//! `shaders/kv_append.wgsl` and `cuda/kv_append.cu`.

use std::mem::{offset_of, size_of};

use super::OP;
use super::plan::KvAppendPlan;
use crate::layer::{ConstantPlaces, LayerSpec, Norm, ScalePlaces};
use crate::{Error, Result};

/// Elements of a chunk: what offsets and strides count.
const CHUNK: usize = 4;

/// Whether some norm of the layer takes a mean off, the kernels' `HAS_MEAN`.
pub(super) fn has_mean(spec: &LayerSpec) -> bool {
    [spec.q_norm, spec.k_norm, spec.v_norm].iter().any(Norm::is_centered)
}

/// Refuses a packed layout that `device` cannot read by chunks.
pub(super) fn validate_layout(plan: &KvAppendPlan, device: &str) -> Result<()> {
    let l = &plan.layout;
    for (name, part) in [("q", l.q), ("k", l.k), ("v", l.v)] {
        if !part.offset.is_multiple_of(CHUNK) || !part.head_stride.is_multiple_of(CHUNK) {
            let what = format!("layout.{name} at {} + h * {} on {device}", part.offset, part.head_stride);
            return Err(Error::unsupported(OP, what, "multiples of 4 elements"));
        }
    }
    Ok(())
}

/// Where the tensors of a call lie, in chunks: first the offset, then the strides without the last dimension's.
pub(super) struct Places {
    pub packed: [u32; 2],
    pub q: [u32; 3],
    pub k: [u32; 4],
    pub v: [u32; 4],
    pub scales: ScalePlaces,
}

/// Offsets and strides count chunks of 4 elements from the start of their buffers.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub rows: u32,
    pub q_heads: u32,
    pub kv_heads: u32,
    pub page_size: u32,
    pub packed_row: u32,
    pub packed_q: u32,
    pub packed_k: u32,
    pub packed_v: u32,
    pub packed_q_head: u32,
    pub packed_k_head: u32,
    pub packed_v_head: u32,
    pub rope_table: u32,
    pub q_base: u32,
    pub q_row: u32,
    pub q_head: u32,
    pub first_lane: u32,
    pub k_base: u32,
    pub k_page: u32,
    pub k_head: u32,
    pub k_slot: u32,
    pub v_base: u32,
    pub v_page: u32,
    pub v_head: u32,
    pub v_slot: u32,
    pub q_norm: u32,
    pub k_norm: u32,
    pub v_norm: u32,
    pub pairs: u32,
    pub q_eps: f32,
    pub k_eps: f32,
    pub v_eps: f32,
    pub mscale: f32,
    pub q_scale: f32,
    pub temperature: u32,
    pub v_scale: f32,
    /// Rows of the tables: those of all steps.
    pub table_rows: u32,
    pub k_weights: u32,
    pub v_weights: u32,
    pub q_weights_head: u32,
    pub k_weights_head: u32,
    pub v_weights_head: u32,
    pub bias: u32,
    pub v_turns: u32,
    /// What K and V are multiplied by before they are rounded to codes, if it is the same for all of each.
    pub k_code: f32,
    pub v_code: f32,
    /// Where scales lie: elements.
    pub k_scales: u32,
    pub v_scales: u32,
    pub scale_page: u32,
    pub scale_head: u32,
    pub scale_slot: u32,
    pub pad: [u32; 2],
}

impl Params {
    /// The numbers of a call of the plan whose tensors lie at `places`.
    pub fn new(plan: &KvAppendPlan, places: &Places) -> Self {
        let (s, l) = (&plan.spec, &plan.layout);
        let [packed, packed_row] = places.packed;
        let [q_base, q_row, q_head] = places.q;
        let [k_base, k_page, k_head, k_slot] = places.k;
        let [v_base, v_page, v_head, v_slot] = places.v;
        // A part lies within the packed tensor, whose last element fits u32.
        let chunk = |elements: usize| (elements / CHUNK) as u32;
        let step = |stride: usize, heads: usize| if heads > 1 { chunk(stride) } else { 0 };
        let by_head = |norm: Norm, lanes: usize| if norm.is_by_head() { lanes as u32 } else { 0 };
        let (rope, constants) = (s.rope.as_ref(), ConstantPlaces::of(s));
        Params {
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
            rope_table: constants.rope as u32,
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
            v_scale: s.v_scale,
            table_rows: plan.places.len() as u32,
            k_weights: constants.k_norm as u32,
            v_weights: constants.v_norm as u32,
            q_weights_head: by_head(s.q_norm, s.head_dim),
            k_weights_head: by_head(s.k_norm, s.k_norm_lanes()),
            v_weights_head: by_head(s.v_norm, s.head_dim_v),
            bias: constants.bias as u32,
            v_turns: s.v_rope.into(),
            k_code: 1.0 / s.kv_scale.factors()[0],
            v_code: 1.0 / s.kv_scale.factors()[1],
            k_scales: places.scales.offsets[0],
            v_scales: places.scales.offsets[1],
            scale_page: places.scales.strides[0],
            scale_head: places.scales.strides[1],
            scale_slot: places.scales.strides[2],
            pad: [0; 2],
        }
    }
}

const _: () = assert!(size_of::<Params>() == 208 && size_of::<Params>().is_multiple_of(16));
const _: () = assert!(offset_of!(Params, packed_row) == 16 && offset_of!(Params, packed_q_head) == 32);
const _: () = assert!(offset_of!(Params, q_base) == 48 && offset_of!(Params, k_base) == 64);
const _: () = assert!(offset_of!(Params, v_base) == 80 && offset_of!(Params, q_norm) == 96);
const _: () = assert!(offset_of!(Params, q_eps) == 112 && offset_of!(Params, q_scale) == 128);
const _: () = assert!(offset_of!(Params, k_weights) == 144 && offset_of!(Params, v_weights_head) == 160);
const _: () = assert!(offset_of!(Params, k_scales) == 180);
