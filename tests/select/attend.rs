//! Attention over chosen keys: against the definition over any views and masks, and its own laws. Keys that nobody chose
//! hold NaN in every case.
use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Appended, KvCache, Modality, ViewId};
use colatent::layer::{Indexer, LayerConstants, LayerSpec};
use colatent::{Buffer, DType, Error, Steps, Tensor, Workspace};
use proptest::prelude::*;

use crate::harness::scene::{Case, Chosen, Kind, Mask, WILD, check, run, run_rows};
use crate::harness::{Rng, devices, poisoned};

/// What a random case does not meet: other head dims and groups, every epilogue, NaN and infinities at chosen keys,
/// runs of unchosen tiles between chosen ones.
#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use DType::{BF16, F16};
    use Kind::*;
    let chosen = |keep, run| Some(Chosen { keep, run });
    let p = Case { chosen: chosen(4, 1), ..Case::PLAIN };
    vec![
        Case { tokens: 300, chosen: chosen(2, 64), kind: Decode, agents: 3, ..p.clone() },
        Case { tokens: 300, chosen: chosen(2, 64), kind: Decode, agents: 3, dtypes: (BF16, BF16), ..p.clone() },
        Case { tokens: 200, chosen: chosen(1, 16), heads: (1, 2), ..p.clone() },
        Case { tokens: 130, mask: Mask::Window(50), sinks: true, soft_cap: true, gate: true, norm: true, ..p.clone() },
        Case { spoiled: (20, WILD), tokens: 130, chosen: chosen(8, 1), dtypes: (F16, F16), ..p.clone() },
        Case { spoiled: (20, WILD), kind: Mixed, agents: 4, chosen: chosen(8, 3), dtypes: (BF16, BF16), ..p.clone() },
        Case { spoiled: (20, WILD), kind: Mixed, agents: 4, chosen: chosen(8, 3), ..p.clone() },
        Case { dtypes: (BF16, F16), engine_layout: true, kind: Parallel, ..p.clone() },
    ]
}

