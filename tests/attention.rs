//! Parity of `attention` with its definition, over masks, views, shapes, types and layouts; and its own laws.
//! Planted and seen red: tiles called full that the last rows of a tile see in part (table, random); a position shift
//! turned the wrong way (table, random); tokens behind the end of an entry left visible in the kernel (random); the check
//! of the constants left out (a panic).
//! In the CUDA kernel on the host, in the table unless said otherwise: no barrier behind the wait for copies, a wait for all
//! but the latest copies, the first copies started before the places of their keys are known, a single stage loaded while
//! it is read, the next tile loaded into the stage that is read, values cleared while others look for NaN in them (each of
//! these also a data race under ThreadSanitizer); the wrong page, outputs or sums not rescaled, the maximum of half a quad,
//! the ragged end of a full run not masked, weights or turned queries in one part, lanes behind the head dim not cleared,
//! NaN and infinities of V not done again with care or given to all rows; the gap not masked, or forgotten in the careful
//! pass alone (hole); a barrier that only busy warps reach (a message of the shim: divergence).
//! Planted and seen red among wide heads and large groups: rows merged when one part of the value has arrived (CUDA); the KV
//! head taken modulo instead of divided by the parts of its heads (WebGPU).
//! Planted in the kernel for Hopper and seen red on `cuda-sim-90`. Refused by the simulated device: no wait for a full stage
//! of keys or values, no wait for an empty one, the other parity, no wait for scores, consumers that do not meet before they
//! clear. Wrong results (table, random): values with twice the stride or another panel, a stage given back before its
//! products were waited for, outputs rescaled before that, no fence of the proxy, the second part of turned queries left
//! out, the second consumer with the queries of the first, boxes over the end of a page (large pages).
//! In its schedule (tiles of matrix products): the list of what was put off not linked, or never done; an item put off and
//! written all the same; a turn said before the last was taken, taken before all were done, or not handed back; the counter
//! of tickets not put back (replay; one launch, second run); a consumer without queries that keeps its tiles; tiles of a
//! careful pass not counted; no meeting behind the queries. In rows that are written at once: chunks of odd lanes swapped, a
//! group behind the last written, the lse to base 2.
#[path = "attention/codes.rs"]
mod codes;
mod harness;
#[path = "attention/outputs.rs"]
mod outputs;
#[path = "attention/rounded_weights.rs"]
mod rounded_weights;

use colatent::attention::QueryRows;
use colatent::kv::{KvCache, Modality};
use colatent::{DType, Device};
use harness::scene::{Answer, Case, Kind, Mask, WILD, check, check_all, run};
use harness::{compare, devices};
use proptest::prelude::*;

