//! Drafts change when tokens come and never which: trees and blocks in the launch of all agents, and the acceptance rule.
//!
//! Power of the chi-square test, with fixed seeds: 5 tokens, 4 degrees of freedom, the 99.9 % quantile. A law that is off by
//! v in total variation has a noncentrality of at least n (2 v)^2: of 20 000 first tokens v = 0.03 gives 72, of the second
//! tokens, 5000 or more, v = 0.055 gives 60; each is seen with probability above 0.999.

use colatent::Device;
use colatent::ensemble::{Ensemble, Input, Mode, Rules, Spawn, Thinking, Tree, rejection};
use colatent::kv::{Join, Modality};
use proptest::prelude::*;

use super::mind::{Mind, drawn, hashed, tokens};
use super::{scene, spawns, step, warm};
use crate::harness::{Rng, devices};

const CHI_SQUARE_4: f64 = 18.467;

fn tree() -> Tree {
    // 0 -> 1 -> 2, 1 -> 3, 0 -> 4, and 5 -> 6 beside it.
    let parents = [None, Some(0), Some(1), Some(1), Some(0), None, Some(5)];
    Tree::new((600..607).collect(), parents.to_vec()).unwrap()
}

#[test]
fn a_tree_is_in_depth_first_order() {
    let t = tree();
    assert_eq!((0..7).map(|n| t.depth(n)).collect::<Vec<_>>(), [1, 2, 3, 3, 2, 1, 2]);
    assert_eq!((t.child(None, 605), t.child(Some(0), 604), t.child(Some(0), 605)), (Some(5), Some(4), None));
    for parents in [vec![Some(0)], vec![None, None, Some(0)], vec![Some(1), None], vec![None]] {
        assert!(
            Tree::new(vec![1; if parents.len() == 1 && parents[0].is_none() { 2 } else { parents.len() }], parents)
                .is_err()
        );
    }
}

