//! Sampling: what every device draws is what the definition draws.
//!
//! Proved: parity with the reference per token, log-probability and entropy over a table of cases and over random ones;
//! the reference itself against a second oracle written here (support by sorting, noise from a second Philox);
//! frequencies follow the softmax; truncations that are off change no bit; temperature 0 is argmax; a draw depends on
//! (seed, agent, step) and its own logits only; what lies between rows or after the output does not matter; refusals.
//!
//! Tokens may differ only where f32 cannot decide: two scores, or a token and its threshold, within `CLOSE`. Even then
//! the token must be one of the candidates. Such rows are counted and bounded.
//!
//! Planted bugs, each of which turned it red: in the kernel `>` for `>=` at the kept threshold, `<=` for `<` in the radix
//! select (one more than k), the carry of the 64-bit mass dropped, top-p over all tokens instead of top-k's survivors,
//! Philox words reversed within a quad, agent and step exchanged, nine Philox rounds, two lanes exchanged in the load of
//! a row that starts inside a chunk, the highest id for greedy ties, -0 below 0; in the reference top-p not renormalised.
mod harness;

use std::cell::Cell;

use colatent::DType::{self, BF16, F16, F32};
use colatent::sampling::{
    NO_TOKEN, Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow, shader_variants,
};
use colatent::{Buffer, Device, Error, Tensor, Tolerance, Workspace};
use harness::{Rng, devices};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Scores (nats) and masses closer than this are not decided by f32: see the numerics in shaders/sampling.wgsl.
const CLOSE: f64 = 1e-4;

/// f32 sums of up to 4099 terms, exp2 at 2^-21, and ln of the sum: 2e-5 is ten times the worst seen (2e-6).
const TOLERANCE: Tolerance = Tolerance { atol: 2e-5, rtol: 2e-5 };

/// How logits are made.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Logits {
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
use Logits::{Flat, Holes, Nothing, Spread, Ties};

/// One row of the table; what a failing random case prints can be pasted into it.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    dtype: DType,
    rows: usize,
    vocab: usize,
    /// Elements before the first row.
    offset: usize,
    /// Elements between two rows.
    gap: usize,
    logits: Logits,
    output_multiplier: f32,
    soft_cap: Option<f32>,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    seed: u64,
}

const PLAIN: Case = Case {
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
    seed: 0x1234_5678_9abc_def0,
};

const CASES: &[Case] = &[
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
    Case { name: "no rows", rows: 0, ..PLAIN },
    Case { name: "many rows", rows: 300, vocab: 33, top_p: 0.9, ..PLAIN },
];