/// Each row is one call; a failing property prints a row that can be pasted here.
#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    use Kind::*;
    use Mask::*;
    let p = Case::PLAIN;
    vec![
        p.clone(),
        Case { tokens: 1, ..p.clone() },
        Case { tokens: 47, page_size: 1, ..p.clone() },
        Case { tokens: 48, page_size: 64, ..p.clone() },
        Case { tokens: 49, page_size: 128, ..p.clone() },
        Case { tokens: 130, mask: Window(1), ..p.clone() },
        Case { tokens: 130, mask: Window(50), ..p.clone() },
        Case { tokens: 130, mask: Chunked(24), ..p.clone() },
        Case { tokens: 130, mask: ImageOrCausal, ..p.clone() },
        Case { tokens: 130, mask: ImageInWindow(13), ..p.clone() },
        Case { tokens: 130, mask: WindowOrImage(13), ..p.clone() },
        Case { tokens: 130, mask: HiddenImage, ..p.clone() },
        Case { tokens: 130, mask: Prefix, ..p.clone() },
        Case { tokens: 130, mask: TwoSided(16), ..p.clone() },
        Case { tokens: 130, mask: Compressed(4), ..p.clone() },
        Case { tokens: 130, mask: Until(60), ..p.clone() },
        Case { kind: Decode, ..p.clone() },
        Case { kind: Decode, tokens: 700, agents: 17, dims: (16, 16), ..p.clone() },
        Case { kind: Decode, mask: Window(40), ..p.clone() },
        Case { kind: Decode, mask: Chunked(24), ..p.clone() },
        Case { kind: Draft, ..p.clone() },
        Case { kind: Draft, mask: ImageInWindow(30), agents: 7, ..p.clone() },
        Case { kind: Mixed, agents: 5, ..p.clone() },
        Case { kind: Mixed, mask: ImageOrCausal, agents: 5, seed: 4, ..p.clone() },
        Case { kind: Parallel, agents: 5, ..p.clone() },
        Case { kind: Sequential, agents: 5, ..p.clone() },
        Case { kind: Sequential, agents: 5, seed: 2, ..p.clone() },
        Case { kind: Sequential, agents: 3, seed: 3, dims: (24, 40), ..p.clone() },
        Case { heads: (3, 1), ..p.clone() },
        Case { heads: (2, 2), dims: (8, 8), ..p.clone() },
        Case { heads: (1, 3), dims: (40, 40), ..p.clone() },
        Case { heads: (1, 5), dims: (72, 72), tokens: 40, ..p.clone() },
        Case { heads: (2, 7), dims: (80, 80), tokens: 40, ..p.clone() },
        Case { heads: (1, 8), dims: (96, 96), tokens: 40, ..p.clone() },
        Case { heads: (1, 16), dims: (128, 128), tokens: 40, kind: Decode, ..p.clone() },
        Case { heads: (1, 4), dims: (256, 256), tokens: 40, kind: Decode, ..p.clone() },
        Case { heads: (1, 2), dims: (192, 128), tokens: 40, ..p.clone() },
        Case { heads: (1, 64), dims: (16, 8), tokens: 40, kind: Decode, ..p.clone() },
        Case { soft_cap: true, sinks: true, gate: true, norm: true, ..p.clone() },
        Case { sinks: true, kind: Decode, mask: HiddenImage, ..p.clone() },
        Case { dtypes: (F16, F16), gate: true, ..p.clone() },
        Case { dtypes: (BF16, BF16), norm: true, gate: true, ..p.clone() },
        Case { dtypes: (F32, BF16), kind: Mixed, ..p.clone() },
        Case { dtypes: (BF16, F16), kind: Sequential, ..p.clone() },
        Case { dims: (200, 256), heads: (1, 3), kind: Sequential, ..p.clone() },
        Case { dtypes: (BF16, F32), dims: (40, 24), kind: Mixed, agents: 5, page_size: 1, ..p.clone() },
        // What V holds where a row looks reaches it, NaN and infinities too.
        Case { spoiled: (40, WILD), mask: Window(20), ..p.clone() },
        Case { spoiled: (40, WILD), dtypes: (F16, F16), mask: Window(20), ..p.clone() },
        Case { spoiled: (50, WILD), dtypes: (BF16, BF16), kind: Mixed, mask: ImageInWindow(30), agents: 5, ..p.clone() },
        Case { spoiled: (300, WILD), dtypes: (BF16, BF16), kind: Decode, tokens: 700, mask: Chunked(200), ..p.clone() },
        Case { engine_layout: true, ..p.clone() },
        Case { v_rope: true, norm: true, seed: 2, kind: Mixed, agents: 5, ..p.clone() },
        Case { v_rope: true, dtypes: (BF16, BF16), dims: (64, 64), kind: Decode, gate: true, sinks: true, ..p.clone() },
        Case { engine_layout: true, dtypes: (F16, BF16), kind: Mixed, gate: true, ..p.clone() },
    ]
}

#[test]
fn table_of_cases() {
    check_all(harness::bare_devices(), &cases()).unwrap_or_else(|e| panic!("{e}"));
}

