//! What the kernel is told: the same fields in the same order as in `shaders/select.wgsl` and `cuda/select.cu`.

use super::SelectPlan;

/// Numbers of one call. Offsets and strides of q and k in chunks of 4 elements, of the weights in elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct SelectParams {
    pub rows: u32,
    pub heads: u32,
    pub words: u32,
    pub count: u32,
    pub block: u32,
    pub page_size: u32,
    pub q_offset: u32,
    pub q_row_stride: u32,
    pub q_head_stride: u32,
    pub k_offset: u32,
    pub k_page_stride: u32,
    pub k_token_stride: u32,
    pub weights_offset: u32,
    pub weights_row_stride: u32,
    pub pad: [u32; 2],
}

impl SelectParams {
    /// Places as offset and strides.
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), expect(dead_code, reason = "only launches need it"))]
    pub fn new(plan: &SelectPlan, q: [u32; 3], k: [u32; 3], weights: [u32; 2]) -> Self {
        SelectParams {
            rows: plan.num_rows as u32,
            heads: plan.spec.heads as u32,
            words: plan.words as u32,
            count: plan.spec.count as u32,
            block: plan.spec.block as u32,
            page_size: plan.page_size as u32,
            q_offset: q[0],
            q_row_stride: q[1],
            q_head_stride: q[2],
            k_offset: k[0],
            k_page_stride: k[1],
            k_token_stride: k[2],
            weights_offset: weights[0],
            weights_row_stride: weights[1],
            pad: [0; 2],
        }
    }
}

const _: () = assert!(size_of::<SelectParams>() == 64);
const _: () = assert!(std::mem::offset_of!(SelectParams, weights_offset) == 48);
