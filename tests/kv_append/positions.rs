//! Every published scheme of positions is one table, `angle[j] = position[axis[j]] * inv_freq[j]` on the pairs of some
//! lanes: the constructors and, where a model has its own list of frequencies, the bare fields. Each is held against its
//! closed form in f64 at positions of text, image grids, clips and a million tokens, on every device.

use colatent::layer::Pairing::{self, Adjacent, Half};
use colatent::layer::{LayerSpec, Rope};

use super::setup::append;
use crate::harness::devices;

/// A scheme: its table as the crate has it, and frequency and axis of a pair in the words of its source.
struct Scheme {
    name: &'static str,
    rope: Rope,
    pair: Box<dyn Fn(usize) -> (f64, usize)>,
}

fn scheme(name: &'static str, rope: Rope, pair: impl Fn(usize) -> (f64, usize) + 'static) -> Scheme {
    Scheme { name, rope, pair: Box::new(pair) }
}

/// `theta^(-2 j / lanes)`.
fn power(theta: f64, j: usize, lanes: usize) -> f64 {
    theta.powf(-2.0 * j as f64 / lanes as f64)
}

fn schemes() -> Vec<Scheme> {
    const T: usize = 0;
    const H: usize = 1;
    const W: usize = 2;
    let mrope = |sections: [usize; 3]| {
        move |j: usize| {
            if j < sections[0] {
                T
            } else if j < sections[0] + sections[1] {
                H
            } else {
                W
            }
        }
    };
    // j % 3 = 1 is h and j % 3 = 2 is w, up to three times their sections.
    let interleaved = |s: [usize; 3]| {
        move |j: usize| {
            if j % 3 == 1 && j < 3 * s[1] {
                H
            } else if j % 3 == 2 && j < 3 * s[2] {
                W
            } else {
                T
            }
        }
    };
    let qwen35 = interleaved([11, 11, 10]);
    assert_eq!((qwen35(31), qwen35(30), qwen35(29)), (H, T, W)); // 3 * 11 reaches pair 31, 3 * 10 does not reach 32
    let (ntk, by_dim) = (1e4 * 8f64.powf(64.0 / 62.0), |j: usize| 1.0 + j as f64 / 7.0);
    let long = Rope::plain(64, 1e4, Half);
    let long = Rope { inv_freq: (0..32).map(|j| long.inv_freq[j] / by_dim(j)).collect(), ..long };
    let pixtral = Rope::plain(64, 1e4, Half);
    let frequencies = |from: usize| (0..16).map(move |i| power(1e4, 2 * i + from, 64));
    let pixtral = Rope {
        inv_freq: frequencies(0).chain(frequencies(1)).collect(),
        axis: [1u8; 16].into_iter().chain([2u8; 16]).collect(),
        ..pixtral
    };
    let (qwen2, qwen3, glm) = (mrope([16, 24, 24]), interleaved([24, 20, 20]), mrope([8, 12, 12]));
    vec![
        scheme("plain", Rope::plain(64, 5e5, Adjacent), |j| (power(5e5, j, 64), T)),
        scheme("partial", Rope::plain(64, 5e6, Half), |j| (power(5e6, j, 64), T)),
        scheme("last lanes", Rope::plain(64, 1e4, Adjacent).at_lane(64), |j| (power(1e4, j, 64), T)),
        scheme("proportional", Rope::proportional(128, 32, 1e6), |j| {
            (if j < 16 { power(1e6, j, 128) } else { 0.0 }, T)
        }),
        scheme("linear", Rope::plain(64, 1e6, Half).scaled_linear(8.0), |j| (power(1e6, j, 64) / 8.0, T)),
        scheme("NTK", Rope::plain(64, ntk, Half), move |j| (power(ntk, j, 64), T)),
        scheme("a factor per pair (LongRoPE)", long, move |j| (power(1e4, j, 64) / by_dim(j), T)),
        scheme("contiguous sections", Rope::plain(128, 1e6, Half).with_sections(&[16, 24, 24]), move |j| {
            (power(1e6, j, 128), qwen2(j))
        }),
        scheme(
            "contiguous sections of adjacent pairs",
            Rope::plain(64, 1e4, Adjacent).with_sections(&[8, 12, 12]),
            move |j| (power(1e4, j, 64), glm(j)),
        ),
        scheme("interleaved sections", Rope::plain(128, 5e6, Half).with_interleaved_sections([24, 20, 20]), move |j| {
            (power(5e6, j, 128), qwen3(j))
        }),
        scheme(
            "interleaved sections of a part",
            Rope::plain(64, 1e7, Half).with_interleaved_sections([11, 11, 10]),
            move |j| (power(1e7, j, 64), qwen35(j)),
        ),
        scheme("four axes (XD-RoPE)", Rope::plain(64, 1e4, Half).with_sections(&[8, 8, 8, 8]), |j| {
            (power(1e4, j, 64), j / 8)
        }),
        scheme("axial", Rope::axial(&[(Rope::HEIGHT, 48), (Rope::WIDTH, 48)], 1e4, Half), |j| {
            (power(1e4, j % 24, 48), if j < 24 { H } else { W })
        }),
        scheme(
            "axial over three axes",
            Rope::axial(&[(Rope::TIME, 16), (Rope::HEIGHT, 56), (Rope::WIDTH, 56)], 1e4, Adjacent),
            |j| match j {
                0..8 => (power(1e4, j, 16), T),
                8..36 => (power(1e4, j - 8, 56), H),
                _ => (power(1e4, j - 36, 56), W),
            },
        ),
        scheme("frequencies in turn (Pixtral)", pixtral, |j| {
            (power(1e4, if j < 16 { 2 * j } else { 2 * (j - 16) + 1 }, 64), if j < 16 { H } else { W })
        }),
    ]
}

