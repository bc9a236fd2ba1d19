//! Knowing when to stop.

use colatent::ensemble::{AgentId, ConfidenceRule, Ensemble, Mode, Rules, Spawn, Stopped, Tally, group_confidence};
use colatent::kv::KvCache;
use colatent::sampling::{NO_TOKEN, Sampled, SamplingOutput, SamplingRow};
use colatent::stop::{StopArgs, StopPlan, StopProblem, StopRow, StopState};
use colatent::{Buffer, Workspace};
use proptest::prelude::*;

use super::mind::{Memory, drawn};
use super::{scene, spawns, step};
use crate::harness::{Rng, devices};

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// L38: the group's confidence is the mean of the window; an agent stops with the first full window below the
    /// threshold and never before, and stays stopped.
    #[test]
    fn an_agent_stops_with_the_first_full_window_below(
        confidences in prop::collection::vec(0u32..40, 1..40), window in 1u32..9, threshold in 5u32..35,
    ) {
        let rule = ConfidenceRule { top_k: 3, window, threshold: threshold as f32 / 2.0 };
        let rules = Rules { confidence: Some(rule), ..Rules::default() };
        let (mut memory, mut cache) = (Memory::default(), KvCache::new(4, 100).unwrap());
        let root = memory.prompt(&mut cache, 3);
        let mut e = Ensemble::new(1, Mode::Isolated, rules).unwrap();
        let id = e.spawn(&mut cache, root, &spawns(1)).unwrap()[0];
        let values: Vec<f32> = confidences.iter().map(|&c| c as f32 / 2.0).collect();
        let means: Vec<f32> = values.windows(window as usize).map(|w| w.iter().sum::<f32>() / window as f32).collect();
        let first = means.iter().position(|m| *m < rule.threshold).map(|i| i + window as usize);
        for (t, &c) in values.iter().enumerate() {
            let batch = e.step(&mut cache).unwrap();
            memory.write(&batch);
            prop_assert_eq!(batch.draws.is_empty(), first.is_some_and(|n| t >= n));
            let taken: Vec<Sampled> = batch.draws.iter().map(|_| Sampled { confidence: c, ..drawn(1) }).collect();
            e.accept(&mut cache, &taken).unwrap();
            let agent = e.agent(id).unwrap();
            let mean = (t + 1).checked_sub(window as usize).map(|i| means[i]);
            if agent.is_alive() {
                prop_assert_eq!(agent.group_confidence(window as usize), mean);
            }
            let stopped = first.is_some_and(|n| t + 1 >= n);
            prop_assert_eq!(agent.stopped, stopped.then_some(Stopped::Confidence));
        }
    }
}

#[test]
fn end_tokens_budgets_and_missing_distributions_stop() {
    let (mut memory, mut cache) = (Memory::default(), KvCache::new(4, 100).unwrap());
    let root = memory.prompt(&mut cache, 3);
    let mut e = Ensemble::new(1, Mode::Isolated, Rules { end_tokens: vec![9], confidence: None }).unwrap();
    let spawns: Vec<Spawn> = spawns(3).into_iter().map(|s| Spawn { max_tokens: 3, ..s }).collect();
    let ids = e.spawn(&mut cache, root, &spawns).unwrap();
    e.step(&mut cache).unwrap();
    e.accept(&mut cache, &[drawn(9), drawn(NO_TOKEN), drawn(1)]).unwrap();
    assert_eq!(e.agent(ids[0]).unwrap().stopped, Some(Stopped::EndToken));
    assert_eq!(e.agent(ids[1]).unwrap().stopped, Some(Stopped::NoDistribution));
    assert!(e.agent(ids[0]).unwrap().pending.is_empty(), "an end token is not fed");
    for _ in 0..2 {
        assert_eq!(e.alive().count(), 1);
        let batch = e.step(&mut cache).unwrap();
        assert_eq!((batch.inputs.len(), batch.draws.len()), (1, 1), "agents that stopped leave the batch");
        e.accept(&mut cache, &[drawn(1)]).unwrap();
    }
    assert_eq!(e.agent(ids[2]).unwrap().stopped, Some(Stopped::Budget));
    // Its last token is fed once, so that others may read it, and draws nothing.
    let batch = step(&mut memory, &mut cache, &mut e);
    assert_eq!((batch.inputs.len(), batch.draws.len()), (1, 0));
    assert!(step(&mut memory, &mut cache, &mut e).inputs.is_empty());
}

#[test]
fn a_rule_needs_its_measure() {
    assert_eq!(group_confidence(&[1.0], 0), None);
    let rule = |window, threshold| Rules {
        end_tokens: vec![],
        confidence: Some(ConfidenceRule { top_k: 2, window, threshold }),
    };
    assert!(Ensemble::new(1, Mode::Isolated, rule(0, 1.0)).is_err());
    assert!(Ensemble::new(1, Mode::Isolated, rule(1, f32::NAN)).is_err());
    // A draw asks for what the rule needs, and what was not asked for is not taken for a confidence of 0.
    let (_, mut cache, mut e, _, ids) = scene(Mode::Isolated, 3, 1);
    e.step(&mut cache).unwrap();
    e.accept(&mut cache, &[drawn(1)]).unwrap();
    assert!(e.agent(ids[0]).unwrap().confidences.is_empty());
    let mut e = Ensemble::new(1, Mode::Isolated, rule(2, 0.5)).unwrap();
    let root = Memory::default().prompt(&mut cache, 3);
    let asks = SamplingRow { confidence: 7, ..SamplingRow::default() };
    e.spawn(&mut cache, root, &[Spawn { sampling: asks, ..spawns(1)[0].clone() }]).unwrap();
    assert_eq!(e.step(&mut cache).unwrap().draws[0].sampling.confidence, 2);
    e.accept(&mut cache, &[drawn(1)]).unwrap();
    assert_eq!(e.agents()[0].confidences, [1.0]);
}

