//! What is drawn from: the table of cases, random ones, and the memory around a run.

use colatent::DType::{self, BF16, F16, F32};
use colatent::sampling::{Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, Device, Tensor, Workspace};
use proptest::prelude::*;

use crate::harness::{Rng, poisoned};

/// How logits are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Logits {
    /// Four times the harness's values: softmaxes from flat to peaked.
    Spread,
    /// Multiples of 1/2 between -2 and 2, both zeros among them.
    Ties,
    /// Spread with two of three tokens at -inf.
    Holes,
    /// Every token equal.
    Flat,
    /// Only -inf.
    Nothing,
}
pub use Logits::{Flat, Holes, Nothing, Spread, Ties};

/// One row of the table; what a failing random case prints can be pasted into it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub dtype: DType,
    pub rows: usize,
    pub vocab: usize,
    /// Elements before the first row.
    pub offset: usize,
    /// Elements between two rows.
    pub gap: usize,
    pub logits: Logits,
    pub output_multiplier: f32,
    pub soft_cap: Option<f32>,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub confidence: u32,
    pub seed: u64,
}

pub const PLAIN: Case = Case {
    name: "plain",
    dtype: F32,
    rows: 5,
    vocab: 257,
    offset: 0,
    gap: 0,
    logits: Spread,
    output_multiplier: 1.0,
    soft_cap: None,
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    confidence: 0,
    seed: 0x1234_5678_9abc_def0,
};

