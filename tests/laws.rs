//! Laws of shared-prefix attention, bit for bit where the field only promises tolerance. `docs/laws.md` says which law
//! is proved where.
//! Planted and seen red: states merged in the order of the batch (order of merging); the split halved for full tiles of
//! rows, weights rounded in launches of many items alone (siblings); blocks of 8 rows called a prefill (decode and
//! prefill); the last state left out of a merge (parts, decode and prefill, forks, joins); negative positions turned
//! forwards (moved positions, shifts); a shift turned the wrong way (shifts, joins); shifts that replace each other
//! instead of adding up (moves); a fork one position late (forks); the token before the shared one shared (published
//! steps, shifts); a row's gap forgotten (blind rows); every append written to the first page (children, and most
//! others); outputs turned forwards instead of back (both laws of outputs that turn back).
mod harness;

use colatent::attention::{AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Join, KvCache, Modality, ViewId};
use colatent::layer::LayerSpec;
use colatent::{DType, Device};
use harness::scene::{Answer, Case, Kind, Mask, run, run_rows};
use harness::{bare_devices, compare, devices};
use proptest::prelude::*;

#[path = "laws/chunks.rs"]
mod chunks;
#[path = "laws/positions.rs"]
mod positions;
#[path = "laws/sharing.rs"]
mod sharing;
#[path = "laws/stream.rs"]
mod stream;
use stream::Stream;

/// `agents` children of one prompt of 2 tokens or more; agent `i` has `own + i % 5` tokens of its own, 2 or more, and
/// the last is its query row.
fn agents(page_size: usize, prompt: usize, agents: usize, own: usize) -> (KvCache, Vec<ViewId>, Vec<QueryRows>) {
    let pages = prompt.div_ceil(page_size) + agents * (own + 5).div_ceil(page_size) + 1;
    let mut cache = KvCache::new(page_size, pages).expect("a pool");
    let root = cache.create();
    cache.append(root, Modality::Text, prompt / 2).expect("room");
    cache.append(root, Modality::Image, prompt - prompt / 2).expect("room");
    let views = cache.fork_many(root, agents).expect("children");
    let mut rows = Vec::new();
    for (i, &view) in views.iter().enumerate() {
        cache.append(view, Modality::Text, own + i % 5 - 1).expect("room");
        rows.push(cache.append(view, Modality::Text, 1).expect("room").into());
    }
    (cache, views, rows)
}

/// Head dims for a type: for 16 bits such as every kernel with matrix units serves.
fn dims(dtype: DType) -> (usize, usize) {
    if dtype == DType::F32 { (32, 32) } else { (64, 64) }
}

fn gpus() -> impl Iterator<Item = &'static Device> {
    bare_devices().iter().filter(|d| d.kind() != "reference")
}

/// Rows of an answer, so that agents can be compared one by one.
fn row(answer: &Answer, rows: usize, r: usize) -> (Vec<u32>, Vec<u32>) {
    let bits = |x: &[f32]| {
        let n = x.len() / rows;
        x[r * n..(r + 1) * n].iter().map(|x| x.to_bits()).collect()
    };
    (bits(&answer.out), bits(&answer.lse))
}

/// L13, L20, L21, L22: alone, among 2, 7, 15, 16, 17 and 63 siblings, in any order: the same bits.
#[test]
fn an_agents_bits_do_not_depend_on_its_siblings() {
    use DType::{BF16, F16, F32};
    for (mask, dtype, rounded_weights) in [
        (Mask::Causal, F32, false),
        (Mask::Window(90), F32, false),
        (Mask::ImageOrCausal, F32, false),
        (Mask::Causal, BF16, false),
        (Mask::Window(90), F16, false),
        (Mask::Causal, BF16, true),
        (Mask::Window(90), F16, true),
    ] {
        let dtypes = (dtype, dtype);
        let case = Case { mask, dims: dims(dtype), dtypes, sinks: true, rounded_weights, ..Case::PLAIN };
        // Others have the bits of the same case without.
        for device in gpus().filter(|d| !rounded_weights || d.kind().starts_with("cuda")) {
            let (cache, views, rows) = agents(16, 600, 64, 3);
            let run = |rows: &[QueryRows]| run_rows(&case, device, &cache, &views, rows).unwrap();
            let all = run(&rows);
            for r in [0, 1, 5, 31, 63] {
                let alone = run(&rows[r..r + 1]);
                assert_eq!(row(&alone, 1, 0), row(&all, 64, r), "{device} {mask:?}: agent {r} alone and among 63");
            }
            for n in [2, 7, 15, 16, 17] {
                let few = run(&rows[64 - n..]);
                for r in 0..n {
                    assert_eq!(row(&few, n, r), row(&all, 64, 64 - n + r), "{device} {mask:?}: {r} among {n}");
                }
            }
            let reversed: Vec<QueryRows> = rows.iter().rev().cloned().collect();
            assert_eq!(row(&run(&reversed), 64, 3), row(&all, 64, 60), "{device} {mask:?}: order of rows");
            // A cache in which the siblings never existed.
            let (lonely, view, row_of_it) = agents(16, 600, 1, 3);
            let alone = run_rows(&case, device, &lonely, &view, &row_of_it).unwrap();
            assert_eq!(row(&alone, 1, 0), row(&all, 64, 0), "{device} {mask:?}: never had siblings");
        }
    }
}

