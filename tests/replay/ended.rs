//! Rows that end before the others: a stop on the device, and every launch behind it passes them over.

use super::*;
use crate::harness::bare_devices;
use colatent::lm_head::{LmHeadArgs, LmHeadPlan, LmHeadProblem};
use colatent::sampling::{NO_TOKEN, Sampled};
use colatent::stop::{StopArgs, StopPlan, StopProblem, StopRow, StopState};

const END: u32 = 9;

/// A stop of rows with budgets, in slots of another order.
fn stop_over(device: &Device, steps: &Steps, budget: impl Fn(usize) -> u32) -> (StopPlan, StopState) {
    let slots = steps.rows();
    let rows: Vec<StopRow> = (0..slots).map(|r| StopRow { slot: (slots - 1 - r) as u32, budget: budget(r) }).collect();
    let problem =
        StopProblem { rows: &rows, slots, window: 1, threshold: f32::NEG_INFINITY, end_tokens: &[END, END + 1] };
    (StopPlan::over(device, &problem, steps).unwrap(), StopState::new(device, slots, 1).unwrap())
}

/// The draws of a step, of which some are end tokens.
fn say(sampled: &Buffer, ends: impl Iterator<Item = bool>) {
    let words = ends.flat_map(|ends| [if ends { END } else { 1 }, 0, 0, 1f32.to_bits()]);
    sampled.write(0, &words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
}

/// Of each row the numbers of a tensor.
fn by_row(t: &Tensor, rows: usize) -> Vec<Vec<f32>> {
    let all = t.read_f32().unwrap();
    all.chunks(all.len() / rows).map(<[f32]>::to_vec).collect()
}

fn bits_of(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

/// Row `r` stops at step `stops[r]`. Even ones draw an end token and end there; the others have spent their budget, are fed
/// what they drew at the next step, and end.
fn check(case: &Case, room: usize, stops: &[usize], devices: &[Device]) -> std::result::Result<(), String> {
    for device in devices {
        let (mut want_team, _) = anew(case, device, 0..0);
        let (mut team, plans, steps) = ahead(case, device, room);
        let n = team.views.len();
        let stop_at = |r: usize| stops[r % stops.len()];
        let ends: Vec<usize> = (0..n).map(|r| stop_at(r) + 1 + r % 2).collect();
        let (stop, state) = stop_over(device, &steps, |r| (r % 2 * (stop_at(r) + 1)) as u32);
        let sampled = Buffer::zeros(device, 16 * n).unwrap();
        let mut workspace = Workspace::new(device).unwrap();
        let fail = |what: &str, r: usize, step| {
            Err(format!("{what} of row {r} at step {step} of {room}, ends {ends:?}: {}\n{case:?}", plans.1))
        };
        for step in 0..room {
            let appended: Vec<Appended> = want_team
                .views
                .iter()
                .map(|&view| want_team.cache.append(view, want_team.modality, 1).unwrap())
                .collect();
            want_team.project(step);
            let want_plans = want_team.plan(device, &appended, None);
            want_team.run(&want_plans).unwrap();
            team.project(step);
            // What a row that has ended leaves in q: NaN must not get out of its lanes, and numbers must not be seen.
            let stale = [f32::NAN, 0.5][step % 2];
            for (t, value) in [(&team.q, stale), (&team.out, f32::NAN), (&team.lse, f32::NAN)] {
                t.write_f32(&vec![value; t.len()]).unwrap();
            }
            team.run(&plans).unwrap();
            let [q, out, lse] = [&team.q, &team.out, &team.lse].map(|t| by_row(t, n));
            let want = [&want_team.q, &want_team.out, &want_team.lse].map(|t| by_row(t, n));
            for r in 0..n {
                if step < ends[r] {
                    if [&q, &out, &lse].iter().zip(&want).any(|(got, want)| bits_of(&got[r]) != bits_of(&want[r])) {
                        return fail("bits", r, step);
                    }
                    continue;
                }
                let sinks = case.weights().sinks;
                let sink = |h: usize| sinks.get(h).copied().unwrap_or(f32::NEG_INFINITY);
                let is_nothing = |(h, &x): (usize, &f32)| x == sink(h) || (x - sink(h)).abs() < 1e-5;
                if !q[r].iter().all(|x| if stale.is_nan() { x.is_nan() } else { *x == stale }) {
                    return fail("a query", r, step);
                }
                if !out[r].iter().all(|x| *x == 0.0) || !lse[r].iter().enumerate().all(is_nothing) {
                    return fail("an output", r, step);
                }
            }
            say(&sampled, (0..n).map(|r| r % 2 == 0 && step == stop_at(r)));
            stop.run(&StopArgs { sampled: &sampled, state: &state }, &mut workspace).unwrap();
            steps.advance().unwrap();
        }
        let known = |r: usize| Some(ends[r] as u32).filter(|_| stop_at(r) < room);
        assert_eq!(steps.ends().unwrap(), (0..n).map(known).collect::<Vec<_>>(), "{device}");
        // Behind its end nothing of a row was stored; up to it, all.
        let (_, never_stored) = team.pages();
        let lanes = case.heads.0 * (case.dims.0 + case.dims.1);
        let stored: usize = ends.iter().map(|&end| end.min(room)).sum();
        let all = n * room * lanes - stored * lanes + want_team.pages().1;
        for team in [&mut team, &mut want_team] {
            for (view, end) in team.views.iter().zip(&ends) {
                let slots = team.cache.view(*view).unwrap().next_slot() - (room - room.min(*end)) as i32;
                team.cache.truncate(*view, slots).unwrap();
            }
        }
        if team.pages().0 != want_team.pages().0 || never_stored != all {
            return fail("pages", 0, room);
        }
    }
    Ok(())
}

#[test]
fn ended_rows_are_passed_over() {
    let p = decode(3, Mask::Causal);
    // Some, all, and none of a tile; sinks, gates and norms; a split prompt.
    check(&Case { agents: 5, ..p.clone() }, 5, &[0, 9, 1], bare_devices()).unwrap();
    check(&Case { seed: 5, agents: 3, sinks: true, gate: true, norm: true, ..p.clone() }, 4, &[0], devices()).unwrap();
    let wide = Case { dims: (64, 64), dtypes: (DType::BF16, DType::BF16), ..p.clone() };
    check(&Case { tokens: 530, agents: 2, ..wide.clone() }, 3, &[0, 9], devices()).unwrap();
    check(&Case { mask: Mask::Window(7), heads: (2, 1), ..wide }, 4, &[1, 0], devices()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_row_may_end(
        seed in 0u64..1 << 32, mask in prop::sample::select(&MASKS[..]), page_size in 1usize..40, tokens in 1usize..150,
        agents in 2usize..6, room in 3usize..6, stops in prop::collection::vec(0usize..4, 2..4), joined: bool,
    ) {
        let kind = if joined { Kind::Sequential } else { Kind::Decode };
        check(&Case { page_size, tokens, agents, kind, ..decode(seed, mask) }, room, &stops, devices()).map_err(TestCaseError::fail)?;
    }
}

/// `sampling` and `lm_head` say of an ended row that it has no token, and of the others what a plan of their step says.
#[test]
fn ended_rows_draw_nothing() {
    const ROWS: usize = 19; // of several workgroups, on every device
    let row = |agent| SamplingRow { agent, step: 40, confidence: agent % 3, ..Default::default() };
    let rows = |cut: u32| -> Vec<SamplingRow> {
        (0..ROWS as u32).map(|agent| SamplingRow { top_k: cut * (agent % 2), ..row(agent) }).collect()
    };
    let at =
        |rows: &[SamplingRow], step| rows.iter().map(|row| SamplingRow { step: row.step + step, ..*row }).collect();
    for device in devices() {
        let tensor = |shape: &[usize]| {
            Tensor::from_f32(device, DType::F32, shape, &Rng(2).values(shape.iter().product())).unwrap()
        };
        let (logits, hidden, weight) = (tensor(&[ROWS, 300]), tensor(&[ROWS, 16]), tensor(&[300, 16]));
        let out = Buffer::zeros(device, SamplingOutput::bytes(ROWS)).unwrap();
        let workspace = || Workspace::new(device).unwrap();
        let sample = |rows: Vec<SamplingRow>, over: Option<&Steps>| -> Vec<Sampled> {
            let problem = SamplingProblem {
                logits_dtype: DType::F32,
                rows,
                vocab: 300,
                output_multiplier: 1.0,
                soft_cap: None,
                seed: 5,
            };
            let plan = over.map_or_else(
                || SamplingPlan::new(device, &problem),
                |steps| SamplingPlan::over(device, &problem, steps),
            );
            plan.unwrap().run(&SamplingArgs { logits: &logits, out: &out }, &mut workspace()).unwrap();
            SamplingOutput::read(&out, ROWS).unwrap()
        };
        let project = |rows: Vec<SamplingRow>, over: Option<&Steps>| -> Vec<Sampled> {
            let problem = LmHeadProblem {
                hidden_dtype: DType::F32,
                weight_dtype: DType::F32,
                rows,
                width: 16,
                vocab: 300,
                output_multiplier: 1.0,
                soft_cap: None,
                seed: 5,
            };
            let plan = over
                .map_or_else(|| LmHeadPlan::new(device, &problem), |steps| LmHeadPlan::over(device, &problem, steps));
            let args = LmHeadArgs { hidden: &hidden, weight: &weight, out: &out };
            plan.unwrap().run(&args, &mut workspace()).unwrap();
            SamplingOutput::read(&out, ROWS).unwrap()
        };
        let steps = Steps::of_rows(device, 4, ROWS).unwrap();
        let (stop, state) = stop_over(device, &steps, |_| 0);
        let sampled = Buffer::zeros(device, 16 * ROWS).unwrap();
        // The first 16 at once, one later, two never.
        let end = |r: usize| if r < 16 { 1 } else { [3, 9, 9][r - 16] };
        for step in 0..4u32 {
            let says = |got: &[Sampled], want: &[Sampled]| {
                got.iter().zip(want).enumerate().all(|(r, (got, want))| match step < end(r) {
                    true => {
                        [got.log_prob, got.entropy, got.confidence].map(f32::to_bits)
                            == [want.log_prob, want.entropy, want.confidence].map(f32::to_bits)
                            && got.token == want.token
                    }
                    false => got.token == NO_TOKEN && got.log_prob.is_nan() && got.entropy.is_nan(),
                })
            };
            let rows = rows(5 * (step % 2));
            assert!(says(&sample(rows.clone(), Some(&steps)), &sample(at(&rows, step), None)), "{device}: step {step}");
            assert!(
                says(&project(rows.clone(), Some(&steps)), &project(at(&rows, step), None)),
                "{device}: step {step}"
            );
            say(&sampled, (0..ROWS).map(|r| step + 1 == end(r)));
            stop.run(&StopArgs { sampled: &sampled, state: &state }, &mut workspace()).unwrap();
            steps.advance().unwrap();
        }
        // A counter that starts again: a slot that is not alive ends its row with the first step.
        steps.restart().unwrap();
        stop.run(&StopArgs { sampled: &sampled, state: &state }, &mut workspace()).unwrap();
        let want = |r: usize| if r < 17 { Some(1) } else { None };
        assert_eq!(steps.ends().unwrap(), (0..ROWS).map(want).collect::<Vec<_>>(), "{device}");
    }
}

#[test]
fn refusals() {
    for device in devices() {
        let is_steps = |e: Option<Error>| matches!(e, Some(Error::Invalid { argument: "steps", .. }));
        let rows = [StopRow { slot: 0, budget: 0 }];
        let problem = StopProblem { rows: &rows, slots: 1, window: 1, threshold: 0.0, end_tokens: &[] };
        for rows in [0, 2] {
            let steps = Steps::of_rows(device, 3, rows).unwrap();
            assert!(is_steps(StopPlan::over(device, &problem, &steps).err()), "{device}: {rows} rows");
        }
        let steps = Steps::of_rows(device, 3, 2).unwrap();
        let problem = SamplingProblem {
            logits_dtype: DType::F32,
            rows: vec![SamplingRow::default()],
            vocab: 5,
            output_multiplier: 1.0,
            soft_cap: None,
            seed: 5,
        };
        assert!(is_steps(SamplingPlan::over(device, &problem, &steps).err()));
        assert!(matches!(Steps::of_rows(device, 1, 1 << 30), Err(Error::Invalid { argument: "rows", .. })));
    }
}
