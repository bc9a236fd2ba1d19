//! stop: which agents have stopped, known on the device.
//!
//! Proved, on every device: worked steps with the numbers written out; random runs of many steps against the definition,
//! state and silenced rows bit for bit (confidences are multiples of 1/8, so that every sum is exact); the group confidence
//! is the mean of the last window of draws, recomputed here from all of them; a stop is for ever and never comes before the
//! window is full; a slot that is given to a new agent forgets the old one, NaN included; rows may move among launches;
//! nothing behind the rows is written; refusals.
//!
//! Planted bugs, each seen red and taken out again:
//! - kernel, and in turn the CUDA kernel, the group counted one draw before the window is full: worked steps;
//! - kernel, the budget looked at before the end token: worked steps; CUDA kernel, `<=` for `<` at the threshold: worked
//!   steps;
//! - kernel, rows of stopped agents left as they were, and CUDA kernel, their draws counted: worked steps, random runs;
//! - state, the draws of the slot's last agent kept: worked steps.
mod harness;

use colatent::sampling::NO_TOKEN;
use colatent::stop::{Slot, StopArgs, StopPlan, StopProblem, StopRow, StopState, Stopped};
use colatent::{Buffer, Device, Error, Workspace};
use harness::{Rng, devices};
use proptest::prelude::*;

/// A draw: token and confidence.
type Draw = (u32, f32);

/// One step; the draws as they are afterwards.
fn step(plan: &StopPlan, device: &Device, state: &StopState, draws: &[Draw], ws: &mut Workspace) -> Vec<[u32; 4]> {
    const GUARD: usize = 32;
    let mut bytes: Vec<u8> = draws
        .iter()
        .flat_map(|&(token, confidence)| [token, (-1f32).to_bits(), 2f32.to_bits(), confidence.to_bits()])
        .flat_map(u32::to_le_bytes)
        .collect();
    bytes.extend([0xa5; GUARD]);
    let sampled = Buffer::zeros(device, bytes.len()).unwrap();
    sampled.write(0, &bytes).unwrap();
    plan.run(&StopArgs { sampled: &sampled, state }, ws).unwrap();
    let after = sampled.read().unwrap();
    assert!(after[draws.len() * 16..].iter().all(|b| *b == 0xa5), "{plan}: wrote past its rows");
    let words: Vec<u32> = after.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    words.chunks_exact(4).take(draws.len()).map(|w| [w[0], w[1], w[2], w[3]]).collect()
}

fn is_silent(row: &[u32; 4]) -> bool {
    row[0] == NO_TOKEN && row[1..].iter().all(|w| f32::from_bits(*w).is_nan())
}

/// Slots with NaN as a number that compares.
fn bits(slots: &[Slot]) -> Vec<(Option<Stopped>, u32, u32)> {
    slots.iter().map(|s| (s.stopped, s.draws, s.group_confidence.to_bits())).collect()
}

#[test]
fn worked_steps() {
    for device in devices() {
        let state = StopState::new(device, 6, 2).unwrap();
        // Rows are not in the order of slots; slot 1 has no row.
        let row = |slot, budget| StopRow { slot, budget };
        let rows = [row(4, 3), row(0, 0), row(5, 1), row(2, 9), row(3, 2)];
        let problem = StopProblem { rows: &rows, slots: 6, window: 2, threshold: 1.0, end_tokens: &[70, 71] };
        let plan = StopPlan::new(device, &problem).unwrap();
        let mut ws = Workspace::new(device).unwrap();
        let mut go = |draws: &[Draw]| step(&plan, device, &state, draws, &mut ws);
        // Slot 0 is sure of nothing, but its window is not full. Slot 5 has budget for one, which is an end token, too.
        let after = go(&[(1, 4.0), (2, 0.0), (71, 4.0), (3, 1.5), (4, 9.0)]);
        assert!(after.iter().zip([1, 2, 71, 3, 4]).all(|(row, token)| row[0] == token && row[1] == (-1f32).to_bits()));
        let slots = state.read().unwrap();
        let stopped: Vec<Option<Stopped>> = slots.iter().map(|s| s.stopped).collect();
        assert_eq!(stopped, [None, None, None, None, None, Some(Stopped::EndToken)], "on {device}");
        assert_eq!(slots.iter().map(|s| s.draws).collect::<Vec<_>>(), [1, 0, 1, 1, 1, 1]);
        assert!(slots.iter().all(|s| s.group_confidence.is_nan()));
        // Slot 2's mean is the threshold, slot 0's below it; slot 3 is at its budget; slot 4 has no distribution.
        let after = go(&[(NO_TOKEN, f32::NAN), (2, 1.875), (6, 9.0), (3, 0.5), (4, 9.0)]);
        assert!(is_silent(&after[2]) && after[1][0] == 2 && after[3][0] == 3, "on {device}: {after:?}");
        let slots = state.read().unwrap();
        let stopped: Vec<Option<Stopped>> = slots.iter().map(|s| s.stopped).collect();
        let (sure, none) = (Some(Stopped::Confidence), Some(Stopped::NoDistribution));
        let end = Some(Stopped::EndToken);
        assert_eq!(stopped, [sure, None, None, Some(Stopped::Budget), none, end], "on {device}");
        assert_eq!((slots[0].group_confidence, slots[2].group_confidence), (0.9375, 1.0));
        // Whoever has stopped says nothing more and is not counted.
        let after = go(&[(70, 0.0), (1, 9.0), (1, 9.0), (3, 1.0), (1, 9.0)]);
        assert!([0, 1, 2, 4].iter().all(|&r| is_silent(&after[r])), "on {device}: {after:?}");
        let slots = state.read().unwrap();
        assert_eq!((slots[2].stopped, slots[2].group_confidence, slots[2].draws), (sure, 0.75, 3));
        assert_eq!(slots.iter().map(|s| s.draws).collect::<Vec<_>>(), [2, 0, 3, 2, 2, 1]);
        // A new agent in slot 0: what the old one left is not read, though its ring held anything.
        state.start(0).unwrap();
        let after = go(&[(1, 9.0), (5, 8.0), (1, 9.0), (3, 1.0), (1, 9.0)]);
        assert_eq!(after[1][0], 5);
        let slot = state.read().unwrap()[0];
        assert!((slot.stopped, slot.draws) == (None, 1) && slot.group_confidence.is_nan(), "on {device}: {slot:?}");
    }
}

