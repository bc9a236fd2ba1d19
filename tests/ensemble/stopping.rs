//! Knowing when to stop.

use colatent::ensemble::{ConfidenceRule, Drawn, Ensemble, Mode, Rules, Spawn, Stopped, confidence, group_confidence};
use colatent::kv::KvCache;
use colatent::sampling::NO_TOKEN;
use proptest::prelude::*;

use super::mind::{Memory, drawn};
use super::{scene, spawns, step};

#[test]
fn confidence_is_the_mean_negative_log_probability_of_the_top() {
    // Four equal logits: every probability is 1/4.
    assert!((confidence(&[1.0; 4], 2) - 4f32.ln()).abs() < 1e-6);
    // ln p = l - lse; the two largest of 0, 1, 2 are 2 and 1.
    let lse = (1.0 + 1f64.exp() + 2f64.exp()).ln();
    assert!((f64::from(confidence(&[0.0, 2.0, 1.0], 2)) - (lse - 1.5)).abs() < 1e-6);
    assert_eq!(confidence(&[0.0, 2.0, 1.0], 0), confidence(&[0.0, 2.0, 1.0], 1));
    assert_eq!(confidence(&[0.0, 2.0], 9), confidence(&[0.0, 2.0], 2));
    assert_eq!(confidence(&[0.0, f32::NEG_INFINITY], 2), 0.0, "what has no probability is not among them");
    for nothing in [&[][..], &[f32::NAN, 1.0], &[f32::INFINITY, 1.0], &[f32::NEG_INFINITY]] {
        assert!(confidence(nothing, 1).is_nan(), "{nothing:?} has no distribution");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// L38: the group's confidence is the mean of the window; an agent stops with the first full window below the
    /// threshold and never before, and stays stopped.
    #[test]
    fn an_agent_stops_with_the_first_full_window_below(
        confidences in prop::collection::vec(0u32..40, 1..40), window in 1u32..9, threshold in 5u32..35,
    ) {
        let rule = ConfidenceRule { window, threshold: threshold as f32 / 2.0 };
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
            let taken: Vec<Drawn> = batch.draws.iter().map(|_| Drawn { confidence: Some(c), ..drawn(1) }).collect();
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
    let rule = |window, threshold| Rules { end_tokens: vec![], confidence: Some(ConfidenceRule { window, threshold }) };
    assert!(Ensemble::new(1, Mode::Isolated, rule(0, 1.0)).is_err());
    assert!(Ensemble::new(1, Mode::Isolated, rule(1, f32::NAN)).is_err());
    let mut cache = KvCache::new(4, 100).unwrap();
    let root = Memory::default().prompt(&mut cache, 3);
    let mut e = Ensemble::new(1, Mode::Isolated, rule(2, 1.0)).unwrap();
    e.spawn(&mut cache, root, &spawns(1)).unwrap();
    e.step(&mut cache).unwrap();
    let before = e.agents().to_vec();
    assert!(e.accept(&mut cache, &[Drawn { confidence: None, ..drawn(1) }]).is_err());
    assert_eq!(e.agents(), before);
    e.accept(&mut cache, &[drawn(1)]).unwrap();
}

/// What was drawn for an agent that the vote has stopped meanwhile is passed over.
#[test]
fn a_decided_vote_ends_the_run() {
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
