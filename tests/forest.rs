//! Forests of agents: what a plan loads of each tree, and that a call is one launch on CUDA that leaves nothing behind.
//! Planted and seen red: a counter of arrivals not put back to 0 (one launch, second run); one arrival more or less than
//! the row has states (one launch, NaN left); states merged in the order of arrival (one launch, another merge); no item
//! for rows without a state (rows without a state); no fence before or after the arrival, the list of last rows read
//! without a barrier, the counter cleared by a plain store (a data race under ThreadSanitizer).
mod harness;

use std::collections::BTreeSet;
use std::sync::Mutex;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Entry, Join, KvCache, Modality, ViewId};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::{DType, Device, Tensor, Workspace};
use harness::memory::pages;
use harness::scene::{Case, Mask, run_rows};
use harness::{Rng, devices, poisoned};

/// Trees of agents: nodes of each level and tokens of each node of it. Children are spread evenly over the parents, and
/// every leaf decodes one row. The benchmark trees of PAT (flashserve/PAT, ASPLOS '26).
const TREES: [&[(usize, usize)]; 12] = [
    &[(1, 4096), (10, 416)],
    &[(1, 256), (256, 32)],
    &[(1, 2048), (1024, 32)],
    &[(1, 32), (8, 512), (512, 256)],
    &[(1, 32), (8, 2048), (512, 256)],
    &[(1, 512), (8, 512), (512, 256)],
    &[(1, 256), (4, 32), (16, 256), (64, 64), (256, 32), (1024, 256)],
    &[(1, 256), (16, 128), (32, 64), (64, 32), (128, 32), (1024, 32)],
    &[(1, 256), (16, 128), (32, 64), (64, 32), (256, 32), (1024, 32)],
    &[(2, 256), (8, 256), (16, 32), (256, 32)],
    &[(4, 512), (16, 32), (256, 128), (512, 32)],
    &[(8, 512), (16, 512), (32, 256), (256, 32)],
];

/// Query and KV heads of the benchmark.
const HEADS: [(usize, usize); 4] = [(32, 32), (16, 8), (32, 8), (64, 8)];

/// Held by tests that launch, since they count launches.
static LAUNCHES: Mutex<()> = Mutex::new(());

/// A forest: the cache, and the row of each leaf, which is its last token.
struct Forest {
    cache: KvCache,
    rows: Vec<QueryRows>,
}

fn tree(levels: &[(usize, usize)]) -> Forest {
    let tokens: usize = levels.iter().map(|(nodes, tokens)| nodes * tokens.next_multiple_of(16)).sum();
    let mut cache = KvCache::new(16, tokens / 16).expect("a pool");
    let mut views: Vec<ViewId> = (0..levels[0].0).map(|_| cache.create()).collect();
    for (i, &(nodes, tokens)) in levels.iter().enumerate() {
        if i > 0 {
            let parents = views.len();
            let children = |p: usize| (p + 1) * nodes / parents - p * nodes / parents;
            views = (0..parents).flat_map(|p| cache.fork_many(views[p], children(p)).expect("children")).collect();
        }
        assert_eq!(views.len(), nodes);
        for &view in &views {
            cache.append(view, Modality::Text, tokens - 1).expect("room");
            let last = cache.append(view, Modality::Text, 1).expect("room");
            debug_assert_eq!(last.len, 1);
        }
    }
    let rows = views.iter().map(|&view| last_row(&cache, view)).collect();
    Forest { cache, rows }
}

fn last_row(cache: &KvCache, view: ViewId) -> QueryRows {
    let first_slot = cache.view(view).expect("a view").next_slot() - 1;
    QueryRows { view, first_slot, len: 1, gap: None }
}

