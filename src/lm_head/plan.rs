//! [`LmHeadPlan`]: slices, rounds, and what they leave. Host arithmetic only.

use super::problem::{LmHeadArgs, LmHeadProblem};
use super::{OP, SLICE};
use crate::sampling::{RowParams, row_params};
use crate::{Device, Error, Result, Steps, Workspace};

/// A validated [`LmHeadProblem`] on a device. Built once per step, or once [for many steps](LmHeadPlan::over), for all
/// rows of the step.
pub struct LmHeadPlan {
    pub(super) device: Device,
    /// Names the plan's tables in a workspace.
    pub(super) id: u64,
    pub(super) problem: LmHeadProblem,
    pub(super) table: Vec<RowParams>,
    /// The largest keys that a slice lists of a row.
    pub(super) list: usize,
    /// 2 if a row is truncated.
    pub(super) rounds: usize,
    /// The counter that is added to the rows' steps.
    pub(super) steps: Option<Steps>,
}

/// Words of a slice's record without its list.
const RECORD: usize = 8;

impl LmHeadPlan {
    /// Validates `problem` and works out the launches.
    ///
    /// # Errors
    /// Those of [`LmHeadProblem::validate`], and [`Error::Unsupported`] for a width or a size that the device's kernel does
    /// not serve.
    pub fn new(device: &Device, problem: &LmHeadProblem) -> Result<Self> {
        LmHeadPlan::with(device, problem, None)
    }

    /// A plan for all steps that the counter has room for: a run draws with the noise of the rows' steps plus the
    /// counter. Of rows that have ended it says [`NO_TOKEN`](crate::sampling::NO_TOKEN).
    ///
    /// # Errors
    /// As [`LmHeadPlan::new`], and [`Error::Invalid`] for a counter of another device or of other rows.
    pub fn over(device: &Device, problem: &LmHeadProblem, steps: &Steps) -> Result<Self> {
        steps.validate(OP, device, problem.rows.len())?;
        LmHeadPlan::with(device, problem, Some(steps.clone()))
    }

    fn with(device: &Device, problem: &LmHeadProblem, steps: Option<Steps>) -> Result<Self> {
        problem.validate()?;
        let draw = problem.draw();
        let table: Vec<RowParams> = problem.rows.iter().map(|row| row_params(&draw, row)).collect();
        let is_cut = |row: &RowParams| row.top_k != 0 || row.min_z > -1024.0;
        let plan = LmHeadPlan {
            device: device.clone(),
            id: crate::backend::next_plan_id(),
            problem: problem.clone(),
            list: table.iter().map(|row| row.top_k.max(row.confidence) as usize).max().unwrap_or(0),
            rounds: if table.iter().any(is_cut) { 2 } else { 1 },
            table,
            steps,
        };
        if !matches!(device, Device::Reference) {
            if !problem.width.is_multiple_of(4) {
                let what = format!("width {} on {}", problem.width, device.kind());
                return Err(Error::unsupported(OP, what, "multiples of 4"));
            }
            let keys = plan.slices() * plan.list;
            if keys >= 1 << 24 || plan.scratch_bytes() >= 1 << 32 {
                let what = format!("{} bytes of partial results, {keys} listed logits per row", plan.scratch_bytes());
                return Err(Error::unsupported(OP, what, "less than 2^32, less than 2^24"));
            }
        }
        Ok(plan)
    }

    /// The problem that the plan solves.
    pub fn problem(&self) -> &LmHeadProblem {
        &self.problem
    }

    /// Slices of the vocabulary.
    pub(super) fn slices(&self) -> usize {
        self.problem.vocab.div_ceil(SLICE)
    }

    /// Words of a slice's record.
    pub(super) fn stride(&self) -> usize {
        (RECORD + self.list).next_multiple_of(4)
    }

    /// Bytes of the slices' records and the rows' thresholds.
    pub(super) fn scratch_bytes(&self) -> usize {
        4 * self.table.len() * (self.slices() * self.stride() + 2)
    }

    /// Compiles and uploads what runs with these tensors need on a CUDA device, so that they can be captured into a graph.
    /// Other devices need nothing.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's log, [`Error::Invalid`] for a workspace of another device.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn warm_up(&self, args: &LmHeadArgs, workspace: &mut Workspace) -> Result<()> {
        args.validate(self)?;
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => super::cuda::ready(self, gpu, args, workspace).map(|_| ()),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for LmHeadPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let p = &self.problem;
        let bytes = p.vocab * p.width * p.weight_dtype.size();
        write!(f, "{OP} on {}: {} rows of {} {}", self.device, p.rows.len(), p.width, p.hidden_dtype)?;
        write!(f, ", {} tokens in {} slices, {} listed", p.vocab, self.slices(), self.list)?;
        write!(f, "; {} rounds over {bytes} bytes of {} weight", self.rounds, p.weight_dtype)?;
        write!(f, ", {} bytes of partial results", self.scratch_bytes())?;
        self.steps.as_ref().map_or(Ok(()), |steps| write!(f, ", {} steps", steps.room()))
    }
}
