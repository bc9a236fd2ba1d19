//! lm_head: what is drawn from hidden states is what `sampling` draws from their logits.
//!
//! Proved, on every device: with whole numbers, whose products are exact, tokens equal those of `sampling` over the logits
//! on the same device, and every number is that of the second oracle of `sampling`'s tests; the same for real numbers of
//! every pair of types, where f32 can decide; a row's bits do not depend on how many rows there are or which; gaps, offsets
//! and what lies behind the last token do not matter; rows without a distribution; a workspace serves plans in turn;
//! refusals.
//!
//! Planted bugs, each seen red and taken out again:
//! - kernel, and in turn the CUDA kernel, the slice's own peak for the row's at min-p: draws of all cases;
//! - kernel, ranks of equal keys not told apart, and CUDA kernel, the list one short: the draws, plans in turn;
//! - combining kernel, sums of slices added as they are, and on CUDA the score left at its slice's peak: the draws;
//! - CUDA kernel, the second half of a lane's 8 elements against the first: the draws;
//! - kernel, noise of the slice's first quad for all: the draws;
//! - kernel, tokens past the vocabulary counted: the draws.
mod harness;

use colatent::DType::{self, BF16, F16, F32};
use colatent::lm_head::{LmHeadArgs, LmHeadPlan, LmHeadProblem};
use colatent::sampling::{NO_TOKEN, Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, Device, Error, Tensor, Workspace};
use harness::{Rng, devices, poisoned};

#[path = "sampling/oracle.rs"]
mod oracle;
use oracle::Oracle;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    types: (DType, DType),
    rows: usize,
    width: usize,
    vocab: usize,
    /// Whole numbers, with many ties among the logits, or real ones.
    whole: bool,
    /// Elements before each tensor and between its rows.
    gap: usize,
    multiplier: f32,
    soft_cap: Option<f32>,
    /// Given to the rows in turn; `agent` and `step` are filled in.
    how: &'static [SamplingRow],
    seed: u64,
}

const ROW: SamplingRow =
    SamplingRow { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, agent: 0, step: 0, confidence: 0 };
const GREEDY: SamplingRow = SamplingRow { temperature: 0.0, top_k: 3, top_p: 0.1, ..ROW };
const SURE: SamplingRow = SamplingRow { confidence: 20, temperature: 0.7, ..ROW };
const CUT: SamplingRow = SamplingRow { top_k: 5, min_p: 0.01, confidence: 3, ..ROW };
const MIXED: &[SamplingRow] = &[
    ROW,
    GREEDY,
    SURE,
    CUT,
    SamplingRow { min_p: 0.3, temperature: 2.0, ..ROW },
    SamplingRow { top_k: 40, ..ROW },
    SamplingRow { top_k: 1, ..ROW },
];

const PLAIN: Case = Case {
    name: "plain",
    types: (F32, F32),
    rows: 7,
    width: 16,
    vocab: 1000,
    whole: true,
    gap: 0,
    multiplier: 0.25,
    soft_cap: None,
    how: &[ROW],
    seed: 5,
};

#[rustfmt::skip]
const CASES: &[Case] = &[
    PLAIN,
    Case { name: "greedy", how: &[GREEDY], ..PLAIN },
    Case { name: "confidence", how: &[SURE], ..PLAIN },
    Case { name: "cut", how: &[CUT], ..PLAIN },
    Case { name: "mixed", how: MIXED, rows: 14, ..PLAIN },
    Case { name: "mixed, f16", how: MIXED, rows: 14, types: (F16, F16), width: 64, multiplier: 0.1, ..PLAIN },
    Case { name: "mixed, bf16, many rows", how: MIXED, rows: 37, types: (BF16, BF16), width: 40, vocab: 700, ..PLAIN },
    Case { name: "mixed, two types", how: MIXED, types: (F32, BF16), rows: 9, vocab: 1500, ..PLAIN },
    Case { name: "16-bit apart", how: MIXED, types: (F16, BF16), width: 24, ..PLAIN },
    Case { name: "rows that start anywhere", how: MIXED, types: (BF16, BF16), gap: 4, width: 32, ..PLAIN },
    Case { name: "gaps", how: MIXED, types: (F16, F16), gap: 8, width: 32, ..PLAIN },
    Case { name: "width of 12", how: MIXED, types: (F16, F16), width: 12, ..PLAIN },
    Case { name: "soft cap", how: MIXED, soft_cap: Some(4.0), types: (BF16, BF16), ..PLAIN },
    Case { name: "one token", vocab: 1, how: MIXED, ..PLAIN },
    Case { name: "three tokens", vocab: 3, how: MIXED, types: (F16, F16), ..PLAIN },
    Case { name: "255", vocab: 255, how: MIXED, ..PLAIN },
    Case { name: "256", vocab: 256, how: MIXED, types: (BF16, BF16), ..PLAIN },
    Case { name: "257", vocab: 257, how: MIXED, ..PLAIN },
    Case { name: "k and confidence of 256", how: &[SamplingRow { top_k: 256, confidence: 256, ..ROW }], rows: 2, ..PLAIN },
    Case { name: "more slices than lanes", vocab: 70_001, rows: 2, width: 4, how: &[CUT, SURE], ..PLAIN },
    Case { name: "flat", width: 4, multiplier: 1e-3, how: MIXED, ..PLAIN },
    Case { name: "real", whole: false, how: MIXED, width: 64, multiplier: 1.0, ..PLAIN },
    Case { name: "real, f16", whole: false, how: MIXED, width: 96, types: (F16, F16), rows: 20, ..PLAIN },
    Case { name: "real, bf16", whole: false, how: MIXED, width: 256, types: (BF16, BF16), vocab: 2000, ..PLAIN },
    Case { name: "real, f32 and f16", whole: false, how: &[SURE, ROW], width: 128, types: (F32, F16), soft_cap: Some(9.0), ..PLAIN },
    Case { name: "no rows", rows: 0, ..PLAIN },
];

