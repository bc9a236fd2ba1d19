//! Spawning, retiring, beams, and a long life.

use colatent::Error;
use colatent::ensemble::{AgentId, Ensemble, Input, Insertion, Item, Mode, Rules, Spawn, Stopped, Tree};
use colatent::kv::{Join, KvCache, Modality, ViewId};
use proptest::prelude::*;

use super::mind::{Memory, Mind, hashed, tokens};
use super::{ensemble, scene, spawns, step, warm};
use crate::harness::{Rng, devices};

#[test]
fn a_spawn_takes_no_page_and_reads_what_its_view_holds() {
    let (mut memory, mut cache, mut e, root, ids) = scene(Mode::Isolated, 10, 3);
    assert_eq!(cache.used_pages(), 3);
    let batch = step(&mut memory, &mut cache, &mut e);
    assert_eq!(batch.inputs, [500, 501, 502].map(Input::Token));
    assert_eq!(batch.positions, [[10; 4]; 3]);
    assert_eq!(
        batch.draws.iter().map(|d| (d.agent, d.row)).collect::<Vec<_>>(),
        [(ids[0], 0), (ids[1], 1), (ids[2], 2)]
    );
    let agent = e.agent(ids[1]).unwrap();
    let (view, said) = (agent.view.unwrap(), agent.tokens.clone());
    let prompt: Vec<u32> = (1000..1010).collect();
    assert_eq!(tokens(&memory.all(&cache, view)), [&prompt[..], &[501]].concat());

    // A child of an agent is fed what its parent was about to be fed, and its own suffix.
    let before = cache.used_pages();
    let child = e.spawn_from(&mut cache, ids[1], &[Spawn { suffix: vec![9, 8], ..Spawn::default() }]).unwrap()[0];
    assert_eq!(cache.used_pages(), before);
    assert_eq!(e.agent(child).unwrap().pending, [said[0], 9, 8].map(Item::Token));
    step(&mut memory, &mut cache, &mut e);
    let view = e.agent(child).unwrap().view.unwrap();
    let seen = memory.all(&cache, view);
    assert_eq!(tokens(&seen), [&prompt[..], &[501, said[0], 9, 8]].concat());
    assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), (0..14).collect::<Vec<_>>());

    for id in [ids[0], ids[1], ids[2], child] {
        e.retire(&mut cache, id).unwrap();
        assert_eq!(e.agent(id).unwrap().stopped, Some(Stopped::Retired));
        assert!(e.retire(&mut cache, id).is_err(), "a view is given up once");
    }
    cache.release(root).unwrap();
    assert_eq!(cache.used_pages(), 0);
    e.compact();
    assert!(e.agents().is_empty());
}

#[test]
fn a_span_enters_in_the_middle_of_a_thought() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 2);
    step(&mut memory, &mut cache, &mut e);
    // A picture of 2 x 3 patches: text goes on behind the greatest coordinate.
    let offsets = (0..6).map(|i| [0, i / 3, i % 3, 0]).collect();
    e.insert(ids[0], Insertion { modality: Modality::Image, offsets, tag: 0 }).unwrap();
    let batch = step(&mut memory, &mut cache, &mut e);
    assert_eq!(batch.rows.iter().map(|r| r.len).collect::<Vec<_>>(), [1, 6, 1]);
    assert_eq!(batch.positions[1..7].iter().map(|p| p[2]).collect::<Vec<_>>(), [7, 8, 9, 7, 8, 9]);
    let draws: Vec<u32> = batch.draws.iter().map(|d| d.row).collect();
    assert_eq!(draws, [6, 7], "the looker goes on from the last patch");
    let batch = step(&mut memory, &mut cache, &mut e);
    assert_eq!(batch.positions, [[10; 4], [7; 4]]);
}