#[test]
fn chosen_keys_in_a_table_of_cases() {
    let failures: Vec<String> = cases().iter().filter_map(|c| check(c).err()).collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn any_case() -> impl Strategy<Value = Case> {
    use Kind::*;
    let kind = prop_oneof![Just(Prefill), Just(Decode), Just(Draft), Just(Mixed), Just(Parallel), Just(Sequential)];
    let mask = prop_oneof![
        2 => Just(Mask::Causal),
        1 => (1..80).prop_map(Mask::Window),
        1 => Just(Mask::ImageOrCausal),
        1 => (1..60).prop_map(Mask::Chunked),
    ];
    let dtype = prop_oneof![Just(DType::F32), Just(DType::BF16)];
    let size = prop_oneof![Just(1usize), Just(16), Just(64)];
    let chosen = (1..10u64, prop_oneof![Just(1), Just(5), Just(32), Just(48)]);
    (any::<u64>(), kind, mask, size, dtype, chosen, 1..180usize, 1..7usize).prop_map(
        |(seed, kind, mask, page_size, dtype, (keep, run), tokens, agents)| Case {
            seed,
            kind,
            mask,
            heads: (1, 3),
            dims: (72, 88),
            page_size,
            dtypes: (dtype, dtype),
            tokens,
            agents,
            sinks: seed % 3 == 0,
            chosen: Some(Chosen { keep, run }),
            ..Case::PLAIN
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chosen_keys_of_any_views_and_masks(case in any_case()) {
        check(&case).map_err(TestCaseError::fail)?;
    }
}

/// Head dims for which Hopper's kernel, which has other tiles and reads no selection, does not stand in.
fn team(dtype: DType) -> Case {
    Case { kind: Kind::Mixed, agents: 5, heads: (1, 3), dims: (72, 88), dtypes: (dtype, dtype), ..Case::PLAIN }
}

#[test]
fn choosing_every_key_leaves_every_bit() {
    for case in [DType::F32, DType::BF16].map(team) {
        for device in devices() {
            let all = run(&Case { chosen: Some(Chosen { keep: 16, run: 1 }), ..case.clone() }, device).unwrap();
            assert_eq!(all, run(&case, device).unwrap(), "{device}");
        }
    }
}

#[test]
fn choosing_no_key_gives_zero() {
    for case in [DType::F32, DType::BF16].map(team) {
        for device in devices() {
            let none = run(&Case { chosen: Some(Chosen { keep: 0, run: 1 }), ..case.clone() }, device).unwrap();
            assert!(none.out.iter().all(|&x| x == 0.0), "{device}");
            assert!(none.lse.iter().all(|&x| x == f32::NEG_INFINITY), "{device}");
        }
    }
}

/// Siblings choose other keys of the prompt they share; the output of each has the bits that it has alone.
#[test]
fn a_choice_is_nobody_elses_business() {
    for dtype in [DType::F32, DType::BF16] {
        let case = Case { tokens: 150, chosen: Some(Chosen { keep: 3, run: 5 }), ..team(dtype) };
        let (cache, rows) = case.scene();
        let views: Vec<ViewId> = rows.iter().map(|r| r.view).collect();
        for device in devices() {
            let together = run_rows(&case, device, &cache, &views, &rows).unwrap();
            let lanes = case.heads.0 * case.heads.1 * case.dims.1;
            let mut first = 0;
            for r in &rows {
                let alone = run_rows(&case, device, &cache, &views, std::slice::from_ref(r)).unwrap();
                let mine = &together.out[first * lanes..][..r.len as usize * lanes];
                assert_eq!(alone.out, mine, "{device}: {r:?}");
                first += r.len as usize;
            }
        }
    }
}

#[test]
fn a_selection_that_does_not_fit_is_refused() {
    let indexer = Indexer { heads: 1, dim: 8, count: 1, block: 1 };
    let sparse = LayerSpec { indexer: Some(indexer), ..LayerSpec::new(2, 1, 16) };
    let dense = LayerSpec { indexer: None, ..sparse.clone() };
    let nothing = LayerSpec { indexer: Some(Indexer { count: 0, ..indexer }), ..sparse.clone() };
    let mut cache = KvCache::new(16, 4).unwrap();
    let view = cache.create();
    let rows = [QueryRows::from(cache.append(view, Modality::Text, 40).unwrap())];
    for device in devices() {
        let plan = |spec| AttentionPlan::new(device, &AttentionProblem { spec, cache: &cache, rows: &rows });
        assert!(matches!(plan(&nothing), Err(Error::Invalid { .. })));
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (q, k, out) = (zeros(&[40, 2, 16]), zeros(&[4, 1, 16, 16]), poisoned(device, DType::F32, &[40, 2, 16]));
        let constants = LayerConstants::new(device, &dense, Default::default()).unwrap();
        let buffer = |bytes| Buffer::zeros(device, bytes).unwrap();
        let (right, small) = (buffer(40 * 2 * 4), buffer(40 * 2 * 4 - 16));
        let wrong = [(&dense, Some(&right)), (&sparse, None), (&sparse, Some(&small)), (&sparse, Some(out.buffer()))];
        for (spec, selection) in wrong {
            let (k, q, out) = (&k, &q, &out);
            let args = AttentionArgs { q, k, v: k, constants: &constants, selection, gate: None, out, lse: None };
            let ran = plan(spec).unwrap().run(&args, &mut Workspace::new(device).unwrap());
            assert!(matches!(ran, Err(Error::Invalid { argument: "selection", .. })), "{device}: {ran:?}");
        }
        assert!(out.read_f32().unwrap().iter().all(|x| x.is_nan()), "{device}");
        assert_eq!((plan(&dense).unwrap().selection_words(), plan(&sparse).unwrap().selection_words()), (0, 2));
    }
}

/// A plan over a counter reads a selection that is written anew in every step: the bits of a plan of that step.
#[test]
fn a_plan_of_many_steps_reads_every_steps_choice() {
    let indexer = Some(Indexer { heads: 1, dim: 8, count: 1, block: 1 });
    let spec = LayerSpec { indexer, ..LayerSpec::new(3, 1, 24) };
    let mut cache = KvCache::new(16, 12).unwrap();
    let root = cache.create();
    cache.append(root, Modality::Text, 90).unwrap();
    let agents = cache.fork_many(root, 2).unwrap();
    let appended = cache.append_steps(&agents, Modality::Text, 3).unwrap();
    let rows = |step: i32| -> Vec<QueryRows> {
        let of = |a: &Appended| QueryRows { view: a.view, first_slot: a.first_slot + step, len: 1, gap: None };
        appended.iter().map(of).collect()
    };
    for device in devices() {
        let mut rng = Rng(3);
        let mut t = |shape: &[usize]| {
            let values = rng.values(shape.iter().product());
            Tensor::from_f32(device, DType::F32, shape, &values).unwrap()
        };
        let (q, k, v) = (t(&[2, 3, 24]), t(&[12, 1, 16, 24]), t(&[12, 1, 16, 24]));
        let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
        let steps = Steps::new(device, 3).unwrap();
        let problem = AttentionProblem { spec: &spec, cache: &cache, rows: &rows(0) };
        let over = AttentionPlan::over(device, &problem, &steps).unwrap();
        let (selection, mut kept) = (Buffer::zeros(device, 2 * over.selection_words() * 4).unwrap(), Vec::new());
        let mut workspace = Workspace::new(device).unwrap();
        for step in 0..3 {
            let words: Vec<u32> = (0..2 * over.selection_words()).map(|_| rng.next() as u32).collect();
            selection.write(0, bytemuck::cast_slice(&words)).unwrap();
            let rows = rows(step);
            let anew = AttentionPlan::new(device, &AttentionProblem { rows: &rows, ..problem }).unwrap();
            let out = [(); 2].map(|()| poisoned(device, DType::F32, &[2, 3, 24]));
            let args = |out| AttentionArgs {
                q: &q,
                k: &k,
                v: &v,
                constants: &constants,
                selection: Some(&selection),
                gate: None,
                out,
                lse: None,
            };
            over.run(&args(&out[0]), &mut workspace).unwrap();
            anew.run(&args(&out[1]), &mut Workspace::new(device).unwrap()).unwrap();
            let [got, want] = out.map(|t| t.read_f32().unwrap());
            assert_eq!(got, want, "{device}: step {step}");
            assert!(!kept.contains(&got), "{device}: the choice of step {step} changed nothing");
            kept.push(got);
            steps.advance().unwrap();
        }
    }
}
