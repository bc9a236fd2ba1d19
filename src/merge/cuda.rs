//! Merge on CUDA: arguments, variant, launch.

use std::sync::Arc;

use super::params::{MergeParams, MergePlaces, Outputs};
use super::problem::OP;
use super::{MergeArgs, MergePlan};
use crate::backend::cuda::{CHUNK, Gpu, Launch, place};
use crate::backend::source::Variant;
use crate::layer::{LayerSpec, Rotation};
use crate::{DType, Error, Result, Tensor, Workspace};

/// Threads of a block; a warp merges one head of one row.
const THREADS: usize = 128;
const WARPS: usize = THREADS / 32;

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    params: MergeParams,
    states: u64,
    state_lse: u64,
    tables: u64,
    constants: u64,
    gate: u64,
    out: u64,
    lse: u64,
}

const _: () = assert!(size_of::<Args>() == 168);

pub(super) fn variant(head_dim_v: usize, rotation: Rotation, [gate, out]: [DType; 2]) -> Variant {
    Variant::new("merge")
        .u32("THREADS", THREADS)
        .u32("VALUE_CHUNKS", head_dim_v / CHUNK)
        .u32("ROTATION", rotation as usize)
        .storage("gate", gate)
        .storage("out", out)
}

fn variant_of(spec: &LayerSpec) -> Variant {
    variant(spec.head_dim_v, spec.out_rotation(), [spec.dtype, spec.out_dtype()])
}

/// Where the states lie: addresses and strides of state and head, in chunks of 4 (outputs) and in elements (lse).
pub(crate) struct States {
    pub states: u64,
    pub lse: u64,
    pub strides: [u32; 2],
    pub lse_strides: [u32; 2],
    /// Address of the tables, and the first word of the header in them.
    pub tables: u64,
    pub header: u32,
}

fn blocks(spec: &LayerSpec, rows: usize) -> usize {
    (rows * spec.num_q_heads).div_ceil(WARPS)
}

/// The launch in words, for the plan's `Display`.
pub(super) fn describe(spec: &LayerSpec, rows: usize) -> String {
    format!("{} blocks of {THREADS} ({})", blocks(spec, rows), variant_of(spec).options())
}

/// Address and strides in elements of an lse `[.., heads]` or a gate per head, which may lie anywhere.
fn elements(gpu: &Arc<Gpu>, argument: &'static str, lse: &Tensor) -> Result<(u64, [u32; 2])> {
    let (address, []) = place(gpu, OP, argument, lse, 1)?;
    match *lse.strides() {
        [row, head, ..] if row <= u32::MAX as usize => Ok((address, [row as u32, head as u32])),
        _ => {
            let what = format!("{argument} with strides {:?} on CUDA", lse.strides());
            Err(Error::unsupported(OP, what, "strides below 2^32"))
        }
    }
}

/// What a kernel that ends in a merge needs besides the states: params and addresses.
pub(crate) struct Epilogue {
    pub params: MergeParams,
    pub constants: u64,
    pub gate: u64,
    pub out: u64,
    pub lse: u64,
}

pub(crate) fn epilogue(gpu: &Arc<Gpu>, outputs: &Outputs<'_>, states: &States) -> Result<Epilogue> {
    let spec = outputs.spec;
    let heads = outputs.rows.saturating_mul(spec.num_q_heads);
    if heads > u32::MAX as usize {
        let what = format!("{} rows of {} heads on CUDA", outputs.rows, spec.num_q_heads);
        return Err(Error::unsupported(OP, what, "fewer than 2^32 heads in one launch"));
    }
    let gate_place = |t: &Tensor| match spec.gate.is_of_head() {
        true => elements(gpu, "gate", t),
        false => place(gpu, OP, "gate", t, CHUNK),
    };
    let (gate, gate_strides) = outputs.gate.map(gate_place).transpose()?.unwrap_or((0, [0; 2]));
    let (out, out_strides) = place::<2>(gpu, OP, "out", outputs.out, CHUNK)?;
    let (lse, lse_strides) = outputs.lse.map(|t| elements(gpu, "lse", t)).transpose()?.unwrap_or((0, [0; 2]));
    let from_start = |[row, head]: [u32; 2]| [0, row, head];
    let places = MergePlaces {
        states: from_start(states.strides),
        state_lse: from_start(states.lse_strides),
        gate: from_start(gate_strides),
        out: from_start(out_strides),
        lse: from_start(lse_strides),
        header: states.header,
    };
    let constants = outputs.constants.buffer.block(gpu, OP, "constants")?.address();
    Ok(Epilogue { params: MergeParams::new(outputs, &places), constants, gate, out, lse })
}

/// Launches the merge over states that may be a tensor's or another operation's scratch memory.
pub(crate) fn launch_states(gpu: &Arc<Gpu>, outputs: &Outputs<'_>, states: &States) -> Result<()> {
    let spec = outputs.spec;
    let Epilogue { params, constants, gate, out, lse } = epilogue(gpu, outputs, states)?;
    let args =
        Args { params, states: states.states, state_lse: states.lse, tables: states.tables, constants, gate, out, lse };
    gpu.launch(&Launch {
        kernel: &gpu.kernel(&variant_of(spec))?,
        groups: blocks(spec, outputs.rows),
        threads: THREADS,
        shared_bytes: 0,
        args: bytemuck::bytes_of(&args),
    })
}

pub(super) fn ready(plan: &MergePlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<()> {
    gpu.kernel(&variant_of(&plan.spec))?;
    workspace.load_cuda(OP, gpu, plan.id, 0, || plan.tables()).map(|_| ())
}

pub(super) fn run(plan: &MergePlan, gpu: &Arc<Gpu>, args: &MergeArgs<'_>, workspace: &mut Workspace) -> Result<()> {
    let read = [Some(args.states), Some(args.state_lse), args.gate];
    for (name, written) in [("out", Some(args.out)), ("lse", args.lse)] {
        let Some(written) = written else { continue };
        if read.into_iter().flatten().any(|t| t.buffer().is_same(written.buffer())) {
            return Err(Error::invalid(OP, name, "memory apart from what is read", "the same"));
        }
    }
    let (states, strides) = place(gpu, OP, "states", args.states, CHUNK)?;
    let (lse, lse_strides) = elements(gpu, "state_lse", args.state_lse)?;
    let outputs = Outputs {
        spec: &plan.spec,
        constants: args.constants,
        gate: args.gate,
        out: args.out,
        lse: args.lse,
        rows: plan.rows(),
        steps: None,
    };
    let tables = workspace.load_cuda(OP, gpu, plan.id, 0, || plan.tables())?.tables;
    launch_states(gpu, &outputs, &States { states, lse, strides, lse_strides, tables, header: 0 })
}