pub const CASES: &[Case] = &[
    PLAIN,
    Case { name: "one token", vocab: 1, ..PLAIN },
    Case { name: "three tokens", vocab: 3, dtype: F16, ..PLAIN },
    Case { name: "one quad", vocab: 4, dtype: BF16, ..PLAIN },
    Case { name: "a quad and one", vocab: 5, top_k: 2, ..PLAIN },
    Case { name: "255, top-k", vocab: 255, top_k: 10, dtype: F16, ..PLAIN },
    Case { name: "256, top-p", vocab: 256, top_p: 0.8, dtype: BF16, ..PLAIN },
    Case { name: "257, min-p", min_p: 0.05, ..PLAIN },
    Case { name: "1000, all", vocab: 1000, rows: 40, top_k: 40, top_p: 0.9, min_p: 0.02, temperature: 0.7, ..PLAIN },
    Case { name: "4099", vocab: 4099, ..PLAIN },
    Case { name: "4099 f16, top-p", vocab: 4099, top_p: 0.95, dtype: F16, ..PLAIN },
    Case { name: "4099 bf16, top-k and top-p", vocab: 4099, rows: 20, top_k: 64, top_p: 0.5, dtype: BF16, ..PLAIN },
    Case { name: "a real vocabulary", vocab: 100_003, rows: 3, top_p: 0.95, top_k: 5000, dtype: BF16, ..PLAIN },
    Case {
        name: "ties past a list",
        vocab: 30_001,
        rows: 2,
        top_k: 50,
        top_p: 0.5,
        logits: Ties,
        dtype: BF16,
        ..PLAIN
    },
    Case { name: "few kept of many", vocab: 100_003, rows: 3, top_k: 50, top_p: 0.9, dtype: F16, gap: 5, ..PLAIN },
    Case { name: "a real vocabulary, f32", vocab: 100_003, rows: 3, top_p: 0.95, gap: 2, temperature: 0.6, ..PLAIN },
    Case { name: "more k than finite", logits: Holes, top_k: 200, ..PLAIN },
    Case { name: "k = vocab", top_k: 257, ..PLAIN },
    Case { name: "k = 1", top_k: 1, ..PLAIN },
    Case { name: "k = 1, ties", top_k: 1, logits: Ties, ..PLAIN },
    Case { name: "k = 100, ties", top_k: 100, logits: Ties, dtype: BF16, ..PLAIN },
    Case { name: "p small", top_p: 1e-6, ..PLAIN },
    Case { name: "p small, ties", top_p: 1e-6, logits: Ties, dtype: F16, ..PLAIN },
    Case { name: "p, ties", top_p: 0.7, logits: Ties, ..PLAIN },
    Case { name: "p and k, ties", rows: 40, top_p: 0.7, top_k: 50, logits: Ties, ..PLAIN },
    Case { name: "p, flat", top_p: 0.5, logits: Flat, ..PLAIN },
    Case { name: "p, holes", top_p: 0.6, logits: Holes, vocab: 1000, ..PLAIN },
    Case { name: "p next to 1", top_p: 0.99999994, ..PLAIN },
    Case { name: "min-p 1", min_p: 1.0, ..PLAIN },
    Case { name: "min-p 1, ties", min_p: 1.0, logits: Ties, ..PLAIN },
    Case { name: "greedy", temperature: 0.0, top_k: 3, top_p: 0.1, min_p: 0.5, ..PLAIN },
    Case { name: "greedy, ties", temperature: 0.0, logits: Ties, dtype: BF16, ..PLAIN },
    Case { name: "greedy, flat", temperature: 0.0, logits: Flat, vocab: 1000, ..PLAIN },
    Case { name: "greedy, nothing", temperature: 0.0, logits: Nothing, ..PLAIN },
    Case { name: "nothing", logits: Nothing, top_k: 3, top_p: 0.5, min_p: 0.1, ..PLAIN },
    Case { name: "hot", temperature: 50.0, vocab: 1000, ..PLAIN },
    Case { name: "cold", temperature: 0.02, vocab: 1000, ..PLAIN },
    Case { name: "frozen", temperature: 1e-38, ..PLAIN },
    Case { name: "soft cap", soft_cap: Some(20.0), output_multiplier: 3.0, ..PLAIN },
    Case { name: "soft cap, all", soft_cap: Some(20.0), top_k: 50, top_p: 0.9, min_p: 0.01, dtype: BF16, ..PLAIN },
    Case { name: "soft cap far below the logits", soft_cap: Some(0.5), output_multiplier: 9.0, top_p: 0.3, ..PLAIN },
    Case { name: "multiplier", output_multiplier: 0.25, dtype: F16, top_p: 0.4, ..PLAIN },
    Case { name: "strided", offset: 3, gap: 5, top_k: 9, ..PLAIN },
    Case { name: "strided f16", offset: 2, gap: 1, dtype: F16, vocab: 1000, top_p: 0.9, ..PLAIN },
    Case { name: "strided bf16, tiny", offset: 1, gap: 2, dtype: BF16, vocab: 5, rows: 9, ..PLAIN },
    Case { name: "confidence of one", confidence: 1, ..PLAIN },
    Case { name: "confidence", confidence: 20, vocab: 1000, top_k: 5, temperature: 0.7, dtype: BF16, ..PLAIN },
    Case { name: "confidence, ties", confidence: 30, logits: Ties, ..PLAIN },
    // The last place lies among negative logits of 16 bits.
    Case {
        name: "confidence, ties below zero",
        confidence: 9,
        rows: 1,
        vocab: 15,
        temperature: 0.0,
        logits: Ties,
        dtype: BF16,
        seed: 12767924037025462888,
        ..PLAIN
    },
    Case { name: "confidence, ties in f16", confidence: 200, logits: Ties, dtype: F16, ..PLAIN },
    Case { name: "confidence, holes", confidence: 200, logits: Holes, dtype: F16, ..PLAIN },
    Case { name: "confidence of all", confidence: 257, top_p: 0.5, ..PLAIN },
    Case { name: "confidence, greedy, capped", confidence: 7, temperature: 0.0, soft_cap: Some(20.0), ..PLAIN },
    Case { name: "confidence, flat", confidence: 100, logits: Flat, vocab: 5000, dtype: BF16, ..PLAIN },
    Case { name: "confidence of nothing", confidence: 3, logits: Nothing, ..PLAIN },
    Case { name: "confidence, past a list", confidence: 2000, vocab: 30_001, rows: 2, top_k: 40, gap: 3, ..PLAIN },
    Case { name: "no rows", rows: 0, ..PLAIN },
    Case { name: "many rows", rows: 300, vocab: 33, top_p: 0.9, ..PLAIN },
];

impl Case {
    pub fn problem(&self) -> SamplingProblem {
        let row = |r: u32| SamplingRow {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            agent: r,
            step: 7,
            confidence: self.confidence,
        };
        SamplingProblem {
            logits_dtype: self.dtype,
            rows: (0..self.rows as u32).map(row).collect(),
            vocab: self.vocab,
            output_multiplier: self.output_multiplier,
            soft_cap: self.soft_cap,
            seed: self.seed,
        }
    }

