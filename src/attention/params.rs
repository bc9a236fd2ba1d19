//! The params struct, field for field the one of `shaders/common/work_list.wgsl` and of the CUDA kernels.

use super::{AttentionArgs, AttentionPlan};
use crate::layer::ScalePlaces;
use crate::merge::params::Outputs;

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
    /// Multiplies outputs: the scale of all codes of V, or 1.
    pub value_scale: f32,
    /// Where the scales of tokens lie: elements.
    pub k_scales: u32,
    pub v_scales: u32,
    pub scale_page_stride: u32,
    pub scale_head_stride: u32,
    pub scale_token_stride: u32,
    /// Words of a row of the selection, and of all rows.
    pub selection_words: u32,
    pub selection_size: u32,
}

impl AttentionParams {
    /// Places as offset and strides of q (row, head), k and v (page, head, token).
    pub fn new(plan: &AttentionPlan, q: [u32; 3], k: [u32; 4], v: [u32; 4], scales: ScalePlaces) -> Self {
        let (spec, log2_e) = (&plan.spec, std::f32::consts::LOG2_E);
        let [k_scale, value_scale] = spec.kv_scale.factors();
        // With a tail the kernel multiplies the codes' part alone, by the scale that V has too.
        let softmax_scale = spec.softmax_scale * if spec.tail_dtype.is_some() { 1.0 } else { k_scale };
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
            score_scale: spec.soft_cap.map_or(softmax_scale * log2_e, |cap| softmax_scale / cap),
            cap_scale: spec.soft_cap.unwrap_or(0.0) * log2_e,
            page_size: plan.page_size as u32,
            value_scale,
            k_scales: scales.offsets[0],
            v_scales: scales.offsets[1],
            scale_page_stride: scales.strides[0],
            scale_head_stride: scales.strides[1],
            scale_token_stride: scales.strides[2],
            selection_words: plan.selection_words as u32,
            selection_size: (plan.num_rows * plan.selection_words) as u32,
        }
    }
}

impl AttentionPlan {
    /// What the merge of the states is given.
    pub(super) fn outputs<'a>(&'a self, args: &AttentionArgs<'a>) -> Outputs<'a> {
        Outputs {
            spec: &self.spec,
            constants: args.constants,
            gate: args.gate,
            out: args.out,
            lse: args.lse,
            rows: self.num_rows,
            steps: self.steps.as_ref(),
        }
    }
}

const _: () = assert!(size_of::<AttentionParams>() == 96);
const _: () = assert!(std::mem::offset_of!(AttentionParams, score_scale) == 52);
