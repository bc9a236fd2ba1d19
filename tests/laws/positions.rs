//! Positions: only differences count, and a shift is a recomputation. All of it from the packed rows to the output.

use colatent::kv::Lifetimes;
use colatent::layer::{LayerSpec, Norm, Pairing, Rope};
use colatent::{DType, Device};
use proptest::prelude::*;

use super::stream::{Stream, at, close, rotating};
use crate::harness::scene::Answer;
use crate::harness::{compare, devices};

/// Plain rotation, three axes, frequencies scaled as long-context models do; both pairings.
fn any_rotation() -> impl Strategy<Value = LayerSpec> {
    let scaled = |pairing| {
        let plain = Rope::plain(32, 1e6, pairing);
        Rope { inv_freq: plain.inv_freq.iter().map(|f| f / 8.0).collect(), ..plain }
    };
    let axes = |pairing| Rope { axis: (0..16).map(|j| j % 3).collect(), ..Rope::plain(32, 1e4, pairing) };
    let pairing = prop_oneof![Just(Pairing::Half), Just(Pairing::Adjacent)];
    let window = prop_oneof![Just(None), (1i32..60).prop_map(Some)];
    (pairing, 0usize..3, window).prop_map(move |(pairing, kind, window)| LayerSpec {
        rope: Some(match kind {
            0 => Rope::plain(32, 1e4, pairing),
            1 => axes(pairing),
            _ => scaled(pairing),
        }),
        lifetimes: window.map_or(Lifetimes::causal(), Lifetimes::window),
        ..rotating()
    })
}

