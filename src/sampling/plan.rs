//! Host arithmetic: which variant, which numbers per row. Needs no GPU.

use super::params::RowParams;
use super::{OP, SamplingOutput, SamplingProblem, SamplingRow};
use crate::backend::{next_plan_id, source::Variant};
use crate::{Buffer, DType, Device, Error, Result, Steps, Tensor};

/// A validated problem with everything a launch needs. Built once per step, or once [for many
/// steps](SamplingPlan::over), for all rows of the step.
pub struct SamplingPlan {
    pub(super) device: Device,
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), expect(dead_code, reason = "only launches need it"))]
    pub(super) id: u64,
    pub(super) problem: SamplingProblem,
    pub(super) variant: Variant,
    pub(super) table: Vec<RowParams>,
    /// The counter that is added to the rows' steps.
    pub(super) steps: Option<Steps>,
}

/// What one run reads and writes.
pub struct SamplingArgs<'a> {
    /// `[rows, vocab]`, any offset and row stride, unit stride along the vocabulary.
    pub logits: &'a Tensor,
    /// At least [`SamplingOutput::bytes`] bytes; what follows stays as it was.
    pub out: &'a Buffer,
}

impl SamplingArgs<'_> {
    pub(super) fn validate(&self, plan: &SamplingPlan) -> Result<()> {
        let (rows, vocab, dtype) = (plan.problem.rows.len(), plan.problem.vocab, plan.problem.logits_dtype);
        let logits = self.logits;
        if logits.shape() != [rows, vocab] {
            return Err(Error::invalid(
                OP,
                "logits shape",
                format!("[{rows}, {vocab}]"),
                format!("{:?}", logits.shape()),
            ));
        }
        if logits.dtype() != dtype {
            return Err(Error::invalid(OP, "logits dtype", dtype, logits.dtype()));
        }
        if vocab > 1 && logits.strides()[1] != 1 {
            return Err(Error::invalid(OP, "logits strides", "1 along the vocabulary", logits.strides()[1]));
        }
        self.out.expect_bytes(OP, "out", SamplingOutput::bytes(rows))?;
        if self.out.is_same(logits.buffer()) {
            return Err(Error::invalid(OP, "out", "a buffer of its own", "the buffer of the logits"));
        }
        Ok(())
    }
}

/// The variant for a storage type, with or without soft cap and counter of steps.
pub(super) fn variant(dtype: DType, soft_cap: bool, has_steps: bool) -> Variant {
    // Bytes, from the top, in which the f32 keys of two values of this type can differ: sign, exponent and mantissa.
    let rounds = match dtype {
        DType::F32 => 4,
        DType::F16 => 3,
        DType::BF16 => 2,
        DType::E4M3 | DType::I8 => 1, // refused by the problem
    };
    Variant::new("sampling")
        .u32("ROUNDS", rounds)
        .bool("SOFT_CAP", soft_cap)
        .bool("HAS_STEPS", has_steps)
        .storage("logits", dtype)
}

/// Normal, so that a product with it is neither infinite nor 0 by accident.
pub(crate) fn to_normal(x: f64) -> f32 {
    x.clamp(f32::MIN_POSITIVE as f64, f32::MAX as f64) as f32
}

/// The numbers of one row.
pub(crate) fn row_params(problem: &SamplingProblem, row: &SamplingRow) -> RowParams {
    let greedy = row.temperature == 0.0;
    let temperature = if greedy { 1.0 } else { row.temperature as f64 };
    let scale = match problem.soft_cap {
        Some(cap) => cap as f64 / temperature,
        None => 2.0 * problem.output_multiplier as f64 / temperature,
    };
    let gap_scale = to_normal(scale);
    let is_top_k = !greedy && (row.top_k as usize) < problem.vocab;
    let is_top_p = !greedy && row.top_p < 1.0;
    RowParams {
        gap_scale,
        gap_limit: to_normal(512.0 / gap_scale as f64),
        top_k: if is_top_k { row.top_k } else { 0 },
        // f32 below 1 is at most 1 - 2^-24, which 32 bits hold.
        top_p: if is_top_p { ((row.top_p as f64 * 4294967296.0).round() as u32).max(1) } else { 0 },
        min_z: if greedy || row.min_p == 0.0 { -1024.0 } else { (row.min_p as f64).ln() as f32 },
        agent: row.agent,
        step: row.step,
        greedy: greedy as u32,
        confidence: row.confidence,
        pad_0: 0,
        pad_1: 0,
        pad_2: 0,
    }
}

