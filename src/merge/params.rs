//! The params struct, field for field the one of `shaders/merge.wgsl`.

/// Numbers of one call that do not change while the plan does. Offsets and strides in chunks of 4 elements, those of
/// `lse` in elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct MergeParams {
    pub num_q_heads: u32,
    pub state_offset: u32,
    pub state_row_stride: u32,
    pub state_head_stride: u32,
    pub state_lse_offset: u32,
    pub state_lse_row_stride: u32,
    pub state_lse_head_stride: u32,
    pub gate_offset: u32,
    pub gate_row_stride: u32,
    pub gate_head_stride: u32,
    pub out_offset: u32,
    pub out_row_stride: u32,
    pub out_head_stride: u32,
    pub lse_offset: u32,
    pub lse_row_stride: u32,
    pub lse_head_stride: u32,
    /// 0 none, 1 weightless, 2 scaled, 3 one plus.
    pub norm: u32,
    pub norm_eps: f32,
    /// First word of the norm weights in the constants.
    pub norm_base: u32,
    /// First word of the sinks in the constants.
    pub sinks_base: u32,
    pub has_sinks: u32,
    pub has_gate: u32,
    pub has_lse: u32,
    /// First word of the table header `[rows, indptr_base, index_base, lse_base]`. `lse_base` is added to
    /// `state_lse_offset`, for states that live in scratch memory.
    pub header: u32,
}

const _: () = assert!(size_of::<MergeParams>() == 96);
const _: () = assert!(std::mem::offset_of!(MergeParams, norm) == 64);
const _: () = assert!(std::mem::offset_of!(MergeParams, header) == 92);
