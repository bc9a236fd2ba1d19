//! What every device's kernel is told: the same fields in the same order as in `shaders/verify.wgsl` and
//! `cuda/verify.cu`.

use std::mem::{offset_of, size_of};

use super::plan::VerifyPlan;

/// Uniform of one launch.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub sequences: u32,
    /// Words of a record.
    pub stride: u32,
    pub pad_0: u32,
    pub pad_1: u32,
}

impl Params {
    pub fn new(plan: &VerifyPlan) -> Self {
        Params { sequences: plan.sequences() as u32, stride: plan.stride() as u32, pad_0: 0, pad_1: 0 }
    }
}

const _: () = assert!(size_of::<Params>() == 16 && offset_of!(Params, stride) == 4);
