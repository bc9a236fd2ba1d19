//! Sampling: what every device draws is what the definition draws.
//!
//! Proved: parity with the reference per token, log-probability, entropy and confidence over a table of cases and over random ones;
//! the reference itself against a second oracle written here (support by sorting, noise from a second Philox);
//! frequencies follow the softmax; truncations that are off change no bit; temperature 0 is argmax; a draw depends on
//! (seed, agent, step) and its own logits only; what lies between rows or after the output does not matter; refusals.
//!
//! Power of the frequencies, with fixed seeds, against 99.9 % quantiles of chi-square: a law that is off by v in total
//! variation has a noncentrality of n * sum of d^2 / p, which is at least n (2 v)^2 (Cauchy, Schwarz). Of 20000 draws
//! v = 0.03 gives 72, and is seen with probability above 0.999 at 11 degrees of freedom, as at 5. Streams that are to be
//! independent share at most 2 of 64 draws; two that shared a tenth of them would be seen with probability 0.95.
//!
//! Tokens may differ only where f32 cannot decide: two scores, or a token and its threshold, within `CLOSE`. Even then
//! the token must be one of the candidates. Such rows are counted and bounded.
//!
//! Planted bugs, each of which turned it red: in the kernel `>` for `>=` at the kept threshold, `<=` for `<` in the radix
//! select (one more than k), the carry of the 64-bit mass dropped, top-p over all tokens instead of top-k's survivors,
//! Philox words reversed within a quad, agent and step exchanged, nine Philox rounds, two lanes exchanged in the load of
//! a row that starts inside a chunk, the highest id for greedy ties, -0 below 0; in the reference top-p not renormalised.
//! In the CUDA kernel: the barrier before the scan of the bins, or the one after their clearing, left out; a list that
//! overflows taken for whole (the process dies); the carry dropped; the bound of the noise too low; the half-word shift of
//! a misaligned row left out.
//! Of the confidence, in the kernel, and in turn in the CUDA kernel: the places of ties at the end not filled.
mod harness;

use std::cell::Cell;

use colatent::DType::{self, F16, F32};
use colatent::sampling::{NO_TOKEN, Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, Error, Tensor, Workspace};
use harness::devices;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[path = "sampling/case.rs"]
mod case;
#[path = "sampling/oracle.rs"]
mod oracle;
use case::{CASES, Case, Holes, PLAIN, Spread, Ties, cases, draws, run};
use oracle::{CLOSE, Oracle};

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
                plan.warm_up(&mut workspace).unwrap();
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
    use colatent::{Device, wgpu};
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