/// Forks of forks at any token, of up to `agents` agents with ragged thoughts of text and pictures; some are joined.
fn random_forest(seed: u64, agents: usize, tokens: usize) -> Forest {
    let mut rng = Rng(seed);
    let mut cache = KvCache::new(16, 4 * agents * (tokens / 16 + 2)).expect("a pool");
    let root = cache.create();
    cache.append(root, Modality::Text, 1 + rng.below(tokens)).expect("room");
    let mut views = vec![root];
    while views.len() < agents {
        let parent = views[rng.below(views.len())];
        let child = if rng.below(3) == 0 {
            let slots = cache.view(parent).expect("a view").next_slot();
            cache.fork_at(parent, 1 + rng.below(slots as usize) as i32).expect("a slot")
        } else if rng.below(5) == 0 && views.len() > 1 {
            cache.join(&views[views.len() - 2..], Join::Parallel).expect("a join")
        } else {
            cache.fork(parent).expect("a child")
        };
        for _ in 0..1 + rng.below(3) {
            let modality = [Modality::Text, Modality::Image][rng.below(2)];
            cache.append(child, modality, 1 + rng.below(tokens / 3)).expect("room");
        }
        views.push(child);
    }
    let rows = views.iter().map(|&view| last_row(&cache, view)).collect();
    Forest { cache, rows }
}

/// Tiles of keys that some entry sees: the least that can be loaded once.
fn distinct_tiles(cache: &KvCache, entries: &[Entry], keys: u32) -> u64 {
    let mut seen = BTreeSet::new();
    for entry in entries {
        for span in cache.segment(entry.segment).expect("a segment").spans() {
            let (from, to) = (entry.start.max(span.start), (entry.start + entry.len).min(span.end()));
            if from < to {
                let tiles = (from - span.start) / keys..(to - span.start).div_ceil(keys);
                seen.extend(tiles.map(|tile| (entry.segment, span.start, tile)));
            }
        }
    }
    seen.len() as u64
}

fn gpus() -> impl Iterator<Item = &'static Device> {
    devices().iter().filter(|d| d.kind() != "reference")
}

fn plan(device: &Device, spec: &LayerSpec, forest: &Forest) -> AttentionPlan {
    let problem = AttentionProblem { spec, cache: &forest.cache, rows: &forest.rows };
    AttentionPlan::new(device, &problem).expect("a plan")
}

/// A segment is loaded once for every tile of the rows that see it, whatever the shape of the tree.
#[test]
fn tiles_of_the_trees_are_those_of_distinct_segments() {
    for levels in TREES {
        let forest = tree(levels);
        let leaves = forest.rows.len();
        for (heads, kv_heads) in HEADS {
            let spec = LayerSpec { dtype: DType::BF16, kv_dtype: DType::BF16, ..LayerSpec::new(heads, kv_heads, 128) };
            for device in gpus() {
                let plan = plan(device, &spec, &forest);
                let stats = plan.stats();
                let rows_of_tile = stats.tile_queries * kv_heads / heads;
                let of_level = |&(nodes, tokens): &(usize, usize)| {
                    // Leaves below a node are neighbours in the batch.
                    let leaves_of = |p: usize| (p + 1) * leaves / nodes - p * leaves / nodes;
                    let row_tiles: usize = (0..nodes).map(|p| leaves_of(p).div_ceil(rows_of_tile)).sum();
                    tokens.div_ceil(stats.tile_keys) * row_tiles
                };
                let bound: usize = levels.iter().map(of_level).sum();
                assert_eq!(stats.tiles_loaded, (bound * kv_heads) as u64, "{levels:?}: {plan}");
                let path: usize = levels.iter().map(|(_, tokens)| tokens.div_ceil(stats.tile_keys)).sum();
                assert_eq!(stats.tiles_unshared, (leaves * path * kv_heads) as u64, "{levels:?}: {plan}");
                assert!(stats.tiles_loaded <= stats.tiles_unshared, "{levels:?}: {plan}");
            }
        }
    }
}

