//! Layer kinds that allow rounded weights: within the bound beside the tolerance, with the lse of exact weights; and no bit
//! changes where weights are not rounded.
//! Planted and seen red: sums of rounded weights, weights a hair too small behind the first step of a tile (Hopper), exact
//! weights on one of the kernels or on all (the bound); weights cut instead of rounded (both of the bound; bf16 is seen by the
//! one that reaches it alone); the bound halved (that one alone); two variants of what has no matrix units (variants).
use std::collections::BTreeSet;
use std::sync::Mutex;

use colatent::DType::{BF16, E4M3, F16, F32, I8};
use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::{DType, Device, Tensor, Tolerance, Workspace};

use crate::harness::scene::{Answer, Case, Kind, Mask, Signs, WILD, check_each, run};
use crate::harness::{bare_devices, devices};

/// Devices that have matrix units.
fn is_cuda(device: &&Device) -> bool {
    device.kind().starts_with("cuda")
}

fn bits(answer: &Answer) -> (Vec<u32>, Vec<u32>) {
    let of = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    (of(&answer.out), of(&answer.lse))
}

/// Layer kinds for matrix units. Where signs are opposed outputs are small, and the tolerance with them.
#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use Kind::*;
    use Mask::*;
    let p = Case { rounded_weights: true, signs: Signs::Opposed, dtypes: (BF16, BF16), ..Case::PLAIN };
    let f16 = Case { dtypes: (F16, F16), ..p.clone() };
    vec![
        p.clone(),
        Case { dims: (128, 128), heads: (1, 8), tokens: 130, mask: Window(50), ..f16.clone() },
        Case { dims: (128, 128), heads: (1, 8), tokens: 1100, span: 900, kind: Decode, agents: 9, ..p.clone() },
        Case { dims: (192, 128), heads: (1, 8), tokens: 600, kind: Decode, agents: 3, ..p.clone() },
        Case { dims: (256, 256), heads: (1, 4), kind: Draft, mask: ImageInWindow(30), ..f16.clone() },
        Case { dims: (256, 256), heads: (1, 2), kind: Mixed, agents: 3, soft_cap: true, signs: Signs::Any, ..p.clone() },
        Case { dims: (128, 128), kind: Sequential, agents: 5, soft_cap: true, sinks: true, ..p.clone() },
        Case { kind: Sequential, seed: 2, signs: Signs::Any, page_size: 1, ..f16.clone() },
        Case { dims: (96, 96), kind: Parallel, agents: 5, soft_cap: true, ..f16.clone() },
        // Head dims of the portable kernel alone, values in two parts among them.
        Case { dims: (24, 40), heads: (1, 3), kind: Mixed, agents: 5, ..f16.clone() },
        Case { dims: (512, 512), heads: (1, 4), tokens: 40, kind: Decode, ..p.clone() },
        Case { spoiled: (40, WILD), tokens: 130, mask: Window(20), ..p.clone() },
    ]
}