/// Tiles of matrix products and of warpgroups: to other devices these are the shapes of the table once more.
#[rustfmt::skip]
fn matrix_cases() -> Vec<Case> {
    use DType::{BF16, F16};
    use Kind::*;
    use Mask::*;
    let p = Case::PLAIN;
    vec![
        // Edges of a tile of matrix products: head dims that are no multiple of its 16 lanes, odd groups of 8 lanes of the
        // value, queries that fill a warp's 16 rows or not, one stage of shared memory instead of two.
        Case { dtypes: (F16, F16), dims: (8, 8), heads: (2, 1), page_size: 1, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (24, 24), heads: (1, 3), kind: Mixed, agents: 5, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (72, 72), heads: (1, 5), page_size: 64, tokens: 130, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (96, 96), heads: (1, 7), page_size: 128, mask: Window(50), ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (128, 128), heads: (1, 8), tokens: 1100, kind: Decode, agents: 9, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (192, 128), heads: (1, 16), kind: Sequential, seed: 2, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (256, 256), heads: (2, 2), kind: Draft, mask: ImageOrCausal, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (256, 256), heads: (1, 2), kind: Sequential, seed: 3, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (256, 128), heads: (1, 4), kind: Sequential, agents: 5, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (64, 136), kind: Parallel, agents: 5, soft_cap: true, sinks: true, ..p.clone() },
        Case { dtypes: (BF16, BF16), kind: Sequential, agents: 5, gate: true, norm: true, engine_layout: true, ..p.clone() },
        Case { dtypes: (BF16, BF16), tokens: 130, mask: TwoSided(16), ..p.clone() },
        Case { dtypes: (F16, F16), tokens: 130, mask: Compressed(4), ..p.clone() },
        // Tiles of warpgroups: 64 queries of the second or some, a ring of stages that comes round, two parts of queries.
        Case { dtypes: (BF16, BF16), tokens: 700, heads: (1, 2), page_size: 1, ..p.clone() },
        Case { dtypes: (F16, F16), tokens: 33, heads: (1, 2), dims: (128, 128), soft_cap: true, ..p.clone() },
        Case { dtypes: (BF16, BF16), tokens: 33, heads: (2, 3), dims: (96, 96), kind: Parallel, agents: 7, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (128, 128), kind: Sequential, agents: 5, soft_cap: true, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (96, 96), kind: Sequential, seed: 2, heads: (1, 5), ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (192, 128), tokens: 300, heads: (1, 8), kind: Decode, agents: 17, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (256, 256), tokens: 300, heads: (1, 1), mask: Window(90), ..p.clone() },
        Case { spoiled: (140, WILD), dtypes: (BF16, BF16), tokens: 300, heads: (1, 2), mask: Window(20), ..p.clone() },
        Case { spoiled: (60, WILD), dtypes: (F16, F16), dims: (96, 96), tokens: 90, mask: Chunked(20), ..p.clone() },
        // Splits that grow: so many KV heads fill a GPU with few of them.
        Case { dtypes: (BF16, BF16), dims: (64, 64), heads: (64, 1), tokens: 1700, kind: Decode, agents: 2, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (16, 16), heads: (64, 1), tokens: 3300, kind: Decode, agents: 2, ..p.clone() },
        // Items that are put off, of rows with several states, among others.
        Case { spoiled: (600, WILD), dtypes: (BF16, BF16), tokens: 1500, heads: (2, 2), kind: Decode, agents: 5, ..p.clone() },
    ]
}

#[test]
fn tiles_of_matrix_products() {
    let devices: Vec<Device> = devices().iter().filter(|d| d.kind().starts_with("cuda")).cloned().collect();
    check_all(&devices, &matrix_cases()).unwrap_or_else(|e| panic!("{e}"));
}

/// Spans of whole tiles of keys, in pages that bulk copies serve on Hopper: whole tiles and parts of them, tiles in the
/// middle of a page and across two, rows of 128 and of 64 bytes, masks that leave the ends of a run to the other copies, pages
/// in the engine's order, what is not finite. Right, and bit for bit what the same tokens in small pages give.
#[test]
fn large_pages_have_the_bits_of_small_ones() {
    use DType::{BF16, F16};
    let decode = |dtype, dims, page_size, agents| Case {
        kind: Kind::Decode,
        dtypes: (dtype, dtype),
        heads: (2, 1),
        tokens: 900,
        span: 500,
        dims,
        page_size,
        agents,
        ..Case::PLAIN
    };
    let engine = Case { engine_layout: true, ..decode(BF16, (128, 128), 384, 2) };
    let spoiled = Case { spoiled: (600, WILD), mask: Mask::Chunked(500), ..decode(F16, (64, 64), 128, 3) };
    for case in [
        decode(F16, (64, 64), 64, 3),
        decode(BF16, (96, 96), 128, 2),
        engine,
        decode(BF16, (192, 128), 64, 2),
        Case { mask: Mask::Window(400), ..decode(F16, (256, 256), 256, 2) },
        spoiled,
    ] {
        for device in devices().iter().filter(|d| d.to_string().contains("sm_90a")) {
            let large = run(&case, device).expect("a run");
            let small = run(&Case { page_size: 16, ..case.clone() }, device).expect("a run");
            assert!(large.out.iter().zip(&small.out).all(|(a, b)| a.to_bits() == b.to_bits()), "{case:?}");
            assert!(large.lse == small.lse, "{case:?}");
            let want = run(&case, &Device::Reference).expect("a run");
            compare(&format!("{case:?}"), &large.out, &want.out, case.dtypes.0).unwrap();
        }
    }
}

