//! Attention on WebGPU: tables, params, variants, two launches.

use std::sync::Arc;

use super::params::AttentionParams;
use super::plan::Work;
use super::problem::OP;
use super::worklist::{KEY_GROUPS, Tile, WorkList, rule_words};
use super::{AttentionArgs, AttentionPlan};
use crate::backend::source::Variant;
use crate::backend::webgpu::{Access, Gpu, Launch, chunks};
use crate::layer::{LayerSpec, Pairing};
use crate::merge::webgpu::{Outputs, States, encode_states};
use crate::{DType, Error, Result, Workspace};

/// Words of the table header; see `shaders/common/work_list.wgsl`. The last four are the merge's header.
const HEADER_WORDS: usize = 12;

/// Keys that the kernel for subgroups takes at a time: divides a tile's, is divided by the lanes of a subgroup.
const STEP: usize = 16;

pub(super) fn variant(spec: &LayerSpec, tile: &Tile, has_gap: bool, has_shift: bool) -> Variant {
    let rope = spec.rope.as_ref().filter(|_| has_shift);
    let variant = match tile.subgroup {
        0 => Variant::new("attention").u32("KEY_GROUPS", KEY_GROUPS).u32("KEYS_PER_LANE", tile.keys_per_lane),
        n => Variant::new("attention_subgroup").u32("SUBGROUP", n).u32("KEYS_PER_LANE", STEP / n),
    };
    variant
        .u32("LANES", tile.lanes)
        .u32("QUERIES_PER_LANE", tile.queries_per_lane)
        .u32("GROUP", spec.group())
        .u32("HEAD_CHUNKS", spec.head_dim / 4)
        .u32("VALUE_CHUNKS", spec.head_dim_v / 4)
        .bool("HAS_SOFT_CAP", spec.soft_cap.is_some())
        .bool("HAS_GAP", has_gap)
        .bool("HAS_SHIFT", rope.is_some())
        .bool("PAIRS_ARE_HALVES", rope.is_some_and(|r| r.pairing == Pairing::Half))
        .u32("ROPE_FIRST", rope.map_or(0, |r| r.first_lane))
        .u32("ROPE_PAIRS", rope.map_or(1, |r| r.inv_freq.len()))
        .storage("q", spec.dtype)
        .storage("k", spec.kv_dtype)
        .storage("v", spec.kv_dtype)
}

/// One variant for each value of each constant: what offline validation compiles.
pub(super) fn covering_variants() -> Vec<Variant> {
    use crate::layer::Rope;
    let tiles = [
        Tile { lanes: 32, queries_per_lane: 16, keys_per_lane: 6, subgroup: 0, is_spread: true, reason: "" },
        Tile { lanes: 64, queries_per_lane: 8, keys_per_lane: 6, subgroup: 0, is_spread: true, reason: "" },
        Tile { lanes: 128, queries_per_lane: 4, keys_per_lane: 6, subgroup: 0, is_spread: false, reason: "" },
        Tile { lanes: 16, queries_per_lane: 4, keys_per_lane: 48, subgroup: 4, is_spread: true, reason: "" },
        Tile { lanes: 32, queries_per_lane: 2, keys_per_lane: 48, subgroup: 8, is_spread: true, reason: "" },
        Tile { lanes: 64, queries_per_lane: 1, keys_per_lane: 48, subgroup: 16, is_spread: true, reason: "" },
    ];
    let mut all = Vec::new();
    for (i, dim) in (8..=256).step_by(8).enumerate() {
        for (j, tile) in tiles.iter().enumerate() {
            let group = [1, 2, 3, 5, 7, 8, 16][i % 7];
            let mut spec = LayerSpec::new(group, 1, dim);
            spec.head_dim_v = [dim, 264 - dim][j % 2];
            spec.dtype = DType::ALL[i % 3];
            spec.kv_dtype = DType::ALL[(i + j) % 3];
            spec.soft_cap = (i % 2 == 0).then_some(50.0);
            let pairing = [Pairing::Half, Pairing::Adjacent][i % 2];
            spec.rope = Some(Rope::plain(dim, 1e4, pairing));
            all.push(variant(&spec, tile, i % 4 == 0, i % 3 != 0));
        }
    }
    all
}

