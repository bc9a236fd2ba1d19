//! Who reads whom, at which positions, and what it costs.

use colatent::ensemble::{Batch, Ensemble, Mode, Spawn, Tree};
use colatent::kv::{Join, KvCache, Modality};

use proptest::prelude::*;

use super::mind::{Memory, Mind, drawn, spec, tokens};
use super::{ensemble, scene, spawns, step};
use crate::harness::{Rng, compare, devices};
use colatent::attention::{AttentionPlan, AttentionProblem};
use colatent::{DType, Device};

const LIVE: Mode = Mode::Live { positions: Join::Sequential, every: 1 };

/// L31: at step t an agent sees the prompt, what each other agent was fed before step t (before the round, if they meet
/// now and then), in the order of agents, and all of its own. Positions go on without a gap, up to the query's own.
#[test]
fn an_agent_sees_exactly_what_was_fed_before_its_step() {
    for every in [1, 3] {
        for positions in [Join::Sequential, Join::Parallel] {
            let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Live { positions, every }, 5, 4);
            let mut fed: Vec<Vec<u32>> = vec![Vec::new(); 4];
            let mut shown = fed.clone();
            for t in 0..8 {
                if t % every == 0 {
                    shown = fed.clone();
                }
                let now: Vec<u32> = if t == 0 {
                    (500..504).collect()
                } else {
                    ids.iter().map(|&id| e.agent(id).unwrap().tokens[t as usize - 1]).collect()
                };
                let batch = e.step(&mut cache).unwrap();
                let drawn = memory.draw(&batch);
                for (a, rows) in batch.rows.iter().enumerate() {
                    fed[a].push(now[a]);
                    let seen = memory.seen(&cache, rows.view, rows.first_slot);
                    let others = (0..4).filter(|&b| b != a).flat_map(|b| shown[b].clone());
                    let want: Vec<u32> = (1000..1005).chain(others).chain(fed[a].clone()).collect();
                    assert_eq!(tokens(&seen), want, "agent {a}, step {t}, rounds of {every}");
                    let at: Vec<i32> = seen.iter().map(|s| s.1).collect();
                    let query = batch.positions[a][0];
                    match positions {
                        Join::Sequential => {
                            assert_eq!(
                                at,
                                (query + 1 - at.len() as i32..=query).collect::<Vec<_>>(),
                                "agent {a}, step {t}"
                            );
                        }
                        Join::Parallel => {
                            let thought = |n: usize| 5..5 + n as i32;
                            let others = (0..4).filter(|&b| b != a).flat_map(|b| thought(shown[b].len()));
                            let want: Vec<i32> = (0..5).chain(others).chain(thought(fed[a].len())).collect();
                            assert_eq!(at, want, "agent {a}, step {t}");
                        }
                    }
                }
                e.accept(&mut cache, &drawn).unwrap();
            }
        }
    }
}

/// The same for children of agents and for drafts: a token that is seen twice is shown once.
#[test]
fn relatives_and_drafts_read_each_other() {
    let (mut memory, mut cache, mut e, _, ids) = scene(LIVE, 5, 2);
    (0..3).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let child = e.spawn_from(&mut cache, ids[0], &[Spawn { suffix: vec![77], ..Spawn::default() }]).unwrap()[0];
    step(&mut memory, &mut cache, &mut e);
    // Two branches, of which the hash picks neither.
    e.propose(child, Tree::new(vec![600, 601, 602], vec![None, Some(0), None]).unwrap()).unwrap();
    let batch = e.step(&mut cache).unwrap();
    let drawn = memory.draw(&batch);
    for (rows, &id) in batch.rows.iter().zip(&batch.agents) {
        let seen = tokens(&memory.seen(&cache, rows.view, rows.first_slot + rows.len as i32 - 1));
        let mut once = seen.clone();
        once.sort_unstable();
        // Said tokens may repeat by chance; those of prompt, suffixes and drafts must not.
        let named: Vec<u32> = once.into_iter().filter(|t| *t >= 77).collect();
        assert!(named.windows(2).all(|w| w[0] < w[1]), "{id:?} sees {seen:?}");
        assert!(seen.contains(&500) && seen.contains(&501), "{id:?} sees {seen:?}");
    }
    let views: Vec<_> = batch.rows.iter().map(|r| r.view).collect();
    assert!(views.len() >= 4, "a branch has rows of its own");
    e.accept(&mut cache, &drawn).unwrap();
}