/// The same for forks at any token, joins and pictures, for as many rows as one tile holds.
#[test]
fn tiles_of_random_forests_are_those_of_distinct_segments() {
    for seed in 0..5 {
        let case = Case { heads: (2, 4), dims: (64, 64), dtypes: (DType::BF16, DType::BF16), ..Case::PLAIN };
        let forest = random_forest(seed, 10, 900);
        for device in gpus() {
            let plan = plan(device, &case.spec(), &forest);
            let stats = plan.stats();
            let tiles = |entries: &[Entry]| 2 * distinct_tiles(&forest.cache, entries, stats.tile_keys as u32);
            let view = |row: &QueryRows| forest.cache.view(row.view).expect("a view").entries().to_vec();
            let entries: Vec<Entry> = forest.rows.iter().flat_map(view).collect();
            assert_eq!(stats.tiles_loaded, tiles(&entries), "forest {seed}: {plan}");
            let unshared: u64 = entries.iter().map(|&entry| tiles(&[entry])).sum();
            assert_eq!(stats.tiles_unshared, unshared, "forest {seed}: {plan}");
            assert!(stats.tiles_loaded <= stats.tiles_unshared, "forest {seed}: {plan}");
        }
    }
}

/// Beside agents that have the prompt each for itself, in one segment with their own tokens: sharing, however short the prompt,
/// takes at most one tile of keys more per tile of rows, none where there are several of both, and one state more per row.
#[test]
fn sharing_a_short_prompt_costs_at_most_a_tile_and_a_state() {
    let spec = LayerSpec { dtype: DType::BF16, kv_dtype: DType::BF16, ..LayerSpec::new(32, 8, 128) };
    for prompt in [2, 16, 47, 100, 128, 300, 512, 700] {
        for (agents, own) in [(1, 1), (1, 200), (2, 1), (2, 60), (16, 20), (40, 129)] {
            let shared = tree(&[(1, prompt), (agents, own + 1)]);
            let copied = tree(&[(agents, prompt + own + 1)]);
            for device in gpus() {
                let (shared, copied) = (plan(device, &spec, &shared).stats(), plan(device, &spec, &copied).stats());
                let case = format!("{agents} agents, {prompt} and {own} tokens on {device}: {shared:?}, {copied:?}");
                let row_tiles = agents.div_ceil(shared.tile_queries / 4);
                let may_load_more = agents == 1 || prompt <= shared.tile_keys;
                let more = if may_load_more { 8 * row_tiles } else { 0 } as u64;
                assert!(shared.tiles_loaded <= copied.tiles_loaded + more, "{case}");
                assert!(shared.partials <= copied.partials + agents, "{case}");
            }
        }
    }
}

/// A forest in memory, ready to be run: random K, V, queries and gates, outputs full of NaN.
#[cfg(feature = "cuda")]
struct Ready {
    plan: AttentionPlan,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Option<Tensor>,
    constants: LayerConstants,
}

#[cfg(feature = "cuda")]
impl Ready {
    fn new(device: &Device, case: &Case, forest: &Forest) -> Ready {
        let spec = case.spec();
        let views: Vec<ViewId> = forest.rows.iter().map(|r| r.view).collect();
        let memory = |dim, salt| {
            let shape = [forest.cache.num_pages(), case.heads.0, forest.cache.page_size(), dim];
            let data = pages(case, &forest.cache, &views, dim, salt);
            Tensor::from_f32(device, spec.kv_dtype, &shape, &data).expect("memory")
        };
        let in_rows = |dim: usize, salt: u64| {
            let shape = [forest.rows.len(), spec.num_q_heads, dim];
            let data = Rng(salt).values(shape.iter().product());
            Tensor::from_f32(device, spec.dtype, &shape, &data).expect("memory")
        };
        Ready {
            plan: plan(device, &spec, forest),
            q: in_rows(case.dims.0, 1),
            k: memory(case.dims.0, 2),
            v: memory(case.dims.1, 3),
            gate: case.gate.then(|| in_rows(case.dims.1, 4)),
            constants: LayerConstants::new(device, &spec, case.weights()).expect("memory"),
        }
    }