/// L22: states merge in the order of the view, whichever view of the batch met a segment first.
#[test]
fn the_order_of_merging_is_the_views_own() {
    let case = Case { dims: (32, 32), ..Case::PLAIN };
    for device in gpus() {
        let (mut cache, views, _) = agents(16, 100, 3, 9);
        let backwards: Vec<ViewId> = views.iter().rev().copied().collect();
        let joined = [
            cache.join(&views, Join::Parallel).expect("a join"),
            cache.join(&backwards, Join::Parallel).expect("a join"),
        ];
        let rows = joined.map(|view| {
            let first_slot = cache.view(view).expect("a view").next_slot() - 1;
            QueryRows { view, first_slot, len: 1, gap: None }
        });
        let run = |rows: &[QueryRows]| run_rows(&case, device, &cache, &joined, rows).unwrap();
        let (one, other) = (run(&rows), run(&[rows[1].clone(), rows[0].clone()]));
        assert_eq!(row(&one, 2, 0), row(&other, 2, 1), "{device}");
        assert_eq!(row(&one, 2, 1), row(&other, 2, 0), "{device}");
    }
}

/// A prefill or a draft block in the batch changes no bit of a decoding agent.
#[test]
fn an_agents_bits_do_not_depend_on_what_else_is_in_the_launch() {
    for (device, dtype) in gpus().flat_map(|d| DType::ALL.map(|t| (d, t))) {
        let case = Case { dims: dims(dtype), dtypes: (dtype, dtype), ..Case::PLAIN };
        let (mut cache, mut views, mut rows) = agents(16, 300, 5, 3);
        let newcomer = cache.fork(views[4]).expect("a child");
        // Room was left for a few tokens per agent only.
        let prompt = QueryRows { view: views[0], first_slot: 0, len: 300, gap: None };
        let before = run_rows(&case, device, &cache, &views, &rows).unwrap();
        views.push(newcomer);
        rows.push(prompt);
        let after = run_rows(&case, device, &cache, &views, &rows).unwrap();
        for r in 0..5 {
            let n = before.out.len() / 5;
            assert_eq!(before.out[r * n..(r + 1) * n], after.out[r * n..(r + 1) * n], "{device} {dtype}");
        }
    }
}

/// What V holds at a key that a row does not see changes no bit of it, though its neighbours in the tile see the key: not
/// NaN, not infinities, not values next to which all others are small.
#[test]
fn what_only_others_see_changes_no_bit() {
    for (device, dtype) in gpus().flat_map(|d| DType::ALL.map(|t| (d, t))) {
        for value in [&[f32::NAN], &[f32::INFINITY], &[6e4f32]] {
            // Only the last row sees the last token.
            let case = Case { dtypes: (dtype, dtype), tokens: 90, ..Case::PLAIN };
            let plain = run(&case, device).unwrap();
            let spoiled = run(&Case { spoiled: (case.tokens, value), ..case.clone() }, device).unwrap();
            for r in 0..case.tokens - 1 {
                let same = row(&plain, case.tokens, r) == row(&spoiled, case.tokens, r);
                assert!(same, "{device} {dtype}: {value:?} in front of row {r}");
            }
            assert_ne!(row(&plain, case.tokens, 89), row(&spoiled, case.tokens, 89), "{device} {dtype}: {value:?}");
        }
    }
}

