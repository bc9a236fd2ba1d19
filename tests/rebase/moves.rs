//! Rebase among the others: keys that were appended elsewhere, attention under a shift, who else sees the tokens, drift.

use colatent::kv::{Join, KvCache, Modality};
use colatent::layer::{LayerSpec, Pairing, Rope};
use colatent::{DType, Error};
use proptest::prelude::*;

use super::stream::{Stream, at, close, names, rotating};
use super::{Rebased, turn};
use crate::harness::{compare, devices};

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    /// Keys appended at positions p and rebased by d are keys appended at p + d.
    #[test]
    fn rebased_keys_are_keys_appended_there(
        tokens in 1usize..40, by in prop::array::uniform4(-2000i32..2000), axes in 1usize..4, seed: u64,
    ) {
        let rope = Rope { axis: (0..16).map(|j| (j % axes) as u8).collect(), ..Rope::plain(32, 1e4, Pairing::Adjacent) };
        let spec = LayerSpec { rope: Some(rope), ..rotating() };
        let positions: Vec<[i32; 4]> = (0..tokens as i32).map(at).collect();
        let moved: Vec<[i32; 4]> = positions.iter().map(|p| std::array::from_fn(|axis| p[axis] + by[axis])).collect();
        for device in devices() {
            let keys = |positions: &[[i32; 4]], by: Option<[i32; 4]>| {
                let mut stream = Stream::new(device, &spec);
                let view = stream.cache.create();
                stream.append_at(view, names(seed, 0, tokens), positions);
                let places = stream.cache.places(view, 0..tokens as i32).unwrap();
                if let Some(shift) = by {
                    turn(device, &spec, stream.cache.page_size(), &[Rebased { places, shift }], &stream.k, None);
                }
                stream.k.read_f32().unwrap()
            };
            compare("k", &keys(&positions, Some(by)), &keys(&moved, None), DType::F32).map_err(TestCaseError::fail)?;
        }
    }

    /// Attention after a rebase is attention under the shift: agents joined one behind the other, then rebased.
    #[test]
    fn attention_after_a_rebase_is_attention_under_the_shift(
        prompt in 1usize..40, own in prop::collection::vec(1usize..20, 2..4), seed: u64,
    ) {
        for device in devices() {
            let mut stream = Stream::new(device, &rotating());
            let root = stream.cache.create();
            stream.append(root, names(seed, 0, prompt));
            let agents = stream.cache.fork_many(root, own.len()).unwrap();
            for (i, &agent) in agents.iter().enumerate() {
                stream.append(agent, names(seed, 1 + i as u64, own[i]));
            }
            let joined = stream.cache.join(&agents, Join::Sequential).unwrap();
            for view in agents.into_iter().chain([root]) {
                stream.cache.release(view).unwrap();
            }
            let row = stream.append(joined, [!seed]);
            let want = stream.ask(&row);
            let runs = stream.cache.rebase(joined).unwrap();
            prop_assert!(stream.cache.view(joined).unwrap().entries().iter().all(|e| e.shift == [0; 4]));
            prop_assert_eq!(runs.len(), own.len() - 1, "every agent but the first was moved");
            turn(device, &stream.spec, stream.cache.page_size(), &runs, &stream.k, None);
            close(&format!("{device}"), &stream.ask(&row), &want)?;
            prop_assert_eq!(stream.cache.rebase(joined).unwrap(), vec![], "nothing is left to move");
        }
    }
}

