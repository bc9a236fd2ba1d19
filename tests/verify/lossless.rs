//! Drafts change how many tokens come out per step, and nothing else.

use colatent::DType::F32;
use colatent::sampling::{Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::verify::{DraftTree, Verified, VerifyArgs, VerifyOutput, VerifyPlan, VerifyProblem};
use colatent::{Buffer, Device, Tensor, Workspace};

use super::words;
use crate::harness::{Rng, devices};

const VOCAB: usize = 12;

/// A model: logits are a function of what was said so far. No token is rare: chi-square wants 5 of each.
fn logits(said: &[u32]) -> Vec<f32> {
    let seed = said.iter().fold(17u64, |h, &t| (h ^ u64::from(t)).wrapping_mul(0x100_0000_01b3));
    Rng(seed).values(VOCAB).iter().map(|x| 1.2 * x.clamp(-1.0, 1.0)).collect()
}

fn problem(rows: Vec<SamplingRow>) -> SamplingProblem {
    SamplingProblem { logits_dtype: F32, rows, vocab: VOCAB, output_multiplier: 1.0, soft_cap: None, seed: 99 }
}

/// Draws a row for each context.
fn draw(device: &Device, rows: Vec<SamplingRow>, contexts: &[Vec<u32>]) -> Buffer {
    let values: Vec<f32> = contexts.iter().flat_map(|c| logits(c)).collect();
    let logits = Tensor::from_f32(device, F32, &[rows.len(), VOCAB], &values).unwrap();
    let out = Buffer::zeros(device, SamplingOutput::bytes(rows.len())).unwrap();
    let plan = SamplingPlan::new(device, &problem(rows)).unwrap();
    plan.run(&SamplingArgs { logits: &logits, out: &out }, &mut Workspace::new(device).unwrap()).unwrap();
    out
}

fn verified(device: &Device, trees: &[DraftTree], rows: usize, sampled: &Buffer, drafts: &[u32]) -> Vec<Verified> {
    let plan = VerifyPlan::new(device, &VerifyProblem { trees, rows }).unwrap();
    let out = Buffer::zeros(device, plan.output_bytes()).unwrap();
    let args = VerifyArgs { sampled, drafts: &words(device, drafts), out: &out };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    VerifyOutput::read(&plan, &out).unwrap()
}

/// What a drafter proposes: a tree with tokens. It guesses right about half the time.
fn propose(rng: &mut Rng, said: &[u32], likely: bool) -> (Vec<u32>, Vec<u32>) {
    let mut parents: Vec<u32> = Vec::new();
    let mut tokens = Vec::new();
    let mut contexts = vec![said.to_vec()];
    for i in 0..rng.below(9) {
        let parent = i - rng.below(i.min(3) + 1);
        let values = logits(&contexts[parent]);
        let best = (0..VOCAB).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap() as u32;
        let token = if likely && rng.below(3) > 0 { best } else { rng.below(VOCAB) as u32 };
        parents.push(parent as u32);
        tokens.push(token);
        contexts.push([contexts[parent].as_slice(), &[token]].concat());
    }
    (parents, tokens)
}

#[test]
fn decoding_with_drafts_is_decoding_without() {
    const LENGTH: usize = 24;
    let kinds = [
        SamplingRow { temperature: 0.0, ..SamplingRow::default() },
        SamplingRow::default(),
        SamplingRow { temperature: 0.7, top_k: 4, top_p: 0.9, ..SamplingRow::default() },
    ];
    for device in devices() {
        for (agent, kind) in (0u32..).zip(kinds) {
            let row = |step: usize| SamplingRow { agent, step: step as u32, ..kind };
            let mut plain: Vec<Sampled> = Vec::new();
            let mut said: Vec<u32> = Vec::new();
            for step in 0..LENGTH {
                let out = draw(device, vec![row(step)], &[said.clone()]);
                plain.push(SamplingOutput::read(&out, 1).unwrap()[0]);
                said.push(plain[step].token);
            }
            for likely in [false, true] {
                let mut rng = Rng(5 + u64::from(agent));
                let (mut with, mut steps): (Vec<Sampled>, usize) = (Vec::new(), 0);
                while with.len() < LENGTH {
                    let so_far: Vec<u32> = with.iter().map(|s| s.token).collect();
                    let (parents, drafted) = propose(&mut rng, &so_far, likely);
                    let tree = DraftTree { first_row: 0, parents };
                    // Every row reads its own path.
                    let mut contexts = vec![so_far.clone()];
                    for (&parent, &token) in tree.parents.iter().zip(&drafted) {
                        contexts.push([contexts[parent as usize].as_slice(), &[token]].concat());
                    }
                    let rows = tree.depths().iter().map(|&d| row(with.len() + d as usize)).collect();
                    let sampled = draw(device, rows, &contexts);
                    let drafts = [&[0], drafted.as_slice()].concat();
                    let verdict = &verified(device, &[tree], contexts.len(), &sampled, &drafts)[0];
                    let all = SamplingOutput::read(&sampled, contexts.len()).unwrap();
                    let from = [0].into_iter().chain(verdict.path.iter().copied());
                    with.extend(from.map(|row| all[row as usize]));
                    assert_eq!(with[with.len() - 1].token, verdict.token);
                    assert_eq!(with[with.len() - 1].log_prob.to_bits(), verdict.log_prob.to_bits());
                    steps += 1;
                }
                assert_eq!(with[..LENGTH], plain[..], "{kind:?}, likely drafts: {likely}, on {device}");
                assert!(!likely || steps < LENGTH, "no draft was accepted: {kind:?} on {device}");
            }
        }
    }
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let e: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
    let total: f64 = e.iter().sum();
    e.into_iter().map(|x| x / total).collect()
}

/// Chi-square of counts against probabilities.
fn chi_square(count: &[usize], p: &[f64]) -> f64 {
    let n = count.iter().sum::<usize>() as f64;
    count.iter().zip(p).map(|(&c, p)| (c as f64 - n * p).powi(2) / (n * p)).sum()
}

/// The 99.9 % quantile of chi-square with 11 degrees of freedom.
const QUANTILE: f64 = 31.26;

#[test]
fn frequencies_follow_the_target_whatever_is_drafted() {
    const N: usize = 20_000;
    let first = softmax(&logits(&[]));
    let mut likely: Vec<u32> = (0..VOCAB as u32).collect();
    likely.sort_by(|&a, &b| first[b as usize].total_cmp(&first[a as usize]));
    for device in devices() {
        let mut rng = Rng(3);
        // Per agent two first tokens in a tree, the second with a child; drafted from another law.
        let (mut rows, mut contexts, mut drafts, mut trees) = (vec![], vec![], vec![], vec![]);
        for agent in 0..N as u32 {
            let a = likely[rng.below(2)];
            let b = (a + 1 + rng.below(7) as u32) % VOCAB as u32;
            let tree = DraftTree { first_row: 4 * agent, parents: vec![0, 0, 2] };
            rows.extend(tree.depths().iter().map(|&step| SamplingRow { agent, step, ..SamplingRow::default() }));
            contexts.extend([vec![], vec![a], vec![b], vec![b, 3]]);
            drafts.extend([0, a, b, 3]);
            trees.push(tree);
        }
        let sampled = draw(device, rows, &contexts);
        let all = SamplingOutput::read(&sampled, 4 * N).unwrap();
        let got = verified(device, &trees, 4 * N, &sampled, &drafts);
        let mut count = [0; VOCAB];
        let mut second = [[0; VOCAB]; VOCAB];
        let (mut accepted, mut expected, mut variance) = (0, 0.0, 0.0);
        for (i, v) in got.iter().enumerate() {
            let token = all[4 * i].token as usize;
            count[token] += 1;
            let children = drafts[4 * i + 1..4 * i + 3].iter().map(|&d| first[d as usize]).sum::<f64>();
            (expected, variance) = (expected + children, variance + children * (1.0 - children));
            if let Some(&row) = v.path.first() {
                accepted += 1;
                second[token][all[row as usize].token as usize] += 1;
            }
        }
        let chi = chi_square(&count, &first);
        assert!(chi < QUANTILE, "first tokens: chi-square {chi} on {device}");
        // Second tokens of the most frequent accepted first token, given that token.
        let most = (0..VOCAB).max_by_key(|&t| second[t].iter().sum::<usize>()).unwrap();
        assert!(second[most].iter().sum::<usize>() > 1000);
        let chi = chi_square(&second[most], &softmax(&logits(&[most as u32])));
        assert!(chi < QUANTILE, "second tokens: chi-square {chi} on {device}");
        let off = (f64::from(accepted) - expected) / variance.sqrt();
        assert!(off.abs() < 4.0, "{accepted} accepted of {expected} expected: {off} standard deviations on {device}");
    }
}

#[test]
fn a_drafter_that_shares_the_noise_is_accepted_more_often() {
    const N: usize = 20_000;
    let (p, q) = (logits(&[]), logits(&[5]));
    let q: Vec<f32> = p.iter().zip(&q).map(|(p, q)| 0.7 * p + 0.3 * q).collect(); // a drafter knows something
    let (law, drafted_law) = (softmax(&p), softmax(&q));
    let distance: f64 = law.iter().zip(&drafted_law).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0;
    let independent: f64 = law.iter().zip(&drafted_law).map(|(a, b)| a * b).sum();
    for device in devices() {
        let tokens = |values: &[f32], seed| {
            let rows = (0..N as u32).map(|agent| SamplingRow { agent, ..SamplingRow::default() }).collect();
            let row = Tensor::from_f32(device, F32, &[VOCAB], values).unwrap();
            let logits = Tensor::with_strides(row.buffer().clone(), F32, 0, &[N, VOCAB], &[0, 1]).unwrap();
            let out = Buffer::zeros(device, SamplingOutput::bytes(N)).unwrap();
            let plan = SamplingPlan::new(device, &SamplingProblem { seed, ..problem(rows) }).unwrap();
            plan.run(&SamplingArgs { logits: &logits, out: &out }, &mut Workspace::new(device).unwrap()).unwrap();
            SamplingOutput::read(&out, N).unwrap().iter().map(|s| s.token).collect::<Vec<u32>>()
        };
        let target = tokens(&p, 99);
        let share = |drafted: &[u32]| {
            let trees: Vec<DraftTree> = (0..N as u32).map(|i| DraftTree::chain(2 * i, 1)).collect();
            let sampled: Vec<u32> = target.iter().flat_map(|&t| [t, 0, 0, 0, 0, 0, 0, 0]).collect();
            let drafts: Vec<u32> = drafted.iter().flat_map(|&d| [0, d]).collect();
            let got = verified(device, &trees, 2 * N, &words(device, &sampled), &drafts);
            got.iter().map(|v| v.path.len()).sum::<usize>() as f64 / N as f64
        };
        let sigma = 0.5 / (N as f64).sqrt();
        let (shared, own) = (share(&tokens(&q, 99)), share(&tokens(&q, 98)));
        assert!(shared > (1.0 - distance) / (1.0 + distance) - 4.0 * sigma, "{shared} at distance {distance}");
        assert!(shared < 1.0 - distance + 4.0 * sigma, "more than any rule can: {shared} at distance {distance}");
        assert!((own - independent).abs() < 4.0 * sigma, "{own}, noise of its own: {independent}");
        eprintln!("accepted: {shared:.3} with shared noise, {own:.3} with its own, distance {distance:.3}, {device}");
    }
}
