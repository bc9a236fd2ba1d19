//! [`StopPlan`]: the rules as tables. Host arithmetic only.

use super::problem::StopProblem;
use super::{OP, StopRow};
use crate::{Device, Error, Result, Steps};

/// A validated [`StopProblem`] on a device. It serves every step of the same rows.
#[derive(Clone)]
pub struct StopPlan {
    pub(super) device: Device,
    /// Names the plan's tables in a workspace.
    pub(super) id: u64,
    pub(super) rows: Vec<StopRow>,
    pub(super) slots: usize,
    pub(super) window: usize,
    pub(super) threshold: f32,
    pub(super) end_tokens: Vec<u32>,
    /// The counter whose rows it ends.
    pub(super) steps: Option<Steps>,
}

impl StopPlan {
    /// Validates the problem for `device`. Touches no device memory.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for slots that do not exist or come twice, an empty window, or a threshold that is no
    /// number.
    pub fn new(device: &Device, problem: &StopProblem) -> Result<Self> {
        StopPlan::with(device, problem, None)
    }

    /// A plan over a counter [of rows](Steps::of_rows): a row that stops also ends there, so that other plans over the
    /// counter pass it over, on the device. It ends with the next step after an end token or without a distribution. What
    /// else it drew last is fed at the next step still, so that others may read it, and the row ends with the step behind,
    /// as agents of an [ensemble](crate::ensemble) do. Run it before [`Steps::advance`].
    ///
    /// # Errors
    /// As [`StopPlan::new`], and [`crate::Error::Invalid`] for a counter of another device or of other rows.
    pub fn over(device: &Device, problem: &StopProblem, steps: &Steps) -> Result<Self> {
        steps.validate(OP, device, problem.rows.len())?;
        if steps.rows() != problem.rows.len() {
            let expected = format!("a counter of {} rows", problem.rows.len());
            return Err(Error::invalid(OP, "steps", expected, "one whose rows never end"));
        }
        StopPlan::with(device, problem, Some(steps.clone()))
    }

    fn with(device: &Device, problem: &StopProblem, steps: Option<Steps>) -> Result<Self> {
        problem.validate()?;
        Ok(StopPlan {
            device: device.clone(),
            id: crate::backend::next_plan_id(),
            rows: problem.rows.to_vec(),
            slots: problem.slots,
            window: problem.window,
            threshold: problem.threshold,
            end_tokens: problem.end_tokens.to_vec(),
            steps,
        })
    }

    /// The tables of a launch: slot and budget of each row, then the end tokens.
    pub(super) fn tables(&self) -> Vec<u32> {
        let rows = self.rows.iter().flat_map(|row| [row.slot, row.budget]);
        rows.chain(self.end_tokens.iter().copied()).collect()
    }
}

impl std::fmt::Display for StopPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{OP} on {}: {} rows of {} slots", self.device, self.rows.len(), self.slots)?;
        write!(f, ", groups of {} below {}, {} end tokens", self.window, self.threshold, self.end_tokens.len())?;
        self.steps.as_ref().map_or(Ok(()), |steps| write!(f, ", {} steps", steps.room()))
    }
}