impl Case {
    fn problem(&self) -> LmHeadProblem {
        let row = |r: usize| SamplingRow { agent: r as u32, step: 7, ..self.how[r % self.how.len()] };
        LmHeadProblem {
            hidden_dtype: self.types.0,
            weight_dtype: self.types.1,
            rows: (0..self.rows).map(row).collect(),
            width: self.width,
            vocab: self.vocab,
            output_multiplier: self.multiplier,
            soft_cap: self.soft_cap,
            seed: 99 + self.seed,
        }
    }

    /// Hidden states and weight, as they are stored.
    fn values(&self) -> [Vec<f32>; 2] {
        let mut rng = Rng(self.seed);
        let mut make = |n: usize, dtype: DType, most: usize| -> Vec<f32> {
            let mut one = || match self.whole {
                true => rng.below(2 * most + 1) as f32 - most as f32,
                false => rng.value(),
            };
            (0..n).map(|_| dtype.round(one())).collect()
        };
        [make(self.rows * self.width, self.types.0, 3), make(self.vocab * self.width, self.types.1, 2)]
    }

    /// Logits in f64, rounded to f32: exact for whole numbers.
    fn logits(&self) -> Vec<Vec<f32>> {
        let [hidden, weight] = self.values();
        let dot = |h: &[f32], w: &[f32]| h.iter().zip(w).map(|(h, w)| f64::from(*h) * f64::from(*w)).sum::<f64>();
        let row = |h: &[f32]| weight.chunks(self.width).map(|w| dot(h, w) as f32).collect();
        hidden.chunks(self.width).map(row).collect()
    }

    fn tensor(&self, device: &Device, dtype: DType, rows: usize, values: &[f32]) -> Tensor {
        let stride = self.width + self.gap;
        // NaN before, between and behind the rows.
        let all = poisoned(device, dtype, &[self.gap + (rows + 3) * stride]);
        let shape = [rows, self.width];
        let t = Tensor::with_strides(all.buffer().clone(), dtype, self.gap, &shape, &[stride, 1]).unwrap();
        t.write_f32(values).unwrap();
        t
    }

    fn run(&self, device: &Device) -> Vec<Sampled> {
        let [hidden, weight] = self.values();
        let hidden = self.tensor(device, self.types.0, self.rows, &hidden);
        let weight = self.tensor(device, self.types.1, self.vocab, &weight);
        run(device, &self.problem(), &hidden, &weight)
    }
}

/// One run with guard bytes after the output.
fn run(device: &Device, problem: &LmHeadProblem, hidden: &Tensor, weight: &Tensor) -> Vec<Sampled> {
    const GUARD: usize = 48;
    let (rows, bytes) = (problem.rows.len(), SamplingOutput::bytes(problem.rows.len()));
    let out = Buffer::zeros(device, bytes + GUARD).unwrap();
    out.write(0, &vec![0xa5; bytes + GUARD]).unwrap();
    let plan = LmHeadPlan::new(device, problem).unwrap();
    plan.run(&LmHeadArgs { hidden, weight, out: &out }, &mut Workspace::new(device).unwrap()).unwrap();
    assert!(out.read().unwrap()[bytes..].iter().all(|b| *b == 0xa5), "{plan}: wrote past its rows");
    SamplingOutput::read(&out, rows).unwrap()
}

