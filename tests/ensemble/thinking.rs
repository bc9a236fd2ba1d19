//! The reasoning phase: budgets, forgetting, eviction.

use colatent::ensemble::{Mode, Spawn, Thinking, Tree, importance_and_redundancy, keep};
use colatent::kv::{Birth, Death, Join, KvCache, Lifetimes, Modality};
use colatent::{DType, Error};
use proptest::prelude::*;

use super::mind::{Memory, Mind, tokens};
use super::{ensemble, scene, spawns, step};
use crate::harness::{Rng, compare, devices};

/// The close token is forced after the budget; then the thought's pages return while the answer goes on, at its own
/// positions.
#[test]
fn a_thought_is_closed_and_forgotten() {
    let (mut memory, mut cache, mut e, root, _) = scene(Mode::Isolated, 5, 0);
    let spawn = Spawn { suffix: vec![500], thinking: Some(Thinking { budget: 13, close: 777 }), ..Spawn::default() };
    let id = e.spawn(&mut cache, root, &[spawn]).unwrap()[0];
    assert!(e.forget_thoughts(&mut cache, id).is_err());
    for _ in 0..13 {
        step(&mut memory, &mut cache, &mut e);
        assert!(!e.agent(id).unwrap().is_answering());
    }
    step(&mut memory, &mut cache, &mut e);
    let agent = e.agent(id).unwrap();
    assert!(agent.is_answering() && agent.tokens[13] == 777 && agent.forced == 1 && agent.log_probs[13] == 0.0);
    assert_eq!(agent.mean_log_prob(), -1.0, "a forced token says nothing about the agent");
    for _ in 0..6 {
        step(&mut memory, &mut cache, &mut e);
    }
    let (answer, thought) = (e.agent(id).unwrap().tokens[14..19].to_vec(), e.agent(id).unwrap().thought.clone());
    assert_eq!(thought, Some(5..20), "the suffix, 13 tokens and the close token");
    // 2 pages of the prompt, 4 of the thought, 2 of the answer.
    assert_eq!(cache.used_pages(), 2 + 4 + 2);
    e.forget_thoughts(&mut cache, id).unwrap();
    assert_eq!(cache.used_pages(), 2 + 2);
    let batch = step(&mut memory, &mut cache, &mut e);
    let seen = memory.seen(&cache, batch.rows[0].view, batch.rows[0].first_slot);
    let last = e.agent(id).unwrap().tokens[19];
    assert_eq!(tokens(&seen), [&(1000..1005).collect::<Vec<_>>()[..], &answer, &[last]].concat());
    assert_eq!(
        seen.iter().map(|s| s.1).collect::<Vec<_>>(),
        [&[0, 1, 2, 3, 4][..], &[20, 21, 22, 23, 24, 25]].concat()
    );
}

/// A close token that the agent says by itself is not forced, and a thought without a budget left to force is none.
#[test]
fn an_agent_may_close_its_thought_itself() {
    let (_, mut cache, mut e, root, _) = scene(Mode::Isolated, 5, 0);
    let spawn = Spawn { suffix: vec![500], thinking: Some(Thinking { budget: 3, close: 7 }), ..Spawn::default() };
    let id = e.spawn(&mut cache, root, &[spawn]).unwrap()[0];
    for token in [1, 7, 7, 7] {
        e.step(&mut cache).unwrap();
        e.accept(&mut cache, &[super::mind::drawn(token)]).unwrap();
    }
    let agent = e.agent(id).unwrap();
    assert_eq!((&agent.tokens[..], agent.forced, agent.thought.clone()), (&[1, 7, 7, 7][..], 0, Some(5..8)));
}

/// Slots that were dropped are written again, without a page more; the new tokens stand at the positions that follow.
#[test]
fn evicted_slots_are_written_again() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 1);
    (0..12).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    // Slots 5..17 are the suffix and 11 tokens.
    let kept: Vec<bool> = (0..12).map(|i| i % 3 == 0 || i >= 9).collect();
    let kinds = [Lifetimes::causal()];
    e.evict(&mut cache, ids[0], 5..17, &kept, &kinds).unwrap();
    let (view, pages) = (e.agent(ids[0]).unwrap().view.unwrap(), cache.used_pages());
    let mut want = memory.all(&cache, view);
    assert_eq!(want.len(), 5 + 6);
    for i in 0..6 {
        let batch = step(&mut memory, &mut cache, &mut e);
        want.push((batch.inputs[0], 17 + i));
        let mut seen = memory.seen(&cache, batch.rows[0].view, batch.rows[0].first_slot);
        assert_eq!(batch.positions, [[17 + i; 4]]);
        assert_eq!(cache.used_pages(), pages, "no page more");
        seen.sort_by_key(|s| s.1);
        assert_eq!(seen, want, "everything stands where it stood");
    }
    // All places are written again: what comes next goes to the end.
    let entries = cache.view(view).unwrap().entries().len();
    assert_eq!(entries, 2, "the holes are closed");
    step(&mut memory, &mut cache, &mut e);
    assert_eq!(cache.view(view).unwrap().next_slot(), 18);
}

