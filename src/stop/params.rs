//! What every device's kernel is told: the same fields in the same order as in `shaders/stop.wgsl` and `cuda/stop.cu`.

use std::mem::{offset_of, size_of};

use super::plan::StopPlan;
use super::state::flags;

/// Uniform of one launch.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub rows: u32,
    pub window: u32,
    pub end_tokens: u32,
    /// Never -inf: the least finite number says the same.
    pub threshold: f32,
    /// Words of the state at which the records begin, and the rings.
    pub records: u32,
    pub rings: u32,
    pub pad_0: u32,
    pub pad_1: u32,
}

impl Params {
    pub fn new(plan: &StopPlan) -> Self {
        Params {
            rows: plan.rows.len() as u32,
            window: plan.window as u32,
            end_tokens: plan.end_tokens.len() as u32,
            threshold: plan.threshold.max(f32::MIN),
            records: flags(plan.slots) as u32,
            rings: (flags(plan.slots) + 4 * plan.slots) as u32,
            pad_0: 0,
            pad_1: 0,
        }
    }
}

const _: () = assert!(size_of::<Params>() == 32 && offset_of!(Params, records) == 16);
