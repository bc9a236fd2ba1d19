//! Attention on CUDA: tiles, variants, arguments, one launch.

use std::sync::Arc;

use super::params::AttentionParams;
use super::plan::Work;
use super::problem::OP;
use super::tile::{Tile, value_parts};
use super::worklist::WorkList;
use super::{AttentionArgs, AttentionPlan};
use super::{sm90, tables};
use crate::backend::cuda::{Arch, CHUNK, Gpu, Launch, place};
use crate::backend::source::Variant;
use crate::backend::workspace::CudaSpace;
use crate::layer::{CODES, KvScale, LayerSpec, Pairing, ScalePlaces};
use crate::merge::cuda::{Epilogue, States, epilogue, launch_states};
use crate::merge::params::MergeParams;
use crate::{DType, Device, Error, Result, Tensor, Workspace};

/// Workgroups that a large GPU runs at once: two per multiprocessor, of Hopper's kernel one. Not asked of the device, so that
/// bits are the same on all of an architecture.
const RUN_AT_ONCE: usize = 256;

/// Threads of a query: a warp has 16 of them.
const THREADS: usize = 2;

/// Shared memory of every variant: what the smallest of the architectures gives a workgroup.
const SHARED_LIMIT: usize = 101376;

/// Bytes of one asynchronous copy: what K and V must be aligned to.
const COPY: usize = 16;

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Args {
    params: AttentionParams,
    merge: MergeParams,
    tables: u64,
    q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    partials: u64,
    lse: u64,
    arrivals: u64,
    constants: u64,
    gate: u64,
    out: u64,
    out_lse: u64,
    steps: u64,
    k_scales: u64,
    v_scales: u64,
    selection: u64,
}

const _: () = assert!(size_of::<Args>() == 328);

/// Matrix products take q and K, weights and V as one 16-bit type; everything else is done in f32. So are wide outputs that
/// turn back, whose merge leaves too few registers beside the fragments (24 bytes spilled on sm_120a).
fn uses_matrix_units(spec: &LayerSpec) -> bool {
    let leaves_registers = !spec.v_rope || spec.head_dim_v <= 256;
    spec.dtype == spec.kv_dtype && spec.dtype != DType::F32 && leaves_registers
}

/// Parts of a weight that add up, in matrix products. One rounds weights to 8 or 11 bits, and that is more than the table
/// of tolerances allows: only where the layer kind does. Without matrix units weights are f32, and there is one variant.
fn weight_parts(spec: &LayerSpec) -> usize {
    if spec.rounded_weights && uses_matrix_units(spec) { 1 } else { 2 }
}

/// The rows of the table of tiles, as wide as registers allow without a spill. Splits begin with 512 keys. Not yet measured
/// on hardware.
pub(super) fn tile(arch: Arch, spec: &LayerSpec) -> Tile {
    if sm90::serves(arch, spec) {
        return sm90::tile(spec).with_growing_splits(spec, RUN_AT_ONCE / 2);
    }
    let (dim, dim_v) = (spec.head_dim, spec.head_dim_v);
    // 100 KiB on a multiprocessor instead of 164 and more: half the keys for two workgroups, whose products and softmax take
    // turns.
    let has_little_memory = matches!((arch.major, arch.minor), (8, 6 | 9) | (12, _));
    let (queries, keys, reason) = match (uses_matrix_units(spec), dim.max(dim_v)) {
        (true, ..=128) if has_little_memory => (64, 32, "16-bit q and KV of one type, in matrix units, 100 KiB"),
        (true, ..=128) => (64, 64, "16-bit q and KV of one type, in matrix units"),
        (true, ..=256) if dim_v <= 192 => (64, 32, "16-bit q and KV of one type, in matrix units, heads above 128"),
        (true, _) if dim <= 320 => (64, 16, "16-bit q and KV of one type, in matrix units, values above 192"),
        (true, _) => (32, 16, "16-bit q and KV of one type, in matrix units, heads above 320"),
        (false, ..=128) => (64, 32, "f32 or mixed types"),
        (false, ..=256) => (64, 16, "f32 or mixed types, heads above 128"),
        (false, _) if dim <= 320 => (32, 16, "f32 or mixed types, heads above 256"),
        (false, _) => (32, 8, "f32 or mixed types, heads above 320"),
    };
    Tile::of_cuda(queries * THREADS, queries, keys, reason).with_growing_splits(spec, RUN_AT_ONCE)
}