#[test]
fn a_step_without_room_changes_nothing() {
    let (mut memory, mut cache) = (Memory::default(), KvCache::new(4, 4).unwrap());
    let root = memory.prompt(&mut cache, 8);
    let mut e = ensemble(Mode::Isolated);
    e.spawn(&mut cache, root, &spawns(3)).unwrap();
    let (free, agents) = (cache.free_pages(), e.agents().to_vec());
    for _ in 0..2 {
        assert!(matches!(e.step(&mut cache), Err(Error::PoolFull { .. })));
        assert_eq!((cache.free_pages(), e.agents()), (free, &agents[..]));
    }
    e.retire(&mut cache, agents[0].id).unwrap();
    step(&mut memory, &mut cache, &mut e);
}

#[test]
fn what_does_not_fit_the_flow_is_refused() {
    let (mut memory, mut cache, mut e, root, ids) = scene(Mode::Isolated, 5, 2);
    let idle = e.spawn(&mut cache, root, &[Spawn::default()]).unwrap()[0];
    assert!(e.step(&mut cache).is_err(), "an agent without anything to be fed");
    assert_eq!(e.sampling_rows(&[idle]).unwrap()[0].agent, 2);
    e.begin(&[idle], &[super::mind::drawn(3)]).unwrap();
    assert!(e.begin(&[idle], &[super::mind::drawn(3)]).is_err());
    let batch = e.step(&mut cache).unwrap();
    assert!(e.step(&mut cache).is_err(), "a batch is in flight");
    assert!(e.accept(&mut cache, &[]).is_err());
    assert!(e.join(&mut cache, &ids, Join::Parallel, &spawns(1)[0]).is_err());
    let drawn = memory.draw(&batch);
    e.accept(&mut cache, &drawn).unwrap();
    assert!(e.agent(AgentId(77)).is_err());
    assert!(e.join(&mut cache, &ids, Join::Parallel, &Spawn::default()).is_err(), "no row to begin from");
    assert!(Ensemble::new(1, Mode::Live { positions: Join::Parallel, every: 0 }, Rules::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// L35: tokens depend on (seed, stream, step) and on what the agent saw. Alone, among others, in another order, with
    /// others dying: the same tokens.
    #[test]
    fn tokens_do_not_depend_on_company(
        len in 1u32..70, streams in prop::sample::subsequence((0..9u32).collect::<Vec<_>>(), 4),
        order in Just([0usize, 1, 2, 3]).prop_shuffle(), turn in 0usize..5, fall in 0usize..5, gone in 0usize..4,
    ) {
        let prompt: Vec<u32> = (0..len).map(|i| i % 11).collect();
        for device in devices() {
            // Streams and what they said, in the order of streams.
            let think = |streams: &[u32], is_disturbed: bool| -> Vec<(u32, Vec<u32>)> {
                let mut mind = Mind::new(device);
                let (root, logits) = mind.prompt(&prompt);
                let mut e = ensemble(Mode::Isolated);
                let spawn = |&s: &u32| Spawn { stream: Some(s), sampling: warm(1.0 + s as f32 / 4.0), ..Spawn::default() };
                let ids = e.spawn(&mut mind.cache, root, &streams.iter().map(spawn).collect::<Vec<_>>()).unwrap();
                let rows = e.sampling_rows(&ids).unwrap();
                let first = mind.sample(&e, rows, &vec![logits; ids.len()]);
                e.begin(&ids, &first).unwrap();
                for t in 0..5 {
                    if is_disturbed && t == turn {
                        e.reorder(&order.map(|i| ids[i]));
                    }
                    if is_disturbed && t == fall {
                        e.retire(&mut mind.cache, ids[gone]).unwrap();
                        e.compact();
                    }
                    mind.step(&mut e);
                }
                let mut said: Vec<_> = e.agents().iter().map(|a| (a.sampling.agent, a.tokens.clone())).collect();
                said.sort();
                said
            };
            let all = think(&streams, false);
            prop_assert!(all.iter().any(|a| a.1 != all[0].1), "{}: siblings draw for themselves: {:?}", device, all);
            let others: Vec<_> = all.iter().filter(|a| a.0 != streams[gone]).cloned().collect();
            prop_assert_eq!(think(&streams, true), others, "{}", device);
            prop_assert_eq!(think(&[streams[gone]], false), [all[gone].clone()], "{}: alone", device);
            let twice = [streams[turn % 4]; 2];
            prop_assert_eq!(think(&twice, false), [&all[turn % 4], &all[turn % 4]].map(Clone::clone), "{}: one stream", device);
        }
    }

    /// L24, L28: a child of an agent is an agent that was fed the same from the start.
    #[test]
    fn a_nested_spawn_is_an_independent_prefill(len in 1u32..60, before in 1usize..7, after in 1usize..6, own in 0u32..20) {
        for device in devices() {
            let mut mind = Mind::new(device);
            let (root, _) = mind.prompt(&(0..len).map(|i| i % 19).collect::<Vec<_>>());
            let mut e = ensemble(Mode::Isolated);
            let parent = e.spawn(&mut mind.cache, root, &spawns(1)).unwrap()[0];
            (0..before).for_each(|_| drop(mind.step(&mut e)));
            let suffix: Vec<u32> = [&[500], &e.agent(parent).unwrap().tokens[..], &[own]].concat();
            let nested = Spawn { suffix: vec![own], stream: Some(40), ..Spawn::default() };
            let child = e.spawn_from(&mut mind.cache, parent, std::slice::from_ref(&nested)).unwrap()[0];
            let plain = e.spawn(&mut mind.cache, root, &[Spawn { suffix, ..nested }]).unwrap()[0];
            (0..after).for_each(|_| drop(mind.step(&mut e)));
            let said = |id| e.agent(id).unwrap().tokens.clone();
            prop_assert_eq!(said(child), said(plain), "{}", device);
        }
    }
}

/// L28: beams go on from any parent, and move nothing.
#[test]
fn beams_follow_any_parent() {
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 6, 4);
        let mut said: Vec<Vec<u32>> = (0..4).map(|i| vec![500 + i]).collect();
        for round in 0..12 {
            let batch = e.step(&mut cache).unwrap();
            memory.write(&batch);
            let parents: Vec<usize> = (0..4).map(|_| rng.below(4)).collect();
            let pairs: Vec<_> = parents.iter().enumerate().map(|(i, &p)| (ids[i], ids[p])).collect();
            let pages = cache.used_pages();
            e.reparent(&mut cache, &pairs).unwrap();
            assert_eq!(cache.used_pages(), pages);
            let drawn: Vec<_> = (0..4).map(|i| super::mind::drawn(10 * round + i)).collect();
            e.accept(&mut cache, &drawn).unwrap();
            said = parents.iter().map(|&p| said[p].clone()).collect();
            for (i, beam) in said.iter().enumerate() {
                let agent = e.agent(ids[i]).unwrap();
                let seen = memory.all(&cache, agent.view.unwrap());
                assert_eq!(tokens(&seen)[6..], beam[..], "seed {seed}, beam {i}");
                assert_eq!(agent.sampling.step as usize, agent.tokens.len());
            }
            said.iter_mut().enumerate().for_each(|(i, beam)| beam.push(10 * round + i as u32));
        }
    }
}