impl Case {
    fn problem(&self) -> SamplingProblem {
        let row = |r: u32| SamplingRow {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            agent: r,
            step: 7,
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
    fn values(&self) -> Vec<f32> {
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
    fn tensor(&self, device: &Device) -> Tensor {
        let stride = self.vocab + self.gap;
        let all = harness::poisoned(device, self.dtype, &[self.offset + self.rows.max(1) * stride]);
        let shape = [self.rows, self.vocab];
        let t = Tensor::with_strides(all.buffer().clone(), self.dtype, self.offset, &shape, &[stride, 1]).unwrap();
        t.write_f32(&self.values()).unwrap();
        t
    }

    fn run(&self, device: &Device) -> Vec<Sampled> {
        run(device, &self.problem(), &self.tensor(device))
    }
}

/// One run with guard bytes after the output.
fn run(device: &Device, problem: &SamplingProblem, logits: &Tensor) -> Vec<Sampled> {
    const GUARD: usize = 48;
    let bytes = SamplingOutput::bytes(problem.rows.len());
    let out = Buffer::zeros(device, bytes + GUARD).unwrap();
    out.write(0, &vec![0xa5; bytes + GUARD]).unwrap();
    let plan = SamplingPlan::new(device, problem).unwrap();
    let args = SamplingArgs { logits, out: &out };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let got = out.read().unwrap();
    assert!(got[bytes..].iter().all(|b| *b == 0xa5), "{plan}: wrote past its rows");
    assert!(got[..bytes].chunks_exact(16).all(|r| r[12..] == [0; 4]), "{plan}: the spare word is not zero");
    SamplingOutput::read(&out, problem.rows.len()).unwrap()
}

/// The second oracle: for one row everything that decides the draw, and how close it was.
struct Oracle {
    log_p: Vec<f64>,
    entropy: f64,
    /// Tokens that are certainly kept, and that may be kept within `CLOSE` of a threshold.
    sure: Vec<bool>,
    maybe: Vec<bool>,
    /// x + g of every token, `-inf` for those that are not even maybe kept.
    score: Vec<f64>,
    greedy: bool,
}

fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    let wide = |a: u32, b: u32| ((a as u128 * b as u128) as u32, ((a as u128 * b as u128) >> 32) as u32);
    for _ in 0..10 {
        let ((l0, h0), (l1, h1)) = (wide(c[0], 0xd251_1f53), wide(c[2], 0xcd9e_8d57));
        c = [h1 ^ c[1] ^ k[0], l1, h0 ^ c[3] ^ k[1], l0];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

impl Oracle {
    fn new(problem: &SamplingProblem, row: &SamplingRow, logits: &[f32]) -> Self {
        let greedy = row.temperature == 0.0;
        let t = if greedy { 1.0 } else { row.temperature as f64 };
        let x: Vec<f64> = logits
            .iter()
            .map(|&l| {
                let x = l as f64 * problem.output_multiplier as f64;
                problem.soft_cap.map_or(x, |c| c as f64 * (x / c as f64).tanh()) / t
            })
            .collect();
        let live = |i: usize| logits[i] > f32::NEG_INFINITY;
        let peak = (0..x.len()).filter(|&i| live(i)).map(|i| x[i]).fold(f64::NEG_INFINITY, f64::max);
        let p: Vec<f64> = (0..x.len()).map(|i| if live(i) { (x[i] - peak).exp() } else { 0.0 }).collect();
        let total: f64 = p.iter().sum();
        let log_p: Vec<f64> = x.iter().map(|x| x - peak - total.ln()).collect();
        let entropy = (0..x.len()).filter(|&i| p[i] > 0.0).map(|i| -p[i] / total * log_p[i]).sum();

        let mut sorted: Vec<f32> = logits.iter().copied().filter(|l| l.is_finite()).collect();
        sorted.sort_by(|a, b| b.partial_cmp(a).unwrap());
        let k = if row.top_k == 0 || greedy { sorted.len() } else { (row.top_k as usize).min(sorted.len()) };
        let top_k = |i: usize| k > 0 && live(i) && logits[i] >= sorted[k - 1];
        let mut by_mass: Vec<usize> = (0..x.len()).filter(|&i| top_k(i)).collect();
        by_mass.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap());
        let mass: f64 = by_mass.iter().map(|&i| p[i]).sum();
        let (mut sure, mut maybe) = (vec![false; x.len()], vec![false; x.len()]);
        let (mut larger, mut at) = (0.0, 0.0);
        for (n, &i) in by_mass.iter().enumerate() {
            if n > 0 && logits[i] < logits[by_mass[n - 1]] {
                larger += at;
                at = 0.0;
            }
            at += p[i];
            // How far inside the thresholds, in mass and in nats.
            let nucleus = if greedy || row.top_p == 1.0 { 1.0 } else { row.top_p as f64 - larger / mass };
            let floor = if greedy || row.min_p == 0.0 { 1.0 } else { x[i] - peak - (row.min_p as f64).ln() };
            // The largest logit itself is inside exactly: its gap and the mass above it are 0 on every device.
            let inside = if logits[i] == sorted[0] { CLOSE } else { nucleus.min(floor) };
            sure[i] = inside >= CLOSE;
            maybe[i] = inside > -CLOSE;
        }
        let gumbel = |i: usize| {
            let counter = [i as u32 / 4, row.agent, row.step, 0];
            let word = philox(counter, [problem.seed as u32, (problem.seed >> 32) as u32])[i % 4];
            let u = ((word >> 8) as f64 + 0.5) * 2f64.powi(-24);
            -(-u.ln()).ln()
        };
        let draw =
            |i: usize| if maybe[i] { x[i] - peak + if greedy { 0.0 } else { gumbel(i) } } else { f64::NEG_INFINITY };
        let score = (0..x.len()).map(draw).collect();
        Oracle { log_p, entropy, sure, maybe, score, greedy }
    }

    /// Checks one draw. `Ok(true)` if f32 could not decide between tokens.
    fn check(&self, logits: &[f32], got: Sampled) -> Result<bool, String> {
        let Some(best) = (0..self.score.len()).filter(|&i| self.maybe[i]).max_by(|&a, &b| {
            // Greedy is exact: by stored logit, then by id.
            let by_score = self.score[a].partial_cmp(&self.score[b]).unwrap();
            let by_logit = logits[a].partial_cmp(&logits[b]).unwrap();
            if self.greedy { by_logit.then(b.cmp(&a)) } else { by_score.then(b.cmp(&a)) }
        }) else {
            let undefined = got.token == NO_TOKEN && got.log_prob.is_nan() && got.entropy.is_nan();
            return if undefined { Ok(false) } else { Err(format!("nothing to draw, got {got:?}")) };
        };
        let token = got.token as usize;
        if token >= logits.len() {
            return Err(format!("token {token} of {}", logits.len()));
        }
        let second = (0..self.score.len()).filter(|&i| i != best).map(|i| self.score[i]);
        let margin = self.score[best] - second.fold(f64::NEG_INFINITY, f64::max);
        let ambiguous = !self.greedy && (!self.sure[best] || margin < CLOSE);
        let is_candidate = self.maybe[token] && self.score[token] > self.score[best] - CLOSE;
        // If the best may have been cut off, any other that may be kept can follow it.
        let allowed = if !ambiguous { token == best } else { is_candidate || (!self.sure[best] && self.maybe[token]) };
        if !allowed {
            return Err(format!("token {token}, want {best} (margin {margin:e})"));
        }
        for (what, got, want) in [("log_prob", got.log_prob, self.log_p[token]), ("entropy", got.entropy, self.entropy)]
        {
            if !TOLERANCE.accepts(got, want as f32) {
                return Err(format!("{what} {got}, want {want} (token {token})"));
            }
        }
        Ok(ambiguous)
    }
}

/// Runs a case on every device against the oracle; returns rows that f32 could not decide.
fn check_case(case: &Case) -> Result<usize, String> {
    let (problem, values) = (case.problem(), case.values());
    let mut ambiguous = 0;
    let oracle: Vec<(&[f32], Oracle)> = values
        .chunks_exact(case.vocab)
        .zip(&problem.rows)
        .map(|(logits, row)| (logits, Oracle::new(&problem, row, logits)))
        .collect();
    for device in devices() {
        let got = case.run(device);
        assert_eq!(got.len(), case.rows);
        for (r, ((logits, oracle), got)) in oracle.iter().zip(got).enumerate() {
            let what = |e| format!("{} on {device}, row {r}: {e}\n{case:?}", case.name);
            ambiguous += oracle.check(logits, got).map_err(what)? as usize;
        }
    }
    Ok(ambiguous)
}

#[test]
fn table() {
    let (mut ambiguous, mut rows, mut failures) = (0, 0, Vec::new());
    for case in CASES {
        rows += case.rows * devices().len();
        match check_case(case) {
            Ok(n) => ambiguous += n,
            Err(e) => failures.push(e),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ambiguous * 50 < rows, "{ambiguous} of {rows} rows are within {CLOSE} of a tie");
    eprintln!("{rows} rows, {ambiguous} within {CLOSE} of a tie");
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (prop::sample::select(&DType::ALL[..]), 1usize..4, 1usize..700, 0usize..5, 0usize..5);
    let logits = prop::sample::select(vec![Spread, Spread, Ties, Holes, Flat]);
    let transform = (prop::sample::select(vec![1.0f32, 0.5, 3.0]), prop::option::of(5.0f32..40.0));
    let cuts = (
        prop::sample::select(vec![0.0f32, 0.3, 0.8, 1.0, 2.0]),
        prop_oneof![Just(0u32), 1u32..700],
        prop_oneof![Just(1.0f32), 0.01f32..1.0],
        prop_oneof![Just(0.0f32), 0.001f32..1.0],
    );
    (shape, logits, transform, cuts, any::<u64>()).prop_map(
        |((dtype, rows, vocab, offset, gap), logits, (output_multiplier, soft_cap), cuts, seed)| {
            let (temperature, top_k, top_p, min_p) = cuts;
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
                seed,
            }
        },
    )
}

#[test]
fn random_cases() {
    let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
    let (rows, ambiguous) = (Cell::new(0), Cell::new(0));
    let run = |case: Case| {
        rows.set(rows.get() + case.rows * devices().len());
        ambiguous.set(ambiguous.get() + check_case(&case).map_err(TestCaseError::fail)?);
        Ok(())
    };
    TestRunner::new(config).run(&cases(), run).unwrap_or_else(|e| panic!("{e}"));
    let (rows, ambiguous) = (rows.get(), ambiguous.get());
    assert!(ambiguous * 50 < rows, "{ambiguous} of {rows} rows are within {CLOSE} of a tie");
    eprintln!("{rows} rows, {ambiguous} within {CLOSE} of a tie");
}

/// Draws `n` times from one row of logits that every row of the launch reads (row stride 0).
fn draws(device: &Device, logits: &[f32], row: SamplingRow, n: u32) -> Vec<Sampled> {
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

#[test]
fn frequencies_follow_the_softmax() {
    const N: u32 = 20_000;
    let logits: Vec<f32> = (0..12).map(|i| ((i * 7) % 12) as f32 * 0.25).collect();
    // 99.9 % quantiles of chi-square with (kept - 1) degrees of freedom.
    let cut = SamplingRow { top_k: 6, ..SamplingRow::default() };
    for (row, kept, quantile) in [(SamplingRow::default(), 12, 31.26), (cut, 6, 20.52)] {
        let mut order: Vec<usize> = (0..12).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let mass: f64 = order[..kept].iter().map(|&i| (logits[i] as f64).exp()).sum();
        for device in devices() {
            let mut count = [0f64; 12];
            for s in draws(device, &logits, row, N) {
                count[s.token as usize] += 1.0;
            }
            assert_eq!(order[..kept].iter().map(|&i| count[i]).sum::<f64>(), N as f64, "support on {device}");
            let chi: f64 = order[..kept]
                .iter()
                .map(|&i| (N as f64 * (logits[i] as f64).exp() / mass, count[i]))
                .map(|(want, got)| (got - want).powi(2) / want)
                .sum();
            assert!(chi < quantile, "chi-square {chi} on {device}, {kept} tokens");
            eprintln!("chi-square {chi:.2} of at most {quantile} on {device}");
        }
    }
}

#[test]
fn support_is_that_of_the_sorted_definition() {
    // Probabilities proportional to 8, 4, 4, 2, 1, 1 in a scrambled order; ties at the thresholds.
    let logits: Vec<f32> = [1.0f32, 4.0, 8.0, 2.0, 1.0, 4.0].iter().map(|p| p.ln()).collect();
    let row = SamplingRow::default();
    let table: &[(SamplingRow, &[u32])] = &[
        (SamplingRow { top_k: 1, ..row }, &[2]),
        (SamplingRow { top_k: 2, ..row }, &[1, 2, 5]), // both 4s tie for second place
        (SamplingRow { top_k: 5, ..row }, &[0, 1, 2, 3, 4, 5]), // both 1s tie for fifth
        (SamplingRow { top_p: 0.39, ..row }, &[2]),
        (SamplingRow { top_p: 0.41, ..row }, &[1, 2, 5]),
        (SamplingRow { top_p: 0.79, ..row }, &[1, 2, 5]),
        (SamplingRow { top_p: 0.81, ..row }, &[1, 2, 3, 5]),
        (SamplingRow { top_k: 3, top_p: 0.49, ..row }, &[2]), // of 16 survivors' 20: 8/16 alone reach 0.49
        (SamplingRow { top_k: 3, top_p: 0.51, ..row }, &[1, 2, 5]),
        (SamplingRow { min_p: 0.26, ..row }, &[1, 2, 5]),
        (SamplingRow { min_p: 0.24, ..row }, &[1, 2, 3, 5]),
        (SamplingRow { min_p: 0.26, top_p: 0.2, ..row }, &[2]),
    ];
    for device in devices() {
        for (row, want) in table {
            let mut seen: Vec<u32> = draws(device, &logits, *row, 400).iter().map(|s| s.token).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, *want, "{row:?} on {device}");
        }
    }
}

fn bits(s: &[Sampled]) -> Vec<(u32, u32, u32)> {
    s.iter().map(|s| (s.token, s.log_prob.to_bits(), s.entropy.to_bits())).collect()
}

#[test]
fn minus_zero_is_zero() {
    for device in devices() {
        let greedy = SamplingRow { temperature: 0.0, ..SamplingRow::default() };
        assert_eq!(draws(device, &[-1.0, -0.0, 0.0], greedy, 1)[0].token, 1, "on {device}");
        assert_eq!(draws(device, &[-1.0, 0.0, -0.0], greedy, 1)[0].token, 1, "on {device}");
        for row in [SamplingRow { top_k: 1, ..greedy }, SamplingRow { top_p: 1e-3, ..greedy }] {
            let row = SamplingRow { temperature: 1.0, ..row };
            let seen = draws(device, &[-1.0, -0.0, 0.0], row, 50);
            assert!([1, 2].iter().all(|t| seen.iter().any(|s| s.token == *t)), "{row:?} on {device}");
            assert!(seen.iter().all(|s| s.token != 0), "{row:?} on {device}");
        }
    }
}

#[test]
fn truncation_that_keeps_all_changes_nothing() {
    for device in devices() {
        for logits in [Spread, Ties, Holes] {
            let plain = Case { vocab: 1000, rows: 20, logits, ..PLAIN };
            let want = bits(&plain.run(device));
            for case in [
                Case { top_k: 1000, ..plain },
                Case { top_k: 999, logits: Holes, ..plain },
                Case { top_k: u32::MAX, ..plain },
                Case { min_p: 1e-38, ..plain },
            ] {
                let want =
                    if case.logits == logits { &want } else { &bits(&Case { logits: Holes, ..plain }.run(device)) };
                assert_eq!(bits(&case.run(device)), *want, "{case:?} on {device}");
            }
        }
    }
}

#[test]
fn cold_draws_are_greedy_draws() {
    for device in devices() {
        let case = Case { vocab: 1000, rows: 20, ..PLAIN };
        let greedy = Case { temperature: 0.0, ..case }.run(device);
        let cold = Case { temperature: 1e-5, ..case }.run(device);
        for ((g, c), row) in greedy.iter().zip(&cold).zip(case.values().chunks(1000)) {
            let best = (0..1000).fold(0, |b, i| if row[i] > row[b] { i } else { b });
            assert_eq!((g.token, c.token), (best as u32, best as u32), "on {device}");
        }
    }
}

#[test]
fn a_row_depends_on_itself_only() {
    // Mixed rows; each alone, at another offset and in reverse order gives the same bits.
    let base = Case { rows: 8, vocab: 501, logits: Spread, ..PLAIN };
    let mut problem = base.problem();
    for (i, row) in problem.rows.iter_mut().enumerate() {
        row.temperature = [1.0, 0.0, 0.5, 2.0][i % 4];
        row.top_k = [0, 20][i % 2];
        row.top_p = [1.0, 0.9, 0.5][i % 3];
    }
    for dtype in DType::ALL {
        problem.logits_dtype = dtype;
        let values = Case { dtype, ..base }.values();
        for device in devices() {
            let t = Tensor::from_f32(device, dtype, &[8, 501], &values).unwrap();
            let want = bits(&run(device, &problem, &t));
            let mut reversed = problem.clone();
            reversed.rows.reverse();
            let back: Vec<f32> = values.chunks(501).rev().flatten().copied().collect();
            let mut got = bits(&run(device, &reversed, &Tensor::from_f32(device, dtype, &[8, 501], &back).unwrap()));
            got.reverse();
            assert_eq!(got, want, "order of {dtype} rows on {device}");
            for r in 0..8 {
                let alone = SamplingProblem { rows: vec![problem.rows[r]], ..problem.clone() };
                let part = Tensor::with_strides(t.buffer().clone(), dtype, r * 501, &[1, 501], &[501, 1]).unwrap();
                assert_eq!(bits(&run(device, &alone, &part)), want[r..=r], "row {r} of {dtype} alone on {device}");
            }
        }
    }
}

#[test]
fn agents_and_steps_draw_independently() {
    for device in devices() {
        let problem = |agent: fn(u32) -> u32, step: fn(u32) -> u32, seed| SamplingProblem {
            rows: (1..65).map(|r| SamplingRow { agent: agent(r), step: step(r), ..SamplingRow::default() }).collect(),
            vocab: 1000,
            seed,
            ..PLAIN.problem()
        };
        let logits = Tensor::from_f32(device, F32, &[64, 1000], &vec![0.0; 64_000]).unwrap();
        let tokens = |p| run(device, &p, &logits).iter().map(|s| s.token).collect::<Vec<u32>>();
        let first = tokens(problem(|_| 0, |r| r, 5));
        let others = [
            tokens(problem(|_| 1, |r| r, 5)),
            tokens(problem(|r| r, |_| 0, 5)),
            tokens(problem(|_| 0, |r| r, 6)),
            tokens(problem(|_| 0, |r| r, 5 | 1 << 32)),
        ];
        assert_eq!(tokens(problem(|_| 0, |r| r, 5)), first, "the same draw twice on {device}");
        for other in others {
            // 64 draws of one in 1000: two streams share 0.064 on average.
            assert!(first.iter().zip(&other).filter(|(a, b)| a == b).count() <= 2, "on {device}");
        }
    }
}

#[test]
fn rows_without_a_distribution() {
    for device in devices() {
        for dtype in DType::ALL {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                for at in [0, 3, 298] {
                    for temperature in [0.0, 1.0] {
                        let mut values = Case { rows: 3, vocab: 299, ..PLAIN }.values();
                        values[299 + at] = bad;
                        let case = Case { dtype, rows: 3, vocab: 299, temperature, top_k: 5, top_p: 0.5, ..PLAIN };
                        let logits = Tensor::from_f32(device, dtype, &[3, 299], &values).unwrap();
                        let got = run(device, &case.problem(), &logits);
                        assert!(got[1].token == NO_TOKEN && got[1].log_prob.is_nan() && got[1].entropy.is_nan());
                        assert!(got[0].token < 299 && got[2].token < 299, "neighbours, {bad} at {at} on {device}");
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_logits() {
    for device in devices() {
        for row in [SamplingRow::default(), SamplingRow { temperature: 1e-3, top_p: 0.5, ..SamplingRow::default() }] {
            for s in draws(device, &[-f32::MAX, f32::MAX, f32::MIN_POSITIVE], row, 3) {
                assert_eq!((s.token, s.log_prob, s.entropy), (1, 0.0, 0.0), "on {device}");
            }
        }
    }
}

#[test]
fn one_workspace_serves_plans_in_turn() {
    for device in devices() {
        let mut workspace = Workspace::new(device).unwrap();
        let cases =
            [Case { rows: 3, ..PLAIN }, Case { rows: 40, top_k: 3, ..PLAIN }, Case { rows: 3, seed: 4, ..PLAIN }];
        let plans = cases.map(|c| SamplingPlan::new(device, &c.problem()).unwrap());
        for _ in 0..2 {
            for (case, plan) in cases.iter().zip(&plans) {
                let out = Buffer::zeros(device, SamplingOutput::bytes(case.rows)).unwrap();
                plan.run(&SamplingArgs { logits: &case.tensor(device), out: &out }, &mut workspace).unwrap();
                assert_eq!(bits(&SamplingOutput::read(&out, case.rows).unwrap()), bits(&case.run(device)), "{plan}");
            }
        }
    }
}

/// An engine's own `wgpu` device: two plans in one encoder, nothing done before the engine submits.
#[cfg(feature = "webgpu")]
#[test]
fn encoded_work_waits_for_its_submit() {
    use colatent::wgpu;
    if devices().len() == 1 {
        return; // the harness has said why
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.first().expect("the harness found one");
    let wanted = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    let (own, queue) = pollster::block_on(adapter.request_device(&wanted)).unwrap();
    let device = Device::from_wgpu(own.clone(), queue.clone(), &adapter.get_info()).unwrap();
    let cases = [PLAIN, Case { rows: 9, top_k: 5, dtype: F16, ..PLAIN }];
    let mut encoder = own.create_command_encoder(&Default::default());
    let outs = cases.map(|case| {
        let out = Buffer::zeros(&device, SamplingOutput::bytes(case.rows)).unwrap();
        let plan = SamplingPlan::new(&device, &case.problem()).unwrap();
        let args = SamplingArgs { logits: &case.tensor(&device), out: &out };
        plan.encode(&args, &mut Workspace::new(&device).unwrap(), &mut encoder).unwrap();
        // A workspace of another device is refused, and so is a plan of the reference.
        assert!(plan.encode(&args, &mut Workspace::new(&devices()[1]).unwrap(), &mut encoder).is_err());
        let reference = SamplingPlan::new(&devices()[0], &case.problem()).unwrap();
        assert!(reference.encode(&args, &mut Workspace::new(&device).unwrap(), &mut encoder).is_err());
        out
    });
    for out in &outs {
        assert!(out.read().unwrap().iter().all(|b| *b == 0));
    }
    queue.submit([encoder.finish()]);
    for (case, out) in cases.iter().zip(&outs) {
        assert_eq!(bits(&SamplingOutput::read(out, case.rows).unwrap()), bits(&case.run(&device)));
    }
}

#[test]
fn refusals() {
    let good = PLAIN.problem();
    let row = SamplingRow::default();
    let with = |row| SamplingProblem { rows: vec![row], ..good.clone() };
    let table = [
        ("vocab", SamplingProblem { vocab: 0, ..good.clone() }),
        ("temperature", with(SamplingRow { temperature: f32::NAN, ..row })),
        ("temperature", with(SamplingRow { temperature: -1.0, ..row })),
        ("temperature", with(SamplingRow { temperature: f32::INFINITY, ..row })),
        ("top_p", with(SamplingRow { top_p: 0.0, ..row })),
        ("top_p", with(SamplingRow { top_p: 1.5, ..row })),
        ("top_p", with(SamplingRow { top_p: f32::NAN, ..row })),
        ("min_p", with(SamplingRow { min_p: -0.1, ..row })),
        ("min_p", with(SamplingRow { min_p: 1.1, ..row })),
        ("min_p", with(SamplingRow { min_p: f32::NAN, ..row })),
        ("output_multiplier", SamplingProblem { output_multiplier: 0.0, ..good.clone() }),
        ("output_multiplier", SamplingProblem { output_multiplier: f32::NAN, ..good.clone() }),
        ("soft_cap", SamplingProblem { soft_cap: Some(0.0), ..good.clone() }),
    ];
    let names = |e: &Error, want: &str| matches!(e, Error::Invalid { argument, .. } if *argument == want);
    for device in devices() {
        for (want, problem) in &table {
            let e = SamplingPlan::new(device, problem).unwrap_err();
            assert!(names(&e, want), "{want}: {e}");
        }
        let plan = SamplingPlan::new(device, &good).unwrap();
        let out = Buffer::zeros(device, 80).unwrap();
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).unwrap();
        let fits = zeros(F32, &[5, 257]);
        let columns = zeros(F32, &[257, 5]).permute(&[1, 0]).unwrap();
        let small = Buffer::zeros(device, 64).unwrap();
        for (want, logits, out) in [
            ("logits shape", &zeros(F32, &[5, 256]), &out),
            ("logits shape", &zeros(F32, &[1285]), &out),
            ("logits dtype", &zeros(F16, &[5, 257]), &out),
            ("logits strides", &columns, &out),
            ("out", &fits, &small),
            ("out", &fits, fits.buffer()),
        ] {
            let e = plan.run(&SamplingArgs { logits, out }, &mut Workspace::new(device).unwrap()).unwrap_err();
            assert!(names(&e, want), "{want}: {e}");
        }
        // Memory or workspace of another device.
        for other in devices().iter().filter(|d| d.kind() != device.kind()) {
            let (foreign, own) = (PLAIN.tensor(other), PLAIN.tensor(device));
            let mut workspace = Workspace::new(device).unwrap();
            assert!(plan.run(&SamplingArgs { logits: &foreign, out: &out }, &mut workspace).is_err());
            let foreign = Buffer::zeros(other, 80).unwrap();
            assert!(plan.run(&SamplingArgs { logits: &own, out: &foreign }, &mut workspace).is_err());
        }
        assert!(SamplingOutput::read(&out, 6).is_err());
    }
}

#[test]
fn shaders_are_accepted_everywhere() {
    use naga::{back, front, valid};
    let variants = shader_variants();
    assert_eq!(variants.len(), 6);
    // unpack2x16float is in every WebGPU, but a capability to naga.
    let capabilities = valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    for (name, text) in variants {
        let module = front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        let info = valid::Validator::new(valid::ValidationFlags::all(), capabilities)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        back::spv::write_vec(&module, &info, &back::spv::Options::default(), None).unwrap();
        back::msl::write_string(&module, &info, &back::msl::Options::default(), &back::msl::PipelineOptions::default())
            .unwrap();
        let (options, pipeline) = (back::hlsl::Options::default(), back::hlsl::PipelineOptions::default());
        back::hlsl::Writer::new(&mut String::new(), &options, &pipeline).write(&module, &info, None).unwrap();
    }
}