    /// Row-major, already rounded to the storage type.
    pub fn values(&self) -> Vec<f32> {
        let mut rng = Rng(self.seed);
        let mut one = |i: usize| match self.logits {
            Spread => 4.0 * rng.value(),
            Ties => [-0.0, 0.0, 0.5, 1.0, 1.5, 2.0, -0.5, -1.0, -2.0][rng.below(9)],
            Holes if i % 3 != 1 => f32::NEG_INFINITY,
            Holes => 4.0 * rng.value(),
            Flat => 1.5,
            Nothing => f32::NEG_INFINITY,
        };
        (0..self.rows * self.vocab).map(|i| self.dtype.round(one(i % self.vocab.max(1)))).collect()
    }

    /// The logits on a device, NaN between and around the rows.
    pub fn tensor(&self, device: &Device) -> Tensor {
        let stride = self.vocab + self.gap;
        let all = poisoned(device, self.dtype, &[self.offset + self.rows.max(1) * stride]);
        let shape = [self.rows, self.vocab];
        let t = Tensor::with_strides(all.buffer().clone(), self.dtype, self.offset, &shape, &[stride, 1]).unwrap();
        t.write_f32(&self.values()).unwrap();
        t
    }

    pub fn run(&self, device: &Device) -> Vec<Sampled> {
        run(device, &self.problem(), &self.tensor(device))
    }
}

/// One run with guard bytes after the output.
pub fn run(device: &Device, problem: &SamplingProblem, logits: &Tensor) -> Vec<Sampled> {
    const GUARD: usize = 48;
    let bytes = SamplingOutput::bytes(problem.rows.len());
    let out = Buffer::zeros(device, bytes + GUARD).unwrap();
    out.write(0, &vec![0xa5; bytes + GUARD]).unwrap();
    let plan = SamplingPlan::new(device, problem).unwrap();
    let args = SamplingArgs { logits, out: &out };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let got = out.read().unwrap();
    assert!(got[bytes..].iter().all(|b| *b == 0xa5), "{plan}: wrote past its rows");
    let silent = |(r, row): (&[u8], &SamplingRow)| row.confidence != 0 || r[12..] == [0; 4];
    assert!(got[..bytes].chunks_exact(16).zip(&problem.rows).all(silent), "{plan}: a confidence that nobody asked for");
    SamplingOutput::read(&out, problem.rows.len()).unwrap()
}

pub fn cases() -> impl Strategy<Value = Case> {
    let shape = (prop::sample::select(&DType::ALL[..]), 1usize..4, 1usize..700, 0usize..5, 0usize..5);
    let logits = prop::sample::select(vec![Spread, Spread, Ties, Holes, Flat]);
    let transform = (prop::sample::select(vec![1.0f32, 0.5, 3.0]), prop::option::of(5.0f32..40.0));
    let cuts = (
        prop::sample::select(vec![0.0f32, 0.3, 0.8, 1.0, 2.0]),
        prop_oneof![Just(0u32), 1u32..700],
        prop_oneof![Just(1.0f32), 0.01f32..1.0],
        prop_oneof![Just(0.0f32), 0.001f32..1.0],
        prop_oneof![Just(0u32), 1u32..40],
    );
    (shape, logits, transform, cuts, any::<u64>()).prop_map(
        |((dtype, rows, vocab, offset, gap), logits, (output_multiplier, soft_cap), cuts, seed)| {
            let (temperature, top_k, top_p, min_p, confidence) = cuts;
            Case {
                name: "random",
                dtype,
                rows,
                vocab,
                offset,
                gap,
                logits,
                output_multiplier,
                soft_cap,
                temperature,
                top_k,
                top_p,
                min_p,
                confidence,
                seed,
            }
        },
    )
}

/// Draws `n` times from one row of logits that every row of the launch reads (row stride 0).
pub fn draws(device: &Device, logits: &[f32], row: SamplingRow, n: u32) -> Vec<Sampled> {
    let problem = SamplingProblem {
        logits_dtype: F32,
        rows: (0..n).map(|step| SamplingRow { step, agent: step % 3, ..row }).collect(),
        vocab: logits.len(),
        output_multiplier: 1.0,
        soft_cap: None,
        seed: 99,
    };
    let t = Tensor::from_f32(device, F32, &[logits.len()], logits).unwrap();
    let shape = [n as usize, logits.len()];
    let t = Tensor::with_strides(t.buffer().clone(), F32, 0, &shape, &[0, 1]).unwrap();
    run(device, &problem, &t)
}