/// Heads wider than a tile has room for, groups larger than a tile has queries, and both.
#[rustfmt::skip]
fn large_cases() -> Vec<Case> {
    use DType::{BF16, F16};
    use Kind::*;
    use Mask::*;
    let p = Case::PLAIN;
    vec![
        Case { heads: (1, 2), dims: (320, 256), tokens: 40, ..p.clone() },
        Case { heads: (1, 4), dims: (512, 512), tokens: 40, dtypes: (BF16, BF16), norm: true, gate: true, ..p.clone() },
        Case { heads: (1, 1), dims: (264, 272), tokens: 20, kind: Mixed, ..p.clone() },
        Case { heads: (1, 128), dims: (16, 16), tokens: 20, kind: Decode, agents: 2, sinks: true, ..p.clone() },
        Case { heads: (2, 96), dims: (8, 16), tokens: 20, kind: Mixed, agents: 3, ..p.clone() },
        Case { heads: (1, 67), dims: (16, 8), tokens: 9, ..p.clone() },
        Case { heads: (1, 128), dims: (576, 512), tokens: 20, kind: Decode, agents: 2, ..p.clone() },
        Case { heads: (1, 128), dims: (576, 512), tokens: 20, kind: Decode, agents: 2, dtypes: (BF16, BF16), ..p.clone() },
        Case { heads: (1, 4), dims: (576, 512), tokens: 40, dtypes: (F16, F16), kind: Sequential, ..p.clone() },
        Case { heads: (1, 4), dims: (512, 512), tokens: 20, dtypes: (BF16, BF16), v_rope: true, kind: Decode, ..p.clone() },
        Case { heads: (1, 4), dims: (512, 512), tokens: 60, dtypes: (BF16, BF16), mask: Window(20), spoiled: (40, WILD), ..p.clone() },
        Case { heads: (1, 128), dims: (64, 64), tokens: 20, kind: Decode, dtypes: (F16, F16), mask: HiddenImage, ..p.clone() },
    ]
}

#[test]
fn wide_heads_and_large_groups() {
    check_all(harness::bare_devices(), &large_cases()).unwrap_or_else(|e| panic!("{e}"));
}

fn any_mask() -> impl Strategy<Value = Mask> {
    prop_oneof![
        Just(Mask::Causal),
        (1..80).prop_map(Mask::Window),
        (1..60).prop_map(Mask::Chunked),
        Just(Mask::ImageOrCausal),
        (1..60).prop_map(Mask::ImageInWindow),
        (1..60).prop_map(Mask::WindowOrImage),
        Just(Mask::HiddenImage),
        Just(Mask::Prefix),
        (0..40).prop_map(Mask::TwoSided),
        (1..6).prop_map(Mask::Compressed),
        (0..100).prop_map(Mask::Until),
    ]
}