impl SamplingPlan {
    /// Validates `problem` and works out the launch.
    ///
    /// # Errors
    /// Those of [`SamplingProblem::validate`].
    pub fn new(device: &Device, problem: &SamplingProblem) -> Result<Self> {
        SamplingPlan::with(device, problem, None)
    }

    /// A plan for all steps that the counter has room for: a run draws with the noise of the rows' steps plus the
    /// counter.
    ///
    /// # Errors
    /// As [`SamplingPlan::new`], and [`Error::Invalid`] for a counter of another device.
    pub fn over(device: &Device, problem: &SamplingProblem, steps: &Steps) -> Result<Self> {
        steps.validate(OP, device, problem.rows.len())?;
        SamplingPlan::with(device, problem, Some(steps.clone()))
    }

    fn with(device: &Device, problem: &SamplingProblem, steps: Option<Steps>) -> Result<Self> {
        problem.validate()?;
        let (soft_cap, has_steps) = (problem.soft_cap.is_some(), steps.is_some());
        Ok(SamplingPlan {
            device: device.clone(),
            id: next_plan_id(),
            variant: match device {
                #[cfg(feature = "cuda")]
                Device::Cuda(_) => super::cuda::variant(problem.vocab, problem.logits_dtype, soft_cap, has_steps),
                _ => variant(problem.logits_dtype, soft_cap, has_steps),
            },
            table: problem.rows.iter().map(|r| row_params(problem, r)).collect(),
            problem: problem.clone(),
            steps,
        })
    }

    /// The problem that the plan solves.
    pub fn problem(&self) -> &SamplingProblem {
        &self.problem
    }
}

impl std::fmt::Display for SamplingPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |keep: fn(&RowParams) -> bool| self.table.iter().filter(|r| keep(r)).count();
        write!(
            f,
            "sampling on {}: {} rows of {} tokens, variant {} ({} greedy, {} with top-k, {} with top-p, {} with confidence)",
            self.device.kind(),
            self.table.len(),
            self.problem.vocab,
            self.variant.options(),
            count(|r| r.greedy != 0),
            count(|r| r.top_k != 0),
            count(|r| r.top_p != 0),
            count(|r| r.confidence != 0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(row: SamplingRow) -> SamplingProblem {
        SamplingProblem {
            logits_dtype: DType::BF16,
            rows: vec![row],
            vocab: 10,
            output_multiplier: 1.0,
            soft_cap: None,
            seed: 0,
        }
    }

    #[test]
    fn what_is_off_costs_no_pass() {
        let row = SamplingRow { top_k: 10, ..SamplingRow::default() };
        let plan = SamplingPlan::new(&Device::Reference, &problem(row)).unwrap();
        assert_eq!((plan.table[0].top_k, plan.table[0].top_p, plan.table[0].min_z), (0, 0, -1024.0));
        let row = SamplingRow { temperature: 0.0, top_k: 2, top_p: 0.5, ..row };
        let plan = SamplingPlan::new(&Device::Reference, &problem(row)).unwrap();
        assert_eq!((plan.table[0].top_k, plan.table[0].top_p, plan.table[0].greedy), (0, 0, 1));
        assert_eq!(
            plan.to_string(),
            "sampling on reference: 1 rows of 10 tokens, variant ROUNDS=2u SOFT_CAP=false HAS_STEPS=false logits:bf16 \
             (1 greedy, 0 with top-k, 0 with top-p, 0 with confidence)"
        );
    }

    #[test]
    fn extreme_scales_stay_finite() {
        for temperature in [1e-45, 1e-30, 1.0, 1e30, f32::MAX] {
            let r =
                row_params(&problem(SamplingRow::default()), &SamplingRow { temperature, ..SamplingRow::default() });
            assert!(r.gap_scale.is_normal() && r.gap_limit.is_normal(), "{temperature}: {r:?}");
            assert!((r.gap_scale * r.gap_limit).is_finite());
        }
    }
}
