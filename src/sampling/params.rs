//! What the kernel is told: the same fields in the same order as in `shaders/sampling.wgsl` and
//! `cuda/sampling.cu`.

use std::mem::{offset_of, size_of};

use super::SamplingProblem;
use super::plan::to_normal;

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

impl SamplingParams {
    /// The numbers of a call whose logits begin at element `offset` of their memory.
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), expect(dead_code, reason = "only launches need it"))]
    pub fn new(problem: &SamplingProblem, offset: u32, row_stride: u32) -> Self {
        let cap_scale = to_normal(problem.output_multiplier as f64 / problem.soft_cap.unwrap_or(1.0) as f64);
        SamplingParams {
            rows: problem.rows.len() as u32,
            vocab: problem.vocab as u32,
            logits_offset: offset,
            logits_row_stride: if problem.rows.len() > 1 { row_stride } else { 0 },
            seed_low: problem.seed as u32,
            seed_high: (problem.seed >> 32) as u32,
            cap_scale,
            cap_limit: to_normal(16.0 / cap_scale as f64),
        }
    }
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
    /// Tokens that the confidence speaks of; 0: off.
    pub confidence: u32,
    pub pad_0: u32,
    pub pad_1: u32,
    pub pad_2: u32,
}

const _: () = {
    assert!(size_of::<SamplingParams>() == 32 && size_of::<RowParams>() == 48);
    assert!(offset_of!(SamplingParams, logits_row_stride) == 12 && offset_of!(SamplingParams, cap_limit) == 28);
    assert!(offset_of!(RowParams, top_p) == 12 && offset_of!(RowParams, greedy) == 28);
};
