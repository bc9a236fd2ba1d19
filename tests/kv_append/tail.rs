//! Latent rows as codes with a tail of bf16: the bytes of the rule on every device where no norm and no rotation changes
//! values; a rotation rounded once, by the definition; norm and rotation alike on all devices.
//! Planted, in the shader and in the CUDA kernel, and each seen red by the rule and by the devices: the tail multiplied as codes
//! are, its lanes measured for the scale of the token, the tail stored at another place in its row (a word further; over the
//! codes).

use colatent::DType::{self, BF16, E4M3, F32, I8};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{KvScale, LayerConstants, LayerSpec, Norm, Pairing, Rope};
use colatent::{Device, Error, Tensor, Tolerance, Workspace};

use super::codes::{LANES, rule, vectors};
use super::setup::{fill, is_poison};
use crate::harness::codes::nearest;
use crate::harness::{Rng, compare, compare_within, devices, poisoned};

/// Lanes of the tail.
const TAIL: usize = 16;
/// Bytes of a row.
const ROW: usize = LANES + 2 * TAIL;
const ONE: KvScale = KvScale::Tensor { k: 0.37, v: 0.37 };

/// One query head over one row of `LANES` codes and a tail.
fn latent(kv_dtype: DType, kv_scale: KvScale) -> LayerSpec {
    let spec = LayerSpec { head_dim_v: LANES, v_in_k: true, ..LayerSpec::new(1, 1, LANES + TAIL) };
    spec.with_coded_latent(kv_dtype, kv_scale)
}

/// Rows of a page between others and guards, as bytes: ours, or an engine's `[page, slot, head, bytes]` with room behind.
struct Pages {
    k: Tensor,
    v: Tensor,
    scales: Tensor,
    /// Bytes in front of all rows, and from row to row.
    first: usize,
    stride: usize,
}

impl Pages {
    fn new(device: &Device, spec: &LayerSpec, num_pages: usize, page_size: usize, gap: usize) -> Pages {
        let stride = ROW + gap;
        let whole = Tensor::zeros(device, spec.kv_dtype, &[num_pages * page_size + 1, stride]).unwrap();
        fill(whole.buffer(), spec.kv_dtype);
        let shape = [num_pages, 1, page_size, spec.key_elements()];
        let strides = [page_size * stride, stride, stride, 1];
        let k = Tensor::with_strides(whole.buffer().clone(), spec.kv_dtype, gap, &shape, &strides).unwrap();
        let mut k = spec.key_pages(&k).unwrap();
        let scales = poisoned(device, F32, &[num_pages, 1, page_size]);
        if spec.kv_scale == KvScale::Token {
            k = k.with_scales(&scales).unwrap();
        }
        let v = k.first_lanes(spec.head_dim_v).unwrap();
        Pages { k, v, scales, first: gap, stride }
    }

    /// The bytes of slot `i`, and whether those up to the next are untouched.
    fn row<'a>(&self, bytes: &'a [u8], i: usize) -> (&'a [u8], bool) {
        let at = self.first + i * self.stride;
        (&bytes[at..at + ROW], is_poison(&bytes[at + ROW..][..self.stride - ROW], self.k.dtype()))
    }
}

/// Rows `[k]` of a latent and its tail at every second slot; q is zeros.
fn append(device: &Device, spec: &LayerSpec, rows: &[Vec<f32>], at: &[[i32; 4]], pages: &Pages) {
    let (places, shape) = ((0..rows.len() as u32).map(|i| 2 * i).collect::<Vec<_>>(), pages.k.shape());
    let problem = KvAppendProblem {
        spec,
        layout: spec.packed(),
        page_size: shape[2],
        num_pages: shape[0],
        places: &places,
        positions: at,
    };
    let plan = KvAppendPlan::new(device, &problem).unwrap();
    let mut rng = Rng(3);
    let weights = colatent::layer::LayerWeights {
        k_norm: if spec.k_norm == Norm::None { vec![] } else { rng.values(spec.head_dim_v) },
        ..Default::default()
    };
    let constants = LayerConstants::new(device, spec, weights).unwrap();
    let packed: Vec<f32> = rows.iter().flat_map(|x| vec![0.0; x.len()].into_iter().chain(x.iter().copied())).collect();
    let packed = Tensor::from_f32(device, F32, &[rows.len(), 2 * spec.head_dim], &packed).unwrap();
    let q = poisoned(device, F32, &[rows.len(), 1, spec.head_dim]);
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &pages.k, v: &pages.v };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
}