fn any_case() -> impl Strategy<Value = Case> {
    use Kind::*;
    let kind = prop_oneof![Just(Prefill), Just(Decode), Just(Draft), Just(Mixed), Just(Parallel), Just(Sequential)];
    // Few kinds of layer, so that few variants are compiled; their shapes and types are covered by the table. Heads that are
    // wide or odd, since software drivers compile those faster. By matrix units, on some devices, or not.
    let layer = prop_oneof![
        2 => Just(((2, 4), (64, 64), DType::F32)),
        1 => Just(((2, 4), (96, 96), DType::BF16)),
        1 => Just(((1, 3), (72, 88), DType::F16)),
    ];
    let size = prop_oneof![Just(1usize), Just(16), Just(64)];
    (any::<u64>(), kind, any_mask(), layer, size, 1..180usize, 1..9usize).prop_map(
        |(seed, kind, mask, (heads, dims, dtype), page_size, tokens, agents)| Case {
            seed,
            kind,
            mask,
            heads,
            dims,
            page_size,
            dtypes: (dtype, dtype),
            tokens,
            agents,
            sinks: seed % 3 == 0,
            ..Case::PLAIN
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_views_and_masks(case in any_case()) {
        check(&case).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn a_row_that_sees_nothing_is_zero_with_lse_minus_infinity() {
    // Entry j of a compressed stream is born at slot 4j + 3: rows 0, 1 and 2 see nothing.
    let case = Case { mask: Mask::Compressed(4), tokens: 9, ..Case::PLAIN };
    for device in harness::devices() {
        let answer = harness::scene::run(&case, device).unwrap();
        let heads = case.heads.0 * case.heads.1;
        assert!(answer.out[..3 * heads * case.dims.1].iter().all(|&x| x == 0.0), "{device}");
        assert!(answer.lse[..3 * heads].iter().all(|&x| x == f32::NEG_INFINITY), "{device}");
        assert!(answer.lse[3 * heads..].iter().all(|x| x.is_finite()), "{device}");
    }
}

/// Without lse, sinks, norm and gate the only state of a row is written as the row, in one launch; the bits are the same.
#[test]
fn an_output_alone_has_the_bits_of_one_with_its_lse() {
    use DType::{BF16, F16, F32};
    let p = Case { tokens: 70, ..Case::PLAIN };
    for case in [
        Case { mask: Mask::Window(20), dtypes: (F16, F16), engine_layout: true, ..p.clone() },
        Case { heads: (1, 2), dims: (32, 320), dtypes: (BF16, F32), tokens: 20, ..p.clone() }, // two parts of v
        Case { mask: Mask::Compressed(4), tokens: 9, ..p.clone() }, // rows that see nothing have no state
        Case { kind: Kind::Mixed, agents: 3, ..p.clone() },         // rows of one state and rows of more
        Case { v_rope: true, ..p.clone() },                         // rows that turn back
        Case { out_scale: Some(0.03), ..p.clone() },                // codes
        Case { sinks: true, ..p.clone() },
        p,
    ] {
        for device in harness::devices() {
            let [with, without] =
                [harness::scene::run, harness::scene::run_without_lse].map(|run| run(&case, device).unwrap());
            let bits = |answer: Answer| answer.out.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(without), bits(with), "{device}: {case:?}");
        }
    }
}

/// Keys between what two rows of a tile see, which nobody sees: with NaN and infinities among them.
#[test]
fn a_hole_in_what_the_rows_see() {
    for dtype in DType::ALL {
        let case = Case { mask: Mask::Window(16), dtypes: (dtype, dtype), spoiled: (70, WILD), ..Case::PLAIN };
        let mut cache = KvCache::new(16, 20).unwrap();
        let view = cache.create();
        cache.append(view, Modality::Text, 300).unwrap();
        let row = |first_slot| QueryRows { view, first_slot, len: 1, gap: None };
        let with_gap = QueryRows { gap: Some(278..281), ..row(290) }; // token 279 has a NaN
        let rows = [row(20), row(299), row(68), with_gap];
        let answer = |device| harness::scene::run_rows(&case, device, &cache, &[view], &rows).unwrap();
        let want = answer(&Device::Reference);
        assert!(want.out.iter().all(|x| x.is_finite()));
        for device in harness::devices() {
            let got = answer(device);
            harness::compare(&format!("out on {device}"), &got.out, &want.out, dtype).unwrap();
            harness::compare(&format!("lse on {device}"), &got.lse, &want.lse, DType::F32).unwrap();
        }
    }
}

#[test]
fn the_reference_needs_no_device() {
    let answer = harness::scene::run(&Case::PLAIN, &Device::Reference).unwrap();
    assert!(answer.out.iter().all(|x| x.is_finite()));
}

/// Asynchronous copies take 16 bytes: a cache that does not lie on them is refused by name, before anything runs.
#[test]
#[cfg(feature = "cuda")]
fn cuda_takes_k_and_v_on_16_bytes() {
    use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem};
    use colatent::layer::{LayerConstants, LayerSpec};
    use colatent::{Error, Tensor, Workspace};

    let spec = LayerSpec { dtype: DType::BF16, kv_dtype: DType::BF16, ..LayerSpec::new(2, 1, 16) };
    let mut cache = KvCache::new(16, 1).unwrap();
    let view = cache.create();
    let rows = [QueryRows::from(cache.append(view, Modality::Text, 2).unwrap())];
    for device in harness::devices().iter().filter(|d| d.kind().starts_with("cuda")) {
        let plan = AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).unwrap();
        let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::BF16, shape).unwrap();
        let (q, out) = (zeros(&[2, 2, 16]), harness::poisoned(device, DType::BF16, &[2, 2, 16]));
        let pages = |offset, token| {
            let memory = zeros(&[512]).buffer().clone();
            Tensor::with_strides(memory, DType::BF16, offset, &[1, 1, 16, 16], &[320, 320, token, 1]).unwrap()
        };
        let mut workspace = Workspace::new(device).unwrap();
        plan.warm_up(&mut workspace).unwrap();
        let mut run = |k: &Tensor, v: &Tensor| {
            plan.run(
                &AttentionArgs {
                    q: &q,
                    k,
                    v,
                    constants: &constants,
                    selection: None,
                    gate: None,
                    out: &out,
                    lse: None,
                },
                &mut workspace,
            )
        };
        for (k, v) in [(pages(4, 16), pages(0, 16)), (pages(0, 16), pages(0, 20))] {
            let error = run(&k, &v).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{device}: {error}");
            assert!(out.read_f32().unwrap().iter().all(|x| x.is_nan()), "{device}: nothing is written");
        }
        run(&pages(8, 16), &pages(0, 24)).unwrap();
        assert!(out.read_f32().unwrap().iter().all(|&x| x == 0.0), "{device}");
        let plan = plan.to_string();
        assert!(plan.contains("64 queries x 64 keys") && plan.contains("matrix units"), "{plan}");
    }
}

