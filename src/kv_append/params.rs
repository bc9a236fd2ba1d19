//! The kernel's params struct: the same fields in the same order as in `shaders/kv_append.wgsl`.
#![cfg(feature = "webgpu")]

use std::mem::{offset_of, size_of};

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
    pub pad_1: u32,
    pub pad_2: u32,
}

const _: () = assert!(size_of::<Params>() == 144 && size_of::<Params>().is_multiple_of(16));
const _: () = assert!(offset_of!(Params, packed_row) == 16 && offset_of!(Params, packed_q_head) == 32);
const _: () = assert!(offset_of!(Params, q_base) == 48 && offset_of!(Params, k_base) == 64);
const _: () = assert!(offset_of!(Params, v_base) == 80 && offset_of!(Params, q_norm) == 96);
const _: () = assert!(offset_of!(Params, q_eps) == 112 && offset_of!(Params, q_scale) == 128);
