//! The params struct, field for field the one of `shaders/common/work_list.wgsl` and of the CUDA kernels.

use super::AttentionPlan;

/// Numbers of one call that do not change while the plan does. Offsets and strides in chunks of 4 elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct AttentionParams {
    pub num_q_heads: u32,
    pub num_kv_heads: u32,
    pub q_offset: u32,
    pub q_row_stride: u32,
    pub q_head_stride: u32,
    pub k_offset: u32,
    pub k_page_stride: u32,
    pub k_head_stride: u32,
    pub k_token_stride: u32,
    pub v_offset: u32,
    pub v_page_stride: u32,
    pub v_head_stride: u32,
    pub v_token_stride: u32,
    /// `softmax_scale * log2(e)`, or `softmax_scale / cap` with a cap.
    pub score_scale: f32,
    /// `cap * log2(e)`.
    pub cap_scale: f32,
    pub page_size: u32,
}

impl AttentionParams {
    /// Places as offset and strides of q (row, head), k and v (page, head, token).
    pub fn new(plan: &AttentionPlan, q: [u32; 3], k: [u32; 4], v: [u32; 4]) -> Self {
        let (spec, log2_e) = (&plan.spec, std::f32::consts::LOG2_E);
        AttentionParams {
            num_q_heads: spec.num_q_heads as u32,
            num_kv_heads: spec.num_kv_heads as u32,
            q_offset: q[0],
            q_row_stride: q[1],
            q_head_stride: q[2],
            k_offset: k[0],
            k_page_stride: k[1],
            k_head_stride: k[2],
            k_token_stride: k[3],
            v_offset: v[0],
            v_page_stride: v[1],
            v_head_stride: v[2],
            v_token_stride: v[3],
            score_scale: spec.soft_cap.map_or(spec.softmax_scale * log2_e, |cap| spec.softmax_scale / cap),
            cap_scale: spec.soft_cap.unwrap_or(0.0) * log2_e,
            page_size: plan.page_size as u32,
        }
    }
}

const _: () = assert!(size_of::<AttentionParams>() == 64);
const _: () = assert!(std::mem::offset_of!(AttentionParams, score_scale) == 52);