/// What was drawn for an agent that the vote has stopped meanwhile is passed over.
#[test]
fn what_a_stopped_agent_draws_is_passed_over() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 3);
    let batch = e.step(&mut cache).unwrap();
    e.stop(ids[1], Stopped::Decided).unwrap();
    let drawn = memory.draw(&batch);
    e.accept(&mut cache, &drawn).unwrap();
    assert_eq!(e.agent(ids[1]).unwrap().tokens.len(), 0);
    e.stop(ids[1], Stopped::Budget).unwrap();
    assert_eq!(e.agent(ids[1]).unwrap().stopped, Some(Stopped::Decided), "what has stopped stays so");
    assert_eq!(e.alive().count(), 2);
}

/// Agents vote as they finish, each for the last token it said. The vote that ends a run as soon as it is decided is the
/// vote of all, by majority and by weight; runs end earlier for it, and never before the winner leads by what is out.
#[test]
fn a_decided_vote_ends_the_run() {
    let mut saved = [0, 0];
    for seed in 0..60 {
        for (weighted, saved) in [false, true].into_iter().zip(&mut saved) {
            let run = |may_end: bool| {
                let mut rng = Rng(seed);
                let (mut memory, mut cache, mut e, root, _) = scene(Mode::Isolated, 5, 0);
                let spawn = |s: Spawn| Spawn { max_tokens: 1 + rng.below(12) as u32, ..s };
                let ids = e.spawn(&mut cache, root, &spawns(5).into_iter().map(spawn).collect::<Vec<_>>()).unwrap();
                let weight = |i: usize| if weighted { 1.0 + (seed as usize + i) as f64 % 3.0 } else { 1.0 };
                let (mut tally, mut steps) = (Tally::default(), 0);
                let mut has_voted = [false; 5];
                while e.alive().count() > 0 {
                    step(&mut memory, &mut cache, &mut e);
                    steps += 1;
                    for (i, &id) in ids.iter().enumerate() {
                        let agent = e.agent(id).unwrap();
                        if !agent.is_alive() && !has_voted[i] {
                            has_voted[i] = true;
                            tally.cast(id, u64::from(agent.tokens.last().unwrap() % 2), weight(i)).unwrap();
                        }
                    }
                    let out: f64 = (0..5).filter(|&i| !has_voted[i]).map(weight).sum();
                    if may_end && tally.is_decided(out) {
                        assert!(tally.margin() > out);
                        let alive: Vec<AgentId> = e.alive().map(|a| a.id).collect();
                        alive.iter().for_each(|&id| e.stop(id, Stopped::Decided).unwrap());
                    }
                }
                (tally.winner().unwrap().0, steps)
            };
            let (early, whole) = (run(true), run(false));
            assert_eq!(early.0, whole.0, "seed {seed}, weighted: {weighted}");
            assert!(early.1 <= whole.1);
            *saved += whole.1 - early.1;
        }
    }
    assert!(saved.iter().all(|&steps| steps > 60), "{saved:?} steps of 60 runs each");
}

/// L38: the rules on the host and those that `stop` follows on the device stop the same agents at the same draw, for the
/// same reason.
#[test]
fn host_and_device_stop_alike() {
    for device in devices() {
        for seed in 0..6 {
            let mut rng = Rng(seed);
            let (agents, window, threshold) = (5, 3, 1.0f32);
            let rule = ConfidenceRule { top_k: 4, window, threshold };
            let rules = Rules { end_tokens: vec![9], confidence: Some(rule) };
            let mut cache = KvCache::new(4, 100).unwrap();
            let root = Memory::default().prompt(&mut cache, 3);
            let mut e = Ensemble::new(1, Mode::Isolated, rules).unwrap();
            let spawns: Vec<Spawn> = spawns(agents).into_iter().map(|s| Spawn { max_tokens: 12, ..s }).collect();
            e.spawn(&mut cache, root, &spawns).unwrap();
            let state = StopState::new(device, agents, window as usize).unwrap();
            for _ in 0..14 {
                let batch = e.step(&mut cache).unwrap();
                assert!(batch.draws.iter().all(|d| d.sampling.confidence == 4), "draws ask for what the rule needs");
                let rows: Vec<StopRow> = batch.draws.iter().map(|d| StopRow { slot: d.agent.0, budget: 12 }).collect();
                if rows.is_empty() {
                    break;
                }
                let words: Vec<[u32; 4]> = rows
                    .iter()
                    .map(|_| {
                        let token = [NO_TOKEN, 9, 1, 2, 3, 4, 5, 6, 7, 8][rng.below(40).min(9)];
                        [token, (-1f32).to_bits(), 0, (rng.below(16) as f32 / 8.0).to_bits()]
                    })
                    .collect();
                let sampled = Buffer::zeros(device, 16 * rows.len()).unwrap();
                sampled.write(0, bytemuck::cast_slice(words.as_flattened())).unwrap();
                let drawn = SamplingOutput::read(&sampled, rows.len()).unwrap();
                let end_tokens = &[9];
                let problem =
                    StopProblem { rows: &rows, slots: agents, window: window as usize, threshold, end_tokens };
                let plan = StopPlan::new(device, &problem).unwrap();
                let args = StopArgs { sampled: &sampled, state: &state };
                plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
                e.accept(&mut cache, &drawn).unwrap();
                for (agent, slot) in e.agents().iter().zip(state.read().unwrap()) {
                    assert_eq!(slot.stopped, agent.stopped, "{device}, seed {seed}");
                }
            }
            assert_eq!(e.alive().count(), 0);
        }
    }
}