/// How often a layer kind's tiles fit into shared memory, as `cuda/common/tile.cuh` lays them out.
#[derive(Clone, Copy)]
struct Memory {
    /// Parts of a query that add up: two where a shift turns it off the 16-bit grid.
    query_parts: usize,
    /// Tiles of keys and values: one is computed while the next is on its way, where there is room for two.
    stages: usize,
    bytes: usize,
}

impl Memory {
    fn new(arch: Arch, spec: &LayerSpec, tile: &Tile, has_shift: bool) -> Memory {
        let keys = tile.keys;
        let is_16_bit = uses_matrix_units(spec);
        let query_parts = if is_16_bit && has_shift { 2 } else { 1 };
        if sm90::serves(arch, spec) {
            let (stages, bytes) = sm90::memory(spec, keys, query_parts);
            return Memory { query_parts, stages, bytes };
        }
        let query = if is_16_bit { spec.head_dim.next_multiple_of(16) * 2 } else { spec.head_dim * 4 };
        let row = |elements: usize| (elements * spec.kv_dtype.size()).next_multiple_of(2 * COPY);
        let stage = keys * (row(spec.key_elements()) + row(spec.head_dim_v / value_parts(spec)));
        // A place of 8 bytes per key, for this tile and the next.
        let fixed = query_parts * tile.queries * query + 2 * keys * 8;
        // Two scales per key, for as many tiles as there are stages and the one that is computed.
        let scales = |stages: usize| if spec.kv_scale == KvScale::Token { (stages + 1) * keys * 8 } else { 0 };
        let stages = if fixed + 2 * stage + scales(2) <= SHARED_LIMIT { 2 } else { 1 };
        Memory { query_parts, stages, bytes: fixed + stages * stage + scales(stages) }
    }
}

/// `page_size` counts on Hopper alone.
fn variant(
    arch: Arch,
    spec: &LayerSpec,
    [has_gap, has_shift, has_steps, writes_states]: [bool; 4],
    page_size: usize,
) -> (Variant, Memory) {
    let rope = spec.rope.as_ref().filter(|_| has_shift);
    let tile = tile(arch, spec);
    let memory = Memory::new(arch, spec, &tile, rope.is_some());
    let variant = if sm90::serves(arch, spec) {
        Variant::new(sm90::KERNEL).u32("BOX", sm90::keys_of_box(&tile, page_size))
    } else {
        Variant::new("attention")
    };
    let variant = variant
        .u32("QUERIES", tile.queries)
        .u32("KEYS", tile.keys)
        .u32("STAGES", memory.stages)
        .u32("GROUP", tile.heads(spec))
        .u32("HEAD_PARTS", tile.head_parts(spec))
        .u32("HEAD_DIM", spec.head_dim)
        .u32("VALUE_DIM", spec.head_dim_v)
        .u32("VALUE_PARTS", value_parts(spec))
        .bool("USES_MATRIX_UNITS", uses_matrix_units(spec))
        .u32("QUERY_PARTS", memory.query_parts)
        .u32("WEIGHT_PARTS", weight_parts(spec))
        .u32("SHARED_BYTES", memory.bytes)
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
        .u32("ROTATION", spec.out_rotation() as usize)
        .storage("q", spec.dtype)
        .storage("k", spec.kv_dtype)
        .storage("v", spec.kv_dtype)
        .storage("gate", spec.dtype)
        .storage("out", spec.out_dtype());
    (variant, memory)
}

