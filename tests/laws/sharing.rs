//! Sharing: every way to the same context is the same context, and no way touches anybody else's.

use colatent::kv::{Birth, Death, Join, Lifetimes, Modality, ViewId};
use colatent::layer::LayerSpec;
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Tensor, Workspace};
use proptest::prelude::*;

use super::stream::{Rows, Stream, any_storage, at, close, names, rotating};
use crate::harness::scene::Answer;
use crate::harness::{Rng, compare, devices, poisoned};

/// Merges one state per answer.
fn merged(stream: &Stream, parts: &[Answer]) -> Answer {
    let (spec, device, n) = (&stream.spec, &stream.device, parts.len());
    let (heads, dim) = (spec.num_q_heads, spec.head_dim_v);
    let index: Vec<u32> = (0..n as u32).collect();
    let problem = MergeProblem { spec, indptr: &[0, n as u32], index: &index, num_states: n };
    let plan = MergePlan::new(device, &problem).unwrap();
    let all = |part: fn(&Answer) -> &[f32]| parts.iter().flat_map(part).copied().collect::<Vec<f32>>();
    let states = Tensor::from_f32(device, DType::F32, &[n, heads, dim], &all(|p| &p.out)).unwrap();
    let state_lse = Tensor::from_f32(device, DType::F32, &[n, heads], &all(|p| &p.lse)).unwrap();
    let constants = colatent::layer::LayerConstants::new(device, spec, Default::default()).unwrap();
    let (out, lse) = (poisoned(device, spec.dtype, &[1, heads, dim]), poisoned(device, DType::F32, &[1, heads]));
    let args = MergeArgs {
        states: &states,
        state_lse: &state_lse,
        constants: &constants,
        gate: None,
        out: &out,
        lse: Some(&lse),
    };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    Answer { out: out.read_f32().unwrap(), lse: lse.read_f32().unwrap() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// L1: attention over parts of the keys, merged, is attention over all of them.
    #[test]
    fn parts_merge_to_the_whole(tokens in 1usize..200, cuts in prop::collection::vec(0usize..200, 0..5), seed: u64) {
        let mut ends: Vec<i32> = cuts.iter().map(|&c| c.min(tokens) as i32).chain([0, tokens as i32]).collect();
        ends.sort_unstable();
        for device in devices() {
            let mut stream = Stream::new(device, &rotating());
            let view = stream.cache.create();
            let row = stream.append(view, names(seed, 0, tokens)).last();
            let whole = stream.ask(&row);
            let parts: Vec<Answer> = ends
                .windows(2)
                .map(|part| {
                    let view = stream.cache.fork(view).unwrap();
                    stream.cache.drop_range(view, 0..part[0]).unwrap();
                    stream.cache.drop_range(view, part[1]..tokens as i32).unwrap();
                    stream.ask(&row.of(view))
                })
                .collect();
            close(&format!("{device}: {ends:?}"), &merged(&stream, &parts), &whole)?;
        }
    }

    /// L5, L6: an output lies between the values of its keys; every key twice leaves it and adds ln 2 to the lse.
    #[test]
    fn outputs_are_averages(tokens in 1usize..100, seed: u64) {
        for device in devices() {
            let mut stream = Stream::new(device, &LayerSpec::new(8, 2, 32));
            let (once, twice) = (stream.cache.create(), stream.cache.create());
            let row = stream.append(once, names(seed, 0, tokens)).last();
            let got = stream.ask(&row);
            let (places, v) = (stream.cache.places(once, 0..tokens as i32).unwrap(), stream.v.read_f32().unwrap());
            for (i, &x) in got.out.iter().enumerate() {
                let (head, lane) = (i / 32 / 4, i % 32);
                let of = |&place: &u32| v[((place as usize / 16 * 2 + head) * 16 + place as usize % 16) * 32 + lane];
                let low = places.iter().map(of).fold(f32::INFINITY, f32::min);
                let high = places.iter().map(of).fold(f32::NEG_INFINITY, f32::max);
                let room = DType::F32.tolerance().atol;
                prop_assert!(low - room <= x && x <= high + room, "{device}: {x} outside {low}..{high}");
            }
            stream.append(twice, names(seed, 0, tokens));
            let row = stream.append(twice, names(seed, 0, tokens)).last();
            let want = Answer { lse: got.lse.iter().map(|l| l + std::f32::consts::LN_2).collect(), ..got };
            close(&format!("{device}: twice"), &stream.ask(&row), &want)?;
        }
    }

    /// L8, L11, L24: a fork that goes on, at any token of its parent, is one prefill of the same tokens.
    #[test]
    fn a_fork_is_an_independent_prefill(shared in 1usize..100, own in 1usize..60, past in 0usize..20, seed: u64) {
        for device in devices() {
            let mut forked = Stream::new(device, &any_storage(seed));
            let parent = forked.cache.create();
            // The parent has gone on before it is forked.
            forked.append(parent, names(seed, 0, shared).chain(names(seed, 9, past)));
            let child = forked.cache.fork_at(parent, shared as i32).unwrap();
            // Decoded one by one.
            let decoded: Vec<Rows> = names(seed, 1, own).map(|name| forked.append(child, [name])).collect();

            let mut prefilled = Stream::new(device, &any_storage(seed));
            let view = prefilled.cache.create();
            let rows = prefilled.append(view, names(seed, 0, shared).chain(names(seed, 1, own))).slice(shared, own);
            close(&format!("{device}"), &forked.attend(&decoded), &prefilled.attend(&[rows]))?;
        }
    }

    /// L12: where positions travel with the keys, a later row does not mind the order in which they were appended.
    #[test]
    fn slots_mean_nothing_to_a_later_row(order in Just((0..60u64).collect::<Vec<_>>()).prop_shuffle(), seed: u64) {
        for device in devices() {
            let [sorted, shuffled] = [&(0..60).collect::<Vec<u64>>(), &order].map(|order| {
                let mut stream = Stream::new(device, &rotating());
                let view = stream.cache.create();
                let positions: Vec<[i32; 4]> = order.iter().map(|&i| at(i as i32)).collect();
                stream.append_at(view, order.iter().map(|i| seed ^ i), &positions);
                let row = stream.append(view, [!seed]);
                stream.ask(&row)
            });
            close(&format!("{device}"), &shuffled, &sorted)?;
        }
    }

    /// L25: what a child appends changes no byte that its parent or its siblings see, and no bit of their outputs.
    #[test]
    fn children_touch_nobody(shared in 1usize..60, own in 1usize..40, seed: u64) {
        for device in devices() {
            let mut stream = Stream::new(device, &rotating());
            let parent = stream.cache.create();
            let mut rows = vec![stream.append(parent, names(seed, 0, shared)).last()];
            let sibling = stream.cache.fork(parent).unwrap();
            rows.push(stream.append(sibling, names(seed, 1, own)).last());
            let seen = |stream: &Stream, view: ViewId| -> Vec<u32> {
                let places = stream.cache.places(view, 0..stream.cache.view(view).unwrap().next_slot()).unwrap();
                let (k, v) = (stream.k.read_f32().unwrap(), stream.v.read_f32().unwrap());
                let lanes = |place: u32, head: usize| {
                    let at = ((place as usize / 16 * 2 + head) * 16 + place as usize % 16) * 32;
                    k[at..at + 32].iter().chain(&v[at..at + 32]).map(|x| x.to_bits()).collect::<Vec<u32>>()
                };
                places.iter().flat_map(|&place| [lanes(place, 0), lanes(place, 1)].concat()).collect()
            };
            let before = ([parent, sibling].map(|view| seen(&stream, view)), stream.attend(&rows));
            let child = stream.cache.fork(parent).unwrap();
            stream.append(child, names(seed, 2, own));
            let after = ([parent, sibling].map(|view| seen(&stream, view)), stream.attend(&rows));
            prop_assert!(before == after, "{device}");
        }
    }

    /// L29: a reader of joined branches is a reader of their tokens one behind the other, at the branches' own positions
    /// or at positions that go on. A join of one branch is a fork.
    #[test]
    fn a_join_is_a_concatenation(shared in 1usize..60, own in prop::collection::vec(1usize..30, 1..5), seed: u64) {
        for device in devices() {
            let mut stream = Stream::new(device, &rotating());
            let root = stream.cache.create();
            stream.append(root, names(seed, 0, shared));
            let branches = stream.cache.fork_many(root, own.len()).unwrap();
            for (i, (&branch, &n)) in branches.iter().zip(&own).enumerate() {
                stream.append(branch, names(seed, 1 + i as u64, n));
            }
            let (longest, all) = (own.iter().max().copied().unwrap_or(0), own.iter().sum::<usize>());
            for (how, reader_at) in [(Join::Parallel, shared + longest), (Join::Sequential, shared + all)] {
                let joined = stream.cache.join(&branches, how).unwrap();
                prop_assert_eq!(stream.cache.view(joined).unwrap().next_position(), reader_at as i32);
                let row = stream.append(joined, [!seed]);

                let mut plain = Stream::new(device, &rotating());
                let view = plain.cache.create();
                plain.append(view, names(seed, 0, shared));
                let mut next = shared as i32;
                for (i, &n) in own.iter().enumerate() {
                    let positions: Vec<[i32; 4]> = (next..).take(n).map(at).collect();
                    plain.append_at(view, names(seed, 1 + i as u64, n), &positions);
                    next += if how == Join::Sequential { n as i32 } else { 0 };
                }
                let same = plain.append_at(view, [!seed], &[at(reader_at as i32)]);
                close(&format!("{device} {how:?}"), &stream.ask(&row), &plain.ask(&same))?;

                let alone = stream.cache.join(&branches[..1], how).unwrap();
                let fork = stream.cache.fork(branches[0]).unwrap();
                let [alone, fork] = [alone, fork].map(|view| stream.append(view, [!seed]));
                prop_assert_eq!(stream.ask(&alone), stream.ask(&fork), "{}: a join of one", device);
            }
        }
    }

    /// L31: agents that append side by side and publish after every step see, at step t, all of their own tokens up to
    /// t and exactly the tokens before t of every sibling. Scores are all 0 and each token has a lane of its own in V,
    /// so the output is the list of what was seen; pages that nobody wrote hold NaN.
    #[test]
    fn published_steps_are_seen_from_the_next_step_on(agents in 1usize..5, steps in 1usize..7, prompt in 1usize..5) {
        let spec = LayerSpec::new(8, 2, 32);
        let layout = spec.packed();
        let packed = |lane: usize| {
            let mut row = vec![0.0; layout.width];
            (0..2).for_each(|head| row[layout.v.offset + head * layout.v.head_stride + lane] = 1.0);
            row
        };
        let lane = |agent: usize, step: usize| prompt + agent * steps + step;
        for device in devices() {
            let mut stream = Stream::new(device, &spec);
            let root = stream.cache.create();
            stream.append_packed(root, &(0..prompt).flat_map(packed).collect::<Vec<_>>(), &vec![at(0); prompt]);
            let views = stream.cache.fork_many(root, agents).unwrap();
            for step in 0..steps {
                let rows: Vec<Rows> =
                    (0..agents).map(|a| stream.append_packed(views[a], &packed(lane(a, step)), &[at(0)])).collect();
                let got = stream.attend(&rows).out;
                for a in 0..agents {
                    let seen = |l: usize| match l.checked_sub(prompt).map(|l| (l / steps, l % steps)) {
                        None => true,
                        Some((agent, at)) => agent < agents && if agent == a { at <= step } else { at < step },
                    };
                    let n = (0..32).filter(|&l| seen(l)).count() as f32;
                    let want: Vec<f32> = (0..8 * 32).map(|i| if seen(i % 32) { 1.0 / n } else { 0.0 }).collect();
                    let (what, got) = (format!("{device}: agent {a} at step {step}"), &got[a * 256..(a + 1) * 256]);
                    compare(&what, got, &want, DType::F32).map_err(TestCaseError::fail)?;
                }
                for (from, to) in (0..agents).flat_map(|a| (0..agents).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                    let slot = rows[from].rows.first_slot;
                    stream.cache.share(views[from], slot..slot + 1, views[to], [0; 4]).unwrap();
                }
            }
        }
    }

    /// L32: an agent that is given everybody's tokens and is blind to them is an agent that was never given any.
    #[test]
    fn blind_to_its_siblings_is_alone(
        prompt in 1usize..80, others in prop::collection::vec(1usize..20, 1..5), own in 1usize..20, seed: u64,
    ) {
        for device in devices() {
            let mut stream = Stream::new(device, &rotating());
            let root = stream.cache.create();
            stream.append(root, names(seed, 0, prompt));
            let agent = stream.cache.fork(root).unwrap();
            let first = stream.cache.view(agent).unwrap().next_slot();
            for (i, &n) in others.iter().enumerate() {
                let other = stream.cache.fork(root).unwrap();
                let slots = stream.append(other, names(seed, 2 + i as u64, n)).rows;
                stream.cache.share(other, slots.first_slot..slots.first_slot + n as i32, agent, [0; 4]).unwrap();
            }
            let given = first..stream.cache.view(agent).unwrap().next_slot();
            let rows = stream.append(agent, names(seed, 1, own));
            let blind = stream.ask(&rows.without(given.clone()));
            let alone = stream.cache.fork(agent).unwrap();
            stream.cache.drop_range(alone, given).unwrap();
            prop_assert_eq!(&blind, &stream.ask(&rows.of(alone)), "{}: blind, or without their tokens", device);

            let mut plain = Stream::new(device, &rotating());
            let view = plain.cache.create();
            let rows = plain.append(view, names(seed, 0, prompt).chain(names(seed, 1, own))).slice(prompt, own);
            close(&format!("{device}"), &blind, &plain.ask(&rows))?;
        }
    }
}

/// L7: a key that outweighs all others gives its value, bit for bit.
#[test]
fn one_huge_score_returns_its_value() {
    let spec = LayerSpec { softmax_scale: 1.0, lifetimes: Lifetimes::causal(), ..LayerSpec::new(8, 2, 32) };
    let layout = spec.packed();
    for device in devices() {
        let mut stream = Stream::new(device, &spec);
        let view = stream.cache.create();
        let mut rows: Vec<f32> = names(7, 0, 60).flat_map(|name| Rng(name).values(layout.width)).collect();
        for row in rows.chunks_mut(layout.width) {
            (0..8).for_each(|head| row[layout.q.offset + head * layout.q.head_stride] = 1.0);
            (0..2).for_each(|head| row[layout.k.offset + head * layout.k.head_stride] = 0.0);
        }
        let huge = &mut rows[37 * layout.width..38 * layout.width];
        (0..2).for_each(|head| huge[layout.k.offset + head * layout.k.head_stride] = 1e4);
        let v: Vec<f32> = (0..8)
            .flat_map(|head| {
                let at = layout.v.offset + head / 4 * layout.v.head_stride;
                huge[at..at + 32].to_vec()
            })
            .collect();
        let row = stream.append_packed(view, &rows, &vec![at(0); 60]).last();
        assert_eq!(stream.ask(&row).out, v, "{device}");
    }
}

/// L13: agents who think the same have the same bits, and those of one alone.
#[test]
fn identical_agents_are_identical() {
    for device in devices() {
        let mut stream = Stream::new(device, &rotating());
        let root = stream.cache.create();
        stream.append(root, names(3, 0, 90));
        let rows: Vec<Rows> = (0..20)
            .map(|_| {
                let agent = stream.cache.fork(root).unwrap();
                stream.append(agent, names(3, 1, 5)).last()
            })
            .collect();
        let (all, alone) = (stream.attend(&rows), stream.ask(&rows[7]));
        assert_eq!(all.out, alone.out.repeat(20), "{device}");
        assert_eq!(all.lse, alone.lse.repeat(20), "{device}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    /// L42: attention across agents, at one step: every agent's token is a key for all of them. Permuted agents get permuted
    /// outputs; one alone gets its own value.
    #[test]
    fn attention_across_agents_is_permutation_equivariant(
        order in (1usize..18).prop_flat_map(|n| Just((0..n).collect::<Vec<_>>()).prop_shuffle()), seed: u64,
    ) {
        let spec = LayerSpec {
            lifetimes: Lifetimes::causal().with(Modality::Text, Birth::SpanStart, Death::Never),
            ..LayerSpec::new(8, 2, 32)
        };
        let (layout, agents) = (spec.packed(), order.len());
        let row = |agent: usize| Rng(seed ^ agent as u64).values(layout.width);
        for device in devices() {
            let ask = |order: &[usize]| {
                let mut stream = Stream::new(device, &spec);
                let view = stream.cache.create();
                let packed: Vec<f32> = order.iter().flat_map(|&a| row(a)).collect();
                let rows = stream.append_packed(view, &packed, &vec![at(0); order.len()]);
                stream.ask(&rows).out
            };
            let (plain, permuted) = (ask(&(0..agents).collect::<Vec<_>>()), ask(&order));
            let want: Vec<f32> = order.iter().flat_map(|&a| plain[a * 256..(a + 1) * 256].to_vec()).collect();
            compare(&format!("{device}: {agents} agents"), &permuted, &want, DType::F32).map_err(TestCaseError::fail)?;
            let value = |head: usize| layout.v.offset + head / 4 * layout.v.head_stride;
            let v: Vec<f32> = (0..8).flat_map(|head| row(0)[value(head)..value(head) + 32].to_vec()).collect();
            prop_assert_eq!(ask(&[0]), v, "{}", device);
        }
    }
}
