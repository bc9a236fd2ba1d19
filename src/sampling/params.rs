//! What the kernel is told: the same fields in the same order as in `shaders/sampling.wgsl`.

use std::mem::{offset_of, size_of};

/// Uniform of one launch.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct SamplingParams {
    pub rows: u32,
    pub vocab: u32,
    /// Elements.
    pub logits_offset: u32,
    /// Elements.
    pub logits_row_stride: u32,
    pub seed_low: u32,
    pub seed_high: u32,
    /// output_multiplier / cap.
    pub cap_scale: f32,
    /// The |logit| beyond which tanh is 1.
    pub cap_limit: f32,
}

/// One row of the plan's table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct RowParams {
    /// From differences of the kernel's value() (half the logit, or tanh) to differences of x.
    pub gap_scale: f32,
    /// The difference of value() that makes 512 of x.
    pub gap_limit: f32,
    /// 0: off.
    pub top_k: u32,
    /// In units of 2^-32; 0: off.
    pub top_p: u32,
    /// ln min_p, at least -1024: off.
    pub min_z: f32,
    pub agent: u32,
    pub step: u32,
    /// 0 or 1.
    pub greedy: u32,
}

const _: () = {
    assert!(size_of::<SamplingParams>() == 32 && size_of::<RowParams>() == 32);
    assert!(offset_of!(SamplingParams, logits_row_stride) == 12 && offset_of!(SamplingParams, cap_limit) == 28);
    assert!(offset_of!(RowParams, top_p) == 12 && offset_of!(RowParams, greedy) == 28);
};
