//! From many agents to one: joins, votes, mixtures, restarts.

use colatent::ensemble::{AgentId, Mode, Spawn, Tally, mix};
use colatent::kv::Join;
use colatent::lm_head::{LmHeadArgs, LmHeadPlan, LmHeadProblem};
use colatent::sampling::{Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, DType, Tensor, Workspace};
use proptest::prelude::*;

use super::mind::{Mind, VOCAB, tokens};
use super::{ensemble, scene, spawns, step};
use crate::harness::{Rng, devices};

/// The first token of a synthesis comes with the step behind the join, from everything that the agents were fed; no page
/// is taken by the join and no key moves.
#[test]
fn a_synthesis_begins_one_step_after_the_join() {
    for how in [Join::Parallel, Join::Sequential] {
        let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 3);
        (0..4).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
        let pages = cache.used_pages();
        let spawn = Spawn { suffix: vec![900, 901], ..Spawn::default() };
        let one = e.join(&mut cache, &ids, how, &spawn).unwrap();
        assert_eq!(cache.used_pages(), pages);
        let batch = step(&mut memory, &mut cache, &mut e);
        assert_eq!(e.agent(one).unwrap().tokens.len(), 1);
        let rows = batch.rows.last().unwrap();
        let seen = memory.seen(&cache, rows.view, rows.first_slot + 1);
        let thought = |i: usize| {
            let said = &e.agent(ids[i]).unwrap().tokens;
            [&[500 + i as u32], &said[..3]].concat()
        };
        let want = [&(1000..1005).collect::<Vec<_>>()[..], &thought(0), &thought(1), &thought(2), &[900, 901]].concat();
        assert_eq!(tokens(&seen), want, "{how:?}");
        let at: Vec<i32> = seen.iter().map(|s| s.1).collect();
        match how {
            Join::Sequential => assert_eq!(at, (0..19).collect::<Vec<_>>()),
            Join::Parallel => assert_eq!(at[5..], [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, 9, 10]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// L29 for a synthesiser on a device: joined in a row, it says what an agent says that was fed all thoughts in a row,
    /// since in a model of one layer keys do not depend on what was seen.
    #[test]
    fn a_synthesiser_reads_what_was_thought(len in 1u32..60, agents in 1usize..5, steps in 1usize..6, more in 1usize..5) {
        for device in devices() {
            let mut mind = Mind::new(device);
            let (root, _) = mind.prompt(&(0..len).map(|i| i % 19).collect::<Vec<_>>());
            let mut e = ensemble(Mode::Isolated);
            let ids = e.spawn(&mut mind.cache, root, &spawns(agents)).unwrap();
            (0..steps).for_each(|_| drop(mind.step(&mut e)));
            let thoughts: Vec<u32> = ids
                .iter()
                .enumerate()
                .flat_map(|(i, &id)| [&[500 + i as u32], &e.agent(id).unwrap().tokens[..steps - 1]].concat())
                .collect();
            let spawn = Spawn { suffix: vec![19, 3], stream: Some(50), ..Spawn::default() };
            let joined = e.join(&mut mind.cache, &ids, Join::Sequential, &spawn).unwrap();
            let fed = Spawn { suffix: [&thoughts[..], &spawn.suffix].concat(), ..spawn };
            let plain = e.spawn(&mut mind.cache, root, &[fed]).unwrap()[0];
            (0..more).for_each(|_| drop(mind.step(&mut e)));
            prop_assert_eq!(&e.agent(joined).unwrap().tokens, &e.agent(plain).unwrap().tokens, "{}", device);
        }
    }
}

#[test]
fn the_best_agent_is_the_likeliest_in_the_mean() {
    let (_, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 3);
    assert_eq!(e.best(), None);
    for round in [[-1.0, -0.5, -2.0], [-1.0, -2.0, -0.25]] {
        e.step(&mut cache).unwrap();
        let drawn = round.map(|log_prob| Sampled { token: 1, log_prob, ..Sampled::default() });
        e.accept(&mut cache, &drawn).unwrap();
    }
    assert_eq!(e.best(), Some(ids[0]));
    assert_eq!(e.agent(ids[2]).unwrap().mean_log_prob(), -1.125);
}

/// A restart keeps the prompt and the summary, at positions that follow, and gives back the rest.
#[test]
fn a_restart_keeps_prompt_and_summary() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 2);
    (0..20).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let said = e.agent(ids[0]).unwrap().tokens.clone();
    // Slot 6 + i holds said[i].
    e.restart(&mut cache, ids[0], 22..25).unwrap();
    assert!(e.restart(&mut cache, ids[0], 3..6).is_err(), "the prompt is not its own");
    let batch = step(&mut memory, &mut cache, &mut e);
    let seen = memory.seen(&cache, batch.rows[0].view, batch.rows[0].first_slot);
    assert_eq!(tokens(&seen), [&(1000..1005).collect::<Vec<_>>()[..], &said[16..20]].concat());
    assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    // The summary's segment reaches back to its first token: pages wait for what follows them.
    (0..3).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    e.restart(&mut cache, ids[0], 8..12).unwrap();
    assert_eq!(e.agent(ids[0]).unwrap().first_slot, 5);
    // An engine that wants the shift gone turns these keys once.
    let view = e.agent(ids[0]).unwrap().view.unwrap();
    let turned = cache.rebase(view).unwrap();
    assert_eq!((turned.len(), turned[0].places.len(), turned[0].shift), (1, 4, [-3; 4]));
    assert_eq!(step(&mut memory, &mut cache, &mut e).positions[0], [9; 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// L39: the order of casting changes no bit; the winner is the one of a sorted count; what is decided stays so
    /// whatever the others vote.
    #[test]
    fn votes_do_not_depend_on_their_order(
        votes in prop::collection::vec((0u64..4, 0u32..1000), 1..12),
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        rest in prop::collection::vec((0u64..5, 0u32..1000), 0..4),
    ) {
        let weight = |w: u32| f64::from(w) / 7.0;
        let mut tally = Tally::default();
        for (i, &(answer, w)) in votes.iter().enumerate() {
            tally.cast(AgentId(i as u32), answer, weight(w)).unwrap();
        }
        let mut shuffled = Tally::default();
        for &i in order.iter().filter(|&&i| i < votes.len()) {
            shuffled.cast(AgentId(i as u32), votes[i].0, weight(votes[i].1)).unwrap();
        }
        prop_assert_eq!(&tally, &shuffled);
        let (winner, most) = tally.winner().unwrap();
        for answer in votes.iter().map(|v| v.0) {
            let total: f64 = votes.iter().filter(|v| v.0 == answer).map(|v| weight(v.1)).sum();
            prop_assert!(total < most + 1e-9);
            prop_assert!(answer >= winner || total < most);
        }
        let outstanding: f64 = rest.iter().map(|r| weight(r.1)).sum();
        let decided = tally.is_decided(outstanding);
        for (i, &(answer, w)) in rest.iter().enumerate() {
            tally.cast(AgentId(100 + i as u32), answer, weight(w)).unwrap();
        }
        if decided {
            prop_assert_eq!(tally.winner().unwrap().0, winner);
        }
    }

    /// L37: mix-then-project is project-then-mix; one-hot weights are that agent; equal rows are one row.
    #[test]
    fn mixing_is_linear(rows in 1usize..6, seed: u64, hot in 0usize..6) {
        let mut rng = Rng(seed);
        let (dim, vocab) = (16, 24);
        let head = rng.values(dim * vocab);
        let project = |h: &[f32]| -> Vec<f32> {
            (0..vocab).map(|t| (0..dim).map(|i| f64::from(h[i]) * f64::from(head[i * vocab + t])).sum::<f64>() as f32).collect()
        };
        let hidden: Vec<Vec<f32>> = (0..rows).map(|_| rng.values(dim)).collect();
        let weights: Vec<f32> = (0..rows).map(|_| 0.01 + rng.value().abs()).collect();
        fn refs(v: &[Vec<f32>]) -> Vec<&[f32]> {
            v.iter().map(Vec::as_slice).collect()
        }
        let logits: Vec<Vec<f32>> = hidden.iter().map(|h| project(h)).collect();
        let first = project(&mix::linear(&refs(&hidden), &weights).unwrap());
        let last = mix::linear(&refs(&logits), &weights).unwrap();
        // Rounding of a hidden state to f32 (2^-24 of at most 4), times 16 lanes of weights up to 4, on both sides.
        first.iter().zip(&last).for_each(|(a, b)| assert!((a - b).abs() < 2e-5, "{a} {b}"));

        let mut one_hot = vec![0.0; rows];
        one_hot[hot % rows] = 3.0;
        prop_assert_eq!(&mix::linear(&refs(&logits), &one_hot).unwrap(), &logits[hot % rows]);
        let alone = mix::probabilities(&refs(&logits), &one_hot).unwrap();
        let same = mix::probabilities(&refs(&vec![logits[hot % rows].clone(); rows]), &weights).unwrap();
        let mixed = mix::probabilities(&refs(&logits), &weights).unwrap();
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for t in 0..vocab {
            let p = |k: usize| {
                let sum: f64 = logits[k].iter().map(|&l| f64::from(l - logits[k][t]).exp()).sum();
                1.0 / sum
            };
            prop_assert!((f64::from(alone[t]) - p(hot % rows).ln()).abs() < 1e-5);
            prop_assert!((alone[t] - same[t]).abs() < 1e-5);
            let want: f64 = (0..rows).map(|k| f64::from(weights[k]) * p(k)).sum::<f64>() / total;
            prop_assert!((f64::from(mixed[t]).exp() - want).abs() < 1e-6);
            let mean: f64 = (0..rows).map(|k| f64::from(weights[k]) * f64::from(logits[k][t])).sum::<f64>() / total;
            prop_assert!((f64::from(last[t]) - mean).abs() <= 2e-7 * mean.abs() + 1e-6, "{} {mean}", last[t]);
        }
    }
}

#[test]
fn votes_and_mixtures_refuse_what_has_no_meaning() {
    let mut tally = Tally::default();
    assert_eq!((tally.winner(), tally.margin(), tally.is_decided(0.0)), (None, 0.0, false));
    tally.cast(AgentId(1), 5, 1.0).unwrap();
    assert!(tally.cast(AgentId(1), 6, 1.0).is_err());
    assert!(tally.cast(AgentId(2), 6, f64::NAN).is_err() && tally.cast(AgentId(2), 6, -1.0).is_err());
    tally.cast(AgentId(2), 4, 1.0).unwrap();
    assert_eq!(tally.winner(), Some((4, 1.0)), "the least number among equals");
    assert!(!tally.is_decided(0.0), "a tie is not decided");
    tally.cast(AgentId(3), 4, 1.0).unwrap();
    assert!(tally.is_decided(0.5) && !tally.is_decided(1.0), "as much outstanding as the margin may make a tie");
    for (rows, weights) in [(vec![], vec![]), (vec![1usize, 2], vec![1.0, 1.0]), (vec![2, 2], vec![1.0])] {
        let rows: Vec<Vec<f32>> = rows.into_iter().map(|n| vec![0.0; n]).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        assert!(mix::linear(&rows, &weights).is_err() && mix::probabilities(&rows, &weights).is_err());
    }
    for weights in [[0.0, 0.0], [-1.0, 2.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
        assert!(mix::linear(&[&[1.0], &[2.0]], &weights).is_err());
    }
    assert_eq!(mix::linear(&[&[1.0], &[f32::NAN]], &[1.0, 0.0]).unwrap(), [1.0]);
}

/// One token for all: the agents of a mixture go on with the same token, each in its own context. L37: a mixture of equal
/// traces is one trace.
#[test]
fn a_mixture_speaks_with_one_voice() {
    for device in devices() {
        let say = |suffixes: &[u32]| -> Vec<u32> {
            let mut mind = Mind::new(device);
            let (root, _) = mind.prompt(&(0..20).collect::<Vec<_>>());
            let mut e = ensemble(Mode::Isolated);
            let spawn = |&s: &u32| Spawn { suffix: vec![s], ..Spawn::default() };
            let ids = e.spawn(&mut mind.cache, root, &suffixes.iter().map(spawn).collect::<Vec<_>>()).unwrap();
            for _ in 0..6 {
                let batch = e.step(&mut mind.cache).unwrap();
                let logits = mind.logits(&batch);
                let rows: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
                let mixed = mix::probabilities(&rows, &vec![1.0; rows.len()]).unwrap();
                assert_eq!(mixed.len(), VOCAB);
                let one = mind.sample(&e, batch.sampling_rows()[..1].to_vec(), &[mixed])[0];
                e.accept(&mut mind.cache, &vec![one; rows.len()]).unwrap();
            }
            let said: Vec<_> = ids.iter().map(|&id| e.agent(id).unwrap().tokens.clone()).collect();
            assert!(said.iter().all(|tokens| *tokens == said[0]), "{device}: {said:?}");
            said[0].clone()
        };
        let alone = say(&[500]);
        assert_eq!(say(&[500; 3]), alone, "{device}");
        assert_ne!(say(&[500, 501, 502]), alone, "{device}: the others count");
    }
}

/// L37 on a device: a token drawn by `lm_head` from mixed hidden states is the one drawn by `sampling` from mixed logits,
/// and with all weight on one agent its own. Whole numbers and eighths, so that every product and sum is exact.
#[test]
fn hidden_states_and_logits_mix_alike() {
    const WIDTH: usize = 16;
    const VOCAB: usize = 60;
    for device in devices() {
        for (seed, weights) in
            [[1.0, 1.0, 2.0, 4.0], [2.0; 4], [0.0, 5.0, 3.0, 0.0], [0.0, 0.0, 8.0, 0.0]].iter().enumerate()
        {
            let mut rng = Rng(seed as u64);
            let mut whole = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.below(7) as f32 - 3.0).collect() };
            let (hidden, head) = (whole(4 * WIDTH), whole(VOCAB * WIDTH));
            let project = |h: &[f32]| -> Vec<f32> {
                head.chunks(WIDTH).map(|w| w.iter().zip(h).map(|(a, b)| a * b).sum()).collect()
            };
            let logits: Vec<Vec<f32>> = hidden.chunks(WIDTH).map(project).collect();
            let hidden: Vec<&[f32]> = hidden.chunks(WIDTH).collect();
            let logits: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
            let row = |step| SamplingRow { temperature: [4.0, 0.0][step as usize % 2], step, ..SamplingRow::default() };
            let rows: Vec<SamplingRow> = (0..40).map(row).collect();
            let (n, output_multiplier, soft_cap) = (rows.len(), 0.25, None);
            let tensor = |shape: &[usize], x: &[f32]| Tensor::from_f32(device, DType::F32, shape, x).unwrap();
            let out = Buffer::zeros(device, SamplingOutput::bytes(n)).unwrap();
            let tokens = || SamplingOutput::read(&out, n).unwrap().iter().map(|s| s.token).collect::<Vec<u32>>();
            let mut workspace = Workspace::new(device).unwrap();

            let (hidden_dtype, weight_dtype, seed) = (DType::F32, DType::F32, 5);
            let problem = LmHeadProblem {
                rows: rows.clone(),
                width: WIDTH,
                vocab: VOCAB,
                hidden_dtype,
                weight_dtype,
                output_multiplier,
                soft_cap,
                seed,
            };
            let mixed = tensor(&[n, WIDTH], &mix::linear(&hidden, weights).unwrap().repeat(n));
            let args = LmHeadArgs { hidden: &mixed, weight: &tensor(&[VOCAB, WIDTH], &head), out: &out };
            LmHeadPlan::new(device, &problem).unwrap().run(&args, &mut workspace).unwrap();
            let first = tokens();

            let logits_dtype = DType::F32;
            let problem = SamplingProblem { logits_dtype, rows, vocab: VOCAB, output_multiplier, soft_cap, seed };
            let plan = SamplingPlan::new(device, &problem).unwrap();
            let mut draw = |values: &[f32]| {
                let logits = tensor(&[n, VOCAB], &values.repeat(n));
                plan.run(&SamplingArgs { logits: &logits, out: &out }, &mut workspace).unwrap();
                tokens()
            };
            assert_eq!(first, draw(&mix::linear(&logits, weights).unwrap()), "{device}: weights {weights:?}");
            if let Some(one) = weights.iter().position(|w| *w == 8.0) {
                assert_eq!(first, draw(logits[one]), "{device}: agent {one} alone");
            }
        }
    }
}