/// A thought whose places were written again is still known by where it began: joined in a row, published, kept by a
/// restart.
#[test]
fn a_thought_written_again_stands_where_it_did() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 3);
    (0..12).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let kept: Vec<bool> = (0..12).map(|i| i % 3 == 0 || i >= 9).collect();
    e.evict(&mut cache, ids[0], 5..17, &kept, &[Lifetimes::causal()]).unwrap();
    (0..6).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let positions = |memory: &Memory, cache: &KvCache, view| {
        let mut all: Vec<i32> = memory.all(cache, view).iter().map(|s| s.1).collect();
        all.sort();
        all
    };
    let thought = [5, 8, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22];
    let own = e.agent(ids[0]).unwrap().view.unwrap();
    assert_eq!(positions(&memory, &cache, own)[5..], thought);
    // Behind another's 18 tokens.
    let spawn = Spawn { suffix: vec![900], ..Spawn::default() };
    let reader = e.join(&mut cache, &ids[1..2], Join::Sequential, &spawn).unwrap();
    let joined = e.join(&mut cache, &[ids[1], ids[0]], Join::Sequential, &spawn).unwrap();
    let view = e.agent(joined).unwrap().view.unwrap();
    assert_eq!(
        positions(&memory, &cache, view)[5..],
        [&(5..23).collect::<Vec<_>>()[..], &thought.map(|p| p + 18)].concat()
    );
    assert_eq!(cache.view(view).unwrap().next_position(), 23 + 18);
    // A note of three tokens that were left.
    e.publish(&mut cache, ids[0], 14..17, &[reader]).unwrap();
    let view = e.agent(reader).unwrap().view.unwrap();
    assert_eq!(positions(&memory, &cache, view)[23..], [23, 24, 25]);
    e.restart(&mut cache, ids[0], 14..17).unwrap();
    let view = e.agent(ids[0]).unwrap().view.unwrap();
    assert_eq!(positions(&memory, &cache, view), (0..8).collect::<Vec<_>>());
}

/// A place that somebody else still sees is not written again.
#[test]
fn a_place_that_others_see_is_left_alone() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 1);
    (0..8).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let child = e.spawn_from(&mut cache, ids[0], &[Spawn::default()]).unwrap()[0];
    let before = memory.all(&cache, e.agent(child).unwrap().view.unwrap());
    e.evict(&mut cache, ids[0], 5..9, &[false; 4], &[Lifetimes::causal()]).unwrap();
    (0..4).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let now = memory.all(&cache, e.agent(child).unwrap().view.unwrap());
    assert_eq!(now[..before.len()], before);
    let view = e.agent(ids[0]).unwrap().view.unwrap();
    assert_eq!(cache.view(view).unwrap().len(), 5 + 8 - 4 + 4, "its own tokens went to the end");
}

