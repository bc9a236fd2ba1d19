//! Codes of K and V: on every device, bit for bit, what the rule makes of values that no norm and no rotation changes.

use colatent::DType::{self, E4M3, F32, I8};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{KvScale, LayerConstants, LayerSpec};
use colatent::{Device, Error, Tensor, Workspace};

use super::setup::{fill, is_poison};
use crate::harness::codes::{nearest, value};
use crate::harness::{Rng, devices, poisoned};

pub const LANES: usize = 32;

/// Scale and codes of a vector, by the rule of `docs/kv_append.md`.
pub fn rule(dtype: DType, x: &[f32]) -> (f32, Vec<u8>) {
    let greatest: f32 = if dtype == I8 { 127.0 } else { 448.0 };
    let most = x.iter().fold(2f32.powi(-96), |most, x| most.max(x.abs()));
    let (scale, inverse) = if x.iter().all(|x| x.is_finite()) {
        // Cut off behind the 24th digit.
        let quotient = f64::from(greatest) / f64::from(most);
        let place = 2f64.powi(quotient.log2().floor() as i32 - 23);
        (most * (1.0 / greatest), ((quotient / place).floor() * place) as f32)
    } else {
        (f32::NAN, f32::NAN)
    };
    (scale, x.iter().map(|&x| nearest(dtype, x * inverse)).collect())
}

/// Vectors of every size, with ties, with nothing but zeros, with the sizes at which scales end.
pub fn vectors(rng: &mut Rng, dtype: DType) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for i in 0..24 {
        let size = [1.0, 1e-3, 448.0, 127.0, 3e38, 1e-20, 7e-28, 1e-35][i % 8];
        all.push(rng.values(LANES).iter().map(|x| x / 4.0 * size).collect());
    }
    // Under a scale of exactly 1: codes, and halves between them.
    let most = if dtype == I8 { 127.0 } else { 448.0 };
    let between = |i: usize| (value(dtype, i as u8) + value(dtype, i as u8 + 1)) as f32 / 2.0;
    for first in (0..124).step_by(LANES - 1) {
        let ties = (first..first + LANES - 1).map(|i| between(i.min(125)));
        all.push(ties.clone().chain([most]).collect());
        all.push(ties.map(|x| -x).chain([-most]).collect());
    }
    all.push(vec![0.0; LANES]);
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        all.push((0..LANES).map(|i| if i == 7 { x } else { i as f32 }).collect());
    }
    all
}

struct Appended {
    codes: [Vec<u8>; 2],
    scales: Vec<f32>,
}

/// K and V of one head each, one vector a row, at every second slot; the others stay as they were.
fn append(device: &Device, spec: &LayerSpec, rows: &[Vec<f32>], page_size: usize) -> Appended {
    let places: Vec<u32> = (0..rows.len() as u32).map(|i| 2 * i).collect();
    let (positions, num_pages) = (vec![[0; 4]; rows.len()], (2 * rows.len()).div_ceil(page_size));
    let problem =
        KvAppendProblem { spec, layout: spec.packed(), page_size, num_pages, places: &places, positions: &positions };
    let plan = KvAppendPlan::new(device, &problem).unwrap();
    let constants = LayerConstants::new(device, spec, Default::default()).unwrap();
    // q, k, and v backwards.
    let packed: Vec<f32> = rows.iter().flat_map(|x| x.iter().chain(x).chain(x.iter().rev()).copied()).collect();
    let packed = Tensor::from_f32(device, F32, &[rows.len(), 3 * LANES], &packed).unwrap();
    let q = poisoned(device, F32, &[rows.len(), 1, LANES]);
    let shape = [num_pages, 1, page_size, LANES];
    let scales = poisoned(device, F32, &[2, num_pages, 1, page_size]);
    let pages = |i: usize| {
        let codes = Tensor::zeros(device, spec.kv_dtype, &shape).unwrap();
        fill(codes.buffer(), spec.kv_dtype);
        if spec.kv_scale == KvScale::Token { codes.with_scales(&scales.at(i).unwrap()).unwrap() } else { codes }
    };
    let (k, v) = (pages(0), pages(1));
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let codes = [&k, &v].map(|t| t.buffer().read().unwrap()[..num_pages * page_size * LANES].to_vec());
    Appended { codes, scales: scales.read_f32().unwrap() }
}

fn spec(kv_dtype: DType, kv_scale: KvScale) -> LayerSpec {
    LayerSpec { kv_dtype, kv_scale, ..LayerSpec::new(1, 1, LANES) }
}

