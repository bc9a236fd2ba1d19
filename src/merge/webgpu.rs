//! Merge on WebGPU: params, variant, launch.

use std::sync::Arc;

pub(crate) use super::params::Outputs;
use super::params::{MergeParams, MergePlaces};
use super::problem::OP;
use super::{MergeArgs, MergePlan};
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::backend::workspace::GpuWorkspace;
use crate::layer::{LayerSpec, Rotation};
use crate::{DType, Error, Result, Tensor, Workspace};

/// Lanes of a workgroup; one lane merges one head of one row.
const LANES: usize = 64;

/// Rows without a norm and a gate have a kernel without them: a driver that masks lanes out instead of branching pays
/// for code that no lane runs.
pub(super) fn variant(
    head_dim_v: usize,
    [gate, out]: [DType; 2],
    rotation: Rotation,
    [has_epilogue, has_steps]: [bool; 2],
) -> Variant {
    Variant::new("merge")
        .u32("LANES", LANES)
        .u32("VALUE_CHUNKS", head_dim_v / 4)
        .bool("HAS_EPILOGUE", has_epilogue)
        .u32("ROTATION", rotation as usize)
        .bool("HAS_STEPS", has_steps)
        .storage("gate", gate)
        .storage("out", out)
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

/// Offset and strides of rows and heads in elements.
fn elements(t: &Tensor) -> [u32; 3] {
    [t.offset() as u32, t.strides()[0] as u32, t.strides()[1] as u32]
}

/// In chunks, or for a gate per head in elements: these are loaded by chunks that the buffer must hold to their ends.
fn gate_place(spec: &LayerSpec, gate: &Tensor) -> Result<[u32; 3]> {
    if !spec.gate.is_of_head() {
        return chunks(OP, "gate", gate);
    }
    let last: usize = gate.shape().iter().zip(gate.strides()).map(|(&n, &s)| n.saturating_sub(1) * s).sum();
    let need = (gate.offset() + last + 1).next_multiple_of(4) * gate.dtype().size();
    if gate.buffer().bytes() < need {
        let what = format!("gate in a buffer of {} bytes on WebGPU", gate.buffer().bytes());
        return Err(Error::unsupported(OP, what, format!("{need} bytes or more, whole chunks of 4 elements")));
    }
    Ok(elements(gate))
}

/// Encodes the merge over states that may be a tensor's or another operation's scratch memory.
pub(crate) fn encode_states(
    gpu: &Arc<Gpu>,
    outputs: &Outputs<'_>,
    states: &States<'_>,
    workspace: &mut GpuWorkspace,
    pass: &mut wgpu::ComputePass<'_>,
) -> Result<()> {
    let spec = outputs.spec;
    let gate = outputs.gate.map(|t| gate_place(spec, t)).transpose()?.unwrap_or([0; 3]);
    let out: [u32; 3] = chunks(OP, "out", outputs.out)?;
    let lse = outputs.lse.map_or([0; 3], elements);
    let places =
        MergePlaces { states: states.place, state_lse: states.lse_place, gate, out, lse, header: states.header };
    let params = MergeParams::new(outputs, &places);
    use Access::{Read, ReadWrite};
    let access = [Read, Read, Read, Read, Read, ReadWrite, ReadWrite, Read];
    let (rotation, absent) = (spec.out_rotation(), workspace.absent.clone());
    let steps = outputs.steps.filter(|_| rotation != Rotation::None);
    let flags = [spec.has_epilogue(), steps.is_some()];
    let kernel = gpu.kernel(&variant(spec.head_dim_v, [spec.dtype, spec.out_dtype()], rotation, flags), &access)?;
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
            steps.map_or(Ok(&absent[0]), |s| s.buffer().on(gpu, OP, "steps"))?,
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
    let place = chunks(OP, "states", args.states)?;
    let w = workspace.load(OP, gpu, plan.id, 0, || plan.tables())?;
    let outputs = Outputs {
        spec: &plan.spec,
        constants: args.constants,
        gate: args.gate,
        out: args.out,
        lse: args.lse,
        rows: plan.rows(),
        steps: None,
    };
    let states = States {
        states: args.states.buffer().on(gpu, OP, "states")?,
        lse: args.state_lse.buffer().on(gpu, OP, "state_lse")?,
        place,
        lse_place: elements(args.state_lse),
        header: 0,
    };
    let mut pass = encoder.begin_compute_pass(&Default::default());
    encode_states(gpu, &outputs, &states, w, &mut pass)
}