#[test]
fn a_slot_given_to_a_new_agent_forgets_the_old_one() {
    for device in devices() {
        let state = StopState::new(device, 1, 3).unwrap();
        let rows = [StopRow { slot: 0, budget: 0 }];
        let problem = StopProblem { rows: &rows, slots: 1, window: 3, threshold: 1.0, end_tokens: &[9] };
        let plan = StopPlan::new(device, &problem).unwrap();
        let mut ws = Workspace::new(device).unwrap();
        let mut go = |draw: Draw| {
            step(&plan, device, &state, &[draw], &mut ws);
            state.read().unwrap()[0]
        };
        go((1, f32::INFINITY));
        go((1, f32::NAN));
        assert_eq!(go((9, 2.0)).stopped, Some(Stopped::EndToken));
        state.start(0).unwrap();
        assert!(go((1, 2.0)).group_confidence.is_nan() && go((1, 1.5)).stopped.is_none());
        assert_eq!(go((1, 1.0)).group_confidence, 1.5, "on {device}");
    }
}

/// Draws of `agents` over `steps`, with exact confidences.
fn draws(rng: &mut Rng, agents: usize, steps: usize) -> Vec<Vec<Draw>> {
    let mut draw = || match rng.below(60) {
        0 => (NO_TOKEN, f32::NAN),
        _ => (rng.below(150) as u32, rng.below(64) as f32 / 8.0),
    };
    (0..steps).map(|_| (0..agents).map(|_| draw()).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// L38: the streaming group confidence is the mean of the last window; stops are for ever and never early. Rows move
    /// among launches.
    #[test]
    fn random_runs(
        agents in 1usize..9, window in prop_oneof![1usize..6, 30usize..70, Just(200)], steps in 1usize..80,
        threshold in prop_oneof![Just(f32::NEG_INFINITY), 2f32..4.0], ends in 0usize..70, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let all = draws(&mut rng, agents, steps);
        let budgets: Vec<u32> = (0..agents).map(|_| [0, 5 + rng.below(60) as u32][rng.below(2)]).collect();
        let end_tokens: Vec<u32> = (0..ends as u32).map(|i| 1000 + i).chain([149].into_iter().filter(|_| ends > 3)).collect();
        let slots = agents + rng.below(3);
        let orders: Vec<Vec<usize>> = (0..2).map(|_| {
            let mut free: Vec<usize> = (0..agents).collect();
            (0..agents).map(|_| free.swap_remove(rng.below(free.len()))).collect()
        }).collect();
        let mut want: Option<Vec<_>> = None;
        for device in devices() {
            let state = StopState::new(device, slots, window).unwrap();
            let plans: Vec<StopPlan> = orders.iter().map(|order| {
                let rows: Vec<StopRow> =
                    order.iter().map(|&a| StopRow { slot: (slots - 1 - a) as u32, budget: budgets[a] }).collect();
                let problem = StopProblem { rows: &rows, slots, window, threshold, end_tokens: &end_tokens };
                StopPlan::new(device, &problem).unwrap()
            }).collect();
            let mut ws = Workspace::new(device).unwrap();
            let mut history = Vec::new();
            let mut stopped_at = vec![usize::MAX; agents];
            for (t, draws) in all.iter().enumerate() {
                let order = &orders[t / 7 % 2];
                let rows: Vec<Draw> = order.iter().map(|&a| draws[a]).collect();
                let after = step(&plans[t / 7 % 2], device, &state, &rows, &mut ws);
                let now = state.read().unwrap();
                for (row, &a) in after.iter().zip(order) {
                    let slot = now[slots - 1 - a];
                    prop_assert_eq!(is_silent(row), stopped_at[a] < t, "agent {} at {}", a, t);
                    if stopped_at[a] < t {
                        prop_assert!(slot.stopped.is_some() && slot.draws as usize == stopped_at[a] + 1);
                        continue;
                    }
                    // Everything it drew, and the mean of the last window of that.
                    prop_assert_eq!(slot.draws as usize, t + 1);
                    let drawn: Vec<f64> = all[..=t].iter().map(|d| f64::from(d[a].1)).collect();
                    let group = (t + 1 >= window).then(|| drawn[t + 1 - window..].iter().sum::<f64>() / window as f64);
                    match group {
                        Some(mean) if mean.is_nan() => prop_assert!(slot.group_confidence.is_nan()),
                        Some(mean) => prop_assert!((f64::from(slot.group_confidence) - mean).abs() <= 1e-6 * mean),
                        None => prop_assert!(slot.group_confidence.is_nan() && slot.stopped != Some(Stopped::Confidence)),
                    }
                    if slot.stopped.is_some() {
                        stopped_at[a] = t;
                    }
                }
                history.push((bits(&now), after));
            }
            let want = want.get_or_insert_with(|| history.clone());
            for (t, (got, want)) in history.iter().zip(want.iter()).enumerate() {
                let same = got.0.iter().zip(&want.0).all(|(g, w)| {
                    let (a, b) = (f32::from_bits(g.2), f32::from_bits(w.2));
                    (g.0, g.1) == (w.0, w.1) && (g.2 == w.2 || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * b)
                });
                prop_assert!(same && got.1.iter().map(|r| r[0]).eq(want.1.iter().map(|r| r[0])), "step {} on {}", t, device);
            }
        }
    }
}

#[test]
fn refusals() {
    for device in devices() {
        let rows = [StopRow { slot: 0, budget: 0 }, StopRow { slot: 3, budget: 0 }];
        let good = StopProblem { rows: &rows, slots: 4, window: 2, threshold: 0.0, end_tokens: &[] };
        let names = |e: Error, want: &str| match e {
            Error::Invalid { op: "stop", argument, .. } if argument == want => {}
            other => panic!("{want}: {other}"),
        };
        let refused = |problem: StopProblem, want| names(StopPlan::new(device, &problem).unwrap_err(), want);
        refused(StopProblem { slots: 3, ..good }, "rows");
        refused(StopProblem { rows: &[rows[0], rows[0]], ..good }, "rows");
        refused(StopProblem { window: 0, ..good }, "window");
        refused(StopProblem { threshold: f32::NAN, ..good }, "threshold");
        refused(StopProblem { threshold: f32::INFINITY, ..good }, "threshold");
        names(StopState::new(device, 0, 1).unwrap_err(), "slots");
        names(StopState::new(device, 1, 0).unwrap_err(), "slots");
        names(StopState::new(device, usize::MAX, 2).unwrap_err(), "slots");
        let plan = StopPlan::new(device, &good).unwrap();
        let state = StopState::new(device, 4, 2).unwrap();
        names(state.start(4).unwrap_err(), "slot");
        let (enough, short) = (Buffer::zeros(device, 32).unwrap(), Buffer::zeros(device, 16).unwrap());
        let other = StopState::new(device, 4, 3).unwrap();
        let mut ws = Workspace::new(device).unwrap();
        names(plan.run(&StopArgs { sampled: &short, state: &state }, &mut ws).unwrap_err(), "sampled");
        names(plan.run(&StopArgs { sampled: &enough, state: &other }, &mut ws).unwrap_err(), "state");
        for foreign in devices().iter().filter(|d| d.kind() != device.kind()) {
            let state = StopState::new(foreign, 4, 2).unwrap();
            assert!(plan.run(&StopArgs { sampled: &enough, state: &state }, &mut ws).is_err());
        }
        let none = StopPlan::new(device, &StopProblem { rows: &[], ..good }).unwrap();
        none.run(&StopArgs { sampled: &short, state: &state }, &mut ws).unwrap();
        assert!(state.read().unwrap().iter().all(|s| s.stopped.is_none()));
    }
}
