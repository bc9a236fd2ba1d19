//! verify: drafts that are accepted are tokens that the model drew.
//!
//! Proved: worked trees with the numbers written out, random trees against the definition, on every device; nothing
//! behind the output is written; decoding with drafts, good or bad, in chains or trees, gives the tokens and
//! log-probabilities of decoding without, bit for bit, greedy and sampled; frequencies of first and second tokens under
//! drafts from another law follow the target's softmax; the share of accepted places is the mass of the children; a
//! drafter that shares the noise is accepted as often as its theorem says; refusals.
//!
//! Power of the frequencies, with fixed seeds, against 99.9 % quantiles of chi-square: a law that is off by v in total
//! variation has a noncentrality of n * sum of d^2 / p, which is at least n (2 v)^2 (Cauchy, Schwarz). Of 20000 first tokens
//! v = 0.03 gives 72, and is seen with probability above 0.999 (11 degrees of freedom); of the second tokens, 1000 or more,
//! v = 0.13 is. A share of 20000 that is off by 0.03 is beyond 4 standard deviations with probability above 0.999.
//!
//! Planted bugs, each seen red and taken out again:
//! - kernel, and in turn the CUDA kernel, a child of the root counted as a child of whatever is current: random trees,
//!   decoding with drafts;
//! - kernel, the token of the draft reported instead of the row's own: worked and random trees, decoding with drafts;
//! - definition, a draft accepted under a later parent: the walk does not end;
//! - CUDA kernel, the path's rows counted from the sequence's first: worked and random trees; its end not marked: the same,
//!   by the guard value;
//! - rows drawn at the step of the root instead of their depth: decoding with drafts, frequencies, depths.
mod harness;

use colatent::sampling::NO_TOKEN;
use colatent::verify::{DraftTree, Verified, VerifyArgs, VerifyOutput, VerifyPlan, VerifyProblem};
use colatent::{Buffer, Device, Error, Workspace};
use harness::{Rng, devices};

#[path = "verify/lossless.rs"]
mod lossless;