/// Layers whose values turn with their keys: lanes by halves or neighbours, at the end of the head or all of it, V apart
/// from K or in it, with and without a norm.
fn any_turning_values() -> impl Strategy<Value = LayerSpec> {
    (any_rotation(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(spec, is_partial, v_in_k, has_norm)| {
        let rope = spec.rope.clone().filter(|_| !is_partial);
        let last = |r: Rope| Rope { inv_freq: r.inv_freq[..8].to_vec(), axis: r.axis[..8].to_vec(), ..r }.at_lane(16);
        LayerSpec {
            rope: rope.or(spec.rope.clone().map(last)),
            v_rope: true,
            v_in_k,
            out_norm: if has_norm { Norm::Rms { eps: 1e-5 } } else { Norm::None },
            ..spec
        }
    })
}

/// An output of each device's own, from packed rows at these positions.
fn outputs(device: &Device, spec: &LayerSpec, seed: u64, positions: &[[i32; 4]]) -> Answer {
    let mut stream = Stream::new(device, spec);
    let view = stream.cache.create();
    let rows = stream.append_at(view, (0..positions.len() as u64).map(|i| seed ^ i), positions);
    stream.attend(&[rows])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    /// L17, L19: all positions moved by the same amount, an amount per axis: the same output. A window is a matter of
    /// slots and does not move.
    #[test]
    fn only_differences_of_positions_count(
        spec in any_rotation(), tokens in 1usize..120, by in prop::array::uniform4(-500_000i32..500_000), seed: u64,
    ) {
        // A picture in the midst: positions of several axes that do not count on.
        let position = |i: usize| match i as i32 {
            i if (20..36).contains(&i) => [20, 20 + (i - 20) / 4, 20 + i % 4, 0],
            i => at(if i < 20 { i } else { i - 12 }),
        };
        let positions: Vec<[i32; 4]> = (0..tokens).map(position).collect();
        let moved: Vec<[i32; 4]> = positions.iter().map(|p| std::array::from_fn(|axis| p[axis] + by[axis])).collect();
        for device in devices() {
            let [here, there] = [&positions, &moved].map(|positions| {
                let mut stream = Stream::new(device, &spec);
                let view = stream.cache.create();
                let rows = stream.append_at(view, (0..tokens as u64).map(|i| seed ^ i), positions);
                stream.attend(&[rows])
            });
            close(&format!("{device}"), &there, &here)?;
        }
    }

    /// L44: where values turn with their keys and outputs back with their rows, positions moved alike change no output.
    #[test]
    fn outputs_turned_back_know_differences_of_positions_alone(
        spec in any_turning_values(), tokens in 1usize..60, by in prop::array::uniform4(-500_000i32..500_000), seed: u64,
    ) {
        let positions: Vec<[i32; 4]> = (0..tokens as i32).map(|i| [i, i / 4, i % 4, 0]).collect();
        let moved: Vec<[i32; 4]> = positions.iter().map(|p| std::array::from_fn(|axis| p[axis] + by[axis])).collect();
        for device in devices() {
            let [here, there] = [&positions, &moved].map(|positions| outputs(device, &spec, seed, positions));
            close(&format!("{device}"), &there, &here)?;
        }
    }

    /// L44: a row that sees itself alone gives its own value, wherever it stands; at position 0 nothing turns (bits).
    #[test]
    fn a_value_turned_there_and_back_is_the_value(
        spec in any_turning_values(), at in prop::array::uniform4(-500_000i32..500_000), seed: u64,
    ) {
        let spec = LayerSpec { lifetimes: Lifetimes::window(1), out_norm: Norm::None, ..spec };
        let fixed = LayerSpec { rope: None, v_rope: false, ..spec.clone() };
        for device in devices() {
            let positions: Vec<[i32; 4]> = (0..5).map(|i| at.map(|p| p + 77 * i)).collect();
            let want = outputs(device, &fixed, seed, &positions);
            compare(&format!("{device}"), &outputs(device, &spec, seed, &positions).out, &want.out, DType::F32)
                .map_err(TestCaseError::fail)?;
            let still = LayerSpec { lifetimes: Lifetimes::causal(), ..fixed.clone() };
            let turning = LayerSpec { lifetimes: Lifetimes::causal(), ..spec.clone() };
            let [turning, still] = [turning, still].map(|spec| outputs(device, &spec, seed, &[[0; 4]; 30]));
            prop_assert_eq!(turning.out, still.out, "{}", device);
        }
    }

    /// L16: tokens seen under a shift are tokens that were appended there.
    #[test]
    fn a_shift_is_a_recomputation(
        spec in any_rotation(), tokens in 1usize..60, by in prop::array::uniform4(-2000i32..2000), seed: u64,
    ) {
        let names = || (0..tokens as u64).map(|i| seed ^ i);
        let positions: Vec<[i32; 4]> = (0..tokens as i32).map(at).collect();
        let moved: Vec<[i32; 4]> = positions.iter().map(|p| std::array::from_fn(|axis| p[axis] + by[axis])).collect();
        for device in devices() {
            let mut shifted = Stream::new(device, &spec);
            let (from, to) = (shifted.cache.create(), shifted.cache.create());
            shifted.append_at(from, names(), &positions);
            shifted.cache.share(from, 0..tokens as i32, to, by).unwrap();
            let row = shifted.append_at(to, [!seed], &[at(tokens as i32)]);

            let mut recomputed = Stream::new(device, &spec);
            let view = recomputed.cache.create();
            recomputed.append_at(view, names(), &moved);
            let same = recomputed.append_at(view, [!seed], &[at(tokens as i32)]);
            close(&format!("{device}"), &shifted.ask(&row), &recomputed.ask(&same))?;
        }
    }

    /// L18, L30: shifts add up as integers, so many moves drift by nothing, and a move and its reverse are none.
    #[test]
    fn moves_do_not_drift(tokens in 1i32..40, by in 1i32..2000, moves in 2usize..64, seed: u64) {
        for device in devices() {
            let mut stream = Stream::new(device, &rotating());
            let first = stream.cache.create();
            stream.append(first, (0..tokens as u64).map(|i| seed ^ i));
            let moved = |stream: &mut Stream, from, shift| {
                let to = stream.cache.create();
                stream.cache.share(from, 0..tokens, to, at(shift)).unwrap();
                to
            };
            let unmoved = moved(&mut stream, first, 0);
            let step_by_step = (0..moves).fold(first, |from, _| moved(&mut stream, from, by));
            let at_once = moved(&mut stream, first, by * moves as i32);
            let and_back = moved(&mut stream, step_by_step, -by * moves as i32);
            let mut ask = |view| {
                let row = stream.append(view, [!seed]);
                stream.ask(&row)
            };
            prop_assert_eq!(ask(step_by_step), ask(at_once), "{}: {} moves", device, moves);
            prop_assert_eq!(ask(and_back), ask(unmoved), "{}: and back", device);
        }
    }
}