    /// Bits of the output and its lse, by `call`.
    fn bits(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        call: impl Fn(&AttentionPlan, &AttentionArgs<'_>, &mut Workspace) -> colatent::Result<()>,
    ) -> Vec<u32> {
        let spec = (self.q.dtype(), self.q.shape());
        let out = poisoned(device, spec.0, &[spec.1[0], spec.1[1], self.v.shape()[3]]);
        let lse = poisoned(device, DType::F32, &spec.1[..2]);
        let args = AttentionArgs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            constants: &self.constants,
            selection: None,
            gate: self.gate.as_ref(),
            out: &out,
            lse: Some(&lse),
        };
        call(&self.plan, &args, workspace).expect("a run");
        let read = |t: &Tensor| t.read_f32().expect("a read");
        read(&out).into_iter().chain(read(&lse)).map(f32::to_bits).collect()
    }
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> impl Iterator<Item = &'static Device> {
    devices().iter().filter(|d| d.kind().starts_with("cuda"))
}

/// What is merged inside the launch has the bits of the merge's own launch over the same states; a second run of the plan,
/// and a run after another plan had the workspace, begin as the first did.
#[cfg(feature = "cuda")]
fn one_launch(device: &Device, case: &Case, forest: &Forest, other: &Ready) {
    let ready = Ready::new(device, case, forest);
    let mut workspace = Workspace::new(device).expect("a workspace");
    ready.plan.warm_up(&mut workspace).expect("a warm-up");
    let (launches, bytes) = (device.launches(), workspace.bytes());
    let first = ready.bits(device, &mut workspace, AttentionPlan::run);
    assert_eq!(device.launches() - launches, 1, "{}", ready.plan);
    assert_eq!(workspace.bytes(), bytes, "nothing is allocated");
    assert!(first.iter().all(|&x| !f32::from_bits(x).is_nan()), "{}", ready.plan);
    let merged = ready.bits(device, &mut workspace, AttentionPlan::merge_again);
    assert_eq!(device.launches() - launches, 2);
    assert!(first == merged, "another merge: {}", ready.plan);
    let second = ready.bits(device, &mut workspace, AttentionPlan::run);
    assert!(first == second, "a second run: {}", ready.plan);
    other.bits(device, &mut workspace, AttentionPlan::run);
    let third = ready.bits(device, &mut workspace, AttentionPlan::run);
    assert!(first == third, "a run after another plan: {}", ready.plan);
}

/// Both kernels, several items for a row, a row alone and rows of many states.
#[test]
#[cfg(feature = "cuda")]
fn a_forest_is_one_launch() {
    let _alone = LAUNCHES.lock().unwrap_or_else(|e| e.into_inner());
    use DType::{BF16, F16, F32};
    let p = Case::PLAIN;
    for (seed, case) in [
        (11, Case { dtypes: (BF16, BF16), sinks: true, ..p.clone() }),
        (12, Case { dtypes: (F16, F16), heads: (3, 1), gate: true, norm: true, ..p.clone() }),
        (13, Case { dtypes: (BF16, BF16), heads: (1, 3), dims: (192, 128), mask: Mask::Window(70), ..p.clone() }),
        (14, Case { dtypes: (F16, F16), heads: (1, 2), dims: (256, 256), ..p.clone() }),
        (15, Case { heads: (2, 2), dims: (24, 40), ..p.clone() }),
        (16, Case { dtypes: (F32, BF16), heads: (1, 64), dims: (16, 8), mask: Mask::ImageOrCausal, ..p.clone() }),
    ] {
        let forest = random_forest(seed, 20, 700);
        for device in cuda_devices() {
            let other = Ready::new(device, &case, &random_forest(seed + 100, 7, 600));
            one_launch(device, &case, &forest, &other);
        }
    }
}