/// Every node sees its ancestors and nothing else of the tree; its position is its depth.
#[test]
fn a_node_sees_its_ancestors() {
    let (mut memory, mut cache, mut e, root, ids) = scene(Mode::Isolated, 5, 2);
    step(&mut memory, &mut cache, &mut e);
    let pages = cache.used_pages();
    e.propose(ids[1], tree()).unwrap();
    let batch = e.step(&mut cache).unwrap();
    memory.write(&batch);
    assert_eq!(batch.draws.len(), 1 + 8);
    let steps: Vec<u32> = batch.draws.iter().map(|d| d.sampling.step).collect();
    assert_eq!(steps, [1, 1, 2, 3, 4, 4, 3, 2, 3]);
    let mut row = 0;
    for rows in &batch.rows {
        for i in 0..rows.len {
            let seen = tokens(&memory.seen(&cache, rows.view, rows.first_slot + i as i32));
            if let Input::Token(token @ 600..) = batch.inputs[row] {
                let n = (token - 600) as usize;
                let mut path = vec![token];
                let mut node = n;
                while let Some(parent) = tree().parent(node) {
                    path.insert(0, 600 + parent as u32);
                    node = parent;
                }
                assert_eq!(seen[7..], path[..], "node {n}");
                assert_eq!(batch.positions[row], [6 + tree().depth(n) as i32; 4]);
            }
            row += 1;
        }
    }
    // Accept 0 -> 4, then something else: the other branches leave, their pages with them.
    let mut taken: Vec<_> = (0..9).map(|_| drawn(3)).collect();
    (taken[1].token, taken[2].token, taken[6].token) = (600, 604, 11);
    e.accept(&mut cache, &taken).unwrap();
    assert_eq!(e.agent(ids[1]).unwrap().tokens[1..], [600, 604, 11]);
    let batch = step(&mut memory, &mut cache, &mut e);
    let seen = memory.seen(&cache, batch.rows[1].view, batch.rows[1].first_slot);
    assert_eq!(tokens(&seen)[7..], [600, 604, 11]);
    assert_eq!(seen.iter().map(|s| s.1).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert!(cache.used_pages() <= pages + 2, "a branch of its own is a segment of its own");
    ids.iter().for_each(|&id| e.retire(&mut cache, id).unwrap());
    e.step(&mut cache).unwrap();
    cache.release(root).unwrap();
    assert_eq!(cache.used_pages(), 0, "the view before the branch is given up");
}

/// Three agents of other temperatures over a prompt of 20 tokens, 12 tokens each, with drafts from `draft(agent, said)`:
/// what they said, and in how many steps.
fn say(device: &Device, seed: u64, mut draft: impl FnMut(usize, &[u32]) -> Option<Tree>) -> (Vec<Vec<u32>>, usize) {
    let mut mind = Mind::new(device);
    let (root, _) = mind.prompt(&(0..20).collect::<Vec<_>>());
    let mut e = Ensemble::new(seed, Mode::Isolated, Rules::default()).unwrap();
    let spawn = |(s, t): (Spawn, f32)| Spawn { sampling: warm(t), max_tokens: 12, ..s };
    let all: Vec<Spawn> = spawns(3).into_iter().zip([0.0, 1.0, 1.5]).map(spawn).collect();
    let ids = e.spawn(&mut mind.cache, root, &all).unwrap();
    let mut steps = 0;
    while e.alive().count() > 0 {
        for (i, &id) in ids.iter().enumerate() {
            let agent = e.agent(id).unwrap();
            if let Some(tree) = draft(i, &agent.tokens).filter(|_| steps > 0 && agent.is_alive()) {
                e.propose(id, tree).unwrap();
            }
        }
        mind.step(&mut e);
        steps += 1;
    }
    (ids.iter().map(|&id| e.agent(id).unwrap().tokens.clone()).collect(), steps)
}

/// Up to 9 nodes of tokens that may well be right.
fn random_tree(rng: &mut Rng) -> Tree {
    let mut parents: Vec<Option<u32>> = Vec::new();
    for n in 0..1 + rng.below(9) as u32 {
        // The node before, or an ancestor of it, or none.
        let mut parent = n.checked_sub(1);
        while parent.is_some() && rng.below(3) == 0 {
            parent = parents[parent.unwrap() as usize];
        }
        parents.push(parent);
    }
    Tree::new(parents.iter().map(|_| rng.below(4) as u32).collect(), parents).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    /// L35, L40: greedy or warm, with good drafts, bad drafts or none, an agent says the same tokens; good drafts take fewer
    /// steps. All agents and their drafts share each launch.
    #[test]
    fn drafts_never_change_a_token(seed: u64) {
        for device in devices() {
            let (plain, steps) = say(device, seed, |_, _| None);
            prop_assert_eq!((plain.iter().map(Vec::len).collect::<Vec<_>>(), steps), (vec![12; 3], 12));
            let mut rng = Rng(seed);
            prop_assert_eq!(&say(device, seed, |_, _| Some(random_tree(&mut rng))).0, &plain, "{}: random drafts", device);
            // A wrong branch, then the right one.
            let right = |i: usize, said: &[u32]| {
                let next: Vec<u32> = plain[i][said.len()..].iter().copied().take(3).collect();
                let parents = (0..next.len() as u32).map(|k| k.checked_sub(1).map(|p| p + 1));
                Tree::new([&[99], &next[..]].concat(), [None].into_iter().chain(parents).collect()).ok()
            };
            let (good, fewer) = say(device, seed, right);
            prop_assert_eq!(&good, &plain, "{}: good drafts", device);
            prop_assert_eq!(fewer, 4, "{}: one token, then four a step", device);
        }
    }
}

/// Stops hold inside a draft: an end token, a budget and a close token cut it.
#[test]
fn a_stop_cuts_a_draft() {
    let rules = Rules { end_tokens: vec![9], confidence: None };
    for (right, limit, want) in [(vec![5, 9, 6], 99, vec![0, 5, 9]), (vec![5, 6, 8], 3, vec![0, 5, 6])] {
        let (_, mut cache, _, root, _) = scene(Mode::Isolated, 5, 0);
        let mut e = Ensemble::new(1, Mode::Isolated, rules.clone()).unwrap();
        let id =
            e.spawn(&mut cache, root, &[Spawn { suffix: vec![1], max_tokens: limit, ..Spawn::default() }]).unwrap()[0];
        e.step(&mut cache).unwrap();
        e.accept(&mut cache, &[drawn(0)]).unwrap();
        e.propose(id, Tree::chain(right.clone())).unwrap();
        e.step(&mut cache).unwrap();
        let taken: Vec<_> = right.iter().chain([&7]).map(|&t| drawn(t)).collect();
        e.accept(&mut cache, &taken).unwrap();
        assert_eq!(e.agent(id).unwrap().tokens, want);
        assert!(!e.agent(id).unwrap().is_alive());
        assert!(e.propose(id, Tree::chain(vec![1])).is_err());
        // Prompt, suffix, 0, and 5: the last token is not fed yet, or never.
        assert_eq!(cache.view(e.agent(id).unwrap().view.unwrap()).unwrap().next_slot(), 8);
    }
    let (_, mut cache, mut e, root, _) = scene(Mode::Isolated, 5, 0);
    let spawn = Spawn { suffix: vec![1], thinking: Some(Thinking { budget: 2, close: 7 }), ..Spawn::default() };
    let id = e.spawn(&mut cache, root, &[spawn]).unwrap()[0];
    e.step(&mut cache).unwrap();
    e.accept(&mut cache, &[drawn(0)]).unwrap();
    e.propose(id, Tree::chain(vec![5, 6, 8])).unwrap();
    e.step(&mut cache).unwrap();
    e.accept(&mut cache, &[5, 6, 8, 4].map(drawn)).unwrap();
    assert_eq!(e.agent(id).unwrap().tokens, [0, 5, 7], "the close token is forced in the middle of a draft");
    assert!(e.propose(id, Tree::chain(vec![5])).is_err(), "the answer begins a segment of its own");
}

/// A block sees its agent's context and itself; it leaves no trace, and agents that read each other may draft too.
#[test]
fn a_draft_block_is_a_scratch_view() {
    let (mut memory, mut cache, mut e, _, ids) = scene(Mode::Isolated, 5, 3);
    step(&mut memory, &mut cache, &mut e);
    let (pages, agents) = (cache.used_pages(), e.agents().to_vec());
    let block = e.draft_blocks(&mut cache, 16).unwrap();
    memory.write(&block);
    assert_eq!((block.inputs.len(), block.rows.len(), block.draws.len()), (48, 3, 45));
    assert_eq!(block.inputs[16..18], [Input::Token(hashed(1, 0)), Input::Mask]);
    assert_eq!(block.positions[16..32], (6..22).map(|p| [p; 4]).collect::<Vec<_>>());
    assert!(block.draws.iter().all(|d| d.sampling.temperature == 0.0));
    for (rows, &id) in block.rows.iter().zip(&block.agents) {
        let spans = cache.segment(cache.view(rows.view).unwrap().entries().last().unwrap().segment).unwrap().spans();
        assert_eq!((spans.len(), spans[0].modality, spans[0].len), (1, Modality::Draft, 16));
        assert_ne!(Some(rows.view), e.agent(id).unwrap().view);
    }
    assert_eq!(e.agents(), agents, "an agent is not changed");
    e.propose(ids[0], Tree::chain(vec![1; 15])).unwrap();
    step(&mut memory, &mut cache, &mut e);
    assert!(cache.used_pages() <= pages + 1 + 3);
    assert!(e.draft_blocks(&mut cache, 1).is_err());
    let live = Mode::Live { positions: Join::Parallel, every: 1 };
    let (mut memory, mut cache, mut e, _, _) = scene(live, 5, 2);
    step(&mut memory, &mut cache, &mut e);
    assert_eq!(e.draft_blocks(&mut cache, 4).unwrap().inputs.len(), 8);
}

fn chi_square(counts: &[u32], p: &[f32]) -> f64 {
    let n: u32 = counts.iter().sum();
    counts
        .iter()
        .zip(p)
        .map(|(&c, &p)| (f64::from(c) - f64::from(n) * f64::from(p)).powi(2) / (f64::from(n) * f64::from(p)))
        .sum()
}

fn uniform(rng: &mut Rng) -> f32 {
    (rng.next() >> 40) as f32 / (1u64 << 24) as f32
}

/// L40: whatever the draft's distribution, what comes out has the target's: the first token, and the second given any first.
#[test]
fn speculative_sampling_is_lossless() {
    let first = [0.3f32, 0.25, 0.2, 0.15, 0.1];
    let second = [0.1f32, 0.4, 0.1, 0.2, 0.2];
    let third = [0.2f32; 5];
    for (seed, draft) in
        [(1, [0.1f32, 0.1, 0.2, 0.3, 0.3]), (2, [0.3, 0.25, 0.2, 0.15, 0.1]), (3, [0.0, 0.0, 0.9, 0.1, 0.0])]
    {
        let mut rng = Rng(seed);
        let (mut counts, mut seconds, mut accepted) = ([0u32; 5], [0u32; 5], 0);
        let draw = |p: &[f32], u: f32| {
            let mut sum = 0.0;
            p.iter()
                .position(|w| {
                    sum += w;
                    u < sum
                })
                .unwrap_or(2) as u32
        };
        for _ in 0..20_000 {
            let drafted = [draw(&draft, uniform(&mut rng)), draw(&draft, uniform(&mut rng))];
            let uniforms = [0; 3].map(|_| uniform(&mut rng));
            let got = rejection::accept(&[&first, &second, &third], &[&draft, &draft], &drafted, &uniforms).unwrap();
            let said = [&drafted[..got.len], &[got.next]].concat();
            counts[said[0] as usize] += 1;
            accepted += got.len;
            if said.len() > 1 {
                seconds[said[1] as usize] += 1;
            }
        }
        assert!(chi_square(&counts, &first) < CHI_SQUARE_4, "draft {draft:?}: {counts:?}");
        assert!(chi_square(&seconds, &second) < CHI_SQUARE_4, "draft {draft:?}: {seconds:?}");
        let overlap: f32 = first.iter().zip(&draft).map(|(p, q)| p.min(*q)).sum();
        let overlap_2: f32 = second.iter().zip(&draft).map(|(p, q)| p.min(*q)).sum();
        let want = f64::from(overlap * (1.0 + overlap_2)) * 20_000.0;
        assert!((accepted as f64 - want).abs() < 600.0, "accepted {accepted}, expected {want}");
    }
}

#[test]
fn the_acceptance_rule_by_hand() {
    let (a, b) = ([1.0f32, 0.0], [0.0f32, 1.0]);
    let got = |target: &[&[f32]], drafted: &[u32]| {
        rejection::accept(target, &vec![&[0.5f32, 0.5][..]; drafted.len()], drafted, &[0.5; 3]).unwrap()
    };
    let both = got(&[&a, &b, &a], &[0, 1]);
    assert_eq!((both.len, both.next), (2, 0), "greedy: both are what the target says");
    let none = got(&[&a, &b, &a], &[1, 1]);
    assert_eq!((none.len, none.next), (0, 0));
    let (row, q) = ([0.5f32, 0.5], [1.0f32, 0.0]);
    assert!(rejection::accept(&[&row], &[&q], &[0], &[0.5, 0.5]).is_err(), "a row more than drafts");
    assert!(rejection::accept(&[&row, &row], &[&q], &[1], &[0.5, 0.5]).is_err(), "the draft cannot draw 1");
    assert!(rejection::accept(&[&row, &row], &[&q], &[7], &[0.5, 0.5]).is_err());
    assert!(rejection::accept(&[&row, &row[..1]], &[&q], &[0], &[0.5, 0.5]).is_err());
    assert!(rejection::accept(&[], &[], &[], &[]).is_err());
}