/// On Hopper a plan says which kernel it takes, and where it is not the one made for it.
#[test]
fn a_plan_names_its_kernel() {
    use colatent::attention::{AttentionPlan, AttentionProblem};
    for device in harness::devices().iter().filter(|d| d.to_string().contains("sm_90a")) {
        for (dtype, dims, is_served) in [
            (DType::BF16, (64, 64), true),
            (DType::F16, (192, 128), true),
            (DType::F32, (64, 64), false),
            (DType::BF16, (72, 72), false),
        ] {
            let spec = Case { dtypes: (dtype, dtype), dims, ..Case::PLAIN }.spec();
            let mut cache = KvCache::new(16, 1).unwrap();
            let view = cache.create();
            let rows = [QueryRows::from(cache.append(view, Modality::Text, 2).unwrap())];
            let problem = AttentionProblem { spec: &spec, cache: &cache, rows: &rows };
            let text = AttentionPlan::new(device, &problem).unwrap().to_string();
            let said = if is_served { "kernel attention_sm90," } else { "kernel attention (no attention_sm90" };
            assert!(text.contains(said), "{dtype} {dims:?}: {text}");
        }
    }
}

/// A shift turns queries in place of keys, and leaves values as they are.
#[test]
fn values_that_turn_are_refused_under_a_shift() {
    use colatent::attention::{AttentionPlan, AttentionProblem};
    let spec = Case { v_rope: true, ..Case::PLAIN }.spec();
    let mut cache = KvCache::new(16, 4).unwrap();
    let (from, to) = (cache.create(), cache.create());
    cache.append(from, Modality::Text, 3).unwrap();
    cache.share(from, 0..2, to, [1, 0, 0, 0]).unwrap();
    let rows = [QueryRows::from(cache.append(to, Modality::Text, 1).unwrap())];
    let error = AttentionPlan::new(&Device::Reference, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows });
    assert!(error.err().unwrap().to_string().contains("v_rope with a position shift of [1, 0, 0, 0]"));
}

/// Constants of another layer kind would be read past their end.
#[test]
fn constants_of_another_layer_kind_are_refused() {
    use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem};
    use colatent::layer::{LayerConstants, LayerSpec};
    use colatent::{Error, Tensor, Workspace};

    let plain = LayerSpec::new(4, 2, 16);
    let with_sinks = LayerSpec { sinks: true, ..plain.clone() };
    let mut cache = KvCache::new(16, 1).unwrap();
    let view = cache.create();
    let rows = [QueryRows::from(cache.append(view, Modality::Text, 2).unwrap())];
    for device in harness::devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let problem = AttentionProblem { spec: &with_sinks, cache: &cache, rows: &rows };
        let plan = AttentionPlan::new(device, &problem).unwrap();
        let constants = LayerConstants::new(device, &plain, Default::default()).unwrap();
        let (q, out) = (zeros(&[2, 4, 16]), zeros(&[2, 4, 16]));
        let (k, v) = (zeros(&[1, 2, 16, 16]), zeros(&[1, 2, 16, 16]));
        let args = AttentionArgs {
            q: &q,
            k: &k,
            v: &v,
            constants: &constants,
            selection: None,
            gate: None,
            out: &out,
            lse: None,
        };
        let error = plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Invalid { argument: "constants", .. }), "{device}: {error}");
    }
}
