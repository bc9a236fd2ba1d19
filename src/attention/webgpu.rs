//! Attention on WebGPU: tables, params, variants, and one launch or two.

use std::sync::Arc;

use super::params::AttentionParams;
use super::plan::Work;
use super::problem::OP;
use super::splits::Splits;
use super::tables;
use super::tile::{Tile, value_parts};
use super::worklist::WorkList;
use super::{AttentionArgs, AttentionPlan};
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::layer::{CODES, KvScale, LayerSpec, Pairing, ScalePlaces};
use crate::merge::webgpu::{States, encode_states};
use crate::{DType, Error, Result, Tensor, Workspace};

/// Lanes that share a row of keys in the kernel without subgroups: (lanes / 8) groups of queries x 8 groups of keys.
const KEY_GROUPS: usize = 8;

/// Keys that the kernel for subgroups takes at a time: divides a tile's, is divided by the lanes of a subgroup.
const STEP: usize = 16;

pub(super) fn variant(
    spec: &LayerSpec,
    tile: &Tile,
    [has_gap, has_shift, has_steps]: [bool; 3],
    writes_states: bool,
) -> Variant {
    let rope = spec.rope.as_ref().filter(|_| has_shift);
    let (variant, key_groups) = match tile.subgroup {
        0 => (
            Variant::new("attention").u32("KEY_GROUPS", KEY_GROUPS).u32("KEYS_PER_LANE", tile.keys / KEY_GROUPS),
            KEY_GROUPS,
        ),
        n => (Variant::new("attention_subgroup").u32("SUBGROUP", n).u32("KEYS_PER_LANE", STEP / n), 1),
    };
    variant
        .u32("LANES", tile.lanes)
        .u32("QUERIES_PER_LANE", tile.queries * key_groups / tile.lanes)
        .u32("GROUP", tile.heads(spec))
        .u32("HEAD_PARTS", tile.head_parts(spec))
        .u32("HEAD_CHUNKS", spec.head_dim / 4)
        .u32("VALUE_CHUNKS", spec.head_dim_v / 4)
        .u32("VALUE_PARTS", value_parts(spec))
        .bool("WRITES_STATES", writes_states)
        .bool("HAS_SOFT_CAP", spec.soft_cap.is_some())
        .bool("HAS_GAP", has_gap)
        .bool("HAS_SHIFT", rope.is_some())
        .bool("HAS_STEPS", has_steps)
        .bool("HAS_TOKEN_SCALES", spec.kv_scale == KvScale::Token)
        .bool("HAS_TAIL", spec.tail_dtype.is_some())
        .bool("HAS_SELECTION", spec.indexer.is_some())
        .bool("PAIRS_ARE_HALVES", rope.is_some_and(|r| r.pairing == Pairing::Half))
        .u32("ROPE_FIRST", rope.map_or(0, |r| r.first_lane))
        .u32("ROPE_PAIRS", rope.map_or(1, |r| r.inv_freq.len()))
        .storage("q", spec.dtype)
        .storage("k", spec.kv_dtype)
        .storage("v", spec.kv_dtype)
        .storage("out", if writes_states { DType::F32 } else { spec.out_dtype() })
}

/// One variant for each value of each constant: what offline validation compiles.
pub(super) fn covering_variants() -> Vec<Variant> {
    use crate::layer::{Indexer, Rope};
    let tile = |lanes, subgroup| Tile {
        lanes,
        queries: 64,
        keys: 48,
        splits: Splits { keys: 480, of_a_size: u32::MAX },
        subgroup,
        is_spread: lanes < 128,
        merges: false,
        reason: "",
    };
    let tiles = [tile(32, 0), tile(64, 0), tile(128, 0), tile(16, 4), tile(32, 8), tile(64, 16)];
    let mut all = Vec::new();
    for (i, dim) in (8..=256).step_by(8).enumerate() {
        for (j, tile) in tiles.iter().enumerate() {
            let group = [1, 2, 3, 5, 7, 8, 16][i % 7];
            let mut spec = LayerSpec::new(group, 1, dim);
            spec.head_dim_v = [dim, 264 - dim][j % 2];
            spec.dtype = DType::ALL[i % 3];
            spec.kv_dtype = DType::ALL[(i + j) % 3];
            if i % 4 == 3 && dim % 32 == 0 {
                (spec.kv_dtype, spec.kv_scale) = CODES[j % CODES.len()];
            }
            spec.soft_cap = (i % 2 == 0).then_some(50.0);
            spec.out_code = (i % 8 == 5).then_some(DType::E4M3);
            spec.indexer = (i % 7 < 3).then_some(Indexer { heads: 1, dim: 8, count: 1, block: 1 });
            let pairing = [Pairing::Half, Pairing::Adjacent][i % 2];
            spec.rope = Some(Rope::plain(dim, 1e4, pairing));
            all.push(variant(&spec, tile, [i % 4 == 0, i % 3 != 0, i % 5 < 2], (i + j) % 4 != 0));
        }
    }
    for (dim, dim_v, group) in [(320, 256, 96), (512, 512, 8), (576, 512, 128)] {
        let spec = LayerSpec { head_dim_v: dim_v, ..LayerSpec::new(group, 1, dim) };
        all.extend(tiles.iter().map(|tile| variant(&spec, tile, [false; 3], true)));
        if dim > dim_v {
            for (tile, (kv_dtype, kv_scale)) in tiles.iter().zip(CODES.into_iter().cycle()) {
                let coded = LayerSpec { v_in_k: true, ..spec.clone() }.with_coded_latent(kv_dtype, kv_scale);
                all.push(variant(&coded, tile, [false; 3], true));
            }
        }
    }
    all
}