#[test]
fn eviction_refuses_what_has_an_order() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 1);
    (0..4).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let text = |birth, death| [Lifetimes::causal().with(Modality::Text, birth, death)];
    for kinds in [Lifetimes::window(4)].into_iter().chain(text(Birth::SpanStart, Death::Never)) {
        let refused = e.evict(&mut cache, ids[0], 5..7, &[true, false], &[Lifetimes::causal(), kinds]);
        assert!(matches!(refused, Err(Error::Unsupported { .. })));
    }
    let kinds = [Lifetimes::causal()];
    assert!(e.evict(&mut cache, ids[0], 4..6, &[false; 2], &kinds).is_err(), "the prompt is not its own");
    assert!(e.evict(&mut cache, ids[0], 7..9, &[true, false], &kinds).is_err(), "the last slot");
    assert!(e.evict(&mut cache, ids[0], 5..9, &[true; 3], &kinds).is_err());
    let (_, mut cache, mut e, _, ids) = scene(Mode::Live { positions: Join::Parallel, every: 1 }, 5, 2);
    assert!(matches!(e.evict(&mut cache, ids[0], 5..5, &[], &kinds), Err(Error::Unsupported { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// L12, L41 on a device: an agent whose dropped slots were written again attends as one that keeps what is left in a row.
    #[test]
    fn a_refilled_view_attends_like_a_plain_one(len in 1i32..60, kept in prop::collection::vec(any::<bool>(), 7), more in 1usize..6) {
        for device in devices() {
            let mut mind = Mind::new(device);
            let (root, _) = mind.prompt(&(0..len as u32).map(|i| i % 19).collect::<Vec<_>>());
            let mut e = ensemble(Mode::Isolated);
            let ids = e.spawn(&mut mind.cache, root, &spawns(1)).unwrap();
            (0..9).for_each(|_| drop(mind.step(&mut e)));
            // A fork of what is left, whose tokens go to the end.
            let kept = [&kept[..], &[true, true]].concat();
            let plain = mind.cache.fork(e.agent(ids[0]).unwrap().view.unwrap()).unwrap();
            for slot in (len..len + 9).filter(|s| !kept[(s - len) as usize]) {
                mind.cache.drop_range(plain, slot..slot + 1).unwrap();
            }
            // The fork must not keep the places: it is fed from a cache of its own.
            let copy = mind.cache.clone();
            mind.cache.release(plain).unwrap();
            e.evict(&mut mind.cache, ids[0], len..len + 9, &kept, &[Lifetimes::causal()]).unwrap();
            let mut fed = Vec::new();
            let mut got = Vec::new();
            for _ in 0..more {
                let batch = e.step(&mut mind.cache).unwrap();
                fed.push(batch.inputs[0]);
                let out = mind.attend(&batch);
                got.push(out.clone());
                let logits = vec![mind.project(&out)];
                let drawn = mind.sample(&e, batch.sampling_rows(), &logits);
                e.accept(&mut mind.cache, &drawn).unwrap();
            }
            // New tokens took the holes first; the tokens of the fork follow in pages of its own.
            mind.cache = copy;
            for (i, input) in fed.into_iter().enumerate() {
                let appended = mind.cache.append(plain, Modality::Text, 1).unwrap();
                let mut batch = colatent::ensemble::Batch { inputs: vec![input], ..Default::default() };
                mind.cache.write_places(&appended, &mut batch.places).unwrap();
                batch.positions = vec![[appended.first_position; 4]];
                batch.rows.push(appended.into());
                let want = mind.attend(&batch);
                compare(&format!("{device}: token {i}"), &got[i], &want, DType::F32).map_err(TestCaseError::fail)?;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// L41: a budget of all tokens keeps all; the recent window always stays; as many stay as the budget says; an exact
    /// duplicate never raises a key's score.
    #[test]
    fn eviction_keeps_the_window(n in 1usize..40, budget in 0usize..50, recent in 0usize..10, dim in 1usize..6, seed: u64) {
        let mut rng = Rng(seed);
        let (attention, keys): (Vec<f32>, _) = ((0..n).map(|_| rng.value().abs()).collect(), rng.values(n * dim));
        let scores = importance_and_redundancy(&attention, &keys, 0.3, 5).unwrap();
        let kept = keep(&scores, budget, recent);
        let stay = kept.iter().filter(|k| **k).count();
        prop_assert_eq!(stay, budget.max(recent.min(n)).min(n));
        prop_assert!(kept[n - recent.min(n)..].iter().all(|k| *k));
        let worst = (0..n).filter(|&i| kept[i] && i + recent < n).map(|i| scores[i]).fold(f32::INFINITY, f32::min);
        prop_assert!((0..n).filter(|&i| !kept[i]).all(|i| scores[i] <= worst));

        let twin = rng.below(n);
        let more_keys = [&keys[..], &keys[twin * dim..(twin + 1) * dim]].concat();
        // Behind a token that nobody looks at, so that it is nobody's neighbour.
        let more = importance_and_redundancy(&[&attention[..], &[0.0]].concat(), &more_keys, 0.3, 1).unwrap();
        let before = importance_and_redundancy(&attention, &keys, 0.3, 1).unwrap();
        prop_assert!(more[twin] <= before[twin] + 1e-6, "{} {}", more[twin], before[twin]);
    }
}

/// L41: keeping all is no eviction; what was drafted stays.
#[test]
fn keeping_all_changes_nothing() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 1);
    (0..6).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    e.propose(ids[0], Tree::chain(vec![600])).unwrap();
    let before = (cache.clone(), e.agents().to_vec());
    e.evict(&mut cache, ids[0], 5..11, &keep(&[0.5; 6], 6, 2), &[Lifetimes::causal()]).unwrap();
    assert!(before == (cache, e.agents().to_vec()));
}

#[test]
fn scores_refuse_what_is_not_a_row() {
    assert!(importance_and_redundancy(&[], &[], 0.5, 1).is_err());
    assert!(importance_and_redundancy(&[1.0, 2.0], &[1.0; 3], 0.5, 1).is_err());
    assert!(importance_and_redundancy(&[1.0], &[1.0], 1.5, 1).is_err());
    // A worked example: two equal keys and one across; mean cosines 2/3, 2/3, 1/3.
    let scores = importance_and_redundancy(&[0.5, 0.2, 0.3], &[1.0, 0.0, 2.0, 0.0, 0.0, 1.0], 0.5, 1).unwrap();
    for (got, want) in scores.iter().zip([0.25 - 1.0 / 3.0, 0.1 - 1.0 / 3.0, 0.15 - 1.0 / 6.0]) {
        assert!((got - want).abs() < 1e-6);
    }
    assert_eq!(keep(&scores, 2, 1), [true, false, true]);
    assert!(scores[2] > scores[0], "what is unlike the rest is kept");
}
