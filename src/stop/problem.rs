//! What is asked: the rules, whose the rows are, and the memory of a run.

use super::{OP, StopPlan, StopState};
use crate::{Buffer, Error, Result};

/// Whose row it is, and how long the agent may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopRow {
    /// The agent's slot in the state. No slot twice.
    pub slot: u32,
    /// Draws after which it stops; 0: no limit.
    pub budget: u32,
}

/// The rules for the rows of a step.
#[derive(Debug, Clone, Copy)]
pub struct StopProblem<'a> {
    /// One entry per row that was drawn.
    pub rows: &'a [StopRow],
    /// Slots of the state.
    pub slots: usize,
    /// Draws of a group: the window of the state.
    pub window: usize,
    /// An agent stops when its group confidence is below this. `-inf` is off.
    pub threshold: f32,
    /// Tokens that end an answer.
    pub end_tokens: &'a [u32],
}

/// What one run reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct StopArgs<'a> {
    /// What was drawn: 16 bytes per row, token, log_prob, entropy, confidence. Rows of stopped agents are silenced.
    pub sampled: &'a Buffer,
    /// Read and written.
    pub state: &'a StopState,
}

impl StopProblem<'_> {
    /// Checks everything that does not depend on a device.
    pub(super) fn validate(&self) -> Result<()> {
        if self.window == 0 || self.slots == 0 {
            let got = format!("{} slots with windows of {}", self.slots, self.window);
            return Err(Error::invalid(OP, "window", "1 draw and 1 slot or more", got));
        }
        if self.threshold.is_nan() || self.threshold == f32::INFINITY {
            return Err(Error::invalid(OP, "threshold", "a number, or -inf", self.threshold));
        }
        let mut taken = vec![false; self.slots];
        for (r, row) in self.rows.iter().enumerate() {
            match taken.get_mut(row.slot as usize) {
                Some(taken) if !*taken => *taken = true,
                Some(_) => {
                    let got = format!("{} twice", row.slot);
                    return Err(Error::invalid(OP, "rows", "a slot of its own for each row", got));
                }
                None => {
                    let got = format!("{} in row {r}", row.slot);
                    return Err(Error::invalid(OP, "rows", format!("slots less than {}", self.slots), got));
                }
            }
        }
        Ok(())
    }
}

impl StopArgs<'_> {
    pub(super) fn validate(&self, plan: &StopPlan) -> Result<()> {
        let (slots, window) = (plan.slots, plan.window);
        self.sampled.expect_bytes(OP, "sampled", plan.rows.len() * 16)?;
        if (self.state.slots(), self.state.window()) != (slots, window) {
            let got = format!("{} with windows of {}", self.state.slots(), self.state.window());
            return Err(Error::invalid(OP, "state", format!("{slots} slots with windows of {window}"), got));
        }
        Ok(())
    }
}
