//! What the kernels are told: the same fields in the same order as in `shaders/common/lm_head_params.wgsl` and
//! `cuda/common/lm_head_params.cuh`. The rows' table is that of `sampling`.

use std::mem::{offset_of, size_of};

use super::plan::LmHeadPlan;
use crate::sampling::to_normal;

/// Uniform of one launch. Offsets and strides count chunks of 4 elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub rows: u32,
    pub vocab: u32,
    /// Chunks.
    pub width: u32,
    pub slices: u32,
    pub hidden_base: u32,
    pub hidden_row: u32,
    pub weight_base: u32,
    pub weight_row: u32,
    pub seed_low: u32,
    pub seed_high: u32,
    /// output_multiplier / cap.
    pub cap_scale: f32,
    /// The |logit| beyond which tanh is 1.
    pub cap_limit: f32,
    /// Keys of a record.
    pub list: u32,
    /// Words of a record.
    pub stride: u32,
    /// 1 in the second round.
    pub second: u32,
    pub pad_0: u32,
}

impl Params {
    /// The numbers of a round of a call whose tensors lie there: offset and row stride.
    pub fn new(plan: &LmHeadPlan, round: usize, hidden: [u32; 2], weight: [u32; 2]) -> Self {
        let p = &plan.problem;
        let cap_scale = to_normal(p.output_multiplier as f64 / p.soft_cap.unwrap_or(1.0) as f64);
        Params {
            rows: p.rows.len() as u32,
            vocab: p.vocab as u32,
            width: (p.width / 4) as u32,
            slices: plan.slices() as u32,
            hidden_base: hidden[0],
            hidden_row: hidden[1],
            weight_base: weight[0],
            weight_row: weight[1],
            seed_low: p.seed as u32,
            seed_high: (p.seed >> 32) as u32,
            cap_scale,
            cap_limit: to_normal(16.0 / cap_scale as f64),
            list: plan.list as u32,
            stride: plan.stride() as u32,
            second: round as u32,
            pad_0: 0,
        }
    }
}

const _: () = assert!(size_of::<Params>() == 64 && offset_of!(Params, hidden_base) == 16);
const _: () = assert!(offset_of!(Params, seed_low) == 32 && offset_of!(Params, list) == 48);