/// The draw of `sampling` from these logits.
fn sampled(device: &Device, problem: &LmHeadProblem, logits: &[Vec<f32>]) -> Vec<Sampled> {
    let draw = draw_of(problem);
    if draw.rows.is_empty() {
        return Vec::new();
    }
    let logits = Tensor::from_f32(device, F32, &[logits.len(), problem.vocab], &logits.concat()).unwrap();
    let out = Buffer::zeros(device, SamplingOutput::bytes(draw.rows.len())).unwrap();
    let plan = SamplingPlan::new(device, &draw).unwrap();
    plan.run(&SamplingArgs { logits: &logits, out: &out }, &mut Workspace::new(device).unwrap()).unwrap();
    SamplingOutput::read(&out, draw.rows.len()).unwrap()
}

fn draw_of(p: &LmHeadProblem) -> SamplingProblem {
    SamplingProblem {
        logits_dtype: F32,
        rows: p.rows.clone(),
        vocab: p.vocab,
        output_multiplier: p.output_multiplier,
        soft_cap: p.soft_cap,
        seed: p.seed,
    }
}

#[test]
fn draws_are_those_of_sampling_over_the_logits() {
    let (mut ambiguous, mut rows, mut failures) = (0, 0, Vec::new());
    for case in CASES {
        let (problem, logits) = (case.problem(), case.logits());
        let draw = draw_of(&problem);
        let oracle: Vec<Oracle> =
            draw.rows.iter().zip(&logits).map(|(row, logits)| Oracle::new(&draw, row, logits)).collect();
        for device in devices() {
            let (got, two_step) = (case.run(device), sampled(device, &problem, &logits));
            for (r, (got, two_step)) in got.iter().zip(&two_step).enumerate() {
                rows += 1;
                let verdict = oracle[r].check(&logits[r], *got);
                let undecided = verdict == Ok(true);
                ambiguous += usize::from(undecided);
                let same = got.token == two_step.token || undecided;
                if let Some(e) = verdict.err().or((!same).then(|| format!("sampling drew {}", two_step.token))) {
                    failures.push(format!("{} on {device}, row {r}: {e}; {got:?}\n{case:?},", case.name));
                }
            }
        }
    }
    failures.truncate(20);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ambiguous * 50 < rows, "{ambiguous} of {rows} rows are too close to a tie");
    eprintln!("{rows} rows, {ambiguous} too close to a tie");
}

fn bits(s: &[Sampled]) -> Vec<[u32; 4]> {
    s.iter().map(|s| [s.token, s.log_prob.to_bits(), s.entropy.to_bits(), s.confidence.to_bits()]).collect()
}

#[test]
fn a_row_depends_on_itself_only() {
    for (types, width) in [((BF16, BF16), 64), ((F32, F32), 20)] {
        let case = Case { types, width, rows: 35, vocab: 600, whole: false, how: MIXED, ..PLAIN };
        let [hidden, weight] = case.values();
        for device in devices() {
            let weight = case.tensor(device, types.1, case.vocab, &weight);
            let want = bits(&case.run(device));
            // One alone, and so many of them in reverse, across the tiles' sizes.
            for n in [1, 15, 16, 17, 33] {
                let order: Vec<usize> = (0..n).map(|i| (34 - i) % 35).collect();
                let rows = order.iter().map(|&r| case.problem().rows[r]).collect();
                let values: Vec<f32> =
                    order.iter().flat_map(|&r| hidden[r * width..(r + 1) * width].to_vec()).collect();
                let hidden = case.tensor(device, types.0, n, &values);
                let got = bits(&run(device, &LmHeadProblem { rows, ..case.problem() }, &hidden, &weight));
                // Rounds and lists are those of the launch; they change no bit either.
                assert!(order.iter().zip(&got).all(|(&r, got)| *got == want[r]), "{n} rows of {types:?} on {device}");
            }
        }
    }
}

#[test]
fn rows_without_a_distribution() {
    for device in devices() {
        for (types, bad) in [((F32, F32), f32::NAN), ((F16, F16), f32::INFINITY), ((BF16, BF16), f32::NAN)] {
            let case = Case { types, rows: 3, how: &[CUT, SURE], ..PLAIN };
            let [mut hidden, mut weight] = case.values();
            hidden[case.width + 3] = bad;
            let with = |hidden: &[f32], weight: &[f32]| {
                let hidden = case.tensor(device, types.0, 3, hidden);
                run(device, &case.problem(), &hidden, &case.tensor(device, types.1, case.vocab, weight))
            };
            let got = with(&hidden, &weight);
            let is_nothing = |s: &Sampled| s.token == NO_TOKEN && s.log_prob.is_nan() && s.confidence.is_nan();
            assert!(is_nothing(&got[1]), "{got:?} on {device}");
            assert!([0, 2].iter().all(|&r| (got[r].token as usize) < case.vocab), "neighbours on {device}");
            weight[999 * case.width] = f32::NAN; // the last token's: everybody's
            assert!(with(&hidden, &weight).iter().all(is_nothing), "on {device}");
        }
    }
}