/// The uniform: [`AttentionParams`], then the place of the output in chunks, and what multiplies it where it is rows.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    attention: AttentionParams,
    out: [u32; 3],
    out_factor: f32,
}

/// Whether rows are written at once, without their lse: a buffer that is read cannot be written in the same launch.
fn writes_rows(list: &WorkList, spec: &LayerSpec, args: &AttentionArgs<'_>) -> bool {
    let is_read = |t: &Tensor| t.buffer().is_same(args.out.buffer());
    list.is_final(spec)
        && args.lse.is_none()
        && ![args.q, args.k, args.v].into_iter().any(is_read)
        && ![args.k.scales(), args.v.scales()].into_iter().flatten().any(is_read)
}

pub(super) fn encode(
    plan: &AttentionPlan,
    gpu: &Arc<Gpu>,
    args: &AttentionArgs<'_>,
    workspace: &mut Workspace,
    encoder: &mut wgpu::CommandEncoder,
) -> Result<()> {
    let Work::List(list) = &plan.work else {
        return Err(Error::invalid(OP, "plan", "one made for WebGPU", "one made for the reference"));
    };
    let spec = &plan.spec;
    // A state's lse has a chunk of its own behind the value's: `store_lse` in work_list.wgsl.
    let (heads, value_chunks) = (spec.num_q_heads as u32, spec.head_dim_v as u32 / 4);
    let state_chunks = value_chunks + 1;
    let writes_states = !writes_rows(list, spec, args);
    let scratch = if writes_states { list.num_partials as usize * (heads * state_chunks * 4) as usize } else { 0 };
    if scratch > u32::MAX as usize {
        return Err(Error::unsupported(OP, format!("{} partial states", list.num_partials), "2^32 words of them"));
    }
    let q: [u32; 3] = chunks(OP, "q", args.q)?;
    let k: [u32; 4] = chunks(OP, "k", args.k)?;
    let v: [u32; 4] = chunks(OP, "v", args.v)?;
    let out = if writes_states { [0, heads * state_chunks, state_chunks] } else { chunks(OP, "out", args.out)? };
    let places = ScalePlaces::of(OP, args.k, args.v)?;
    let out_factor = if writes_states { 1.0 } else { args.constants.out_factor() };
    let params = Params { attention: AttentionParams::new(plan, q, k, v, places), out, out_factor };
    let scales = ScalePlaces::buffer(OP, args.k, args.v)?;
    let w = workspace.load(OP, gpu, plan.id, scratch * 4, || tables::words(plan, list, 0))?;
    use Access::{Read, ReadWrite};
    let kernel = gpu.kernel(
        &variant(spec, &plan.tile, [list.has_gap, !list.shifts.is_empty(), plan.steps.is_some()], writes_states),
        &[Read, Read, Read, Read, ReadWrite, Read, Read, Read],
    )?;
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().on(gpu, OP, "steps")?,
        None => &w.absent[0],
    };
    let scales = scales.map_or(Ok(&w.absent[0]), |scales| scales.on(gpu, OP, "scales"))?;
    let selection = match args.selection {
        Some(selection) => selection.on(gpu, OP, "selection")?,
        None => &w.absent[0],
    };
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[
            args.q.buffer().on(gpu, OP, "q")?,
            args.k.buffer().on(gpu, OP, "k")?,
            args.v.buffer().on(gpu, OP, "v")?,
            &w.tables,
            if writes_states { &w.scratch } else { args.out.buffer().on(gpu, OP, "out")? },
            steps,
            scales,
            selection,
        ],
        groups: list.num_shares(&plan.tile, spec),
    };
    let mut pass = encoder.begin_compute_pass(&Default::default());
    gpu.encode(&mut w.bindings, &mut pass, &launch)?;
    if !writes_states {
        return Ok(());
    }
    let outputs = plan.outputs(args);
    let scratch = w.scratch.clone();
    let states = States {
        states: &scratch,
        lse: &scratch,
        place: out,
        lse_place: [value_chunks * 4, heads * state_chunks * 4, state_chunks * 4],
        header: tables::MERGE_HEADER as u32,
    };
    encode_states(gpu, &outputs, &states, w, &mut pass)
}