/// The nearest bf16, of two the even one.
fn bf16(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

fn lanes(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

/// Tails far larger than any latent, far smaller, ties of bf16, and what no scale may hear of.
fn tail(i: usize, rng: &mut Rng) -> Vec<f32> {
    let mut x: Vec<f32> = rng.values(TAIL).iter().map(|x| x * [1e30, 1.0, 1e-20][i % 3]).collect();
    let half = 2f32.powi(-8); // of the last place of 1
    x[..8].copy_from_slice(&[1.0 + half, 1.0 + 3.0 * half, -1.0 - half, 448.0, 1e9, -3.4e38, 0.0, -0.0]);
    x[8 + i % 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 7.0][i / 8 % 4];
    x
}

#[test]
fn rows_are_those_of_the_rule_bit_for_bit() {
    for (dtype, kv_scale, page_size, gap) in
        [(E4M3, KvScale::Token, 1, 0), (E4M3, KvScale::Token, 16, 16), (E4M3, ONE, 16, 0), (I8, KvScale::Token, 7, 32)]
    {
        let (spec, mut rng) = (latent(dtype, kv_scale), Rng(7));
        let latents = vectors(&mut rng, dtype);
        let rows: Vec<Vec<f32>> =
            latents.into_iter().enumerate().map(|(i, x)| [x, tail(i, &mut rng)].concat()).collect();
        for device in devices() {
            let pages = Pages::new(device, &spec, (2 * rows.len()).div_ceil(page_size), page_size, gap);
            append(device, &spec, &rows, &vec![[0; 4]; rows.len()], &pages);
            let (bytes, scales) = (pages.k.buffer().read().unwrap(), pages.scales.read_f32().unwrap());
            for (i, row) in rows.iter().enumerate() {
                let what = format!("row {i} as {dtype} under {kv_scale:?} on {device}: {row:?}");
                let (x, tail) = row.split_at(LANES);
                let (scale, codes) = match kv_scale {
                    KvScale::Token => rule(dtype, x),
                    _ => (f32::NAN, x.iter().map(|&x| nearest(dtype, x * (1.0 / 0.37f32))).collect()),
                };
                let (got, is_clean) = pages.row(&bytes, 2 * i);
                assert_eq!(got[..LANES], codes, "{what}");
                for (got, want) in lanes(&got[LANES..]).zip(tail.iter().map(|&x| bf16(x))) {
                    let is_nan = want == 0x7fc0 && got & 0x7fff > 0x7f80;
                    assert!(got == want || is_nan, "{what}: {got:#x}, {want:#x}");
                }
                assert!(
                    scales[2 * i] == scale || scale.is_nan() && scales[2 * i].is_nan(),
                    "{what}: {}",
                    scales[2 * i]
                );
                let (beside, is_beside_clean) = pages.row(&bytes, 2 * i + 1);
                assert!(is_clean && is_beside_clean && scales[2 * i + 1].is_nan(), "{what}");
                assert!(is_poison(beside, dtype), "{what}");
            }
        }
    }
}

/// By the definition the tail is rounded to bf16 once, from f32, after it was turned, whatever the scale.
#[test]
fn a_turned_tail_is_rounded_once() {
    let rope = Rope::plain(TAIL, 1e4, Pairing::Adjacent).at_lane(LANES);
    let mut rng = Rng(8);
    let rows: Vec<Vec<f32>> = (0..40).map(|_| rng.values(LANES + TAIL)).collect();
    let positions: Vec<[i32; 4]> = (0..40).map(|i| [i * i * 37; 4]).collect();
    for kv_scale in [KvScale::Token, ONE] {
        let spec = LayerSpec { rope: Some(rope.clone()), ..latent(E4M3, kv_scale) };
        let device = Device::Reference;
        let pages = Pages::new(&device, &spec, 5, 16, 0);
        append(&device, &spec, &rows, &positions, &pages);
        let bytes = pages.k.buffer().read().unwrap();
        for (i, row) in rows.iter().enumerate() {
            let (got, _) = pages.row(&bytes, 2 * i);
            let turned = (0..TAIL / 2).flat_map(|j| {
                let (a, b) = (f64::from(row[LANES + 2 * j]), f64::from(row[LANES + 2 * j + 1]));
                let (sin, cos) = (f64::from(positions[i][0]) * rope.inv_freq[j]).sin_cos();
                [a * cos - b * sin, b * cos + a * sin]
            });
            assert!(lanes(&got[LANES..]).eq(turned.map(|x| bf16(x as f32))), "row {i} under {kv_scale:?}");
        }
    }
}

/// Behind a norm and a rotation: codes one step from the reference's and seldom that, tails one step of bf16, scales to 1e-5.
#[test]
fn devices_agree_on_rows_with_a_tail() {
    let norm = Norm::RmsScaled { eps: 1e-3 };
    for (n, (pairing, pairs, kv_scale)) in [
        (Pairing::Half, 8, KvScale::Token),
        (Pairing::Adjacent, 8, ONE),
        (Pairing::Half, 3, ONE),
        (Pairing::Adjacent, 5, KvScale::Token),
    ]
    .into_iter()
    .enumerate()
    {
        let rope = Rope::plain(2 * pairs, 1e4, pairing).at_lane(LANES + TAIL - 2 * pairs);
        let spec = LayerSpec { rope: Some(rope), k_norm: norm, ..latent(E4M3, kv_scale) };
        let mut rng = Rng(9 + n as u64);
        let rows: Vec<Vec<f32>> = (0..33).map(|_| rng.values(LANES + TAIL)).collect();
        let positions: Vec<[i32; 4]> = (0..33).map(|_| [rng.below(1_000_000) as i32; 4]).collect();
        let mut want: Option<[Vec<f32>; 3]> = None;
        for device in devices() {
            let pages = Pages::new(device, &spec, 10, 7, 16);
            append(device, &spec, &rows, &positions, &pages);
            // Codes without their scales.
            let codes = Tensor::with_strides(
                pages.v.buffer().clone(),
                E4M3,
                pages.v.offset(),
                &[rows.len(), LANES],
                &[2 * pages.stride, 1],
            );
            let every_second = |x: Vec<f32>, n: usize| x.chunks(2 * n).take(33).flat_map(|x| x[..n].to_vec()).collect();
            let got: [Vec<f32>; 3] = [
                codes.unwrap().read_f32().unwrap(),
                every_second(pages.k.tail().unwrap().read_f32().unwrap(), TAIL),
                every_second(pages.scales.read_f32().unwrap(), 1),
            ];
            let want = want.get_or_insert_with(|| got.clone());
            let what = |part| format!("{part} of case {n} on {device}");
            compare(&what("codes"), &got[0], &want[0], E4M3).unwrap();
            let others = got[0].iter().zip(&want[0]).filter(|(a, b)| a != b).count();
            assert!(others * 100 <= got[0].len(), "{}: {others} differ", what("codes"));
            compare(&what("tail"), &got[1], &want[1], BF16).unwrap();
            if kv_scale == KvScale::Token {
                compare_within(&what("scales"), &got[2], &want[2], Tolerance { atol: 0.0, rtol: 1e-5 }).unwrap();
            }
        }
    }
}

#[test]
fn a_tail_is_a_part_of_its_tensor() {
    let spec = latent(E4M3, KvScale::Token);
    for device in devices() {
        let pages = Pages::new(device, &spec, 2, 3, 16);
        let mut rng = Rng(1);
        let values: Vec<f32> = (0..6).flat_map(|_| rng.values(LANES + TAIL)).collect();
        pages.k.write_f32(&values).unwrap();
        let bytes = pages.k.buffer().read().unwrap();
        for (i, x) in values.chunks(LANES + TAIL).enumerate() {
            let (got, is_clean) = pages.row(&bytes, i);
            let (scale, codes) = rule(E4M3, &x[..LANES]);
            assert_eq!((&got[..LANES], pages.scales.read_f32().unwrap()[i]), (&codes[..], scale));
            assert!(is_clean && lanes(&got[LANES..]).eq(x[LANES..].iter().map(|&x| bf16(x))), "row {i} on {device}");
        }
        let read = pages.k.read_f32().unwrap();
        let permuted = pages.k.permute(&[2, 1, 0, 3]).unwrap();
        let at = permuted.at(1).unwrap().at(0).unwrap().at(1).unwrap(); // slot 1 of page 1
        assert_eq!(at.read_f32().unwrap(), read[4 * (LANES + TAIL)..][..LANES + TAIL]);
        let part = pages.k.first_lanes(LANES + 4).unwrap();
        assert_eq!(part.read_f32().unwrap()[LANES + 4..][..LANES + 4], read[LANES + TAIL..][..LANES + 4]);
        assert!(pages.v.tail().is_none() && matches!(at.at(0), Err(Error::Unsupported { .. })));
        assert!(matches!(pages.k.permute(&[3, 1, 2, 0]), Err(Error::Unsupported { .. })));

        let codes = Tensor::zeros(device, E4M3, &[4, ROW]).unwrap();
        let refused = |t: &Tensor, dtype, lanes| t.with_tail(dtype, lanes).unwrap_err();
        assert!(matches!(refused(&codes, BF16, ROW), Error::Invalid { argument: "lanes", .. }));
        assert!(matches!(refused(&codes, E4M3, 2), Error::Unsupported { .. }));
        assert!(matches!(refused(&poisoned(device, F32, &[4, 8]), BF16, 2), Error::Invalid { argument: "codes", .. }));
        assert!(matches!(
            refused(&codes.with_tail(BF16, 2).unwrap(), BF16, 2),
            Error::Invalid { argument: "codes", .. }
        ));
        let odd = Tensor::with_strides(codes.buffer().clone(), E4M3, 1, &[3, ROW], &[ROW, 1]).unwrap();
        assert!(matches!(refused(&odd, BF16, 2), Error::Invalid { argument: "codes", .. }));
    }
}

#[test]
fn tails_where_none_are_and_rows_that_meet_are_refused() {
    let spec = latent(E4M3, ONE);
    for device in devices() {
        let codes = |dim: usize| Tensor::zeros(device, E4M3, &[2, 1, 4, dim]).unwrap();
        let run = |spec: &LayerSpec, k: &Tensor| {
            let problem = KvAppendProblem {
                spec,
                layout: spec.packed(),
                page_size: 4,
                num_pages: 2,
                places: &[0],
                positions: &[[0; 4]],
            };
            let packed = Tensor::zeros(device, F32, &[1, 2 * spec.head_dim]).unwrap();
            let q = Tensor::zeros(device, F32, &[1, 1, spec.head_dim]).unwrap();
            let constants = LayerConstants::new(device, spec, Default::default()).unwrap();
            let v = k.first_lanes(LANES).unwrap();
            let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k, v: &v };
            KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap())
        };
        let with = spec.key_pages(&codes(ROW)).unwrap();
        run(&spec, &with).unwrap();
        let without = LayerSpec { tail_dtype: None, ..spec.clone() };
        run(&without, &codes(LANES + TAIL)).unwrap();
        for (spec, k) in [(&spec, &codes(LANES + TAIL)), (&without, &with)] {
            assert!(matches!(run(spec, k), Err(Error::Invalid { argument: "k", .. })), "{device}");
        }
        // Rows as far apart as their lanes, but not as their bytes.
        let strides = [4 * (LANES + TAIL), ROW, LANES + TAIL, 1];
        let near = Tensor::with_strides(codes(ROW).buffer().clone(), E4M3, 0, &[2, 1, 4, ROW], &strides).unwrap();
        let met = run(&spec, &spec.key_pages(&near).unwrap());
        assert!(matches!(met, Err(Error::Invalid { argument: "k", .. })), "{device}: {met:?}");
    }
}