/// The portable variant of a layer kind that writes states, without gaps, shifts and steps.
pub(super) fn portable_variant(spec: &LayerSpec) -> Variant {
    variant(Arch { major: 8, minor: 0 }, spec, [false, false, false, true], 1).0
}

/// One variant for each value of each constant, and the tiles that registers limit with everything on: what offline
/// compilation compiles, for any architecture.
pub(super) fn covering_variants() -> Vec<Variant> {
    use crate::layer::{Indexer, Rope};
    let of = |(dim, dim_v, group), (dtype, kv_dtype), flags: [bool; 5], rounded_weights| {
        let [cap, gap, shift, steps, selection] = flags;
        let mut spec = LayerSpec { head_dim_v: dim_v, rounded_weights, ..LayerSpec::new(group, 1, dim) };
        (spec.dtype, spec.kv_dtype) = (dtype, kv_dtype);
        spec.soft_cap = cap.then_some(50.0);
        spec.out_code = (dim % 64 == 48).then_some(DType::E4M3);
        spec.indexer = selection.then_some(Indexer { heads: 1, dim: 8, count: 1, block: 1 });
        spec.rope = Some(Rope::plain(dim, 1e4, [Pairing::Half, Pairing::Adjacent][usize::from(gap)]));
        // Whatever is written costs no more registers than the tiles.
        let writes_states = value_parts(&spec) > 1 || dim % 32 != 0;
        let of_minor = |minor| variant(Arch { major: 8, minor }, &spec, [gap, shift, steps, writes_states], 1).0;
        // Of architectures with little shared memory a tile of its own, for some shapes.
        let (large, small) = (of_minor(0), of_minor(6));
        if large == small { vec![large] } else { vec![large, small] }
    };
    use DType::{BF16, F16, F32};
    let types = [(F16, F16), (BF16, BF16), (F32, F32), (F32, BF16), (BF16, F16)];
    let mut all = Vec::new();
    for (i, dim) in (8..=256).step_by(8).enumerate() {
        let dim_v = [dim, 264 - dim, dim][i % 3];
        let shape = (dim, dim_v, [1, 2, 3, 5, 7, 8, 16][i % 7]);
        let flags = [i % 2 == 0, i % 4 == 0, i % 3 != 0, i % 5 < 2, i % 7 < 3];
        all.extend(of(shape, types[i % types.len()], flags, false));
    }
    // Outputs that turn back.
    for (dim, pairing) in [(64, Pairing::Half), (128, Pairing::Half), (512, Pairing::Adjacent), (512, Pairing::Half)] {
        let rope = Some(Rope::plain(64, 1e4, pairing).at_lane(dim - 64));
        for dtype in [BF16, F32] {
            let plain = LayerSpec { dtype, kv_dtype: dtype, ..LayerSpec::new(4, 1, dim) };
            let spec = LayerSpec { rope: rope.clone(), v_rope: true, ..plain };
            all.push(variant(Arch { major: 8, minor: 0 }, &spec, [true, false, true, true], 1).0);
        }
    }
    // Codes: two ways for each head dim, scales of tokens with everything else among them.
    for (i, (dim, dim_v)) in
        [(16, 32), (64, 64), (128, 128), (192, 128), (256, 256), (576, 512)].into_iter().enumerate()
    {
        for (j, (kv_dtype, kv_scale)) in CODES.into_iter().enumerate().filter(|(j, _)| *j != i % 2 * 2) {
            let mut spec = LayerSpec { head_dim_v: dim_v, kv_dtype, kv_scale, ..LayerSpec::new(4, 1, dim) };
            spec.dtype = [BF16, F32, F16][(i + j) % 3];
            let flags = (i + j) % 2 == 0;
            spec.soft_cap = flags.then_some(50.0);
            spec.rope = Some(Rope::plain(dim, 1e4, Pairing::Half));
            all.push(variant(Arch { major: 8, minor: 0 }, &spec, [flags, flags, flags, true], 1).0);
            if dim > dim_v {
                let mut coded = LayerSpec { v_in_k: true, ..spec }.with_coded_latent(kv_dtype, kv_scale);
                coded.indexer = flags.then_some(Indexer { heads: 1, dim: 8, count: 1, block: 1 });
                all.push(variant(Arch { major: 8, minor: 0 }, &coded, [flags, flags, flags, true], 1).0);
            }
        }
    }
    // Parts of a group and of the value.
    all.extend(of((512, 512, 128), (F32, BF16), [false; 5], false));
    // Usual dims, with nothing and with everything, and so with rounded weights; 8 heads of a group, as many published
    // layers have.
    for (dim, dim_v) in [(64, 64), (128, 128), (192, 128), (256, 192), (256, 256), (320, 256), (576, 512)] {
        for (dtype, rounded) in [(BF16, false), (F32, false), (BF16, true)] {
            all.extend(
                [[false; 5], [true; 5]]
                    .into_iter()
                    .flat_map(|flags| of((dim, dim_v, 8), (dtype, dtype), flags, rounded)),
            );
        }
    }
    all
}

