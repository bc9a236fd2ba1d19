//! The params struct, field for field the one of `shaders/merge.wgsl` and `cuda/common/state.cuh`.

use crate::layer::{ConstantPlaces, LayerConstants, LayerSpec};
use crate::{Steps, Tensor};

/// Words of the table header: rows, indptr_base, index_base, none.
pub(crate) const HEADER_WORDS: usize = 4;

/// What the epilogue writes to and reads besides the states.
pub(crate) struct Outputs<'a> {
    pub spec: &'a LayerSpec,
    pub constants: &'a LayerConstants,
    pub gate: Option<&'a Tensor>,
    pub out: &'a Tensor,
    pub lse: Option<&'a Tensor>,
    pub rows: usize,
    /// The counter that the rows' positions move with.
    #[cfg_attr(not(feature = "webgpu"), allow(dead_code))] // attention's kernel on CUDA has it already
    pub steps: Option<&'a Steps>,
}

/// Where states and outputs lie: offset, then strides of rows (or states) and heads, in chunks of 4 elements; those of
/// `state_lse`, of `lse` and of a gate per head in elements.
#[derive(Default)]
pub(crate) struct MergePlaces {
    pub states: [u32; 3],
    pub state_lse: [u32; 3],
    pub gate: [u32; 3],
    pub out: [u32; 3],
    pub lse: [u32; 3],
    /// First word of the table header.
    pub header: u32,
}

/// Numbers of one call that do not change while the plan does. Offsets and strides in chunks of 4 elements, those of
/// `lse` and of a gate per head in elements.
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
    /// [`crate::layer::Norm::code`].
    pub norm: u32,
    pub norm_eps: f32,
    /// First word of the norm weights in the constants.
    pub norm_base: u32,
    /// First word of the sinks in the constants.
    pub sinks_base: u32,
    pub has_sinks: u32,
    /// [`crate::layer::Gate::code`].
    pub gate: u32,
    pub has_lse: u32,
    /// First word of the table header `[rows, indptr_base, index_base, -]`.
    pub header: u32,
    /// First word of the rotation in the constants, first lane and number of the lane pairs that turn back.
    pub rope_table: u32,
    pub first_lane: u32,
    pub pairs: u32,
    /// Multiplies what is stored: 1 over the scale of codes, or 1.
    pub out_factor: f32,
}

impl MergeParams {
    pub fn new(outputs: &Outputs<'_>, at: &MergePlaces) -> Self {
        let spec = outputs.spec;
        let (places, rope) = (ConstantPlaces::of(spec), spec.rope.as_ref());
        MergeParams {
            num_q_heads: spec.num_q_heads as u32,
            state_offset: at.states[0],
            state_row_stride: at.states[1],
            state_head_stride: at.states[2],
            state_lse_offset: at.state_lse[0],
            state_lse_row_stride: at.state_lse[1],
            state_lse_head_stride: at.state_lse[2],
            gate_offset: at.gate[0],
            gate_row_stride: at.gate[1],
            gate_head_stride: at.gate[2],
            out_offset: at.out[0],
            out_row_stride: at.out[1],
            out_head_stride: at.out[2],
            lse_offset: at.lse[0],
            lse_row_stride: at.lse[1],
            lse_head_stride: at.lse[2],
            norm: spec.out_norm.code(),
            norm_eps: spec.out_norm.eps(),
            norm_base: places.out_norm as u32,
            sinks_base: places.sinks as u32,
            has_sinks: spec.sinks.into(),
            gate: spec.gate.code(),
            has_lse: outputs.lse.is_some().into(),
            header: at.header,
            rope_table: places.rope as u32,
            first_lane: rope.map_or(0, |r| r.first_lane as u32),
            pairs: rope.map_or(0, |r| r.inv_freq.len() as u32),
            out_factor: outputs.constants.out_factor(),
        }
    }
}

const _: () = assert!(size_of::<MergeParams>() == 112);
const _: () = assert!(std::mem::offset_of!(MergeParams, norm) == 64);
const _: () = assert!(std::mem::offset_of!(MergeParams, header) == 92);