/// Tokens that another entry sees are refused, whoever it is, and the cache stays as it was.
#[test]
fn what_others_see_does_not_move() {
    let mut cache = KvCache::new(4, 16).unwrap();
    let (from, to) = (cache.create(), cache.create());
    cache.append(from, Modality::Text, 6).unwrap();
    cache.share(from, 2..5, to, [9, 0, 0, 0]).unwrap();
    let refused = |cache: &mut KvCache| {
        let before = cache.clone();
        match cache.rebase(to) {
            Err(Error::Invalid { op: "rebase", argument: "view", .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(*cache, before);
    };
    refused(&mut cache);
    // The owner sees only tokens before the shared ones.
    cache.truncate(from, 2).unwrap();
    let child = cache.fork(to).unwrap();
    refused(&mut cache);
    cache.release(child).unwrap();
    // The view itself, a second time.
    let twin = cache.fork(to).unwrap();
    cache.share(twin, 0..1, to, [0; 4]).unwrap();
    cache.release(twin).unwrap();
    refused(&mut cache);
    cache.truncate(to, 3).unwrap();
    let runs = cache.rebase(to).unwrap();
    assert_eq!(runs, [Rebased { places: vec![2, 3, 4], shift: [9, 0, 0, 0] }]);
    assert_eq!(cache.places(to, 0..3).unwrap(), [2, 3, 4]);
    assert!(cache.rebase(from).unwrap().is_empty());
    cache.release(to).unwrap();
    assert!(cache.rebase(to).is_err(), "a stale view");
}

/// What many moves cost: relative error of attention's output (root mean square over lanes and queries), total move
/// 32768, heads of 128 lanes, 512 keys. On the reference, so that nothing but storage rounds.
#[test]
fn drift() {
    const TOTAL: i32 = 32_768;
    let device = &devices()[0];
    let mut table = String::new();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let rope = Some(Rope::plain(128, 5e5, Pairing::Half));
        let spec = LayerSpec { rope, kv_dtype: dtype, ..LayerSpec::new(4, 1, 128) };
        let exact = LayerSpec { kv_dtype: DType::F32, ..spec.clone() };
        // The same context behind a shift of the view, in f32: the truth. Then with the keys moved in so many steps.
        let answer = |spec: &LayerSpec, steps: Option<i32>| {
            let mut stream = Stream::new(device, spec);
            let (from, to) = (stream.cache.create(), stream.cache.create());
            stream.append(from, names(5, 0, 512));
            stream.cache.share(from, 0..512, to, at(TOTAL)).unwrap();
            stream.cache.release(from).unwrap();
            stream.cache.set_next_position(to, 512 + TOTAL).unwrap();
            if let Some(steps) = steps {
                let mut runs = stream.cache.rebase(to).unwrap();
                runs.iter_mut().for_each(|run| run.shift = run.shift.map(|s| s / steps));
                for _ in 0..steps {
                    turn(device, spec, stream.cache.page_size(), &runs, &stream.k, None);
                }
            }
            let row = stream.append(to, names(5, 1, 4));
            stream.ask(&row).out
        };
        let truth = answer(&exact, None);
        let error = |out: Vec<f32>| {
            let square = |x: f64| x * x;
            let off: f64 = out.iter().zip(&truth).map(|(a, b)| square(f64::from(a - b))).sum();
            (off / truth.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
        };
        let shift = error(answer(&spec, None));
        let moves = [1, 4, 16, 64].map(|steps| error(answer(&spec, Some(steps))));
        table += &format!("| {dtype} | {shift:.1e} |");
        moves.iter().for_each(|e| table += &format!(" {e:.1e} |"));
        table += "\n";
        assert!(moves.windows(2).all(|w| w[1] > 0.8 * w[0]), "{dtype}: {moves:?}");
        // Each move rounds once more: errors of so many roundings add up as a random walk at least.
        let unit = match dtype {
            DType::F32 => 6e-8,
            DType::F16 => 4.9e-4,
            _ => 3.9e-3,
        };
        assert!(moves[0] < 4.0 * unit && moves[3] > 2.0 * unit && moves[3] < 64.0 * unit, "{dtype}: {moves:?}");
    }
    eprintln!("| storage | by the view's shift | 1 move | 4 | 16 | 64 |\n|---|---|---|---|---|---|\n{table}");
}