/// The same of the kernel for Hopper: all head dims with all flags, since its registers are all in use.
pub(super) fn covering_variants_sm90() -> Vec<Variant> {
    use crate::layer::Rope;
    let mut all = Vec::new();
    for (i, (dim, dim_v)) in sm90::HEAD_DIMS.into_iter().enumerate() {
        // With steps: nothing else, and everything. With rounded weights: nothing, and everything.
        let exact = (0..8).chain([8, 15]).map(|flags| (flags, false));
        for (flags, rounded_weights) in exact.chain([(0, true), (15, true)]) {
            let [cap, gap, shift, steps] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
            let plain = LayerSpec::new([1, 8, 5][(i + flags) % 3], 1, dim);
            let mut spec = LayerSpec { head_dim_v: dim_v, rounded_weights, ..plain };
            spec.dtype = [DType::F16, DType::BF16][(i + flags) % 2];
            spec.kv_dtype = spec.dtype;
            spec.out_code = (flags == 7).then_some(DType::E4M3);
            spec.soft_cap = cap.then_some(50.0);
            spec.rope = Some(Rope::plain(dim, 1e4, [Pairing::Half, Pairing::Adjacent][flags / 2 % 2]));
            // Boxes of 64 or 32 keys; none; whole tiles.
            let page_size = [64, 16, 384][(i + flags) % 3];
            all.push(variant(Arch { major: 9, minor: 0 }, &spec, [gap, shift, steps, flags % 3 != 0], page_size).0);
        }
    }
    all
}

fn plan_variant(plan: &AttentionPlan, list: &WorkList) -> (Variant, Memory) {
    let flags = [list.has_gap, !list.shifts.is_empty(), plan.steps.is_some(), writes_states(plan, list)];
    variant(plan_arch(plan), &plan.spec, flags, plan.page_size)
}

/// Parts of a value are written apart, and the first may lie in the place of the query that the next still reads.
fn writes_states(plan: &AttentionPlan, list: &WorkList) -> bool {
    !list.is_final(&plan.spec) || value_parts(&plan.spec) > 1
}

fn plan_arch(plan: &AttentionPlan) -> Arch {
    match &plan.device {
        Device::Cuda(gpu) => gpu.arch(),
        // No plan of another device comes here.
        _ => Arch { major: 8, minor: 0 },
    }
}

/// The launch in words, for the plan's `Display`.
pub(super) fn describe(plan: &AttentionPlan, list: &WorkList) -> String {
    let (variant, memory) = plan_variant(plan, list);
    let (arch, spec) = (plan_arch(plan), &plan.spec);
    // Why a card for which there is a kernel of its own runs the portable one.
    let why =
        if arch.major == 9 && !sm90::serves(arch, spec) { " (no attention_sm90 for this layer kind)" } else { "" };
    let (kernel, options) = (variant.kernel, variant.options());
    format!("kernel {kernel}{why}, {} bytes of shared memory, {} stages ({options})", memory.bytes, memory.stages)
}