/// L23, as far as it holds: a row of a block of at most 16 rows (decode, drafts) has the bits of the row decoded alone,
/// at any length. So has a row of a prefill while each segment it sees is one split; beyond that a prefill has one state
/// per segment where decode has one per split, and the two agree within the tolerance.
#[test]
fn decode_and_prefill() {
    let of = |dtype| LayerSpec { dtype, kv_dtype: dtype, ..LayerSpec::new(8, 2, dims(dtype).0) };
    let specs = [stream::rotating(), of(DType::BF16)];
    for (device, spec) in devices().iter().flat_map(|d| specs.iter().map(move |s| (d, s))) {
        let mut stream = Stream::new(device, spec);
        let view = stream.cache.create();
        let rows = stream.append(view, stream::names(5, 0, 600));
        let alone = |slot: usize| stream.ask(&rows.slice(slot, 1));
        let block = |first: usize, n: usize| {
            let all = stream.ask(&rows.slice(first, n));
            let part = move |x: &[f32], r: usize| x[r * x.len() / n..(r + 1) * x.len() / n].to_vec();
            move |r: usize| Answer { out: part(&all.out, r), lse: part(&all.lse, r) }
        };
        for first in [0, 100, 470, 584] {
            let drafts = block(first, 16);
            for r in [0, 7, 15] {
                assert_eq!(drafts(r), alone(first + r), "{device}: slot {} in a block of 16", first + r);
            }
        }
        for first in [0, 31, 463] {
            let prefill = block(first, 17);
            for r in [0, 16] {
                assert_eq!(prefill(r), alone(first + r), "{device}: slot {} of a prefill", first + r);
            }
        }
        let prefill = block(583, 17);
        for r in [0, 16] {
            let (what, got, want) = (format!("{device}: slot {}", 583 + r), prefill(r), alone(583 + r));
            compare(&what, &got.out, &want.out, spec.dtype).unwrap();
            compare(&what, &got.lse, &want.lse, DType::F32).unwrap();
        }
    }
}

/// L14: tiles loaded are those of distinct segments, whatever the number of agents that fit one tile of rows.
#[test]
fn tiles_loaded_are_the_tiles_of_distinct_segments() {
    let case = Case::PLAIN; // 2 KV heads, 4 query heads each: 16 rows fill a tile of 64 queries
    let spec = case.spec();
    for device in gpus() {
        for n in [1usize, 2, 16, 17, 64] {
            let (cache, _, rows) = agents(16, 600, n, 3);
            let plan =
                AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).unwrap();
            let stats = plan.stats();
            let prompt = 2 * (300u64).div_ceil(stats.tile_keys as u64);
            let row_tiles = n.div_ceil(16) as u64;
            assert_eq!(stats.tiles_loaded, 2 * (prompt * row_tiles + n as u64), "{n} agents: {plan}");
            assert_eq!(stats.tiles_unshared, 2 * n as u64 * (prompt + 1), "{n} agents: {plan}");
        }
    }
}

/// EMPTY tiles are not dispatched: a window loads what it sees, not what there is.
#[test]
fn a_window_loads_only_what_it_sees() {
    for device in gpus() {
        let loaded = |mask| {
            let spec = Case { mask, ..Case::PLAIN }.spec();
            let (cache, _, rows) = agents(16, 4800, 1, 3);
            AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).unwrap().stats()
        };
        let all = loaded(Mask::Causal);
        let tile = all.tile_keys as u64;
        assert_eq!(all.tiles_loaded, 2 * (2 * 2400u64.div_ceil(tile) + 1));
        assert!(loaded(Mask::Window(96)).tiles_loaded <= 2 * (96u64.div_ceil(tile) + 2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// L9, L10: which pages hold the tokens, and how large pages are, changes no bit.
    #[test]
    fn pages_are_invisible(seed in any::<u64>(), scramble in any::<u64>(), kind in prop_oneof![Just(Kind::Mixed), Just(Kind::Sequential)], dtype in prop_oneof![Just(DType::F32), Just(DType::BF16)], tokens in 1..150usize) {
        let case = Case { seed, kind, tokens, dims: dims(dtype), dtypes: (dtype, dtype), ..Case::PLAIN };
        for device in devices() {
            let plain = run(&case, device).map_err(TestCaseError::fail)?;
            let moved = run(&Case { scramble, ..case.clone() }, device).map_err(TestCaseError::fail)?;
            prop_assert!(plain == moved, "{device}: scrambled pages, {case:?}");
            let size = run(&Case { page_size: 64, ..case.clone() }, device).map_err(TestCaseError::fail)?;
            prop_assert!(plain == size, "{device}: page size, {case:?}");
        }
    }

    /// L20: rows of a batch are rows alone, within the tolerance and on the reference too.
    #[test]
    fn a_fork_is_a_copy(prompt in 2..120usize, n in 1..5usize, own in 2..30usize) {
        let case = Case { dims: (32, 32), ..Case::PLAIN };
        let (cache, views, rows) = agents(16, prompt + 1, n, own);
        for device in devices() {
            let forked = run_rows(&case, device, &cache, &views, &rows).map_err(TestCaseError::fail)?;
            for r in 0..n {
                let alone = run_rows(&case, device, &cache, &views, &rows[r..r + 1]).map_err(TestCaseError::fail)?;
                let per_row = forked.out.len() / n;
                compare("row", &alone.out, &forked.out[r * per_row..(r + 1) * per_row], DType::F32).map_err(TestCaseError::fail)?;
            }
        }
    }
}
