//! The params struct, field for field the one of `shaders/common/work_list.wgsl`.

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

const _: () = assert!(size_of::<AttentionParams>() == 64);
const _: () = assert!(std::mem::offset_of!(AttentionParams, score_scale) == 52);