fn list(plan: &AttentionPlan) -> Result<&WorkList> {
    match &plan.work {
        Work::List(list) => Ok(list),
        Work::Views(_) => Err(Error::invalid(OP, "plan", "one made for CUDA", "one made for the reference")),
    }
}

pub(super) fn ready(plan: &AttentionPlan, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<()> {
    let list = list(plan)?;
    gpu.kernel(&plan_variant(plan, list).0)?;
    load(plan, list, gpu, workspace).map(|_| ())
}

/// Tables and scratch memory of the plan. The counters, of items that were taken and of arrivals, are among the tables, so
/// that they begin as zeros.
fn load(plan: &AttentionPlan, list: &WorkList, gpu: &Arc<Gpu>, workspace: &mut Workspace) -> Result<CudaSpace> {
    let spec = &plan.spec;
    let num_put_off = if sm90::serves(gpu.arch(), spec) { list.num_shares(&plan.tile, spec) } else { 0 };
    let scratch = put_off_base(plan, list) + num_put_off * 4;
    let counters = 1 + plan.num_rows * spec.num_kv_heads * plan.tile.head_parts(spec);
    workspace.load_cuda(OP, gpu, plan.id, scratch, || tables::words(plan, list, counters))
}

/// Partial states times heads.
fn num_states(plan: &AttentionPlan, list: &WorkList) -> usize {
    if writes_states(plan, list) { list.num_partials as usize * plan.spec.num_q_heads } else { 0 }
}

/// Bytes of the partial states' outputs in scratch memory; their lse come behind them.
fn lse_base(plan: &AttentionPlan, list: &WorkList) -> usize {
    num_states(plan, list) * plan.spec.head_dim_v * 4
}

/// Bytes of the partial states, behind which the kernel for Hopper has a word per share (`cuda/common/schedule.cuh`).
fn put_off_base(plan: &AttentionPlan, list: &WorkList) -> usize {
    lse_base(plan, list) + num_states(plan, list) * 4
}

/// The partial states in scratch memory, and the lists by which they merge.
fn states(plan: &AttentionPlan, list: &WorkList, space: CudaSpace) -> States {
    let (heads, chunks) = (plan.spec.num_q_heads as u32, (plan.spec.head_dim_v / CHUNK) as u32);
    States {
        states: space.scratch,
        lse: space.scratch + lse_base(plan, list) as u64,
        strides: [heads * chunks, chunks],
        lse_strides: [heads, 1],
        tables: space.tables,
        header: tables::MERGE_HEADER as u32,
    }
}

/// Rows are finished while other rows are still attended: what is written lies apart from what is read. A row's output
/// may take the place of its own query or gate, which nobody reads any more.
fn check_places(args: &AttentionArgs<'_>) -> Result<()> {
    fn place(t: &Tensor) -> (DType, usize, &[usize], &[usize]) {
        (t.dtype(), t.offset(), t.shape(), t.strides())
    }
    let extent = |t: &Tensor| {
        let t = t.covered();
        let last: usize = t.shape().iter().zip(t.strides()).map(|(&n, &stride)| n.saturating_sub(1) * stride).sum();
        let size = t.dtype().size();
        t.offset() * size..(t.offset() + last + 1) * size
    };
    let read = [Some(args.q), args.gate, Some(args.k), Some(args.v), args.k.scales(), args.v.scales()];
    let read = read.into_iter().flatten();
    for read in read {
        for (name, written) in [("out", Some(args.out)), ("lse", args.lse)] {
            let Some(written) = written.filter(|w| w.buffer().is_same(read.buffer())) else { continue };
            let (a, b) = (extent(read), extent(written));
            let is_own = name == "out" && place(read) == place(written) && read.shape().len() == 3;
            if a.start < b.end && b.start < a.end && !is_own {
                let expected = "memory apart from what is read, or exactly in the place of q or gate";
                return Err(Error::invalid(OP, name, expected, format!("bytes {b:?} in bytes {a:?}")));
            }
        }
    }
    Ok(())
}

pub(super) fn run(
    plan: &AttentionPlan,
    gpu: &Arc<Gpu>,
    args: &AttentionArgs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let (list, spec) = (list(plan)?, &plan.spec);
    check_places(args)?;
    let align = COPY / spec.kv_dtype.size();
    let (q, [q_row, q_head]) = place(gpu, OP, "q", args.q, CHUNK)?;
    let (k, [k_page, k_head, k_token]) = place(gpu, OP, "k", args.k, align)?;
    let (v, [v_page, v_head, v_token]) = place(gpu, OP, "v", args.v, align)?;
    let steps = match &plan.steps {
        Some(steps) => steps.buffer().block(gpu, OP, "steps")?.address(),
        None => 0,
    };
    let scales = ScalePlaces { offsets: [0; 2], ..ScalePlaces::of(OP, args.k, args.v)? };
    let [k_scales, v_scales] = ScalePlaces::addresses(gpu, OP, args.k, args.v)?;
    let selection = match args.selection {
        Some(selection) => selection.block(gpu, OP, "selection")?.address(),
        None => 0,
    };
    let (variant, memory) = plan_variant(plan, list);
    let kernel = gpu.kernel(&variant)?;
    let space = load(plan, list, gpu, workspace)?;
    let states = states(plan, list, space);
    let Epilogue { params: merge, constants, gate, out, lse: out_lse } = epilogue(gpu, &plan.outputs(args), &states)?;
    let tickets = space.tables + tables::COUNTERS as u64 * 4;
    let kernel_args = Args {
        params: AttentionParams::new(
            plan,
            [0, q_row, q_head],
            [0, k_page, k_head, k_token],
            [0, v_page, v_head, v_token],
            scales,
        ),
        merge,
        tables: space.tables,
        q,
        k,
        v,
        partials: states.states,
        lse: states.lse,
        arrivals: tickets + 4,
        constants,
        gate,
        out,
        out_lse,
        steps,
        k_scales,
        v_scales,
        selection,
    };
    let shares = list.num_shares(&plan.tile, spec);
    let put_off = space.scratch + put_off_base(plan, list) as u64;
    let is_sm90 = sm90::serves(gpu.arch(), spec);
    let bulk_args = is_sm90.then(|| sm90::bulk_args(plan, list, gpu, kernel_args, args, [tickets, put_off]));
    let launched = gpu.launch(&Launch {
        kernel: &kernel,
        groups: if is_sm90 { sm90::workgroups(gpu, shares) } else { shares },
        threads: plan.tile.lanes,
        shared_bytes: memory.bytes,
        args: bulk_args.as_ref().map_or(bytemuck::bytes_of(&kernel_args), bytemuck::bytes_of),
    });
    if launched.is_err() {
        // Some workgroups may have counted their arrival: the next run uploads the tables again.
        workspace.forget();
    }
    launched
}

/// Merges the states that the last run of the plan left in `workspace` once more, by the merge's own kernel.
/// [`Error::Invalid`] for a plan that has written rows at once.
pub(super) fn merge_again(
    plan: &AttentionPlan,
    gpu: &Arc<Gpu>,
    args: &AttentionArgs<'_>,
    workspace: &mut Workspace,
) -> Result<()> {
    let list = list(plan)?;
    if !writes_states(plan, list) {
        return Err(Error::invalid(OP, "plan", "one that writes partial states", plan));
    }
    let space = load(plan, list, gpu, workspace)?;
    launch_states(gpu, &plan.outputs(args), &states(plan, list, space))
}