/// Gives an agent up, and with it the pages that it said were its own.
fn retire(cache: &mut KvCache, e: &mut Ensemble, id: AgentId) {
    let (own, used) = (e.agent(id).unwrap().own_pages(cache).unwrap(), cache.used_pages());
    e.retire(cache, id).unwrap();
    assert_eq!((used - cache.used_pages(), e.agent(id).unwrap().own_pages(cache)), (own, Ok(0)));
}

/// Views that the test forked, and what they saw then: nobody may ever write there.
#[derive(Default)]
struct Watch(std::collections::VecDeque<(ViewId, Vec<(Input, i32)>)>);

impl Watch {
    fn look(&mut self, memory: &Memory, cache: &mut KvCache, view: ViewId) {
        let fork = cache.fork(view).unwrap();
        self.0.push_back((fork, memory.all(cache, fork)));
        if self.0.len() > 6 {
            self.look_again(memory, cache);
        }
        let held = (0..cache.num_pages() as u32).filter(|&p| cache.page_refs(p) > 0).count();
        assert_eq!(held, cache.used_pages(), "a page is held iff a view reaches it");
    }

    fn look_again(&mut self, memory: &Memory, cache: &mut KvCache) {
        let Some((view, saw)) = self.0.pop_front() else { return };
        assert_eq!(memory.all(cache, view), saw);
        cache.release(view).unwrap();
    }
}