/// Text, an image in the midst of a stream, a clip whose time counts 25 ids a second, and a million tokens.
const POSITIONS: &[[i32; 4]] = &[
    [0, 0, 0, 0],
    [17, 17, 17, 17],
    [5, 6, 9, 0],
    [5, 8, 5, 3],
    [125, 3, 14, 0],
    [1_000_000, 1_000_000, 1_000_000, 1_000_000],
    [999_983, 1_000_021, 1_000_003, 40],
    [-7, 0, 12, -1],
];

#[test]
fn every_scheme_is_its_closed_form() {
    for Scheme { name, rope, pair } in schemes() {
        let (pairs, dim) = (rope.inv_freq.len(), 128);
        // (1, 0) turns into (cos, sin), 2 in the other lanes stays.
        let lanes: Vec<(usize, usize)> = (0..pairs)
            .map(|j| match rope.pairing {
                Pairing::Half => (rope.first_lane + j, rope.first_lane + j + pairs),
                Pairing::Adjacent => (rope.first_lane + 2 * j, rope.first_lane + 2 * j + 1),
            })
            .collect();
        let mut x = vec![2.0f32; dim];
        lanes.iter().for_each(|&(a, b)| (x[a], x[b]) = (1.0, 0.0));
        let row = [x.clone(), x.clone(), vec![0.0; dim]].concat();
        let spec = LayerSpec { rope: Some(rope), ..LayerSpec::new(1, 1, dim) };
        for device in devices() {
            let (q, k, _) = append(device, &spec, Default::default(), &row.repeat(POSITIONS.len()), POSITIONS);
            assert_eq!(q, k, "{name} on {device}");
            for (got, position) in q.chunks(dim).zip(POSITIONS) {
                let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                for (j, &(a, b)) in lanes.iter().enumerate() {
                    let (inv_freq, axis) = pair(j);
                    (want[b], want[a]) = (f64::from(position[axis]) * inv_freq).sin_cos();
                }
                for (lane, (&got, want)) in got.iter().zip(want).enumerate() {
                    // 2e-7 of sine and cosine; a frequency may be written in two ways that differ by 2^-52 of itself, at
                    // a million radians by 2e-10.
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 2.1e-7, "{name} on {device}: lane {lane} at {position:?} is off by {error:.2e}");
                }
            }
        }
    }
}

/// Layers without rotation have no positions at all.
#[test]
fn without_rotation_positions_mean_nothing() {
    let spec = LayerSpec::new(1, 1, 16);
    let row: Vec<f32> = (0..48).map(|i| i as f32).collect();
    for device in devices() {
        let at = |position| append(device, &spec, Default::default(), &row, &[[position; 4]]);
        assert_eq!(at(1_000_000), at(0), "{device}");
    }
}