/// One tree of the benchmark, whole.
#[test]
#[cfg(feature = "cuda")]
fn a_tree_is_one_launch() {
    let _alone = LAUNCHES.lock().unwrap_or_else(|e| e.into_inner());
    let case = Case { dtypes: (DType::BF16, DType::BF16), heads: (1, 8), ..Case::PLAIN };
    for device in cuda_devices() {
        let other = Ready::new(device, &case, &random_forest(1, 3, 100));
        one_launch(device, &case, &tree(TREES[9]), &other);
    }
}

/// Rows for which no item has a key: alone, and beside rows that see some.
#[test]
fn rows_without_a_state_are_written_too() {
    let _alone = LAUNCHES.lock().unwrap_or_else(|e| e.into_inner());
    for (dtype, sinks) in [(DType::F32, true), (DType::BF16, true), (DType::BF16, false)] {
        // Entry j of a compressed stream is born at slot 4 j + 3.
        let case =
            Case { mask: Mask::Compressed(4), sinks, gate: true, norm: true, dtypes: (dtype, dtype), ..Case::PLAIN };
        let mut cache = KvCache::new(16, 20).expect("a pool");
        let views = [cache.create(), cache.create()];
        for view in views {
            cache.append(view, Modality::Text, 90).expect("room");
        }
        let rows = |view, first_slot, len| QueryRows { view, first_slot, len, gap: None };
        let blind = vec![rows(views[0], 0, 3)];
        let mixed = vec![rows(views[0], 1, 2), rows(views[1], 80, 10), rows(views[0], 0, 1), rows(views[1], 0, 20)];
        // More of them than one tile of rows holds.
        let many: Vec<QueryRows> = (0..41).map(|i| rows(views[i % 2], (i % 3) as i32, 1)).collect();
        for rows in [blind, mixed, many] {
            let answer = |device| run_rows(&case, device, &cache, &views, &rows).expect("a run");
            let want = answer(&Device::Reference);
            for device in gpus() {
                let got = answer(device);
                harness::compare(&format!("out on {device}"), &got.out, &want.out, dtype).unwrap();
                harness::compare(&format!("lse on {device}"), &got.lse, &want.lse, DType::F32).unwrap();
            }
        }
    }
}

/// A row is finished while others are still attended: its output may replace its own query, and no other.
#[test]
#[cfg(feature = "cuda")]
fn outputs_take_the_place_of_their_own_query_only() {
    let _alone = LAUNCHES.lock().unwrap_or_else(|e| e.into_inner());
    let case = Case { dtypes: (DType::BF16, DType::BF16), ..Case::PLAIN };
    let forest = random_forest(3, 9, 700);
    for device in cuda_devices() {
        let ready = Ready::new(device, &case, &forest);
        let mut workspace = Workspace::new(device).expect("a workspace");
        let apart = ready.bits(device, &mut workspace, AttentionPlan::run);
        let [rows, heads, dim] = *ready.q.shape() else { panic!("three dimensions") };
        let wide = poisoned(device, DType::BF16, &[rows + 1, heads, dim]);
        let strides = [heads * dim, dim, 1];
        let at = |offset| {
            Tensor::with_strides(wide.buffer().clone(), DType::BF16, offset, &[rows, heads, dim], &strides)
                .expect("a view")
        };
        let (q, moved) = (at(0), at(heads * dim));
        q.write_f32(&ready.q.read_f32().expect("a read")).expect("a write");
        let Ready { plan, k, v, constants, .. } = &ready;
        let args = AttentionArgs { q: &q, k, v, constants, selection: None, gate: None, out: &moved, lse: None };
        let refused = plan.run(&args, &mut workspace).unwrap_err();
        assert!(refused.to_string().contains("out"), "{refused}");
        plan.run(&AttentionArgs { out: &q, ..args }, &mut workspace).expect("a run");
        let inside: Vec<u32> = q.read_f32().expect("a read").into_iter().map(f32::to_bits).collect();
        assert!(inside == apart[..inside.len()], "{plan}");
    }
}