/// 10 000 random calls; at the end every page is accounted for.
#[test]
fn a_long_life_loses_no_page() {
    let modes = [
        Mode::Isolated,
        Mode::Live { positions: Join::Sequential, every: 1 },
        Mode::Live { positions: Join::Parallel, every: 3 },
    ];
    for (seed, mode) in modes.into_iter().enumerate() {
        let mut rng = Rng(seed as u64);
        let (mut memory, mut cache) = (Memory::default(), KvCache::new(4, 300).unwrap());
        let root = memory.prompt(&mut cache, 12);
        let mut e = ensemble(mode);
        let (mut full, mut steps, mut watch) = (0, 0, Watch::default());
        for call in 0..10_000 {
            let ids: Vec<AgentId> = e.agents().iter().filter(|a| a.view.is_some()).map(|a| a.id).collect();
            let any = |rng: &mut Rng| ids[rng.below(ids.len())];
            let spawn = Spawn { suffix: vec![500], max_tokens: 20 + rng.below(40) as u32, ..Spawn::default() };
            let kind = if ids.is_empty() { 0 } else { rng.below(24) };
            match kind {
                0 if ids.len() < 12 => drop(e.spawn(&mut cache, root, &[spawn]).unwrap()),
                1 if ids.len() < 12 => drop(e.spawn_from(&mut cache, any(&mut rng), &[spawn]).unwrap()),
                2 if ids.len() < 12 => {
                    let (a, b) = (any(&mut rng), any(&mut rng));
                    let how = [Join::Parallel, Join::Sequential][rng.below(2)];
                    e.join(&mut cache, &[a, b], how, &spawn).unwrap();
                }
                3 => {
                    let (a, b) = (any(&mut rng), any(&mut rng));
                    let view = e.agent(a).unwrap().view.unwrap();
                    let end = cache.view(view).unwrap().next_slot();
                    let published = e.publish(&mut cache, a, end - 1..end, &[b]);
                    assert_eq!(published.is_ok(), a != b && mode == Mode::Isolated);
                }
                4 => {
                    let id = any(&mut rng);
                    let agent = e.agent(id).unwrap();
                    let (first, view) = (agent.first_slot, agent.view.unwrap());
                    let end = cache.view(view).unwrap().next_slot();
                    let kept: Vec<bool> = (first..end).map(|s| s + 3 >= end || rng.below(2) == 0).collect();
                    let kinds = [colatent::kv::Lifetimes::causal()];
                    let evicted = e.evict(&mut cache, id, first..end, &kept, &kinds);
                    assert_eq!(evicted.is_ok(), mode == Mode::Isolated, "{evicted:?}");
                }
                5 => {
                    // A wrong branch, and one that is right twice. Refused for agents that cannot go on at their end.
                    let id = any(&mut rng);
                    let draw = e.agent(id).unwrap().sampling;
                    let right = [0, 1].map(|ahead| hashed(draw.agent, draw.step + ahead));
                    let parents = vec![None, None, Some(1), Some(1)];
                    drop(e.propose(id, Tree::new(vec![99, right[0], 98, right[1]], parents).unwrap()));
                }
                6 => {
                    let (a, b) = (any(&mut rng), any(&mut rng));
                    e.reparent(&mut cache, &[(a, b)]).unwrap();
                }
                7 => {
                    let id = any(&mut rng);
                    if e.agent(id).unwrap().is_alive() {
                        e.insert(id, Insertion::line(Modality::Image, 5, 0)).unwrap();
                    }
                }
                8 => {
                    let id = any(&mut rng);
                    let agent = e.agent(id).unwrap();
                    let (first, view) = (agent.first_slot, agent.view.unwrap());
                    let end = cache.view(view).unwrap().next_slot();
                    // Refused where something in between was evicted.
                    drop(e.restart(&mut cache, id, (end - 2).max(first)..end));
                }
                9..12 => {
                    retire(&mut cache, &mut e, any(&mut rng));
                    e.compact();
                }
                _ => match e.step(&mut cache) {
                    Ok(batch) => {
                        let drawn = memory.draw(&batch);
                        e.accept(&mut cache, &drawn).unwrap();
                        steps += 1;
                    }
                    Err(Error::PoolFull { .. }) => {
                        full += 1;
                        retire(&mut cache, &mut e, any(&mut rng));
                    }
                    Err(other) => panic!("call {call}: {other}"),
                },
            }
            if call % 20 == 0 && !e.agents().is_empty() {
                let agent = &e.agents()[rng.below(e.agents().len())];
                agent.view.into_iter().for_each(|view| watch.look(&memory, &mut cache, view));
            }
        }
        assert!(steps > 2000, "{mode:?}: {steps} steps, {full} without room");
        (0..6).for_each(|_| watch.look_again(&memory, &mut cache));
        for id in e.agents().iter().map(|a| a.id).collect::<Vec<_>>() {
            e.retire(&mut cache, id).ok();
        }
        e.step(&mut cache).unwrap();
        cache.release(root).unwrap();
        assert_eq!(cache.used_pages(), 0, "{mode:?}");
    }
}