fn words(device: &Device, words: &[u32]) -> Buffer {
    let buffer = Buffer::zeros(device, words.len() * 4).unwrap();
    buffer.write(0, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    buffer
}

/// One run over targets and drafts by row, with guard bytes after the output.
fn verify(device: &Device, trees: &[DraftTree], target: &[u32], drafts: &[u32]) -> Vec<Verified> {
    let sampled: Vec<u32> = target.iter().flat_map(|&t| [t, (-(t as f32)).to_bits(), 0x55, 0x66]).collect();
    let plan = VerifyPlan::new(device, &VerifyProblem { trees, rows: target.len() }).unwrap();
    let out = words(device, &vec![0xa5a5_a5a5; plan.output_bytes() / 4 + 16]);
    let args = VerifyArgs { sampled: &words(device, &sampled), drafts: &words(device, drafts), out: &out };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let bytes = out.read().unwrap();
    let (own, guard) = bytes.split_at(plan.output_bytes());
    assert!(guard.iter().all(|b| *b == 0xa5), "{plan}: wrote past its records");
    // Behind the end of a path every place is marked.
    let stride = plan.output_bytes() / trees.len().max(1);
    for record in own.chunks_exact(stride.max(1)) {
        let accepted = record[0] as usize;
        assert!(record[16 + 4 * accepted..].iter().all(|b| *b == 0xff), "{plan}: an unmarked place");
    }
    VerifyOutput::read(&plan, &out).unwrap()
}

/// A tree, targets and drafts by row (drafts from the second row on), and what comes of it: path and token.
type Worked<'a> = (&'a [u32], &'a [u32], &'a [u32], &'a [u32], u32);

#[test]
fn worked_trees() {
    const N: u32 = NO_TOKEN;
    #[rustfmt::skip]
    let table: &[Worked] = &[
        (&[], &[4], &[], &[], 4),
        (&[0, 1, 2], &[4, 5, 6, 7], &[4, 5, 6], &[1, 2, 3], 7), // all of a block
        (&[0, 1, 2], &[4, 5, 6, 7], &[4, 9, 6], &[1], 5), // the rest of a block falls with its second
        (&[0, 1, 2], &[4, 5, 6, 7], &[3, 5, 6], &[], 4),
        (&[0, 0, 0], &[4, 5, 6, 7], &[1, 4, 2], &[2], 6), // three first tokens
        (&[0, 0, 0], &[4, 5, 6, 7], &[4, 4, 4], &[1], 5), // of equals the first
        (&[0, 1, 1, 0, 4], &[8, 5, 6, 7, 3, 2], &[1, 5, 6, 8, 3], &[4, 5], 2), // the second subtree
        (&[0, 1, 1, 0, 4], &[8, 5, 6, 7, 3, 2], &[8, 4, 5, 8, 5], &[1, 3], 7), // a child of the current only
        (&[0, 1], &[N, 5, 6], &[N, 5], &[], N), // a row without a distribution accepts nothing
        (&[0, 1], &[4, N, 6], &[4, N], &[1], N),
        (&[0, 0, 1, 2], &[1, 2, 3, 4, 5], &[9, 1, 2, 3], &[2, 4], 5), // breadth first is an order, too
    ];
    for device in devices() {
        // All in one launch, each behind rows of the others that nobody owns.
        let (mut trees, mut target, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
        for (parents, targets, drafted, ..) in table {
            target.push(77);
            drafts.push(77);
            trees.push(DraftTree { first_row: target.len() as u32, parents: parents.to_vec() });
            target.extend_from_slice(targets);
            drafts.push(4); // of the first row: not read
            drafts.extend_from_slice(drafted);
        }
        let got = verify(device, &trees, &target, &drafts);
        for (i, ((_, targets, _, path, token), got)) in table.iter().zip(&got).enumerate() {
            let first = trees[i].first_row;
            let path: Vec<u32> = path.iter().map(|row| first + row).collect();
            let row = path.last().copied().unwrap_or(first);
            assert_eq!((&got.path, got.token, got.row), (&path, *token, row), "tree {i} on {device}");
            assert_eq!(got.log_prob.to_bits(), (-(targets[(row - first) as usize] as f32)).to_bits(), "on {device}");
        }
        assert!(verify(device, &[], &[1, 2], &[0, 0]).is_empty());
    }
}

#[test]
fn random_trees() {
    let mut rng = Rng(11);
    for _ in 0..20 {
        let (mut trees, mut rows) = (Vec::new(), 0);
        for _ in 0..1 + rng.below(90) {
            rows += rng.below(2);
            let parents: Vec<u32> = (0..rng.below(20)).map(|i| (i - rng.below(i.min(2) + 1)) as u32).collect();
            trees.push(DraftTree { first_row: rows as u32, parents });
            rows += trees[trees.len() - 1].rows();
        }
        let mut tokens = || (0..rows).map(|_| rng.below(3) as u32).collect::<Vec<u32>>();
        let (target, drafts) = (tokens(), tokens());
        let want = verify(&devices()[0], &trees, &target, &drafts);
        assert!(want.iter().zip(&trees).all(|(v, t)| v.path.len() <= t.parents.len()));
        for device in &devices()[1..] {
            assert_eq!(
                verify(device, &trees, &target, &drafts),
                want,
                "on {device}\n{trees:?}\n{target:?}\n{drafts:?}"
            );
        }
    }
}

#[test]
fn depths_count_from_the_last_accepted_token() {
    let tree = DraftTree { first_row: 9, parents: vec![0, 1, 1, 0, 4] };
    assert_eq!((tree.rows(), tree.depths()), (6, vec![0, 1, 2, 2, 1, 2]));
    assert_eq!(DraftTree::chain(2, 3), DraftTree { first_row: 2, parents: vec![0, 1, 2] });
    assert_eq!(DraftTree::chain(0, 0).depths(), [0]);
}

#[test]
fn refusals() {
    for device in devices() {
        let plan = |trees: &[DraftTree], rows| VerifyPlan::new(device, &VerifyProblem { trees, rows });
        let names = |e: Error, want: &str| match e {
            Error::Invalid { op: "verify", argument, .. } if argument == want => {}
            other => panic!("{want}: {other}"),
        };
        names(plan(&[DraftTree::chain(2, 3)], 5).unwrap_err(), "trees");
        names(plan(&[DraftTree::chain(u32::MAX, 3)], 5).unwrap_err(), "trees");
        names(plan(&[DraftTree::chain(0, 2), DraftTree::chain(2, 1)], 5).unwrap_err(), "trees");
        names(plan(&[DraftTree { first_row: 0, parents: vec![0, 2] }], 5).unwrap_err(), "parents");
        let plan = plan(&[DraftTree::chain(1, 3)], 5).unwrap();
        assert_eq!(plan.output_bytes(), 32);
        let (sampled, drafts, out) = (words(device, &[0; 20]), words(device, &[0; 8]), words(device, &[0; 8]));
        let short = words(device, &[0; 4]);
        for (want, args) in [
            ("sampled", VerifyArgs { sampled: &short, drafts: &drafts, out: &out }),
            ("drafts", VerifyArgs { sampled: &sampled, drafts: &short, out: &out }),
            ("out", VerifyArgs { sampled: &sampled, drafts: &drafts, out: &short }),
            ("out", VerifyArgs { sampled: &sampled, drafts: &drafts, out: &sampled }),
            ("out", VerifyArgs { sampled: &sampled, drafts: &out, out: &out }),
        ] {
            names(plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap_err(), want);
        }
        assert!(VerifyOutput::read(&plan, &short).is_err());
        for other in devices().iter().filter(|d| d.kind() != device.kind()) {
            let args = VerifyArgs { sampled: &words(other, &[0; 20]), drafts: &drafts, out: &out };
            assert!(plan.run(&args, &mut Workspace::new(device).unwrap()).is_err());
        }
    }
}
