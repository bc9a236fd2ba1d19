//! Outputs as codes: rows that attention writes directly and rows that it merges, times 1 over the scale, rounded once.

use colatent::DType::{BF16, E4M3, F32};
use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights};
use colatent::{DType, Error, Tensor, Workspace};

use crate::harness::codes::expect_codes;
use crate::harness::devices;
use crate::harness::scene::{Case, Kind, Mask, WILD, check_all, run, run_without_lse};

/// Scales under which some outputs saturate.
#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let p = Case { out_scale: Some(0.0013), tokens: 40, ..Case::PLAIN };
    vec![
        Case { v_rope: true, norm: true, gate: true, seed: 2, kind: Kind::Mixed, agents: 5, ..p.clone() },
        Case { spoiled: (40, WILD), mask: Mask::Window(20), tokens: 70, ..p.clone() },
        Case { dtypes: (BF16, BF16), norm: true, sinks: true, kind: Kind::Decode, engine_layout: true, ..p.clone() },
        Case { dtypes: (BF16, E4M3), dims: (64, 64), kind: Kind::Sequential, agents: 3, ..p.clone() },
    ]
}

#[test]
fn outputs_as_codes() {
    check_all(crate::harness::bare_devices(), &cases()).unwrap_or_else(|e| panic!("{e}"));
}

/// Bit for bit the codes of what the same device writes as f32, in two launches and in one; of rows that see one key,
/// which are its value, also the codes of what is written as bf16.
#[test]
fn codes_are_those_of_the_values() {
    let p = Case { out_scale: Some(0.0013), ..Case::PLAIN };
    for case in [
        Case { tokens: 40, norm: true, v_rope: true, gate: true, seed: 2, kind: Kind::Mixed, agents: 5, ..p.clone() },
        Case { mask: Mask::Window(1), dtypes: (BF16, BF16), ..p.clone() },
        p,
    ] {
        for (device, is_alone) in devices().iter().flat_map(|device| [(device, false), (device, true)]) {
            let run = if is_alone { run_without_lse } else { run };
            let rows = run(&Case { out_scale: None, ..case.clone() }, device).unwrap();
            let codes = run(&case, device).unwrap();
            expect_codes(&format!("{device}: {case:?}"), &codes.out, &rows.out, 0.0013);
            assert!(codes.out.contains(&448.0), "{device}: nothing saturates: {case:?}");
            assert_eq!(codes.lse, rows.lse, "{device}");
        }
    }
}

/// A row of codes in the place of a row of q would be written over another row's query.
#[test]
fn codes_in_the_place_of_q_are_refused_on_cuda() {
    let spec = LayerSpec { out_code: Some(E4M3), ..LayerSpec::new(2, 1, 16) };
    let mut cache = KvCache::new(16, 1).unwrap();
    let view = cache.create();
    let rows = [QueryRows::from(cache.append(view, Modality::Text, 2).unwrap())];
    for device in devices().iter().filter(|d| d.kind().starts_with("cuda")) {
        let plan = AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).unwrap();
        let weights = LayerWeights { out_scale: Some(1.0), ..Default::default() };
        let constants = LayerConstants::new(device, &spec, weights).unwrap();
        let zeros = |dtype: DType, shape: &[usize]| Tensor::zeros(device, dtype, shape).unwrap();
        let (q, k) = (zeros(F32, &[2, 2, 16]), zeros(F32, &[1, 1, 16, 16]));
        let run = |out: &Tensor| {
            let (q, k, constants) = (&q, &k, &constants);
            let args = AttentionArgs { q, k, v: k, constants, selection: None, gate: None, out, lse: None };
            plan.run(&args, &mut Workspace::new(device).unwrap())
        };
        let refused = run(&Tensor::new(q.buffer().clone(), E4M3, &[2, 2, 16]).unwrap()).unwrap_err();
        assert!(matches!(refused, Error::Invalid { argument: "out", .. }), "{device}: {refused}");
        run(&zeros(E4M3, &[2, 2, 16])).unwrap();
    }
}
