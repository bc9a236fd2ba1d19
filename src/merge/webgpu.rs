//! Merge on WebGPU: params, variant, launch.

use std::sync::Arc;

use super::params::MergeParams;
use super::{MergeArgs, MergePlan};
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::backend::workspace::GpuWorkspace;
use crate::layer::{ConstantPlaces, Gate, LayerConstants, LayerSpec};
use crate::{DType, Result, Tensor, Workspace};

/// Lanes of a workgroup; one lane merges one head of one row.
const LANES: usize = 64;

/// Words of the table header: rows, indptr_base, index_base, lse_base.
pub(crate) const HEADER_WORDS: usize = 4;

/// Rows without a norm and a gate have a kernel without them: a driver that masks lanes out instead of branching pays
/// for code that no lane runs.
pub(crate) fn variant(head_dim_v: usize, dtype: DType, has_epilogue: bool) -> Variant {
    Variant::new("merge")
        .u32("LANES", LANES)
        .u32("VALUE_CHUNKS", head_dim_v / 4)
        .bool("HAS_EPILOGUE", has_epilogue)
        .storage("gate", dtype)
        .storage("out", dtype)
}

/// What the epilogue writes to and reads besides the states.
pub(crate) struct Outputs<'a> {
    pub spec: &'a LayerSpec,
    pub constants: &'a LayerConstants,
    pub gate: Option<&'a Tensor>,
    pub out: &'a Tensor,
    pub lse: Option<&'a Tensor>,
    pub rows: usize,
}

/// Where the states lie: buffers, then offset and strides in chunks of 4 (outputs) and in elements (lse).
pub(crate) struct States<'a> {
    pub states: &'a wgpu::Buffer,
    pub lse: &'a wgpu::Buffer,
    pub place: [u32; 3],
    pub lse_place: [u32; 3],
    /// First word of the table header.
    pub header: u32,
}

/// Encodes the merge over states that may be a tensor's or another operation's scratch memory.
pub(crate) fn encode_states(
    gpu: &Arc<Gpu>,
    outputs: &Outputs<'_>,
    states: &States<'_>,
    workspace: &mut GpuWorkspace,
    pass: &mut wgpu::ComputePass<'_>,
) -> Result<()> {
    const OP: &str = "merge";
    let spec = outputs.spec;
    let places = ConstantPlaces::of(spec);
    let gate = outputs.gate.map(|t| chunks(OP, "gate", t)).transpose()?.unwrap_or([0; 3]);
    let out: [u32; 3] = chunks(OP, "out", outputs.out)?;
    let lse = outputs.lse.map_or([0; 3], |t| [t.offset() as u32, t.strides()[0] as u32, t.strides()[1] as u32]);
    let params = MergeParams {
        num_q_heads: spec.num_q_heads as u32,
        state_offset: states.place[0],
        state_row_stride: states.place[1],
        state_head_stride: states.place[2],
        state_lse_offset: states.lse_place[0],
        state_lse_row_stride: states.lse_place[1],
        state_lse_head_stride: states.lse_place[2],
        gate_offset: gate[0],
        gate_row_stride: gate[1],
        gate_head_stride: gate[2],
        out_offset: out[0],
        out_row_stride: out[1],
        out_head_stride: out[2],
        lse_offset: lse[0],
        lse_row_stride: lse[1],
        lse_head_stride: lse[2],
        norm: spec.out_norm.code(),
        norm_eps: spec.out_norm.eps(),
        norm_base: places.out_norm as u32,
        sinks_base: places.sinks as u32,
        has_sinks: spec.sinks.into(),
        has_gate: (spec.gate == Gate::Sigmoid).into(),
        has_lse: outputs.lse.is_some().into(),
        header: states.header,
    };
    use Access::{Read, ReadWrite};
    let has_epilogue = params.norm != 0 || params.has_gate != 0;
    let access = [Read, Read, Read, Read, Read, ReadWrite, ReadWrite];
    let kernel = gpu.kernel(&variant(spec.head_dim_v, spec.dtype, has_epilogue), &access)?;
    let absent = workspace.absent.clone();
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[
            states.states,
            states.lse,
            &workspace.tables,
            outputs.constants.buffer.on(gpu, OP, "constants")?,
            outputs.gate.map_or(Ok(&absent[0]), |t| t.buffer().on(gpu, OP, "gate"))?,
            outputs.out.buffer().on(gpu, OP, "out")?,
            outputs.lse.map_or(Ok(&absent[1]), |t| t.buffer().on(gpu, OP, "lse"))?,
        ],
        groups: (outputs.rows * spec.num_q_heads).div_ceil(LANES),
    };
    gpu.encode(&mut workspace.bindings, pass, &launch)
}

pub(super) fn encode(
    plan: &MergePlan,
    gpu: &Arc<Gpu>,
    args: &MergeArgs<'_>,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    const OP: &str = "merge";
    let place = chunks(OP, "states", args.states)?;
    let lse = args.state_lse;
    let w = workspace.load(OP, gpu, plan.id, 0, || {
        let indptr_base = HEADER_WORDS as u32;
        let mut words = vec![plan.rows() as u32, indptr_base, indptr_base + plan.indptr.len() as u32, 0];
        words.extend(&plan.indptr);
        words.extend(&plan.index);
        words
    })?;
    let outputs = Outputs {
        spec: &plan.spec,
        constants: args.constants,
        gate: args.gate,
        out: args.out,
        lse: args.lse,
        rows: plan.rows(),
    };
    let states = States {
        states: args.states.buffer().on(gpu, OP, "states")?,
        lse: args.state_lse.buffer().on(gpu, OP, "state_lse")?,
        place,
        lse_place: [lse.offset() as u32, lse.strides()[0] as u32, lse.strides()[1] as u32],
        header: 0,
    };
    let mut pass = encoder.begin_compute_pass(&Default::default());
    encode_states(gpu, &outputs, &states, w, &mut pass)
}