/// A beam takes over another's history, its step included, and keeps its own name and noise.
#[test]
fn a_beam_goes_on_at_its_parents_step() {
    let (mut memory, mut cache, mut e, root, ids) = scene(Mode::Isolated, 6, 1);
    (0..3).for_each(|_| drop(step(&mut memory, &mut cache, &mut e)));
    let late =
        e.spawn(&mut cache, root, &[Spawn { suffix: vec![70], stream: Some(30), ..Spawn::default() }]).unwrap()[0];
    e.reparent(&mut cache, &[(late, ids[0])]).unwrap();
    assert!(e.reparent(&mut cache, &[(late, ids[0]), (late, ids[0])]).is_err(), "a child once");
    let (beam, parent) = (e.agent(late).unwrap(), e.agent(ids[0]).unwrap());
    assert_eq!((beam.sampling.step, beam.sampling.agent, beam.parent), (3, 30, Some(ids[0])));
    assert_eq!((&beam.tokens, &beam.pending), (&parent.tokens, &parent.pending));
    step(&mut memory, &mut cache, &mut e);
    let seen = |memory: &Memory, cache: &KvCache, e: &Ensemble, id| {
        tokens(&memory.all(cache, e.agent(id).unwrap().view.unwrap()))
    };
    assert_eq!(seen(&memory, &cache, &e, late), seen(&memory, &cache, &e, ids[0]));

    // A beam that has stopped has no draw in the batch: when it goes on elsewhere, `begin` takes its token.
    e.stop(late, Stopped::Decided).unwrap();
    let batch = e.step(&mut cache).unwrap();
    e.reparent(&mut cache, &[(late, ids[0])]).unwrap();
    let drawn = memory.draw(&batch);
    e.accept(&mut cache, &drawn).unwrap();
    e.begin(&[late], &[super::mind::drawn(3)]).unwrap();
    step(&mut memory, &mut cache, &mut e);
    let (beam, parent) = (seen(&memory, &cache, &e, late), seen(&memory, &cache, &e, ids[0]));
    assert_eq!((beam.split_last().unwrap().1, beam.last()), (parent.split_last().unwrap().1, Some(&3)));
}