#[test]
fn one_workspace_serves_plans_in_turn() {
    for device in devices() {
        let mut workspace = Workspace::new(device).unwrap();
        let cases = [Case { rows: 3, ..PLAIN }, Case { how: &[CUT], ..PLAIN }, Case { rows: 1, how: &[SURE], ..PLAIN }];
        let plans = cases.map(|c| LmHeadPlan::new(device, &c.problem()).unwrap());
        for _ in 0..2 {
            for (case, plan) in cases.iter().zip(&plans) {
                let [hidden, weight] = case.values();
                let hidden = case.tensor(device, F32, case.rows, &hidden);
                let weight = case.tensor(device, F32, case.vocab, &weight);
                let out = Buffer::zeros(device, SamplingOutput::bytes(case.rows)).unwrap();
                let args = LmHeadArgs { hidden: &hidden, weight: &weight, out: &out };
                plan.warm_up(&args, &mut workspace).unwrap();
                plan.run(&args, &mut workspace).unwrap();
                assert_eq!(bits(&SamplingOutput::read(&out, case.rows).unwrap()), bits(&case.run(device)), "{plan}");
            }
        }
    }
}

#[test]
fn refusals() {
    let good = PLAIN.problem();
    let with = |row| LmHeadProblem { rows: vec![row], ..good.clone() };
    for device in devices() {
        let unsupported = |problem: &LmHeadProblem, want: &str| match LmHeadPlan::new(device, problem) {
            Err(Error::Unsupported { op: "lm_head", what, .. }) if what.contains(want) => {}
            other => panic!("{want}: {other:?}"),
        };
        unsupported(&with(SamplingRow { top_p: 0.9, ..ROW }), "top_p");
        unsupported(&with(SamplingRow { top_k: 257, ..ROW }), "top_k");
        unsupported(&with(SamplingRow { confidence: 257, ..ROW }), "confidence");
        LmHeadPlan::new(device, &with(SamplingRow { top_k: 1000, ..ROW })).unwrap(); // all of them: off
        LmHeadPlan::new(device, &with(SamplingRow { top_k: 900, ..GREEDY })).unwrap();
        if device.kind() != "reference" {
            unsupported(&LmHeadProblem { width: 6, ..good.clone() }, "width");
        }
        let names = |e: Error, want: &str| match e {
            Error::Invalid { op: "lm_head", argument, .. } if argument == want => {}
            other => panic!("{want}: {other}"),
        };
        let invalid = |problem: &LmHeadProblem, want| names(LmHeadPlan::new(device, problem).unwrap_err(), want);
        invalid(&with(SamplingRow { temperature: -1.0, ..ROW }), "temperature");
        invalid(&LmHeadProblem { vocab: 0, ..good.clone() }, "vocab");
        invalid(&LmHeadProblem { width: 0, ..good.clone() }, "width");
        invalid(&LmHeadProblem { soft_cap: Some(0.0), ..good.clone() }, "soft_cap");
        let plan = LmHeadPlan::new(device, &good).unwrap();
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).unwrap();
        let (hidden, weight) = (zeros(F32, &[7, 16]), zeros(F32, &[1000, 16]));
        let (out, small) = (Buffer::zeros(device, 112).unwrap(), Buffer::zeros(device, 96).unwrap());
        for (want, hidden, weight, out) in [
            ("hidden", &zeros(F32, &[6, 16]), &weight, &out),
            ("hidden", &zeros(F16, &[7, 16]), &weight, &out),
            ("weight", &hidden, &zeros(F32, &[1000, 12]), &out),
            ("weight", &hidden, &zeros(BF16, &[1000, 16]), &out),
            ("out", &hidden, &weight, &small),
            ("out", &hidden, &weight, hidden.buffer()),
        ] {
            let result = plan.run(&LmHeadArgs { hidden, weight, out }, &mut Workspace::new(device).unwrap());
            names(result.unwrap_err(), want);
        }
        for other in devices().iter().filter(|d| d.kind() != device.kind()) {
            let foreign = Tensor::zeros(other, F32, &[1000, 16]).unwrap();
            let args = LmHeadArgs { hidden: &hidden, weight: &foreign, out: &out };
            assert!(plan.run(&args, &mut Workspace::new(device).unwrap()).is_err());
        }
    }
}