/// A published note is read from the next step on, at the positions that follow, and stays when its author is gone.
#[test]
fn a_published_note_is_read_in_turn() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 3);
    (0..4).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let author = e.agent(ids[0]).unwrap();
    let note: Vec<u32> = author.tokens[1..3].to_vec();
    let pages = cache.used_pages();
    e.publish(&mut cache, ids[0], 7..9, &[ids[1], ids[2]]).unwrap();
    assert_eq!(cache.used_pages(), pages);
    assert!(e.publish(&mut cache, ids[0], 7..9, &[ids[0]]).is_err());
    assert!(e.publish(&mut cache, ids[0], 7..99, &[ids[1]]).is_err());
    e.retire(&mut cache, ids[0]).unwrap();
    let own = e.agent(ids[1]).unwrap().tokens.clone();
    let batch = step(&mut memory, &mut cache, &mut e);
    let seen = memory.seen(&cache, batch.rows[0].view, batch.rows[0].first_slot);
    let want = [&(1000..1005).collect::<Vec<_>>()[..], &[501], &own[..3], &note[..], &own[3..4]].concat();
    assert_eq!(tokens(&seen), want);
    assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    assert!(ensemble(LIVE).publish(&mut cache, ids[1], 0..1, &[]).is_err(), "everything is visible");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

    /// What agents read is one sequence in a row: attention over a reading is attention over a plain view of the same
    /// tokens. L32: where nothing was shown yet, agents are alone, bit for bit.
    #[test]
    fn reading_each_other_is_reading_one_sequence(prompt in 1u32..60, n in 2usize..5, steps in 2u32..5) {
        let prompt: Vec<u32> = (0..prompt).collect();
        for device in devices() {
            let mut mind = Mind::new(device);
            let (root, _) = mind.prompt(&prompt);
            let never = Mode::Live { positions: Join::Sequential, every: u32::MAX };
            let mut answers: Vec<Vec<Vec<f32>>> = Vec::new();
            for mode in [LIVE, Mode::Isolated, never] {
                let mut e = ensemble(mode);
                e.spawn(&mut mind.cache, root, &spawns(n)).unwrap();
                let mut outs = Vec::new();
                let mut fed: Vec<Vec<u32>> = vec![Vec::new(); n];
                for t in 0..steps {
                    let batch = e.step(&mut mind.cache).unwrap();
                    let out = mind.attend(&batch);
                    let shown = fed.clone();
                    for a in 0..n {
                        fed[a].push(if t == 0 { 500 + a as u32 } else { 30 * a as u32 + t - 1 });
                        if mode == LIVE {
                            let others = (0..n).filter(|&b| b != a).flat_map(|b| shown[b].clone());
                            let all: Vec<u32> = prompt.iter().copied().chain(others).chain(fed[a].clone()).collect();
                            let want = one_sequence(&mut Mind::new(device), &all);
                            let (what, got) = (format!("{device}: agent {a}, step {t}"), &out[a * 64..(a + 1) * 64]);
                            compare(&what, got, &want, DType::F32).map_err(TestCaseError::fail)?;
                        }
                    }
                    outs.push(out);
                    let drawn: Vec<_> = (0..n as u32).map(|a| drawn(30 * a + t)).collect();
                    e.accept(&mut mind.cache, &drawn).unwrap();
                }
                for id in e.agents().iter().map(|a| a.id).collect::<Vec<_>>() {
                    e.retire(&mut mind.cache, id).unwrap();
                }
                e.step(&mut mind.cache).unwrap();
                answers.push(outs);
            }
            prop_assert_eq!(&answers[1], &answers[2], "{}: blind to each other, and isolated", device);
            prop_assert_eq!(&answers[0][0], &answers[1][0], "{}: nothing is shown in the first step", device);
            prop_assert_ne!(&answers[0][1], &answers[1][1], "{}", device);
        }
    }
}

/// The output of the last row of a plain view. Keys and values do not depend on what is seen, in a model of one layer.
fn one_sequence(mind: &mut Mind, all: &[u32]) -> Vec<f32> {
    let view = mind.cache.create();
    let appended = mind.cache.append(view, Modality::Text, all.len()).unwrap();
    let mut batch = Batch::default();
    mind.cache.write_places(&appended, &mut batch.places).unwrap();
    batch.inputs = all.iter().map(|&t| colatent::ensemble::Input::Token(t)).collect();
    batch.positions = (0..all.len() as i32).map(|p| [p; 4]).collect();
    batch.rows.push(appended.into());
    let out = mind.attend(&batch);
    out[out.len() - 64..].to_vec()
}

fn tiles(device: &Device, cache: &KvCache, batch: &Batch) -> u64 {
    let spec = spec();
    let problem = AttentionProblem { spec: &spec, cache, rows: &batch.rows };
    AttentionPlan::new(device, &problem).unwrap().stats().tiles_loaded
}

/// Reading everybody costs the K/V tiles of reading oneself, as long as the rows fit a tile of queries.
#[test]
fn reading_each_other_loads_the_tiles_of_isolated_agents() {
    for device in devices().iter().filter(|d| d.kind() != "reference") {
        for agents in [2, 7, 16] {
            let grow = |mode: Mode| -> Vec<u64> {
                let mut rng = Rng(agents as u64);
                let (mut memory, mut cache) = (Memory::default(), KvCache::new(16, 400).unwrap());
                let root = memory.prompt(&mut cache, 300);
                let mut e: Ensemble = ensemble(mode);
                let spawn = |s: Spawn| Spawn { suffix: vec![1; 1 + rng.below(15)], ..s };
                let spawns: Vec<Spawn> = spawns(agents).into_iter().map(spawn).collect();
                e.spawn(&mut cache, root, &spawns).unwrap();
                let mut counts = Vec::new();
                for t in 0..60 {
                    let batch = e.step(&mut cache).unwrap();
                    if t % 9 == 5 {
                        counts.push(tiles(device, &cache, &batch));
                    }
                    let drawn = memory.draw(&batch);
                    e.accept(&mut cache, &drawn).unwrap();
                }
                counts
            };
            let isolated = grow(Mode::Isolated);
            assert_eq!(grow(LIVE), isolated, "{device}: {agents} agents");
            assert_eq!(grow(Mode::Live { positions: Join::Parallel, every: 4 }), isolated, "{device}: {agents} agents");
        }
    }
}