/// The work list as the shader reads it, and where the lse of the partial states begins in the scratch memory.
fn tables(list: &WorkList, spec: &LayerSpec, num_rows: usize) -> Vec<u32> {
    let mut words = vec![0; HEADER_WORDS];
    let rules = words.len();
    words.extend(rule_words(spec));
    let item_rows = words.len();
    words.extend(list.item_rows.as_flattened());
    let runs = words.len();
    words.extend(list.runs.as_flattened());
    let pages = words.len();
    words.extend(&list.pages);
    let shifts = words.len();
    if let Some(rope) = &spec.rope {
        for shift in &list.shifts {
            for (inv_freq, &axis) in rope.inv_freq.iter().zip(&rope.axis) {
                let (sin, cos) = (f64::from(shift[axis as usize]) * inv_freq).sin_cos();
                words.extend([(cos as f32).to_bits(), (sin as f32).to_bits()]);
            }
        }
    }
    let indptr = words.len();
    words.extend(&list.indptr);
    let index = words.len();
    words.extend(&list.index);
    let items = words.len();
    words.extend(list.items.as_flattened());
    let lse = list.num_partials as usize * spec.num_q_heads * spec.head_dim_v;
    let header = [list.items.len(), items, item_rows, runs, pages, shifts, rules, lse, num_rows, indptr, index, lse];
    for (word, value) in words.iter_mut().zip(header) {
        *word = value as u32;
    }
    words
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
    let scratch = list.num_partials as usize * spec.num_q_heads * (spec.head_dim_v + 1);
    if scratch > u32::MAX as usize {
        return Err(Error::unsupported(OP, format!("{} partial states", list.num_partials), "2^32 words of them"));
    }
    let q: [u32; 3] = chunks(OP, "q", args.q)?;
    let k: [u32; 4] = chunks(OP, "k", args.k)?;
    let v: [u32; 4] = chunks(OP, "v", args.v)?;
    let log2_e = std::f32::consts::LOG2_E;
    let params = AttentionParams {
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
    };
    let w = workspace.load(OP, gpu, plan.id, scratch * 4, || tables(list, spec, plan.num_rows))?;
    use Access::{Read, ReadWrite};
    let kernel = gpu.kernel(
        &variant(spec, &plan.tile, list.has_gap, !list.shifts.is_empty()),
        &[Read, Read, Read, Read, ReadWrite],
    )?;
    let launch = Launch {
        kernel: &kernel,
        params: bytemuck::bytes_of(&params),
        buffers: &[
            args.q.buffer().on(gpu, OP, "q")?,
            args.k.buffer().on(gpu, OP, "k")?,
            args.v.buffer().on(gpu, OP, "v")?,
            &w.tables,
            &w.scratch,
        ],
        groups: list.items.len() * spec.num_kv_heads,
    };
    let mut pass = encoder.begin_compute_pass(&Default::default());
    gpu.encode(&mut w.bindings, &mut pass, &launch)?;
    let (heads, value_chunks) = (spec.num_q_heads as u32, spec.head_dim_v as u32 / 4);
    let outputs =
        Outputs { spec, constants: args.constants, gate: args.gate, out: args.out, lse: args.lse, rows: plan.num_rows };
    let scratch = w.scratch.clone();
    let states = States {
        states: &scratch,
        lse: &scratch,
        place: [0, heads * value_chunks, value_chunks],
        lse_place: [0, heads, 1],
        header: HEADER_WORDS as u32 - 4,
    };
    encode_states(gpu, &outputs, &states, w, &mut pass)
}