#[test]
fn codes_are_those_of_the_rule_bit_for_bit() {
    for (dtype, page_size) in [(E4M3, 1), (E4M3, 16), (I8, 7)] {
        let rows = vectors(&mut Rng(5), dtype);
        for device in devices() {
            let got = append(device, &spec(dtype, KvScale::Token), &rows, page_size);
            let slots = got.scales.len() / 2;
            for (part, name) in ["k", "v"].into_iter().enumerate() {
                for (i, row) in rows.iter().enumerate() {
                    let row: Vec<f32> = if part == 0 { row.clone() } else { row.iter().rev().copied().collect() };
                    let (scale, codes) = rule(dtype, &row);
                    let what = format!("{name} {i} as {dtype} on {device}: {row:?}");
                    let got_scale = got.scales[part * slots + 2 * i];
                    assert!(got_scale == scale || scale.is_nan() && got_scale.is_nan(), "{what}: {got_scale}, {scale}");
                    assert_eq!(got.codes[part][2 * i * LANES..][..LANES], codes, "{what}");
                    let beside = &got.codes[part][(2 * i + 1) * LANES..][..LANES];
                    assert!(is_poison(beside, dtype), "{what}");
                    assert!(got.scales[part * slots + 2 * i + 1].is_nan(), "{what}");
                }
            }
        }
    }
}

#[test]
fn codes_under_one_scale_are_those_of_the_rule() {
    let (k, v) = (0.37f32, 2.0f32);
    let rows = vectors(&mut Rng(6), E4M3);
    for device in devices() {
        let got = append(device, &spec(E4M3, KvScale::Tensor { k, v }), &rows, 16);
        for (i, row) in rows.iter().enumerate() {
            let codes = |scale: f32| row.iter().map(move |x| nearest(E4M3, x * (1.0 / scale)));
            let what = format!("row {i} on {device}: {row:?}");
            assert_eq!(got.codes[0][2 * i * LANES..][..LANES], codes(k).collect::<Vec<_>>(), "k of {what}");
            assert_eq!(got.codes[1][2 * i * LANES..][..LANES], codes(v).rev().collect::<Vec<_>>(), "v of {what}");
        }
    }
}

#[test]
fn codes_without_their_scales_are_refused() {
    let refused = |kv_dtype, kv_scale, dims: usize| {
        let spec = LayerSpec { kv_dtype, kv_scale, ..LayerSpec::new(1, 1, dims) };
        spec.validate("test").unwrap_err()
    };
    let one = KvScale::Tensor { k: 1.0, v: 1.0 };
    assert!(matches!(refused(E4M3, KvScale::None, 32), Error::Invalid { argument: "kv_scale", .. }));
    assert!(matches!(refused(F32, KvScale::Token, 32), Error::Invalid { argument: "kv_scale", .. }));
    assert!(matches!(refused(E4M3, KvScale::Tensor { k: 0.0, v: 1.0 }, 32), Error::Invalid { .. }));
    assert!(matches!(refused(I8, one, 32), Error::Unsupported { .. }));
    assert!(matches!(refused(E4M3, one, 24), Error::Unsupported { .. }));
    let q = LayerSpec { dtype: E4M3, ..LayerSpec::new(1, 1, 32) };
    assert!(matches!(q.validate("test"), Err(Error::Unsupported { .. })));

    for device in devices() {
        let codes = Tensor::zeros(device, E4M3, &[2, 1, 4, LANES]).unwrap();
        let scales = |shape: &[usize]| Tensor::zeros(device, F32, shape).unwrap();
        assert!(matches!(codes.with_scales(&scales(&[2, 1, 5])), Err(Error::Invalid { argument: "scales", .. })));
        assert!(matches!(scales(&[2, 4]).with_scales(&scales(&[2])), Err(Error::Invalid { argument: "codes", .. })));
        let with = codes.with_scales(&scales(&[2, 1, 4])).unwrap();
        let (places, positions) = ([0], [[0; 4]]);
        let constants = LayerConstants::new(device, &spec(E4M3, one), Default::default()).unwrap();
        let (packed, q) = (scales(&[1, 3 * LANES]), scales(&[1, 1, LANES]));
        let run = |kv_scale, k: &Tensor, v: &Tensor| {
            let spec = spec(E4M3, kv_scale);
            let problem = KvAppendProblem {
                spec: &spec,
                layout: spec.packed(),
                page_size: 4,
                num_pages: 2,
                places: &places,
                positions: &positions,
            };
            let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k, v };
            KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap())
        };
        let other = Tensor::zeros(device, E4M3, &[2, 1, 4, LANES]).unwrap();
        assert!(matches!(run(KvScale::Token, &with, &other), Err(Error::Invalid { argument: "v", .. })), "{device}");
        assert!(matches!(run(one, &with, &other), Err(Error::Invalid { argument: "k", .. })), "{device}");
        let apart = run(KvScale::Token, &with, &other.with_scales(&scales(&[2, 1, 4])).unwrap());
        assert_eq!(apart.is_err(), device.kind() == "webgpu", "two buffers of scales on {device}: {apart:?}");
    }
}