#[test]
fn outputs_are_within_the_bound() {
    let missed = Mutex::new(BTreeSet::new());
    check_each(&cases(), |case| {
        let want = run(case, &Device::Reference)?;
        let sizes = run(&Case { signs: Signs::Positive, ..case.clone() }, &Device::Reference)?;
        let (cache, rows) = case.scene();
        let keys = rows.iter().map(|r| cache.view(r.view).expect("a view").next_slot()).max().expect("a row");
        let (dtype, most) = (case.dtypes.1, 4.0); // of `Rng::value`
        // The outputs that are compared, and the magnitude, are rounded to the type: with values up to 4 that adds 2^-12
        // at most in bf16, 2^-18 in f16, less than half of what the tolerance has for outputs near 0.
        let plain = dtype.tolerance();
        for device in devices().iter().filter(is_cuda) {
            let fail = |e: String| format!("{device}: {e}\n{case:?}");
            let (got, exact) = (run(case, device)?, run(&Case { rounded_weights: false, ..case.clone() }, device)?);
            if bits(&got).0 == bits(&exact).0 {
                return Err(fail("outputs of exact weights".into()));
            }
            if bits(&got).1 != bits(&exact).1 {
                return Err(fail("not the lse of exact weights".into()));
            }
            for (i, (&got, &want)) in got.out.iter().zip(&want.out).enumerate() {
                let bound = dtype.rounded_weights_bound(sizes.out[i], keys as usize, most);
                // What is not finite has no magnitude, and must agree.
                let atol = plain.atol + if want.is_finite() { bound } else { 0.0 };
                if !(Tolerance { atol, ..plain }).accepts(got, want) {
                    return Err(fail(format!("output {i}: got {got}, want {want}, {bound} beside {plain:?}")));
                }
                if !plain.accepts(got, want) {
                    missed.lock().unwrap().insert((device.to_string(), dtype.name()));
                }
            }
        }
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{e}"));
    // Otherwise the mode would need no name of its own.
    for device in devices().iter().filter(is_cuda) {
        for dtype in [BF16, F16] {
            assert!(missed.lock().unwrap().contains(&(device.to_string(), dtype.name())), "{device}: {dtype}");
        }
    }
}

/// Weights beside a tie of the type, above and below, under values that have the sign of what rounding does to them.
#[test]
fn the_bound_is_reached() {
    // From 0.5 to the next number of the type are 2 u of it: the tie is in the middle.
    for (dtype, u) in [(BF16, 2f64.powi(-8)), (F16, 2f64.powi(-11))] {
        // Key 0 has the weight 1 and no value.
        let keys = 65;
        let weight = |key: usize| if key == 0 { 1.0 } else { 0.5 + 0.5 * u * [0.95, 1.05][key % 2] };
        let sign = |key: usize| if key == 0 { 0.0 } else { [-1.0, 1.0][key % 2] };
        let sum: f64 = (0..keys).map(weight).sum();
        let want = (0..keys).map(|key| weight(key) * sign(key)).sum::<f64>() / sum;
        let magnitude = (1..keys).map(weight).sum::<f64>() / sum;
        // A score is the sum of two lanes, since the type has not its precision.
        let lanes = |key: usize| {
            let score = weight(key).ln() as f32;
            let mut lanes = vec![0.0; 64];
            (lanes[0], lanes[1]) = (dtype.round(score), score - dtype.round(score));
            lanes
        };
        let bound = dtype.rounded_weights_bound(magnitude as f32, keys, 1.0);
        for device in devices() {
            let off = |rounded_weights| {
                let spec = LayerSpec {
                    dtype,
                    kv_dtype: dtype,
                    rounded_weights,
                    softmax_scale: 1.0,
                    ..LayerSpec::new(1, 1, 64)
                };
                let mut cache = KvCache::new(keys, 1).unwrap();
                let view = cache.create();
                cache.append(view, Modality::Text, keys).unwrap();
                let rows = [QueryRows { view, first_slot: keys as i32 - 1, len: 1, gap: None }];
                let plan =
                    AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).unwrap();
                let of = |shape: &[usize], x: Vec<f32>| Tensor::from_f32(device, dtype, shape, &x).unwrap();
                let q = of(&[1, 1, 64], (0..64).map(|lane| f32::from(lane < 2)).collect());
                let k = of(&[1, 1, keys, 64], (0..keys).flat_map(lanes).collect());
                let v = of(&[1, 1, keys, 64], (0..keys).flat_map(|key| [sign(key) as f32; 64]).collect());
                let out = crate::harness::poisoned(device, dtype, &[1, 1, 64]);
                let args = AttentionArgs {
                    q: &q,
                    k: &k,
                    v: &v,
                    constants: &LayerConstants::new(device, &spec, Default::default()).unwrap(),
                    selection: None,
                    gate: None,
                    out: &out,
                    lse: None,
                };
                plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
                let out = out.read_f32().unwrap();
                out.into_iter().map(|x| (x - want as f32).abs()).fold(0.0, f32::max)
            };
            let (exact, rounded) = (off(false), off(true));
            let plain = dtype.tolerance();
            assert!(exact < plain.atol, "{device} {dtype}: {exact}");
            if is_cuda(&device) {
                assert!(rounded > plain.atol + plain.rtol * want.abs() as f32, "{device} {dtype}: {rounded}");
                assert!((0.9 * bound..bound).contains(&rounded), "{device} {dtype}: {rounded} of {bound}");
            } else {
                assert_eq!(rounded.to_bits(), exact.to_bits(), "{device} {dtype}");
            }
        }
    }
}

/// The reference, WebGPU, and whatever has no matrix units: the bits of the layer kind without.
#[test]
fn where_weights_are_not_rounded_no_bit_changes() {
    let p = Case { rounded_weights: true, kind: Kind::Mixed, ..Case::PLAIN };
    let of = |dtype, kv_dtype| Case { dtypes: (dtype, kv_dtype), ..p.clone() };
    let wide = Case { dims: (512, 512), heads: (1, 4), tokens: 20, v_rope: true, kind: Kind::Decode, ..of(BF16, BF16) };
    let cases = [of(BF16, BF16), of(F16, F16), of(F32, F32), of(F32, BF16), of(BF16, E4M3), of(F16, I8), wide];
    check_each(&cases, |case| {
        let has_matrices = case.dtypes.0 == case.dtypes.1 && case.dtypes.0 != F32 && !case.v_rope;
        for device in bare_devices().iter().filter(|d| !(has_matrices && is_cuda(d))) {
            let (got, exact) = (run(case, device)?, run(&Case { rounded_weights: false, ..case.clone() }, device)?);
            if bits(&got) != bits(&exact) {
                return Err(format!("{device}: {case:?}"));
            }
        }
        Ok(())
    })
    .unwrap_or_else(|e| panic!("{e}"));
}

/// One variant with and one without, and one alone where there are no weights to round.
#[test]
#[cfg(feature = "cuda")]
fn variants_fork_where_weights_are_rounded() {
    let p = Case::PLAIN;
    let wide = Case { dims: (512, 512), v_rope: true, ..p.clone() };
    for (case, dtypes, parts) in [
        (&p, (BF16, BF16), ["WEIGHT_PARTS=2u", "WEIGHT_PARTS=1u"]),
        (&p, (F32, F32), ["WEIGHT_PARTS=2u"; 2]),
        (&p, (BF16, F16), ["WEIGHT_PARTS=2u"; 2]),
        (&p, (BF16, E4M3), ["WEIGHT_PARTS=2u"; 2]),
        (&wide, (F16, F16), ["WEIGHT_PARTS=2u"; 2]),
    ] {
        let name = |rounded_weights| {
            let spec = Case { rounded_weights, dtypes, ..case.clone() }.spec();
            colatent::attention::cuda_variant_of(&spec).0
        };
        let (exact, rounded) = (name(false), name(true));
        assert!(exact.contains(parts[0]), "{exact}");
        assert_eq!(exact.replace(parts[0], parts[1]), rounded);
    }
}

/// A type whose weights stay f32 has no bound.
#[test]
fn other_types_have_no_bound() {
    for dtype in [F32, E4M3, I8] {
        assert_eq!(DType::rounded_weights_bound(dtype, 1.0, 1000, 4.0), 0.0);
    }
}
