//! [`VerifyPlan`]: the trees as tables. Host arithmetic only.

use super::problem::VerifyProblem;
use super::{DraftTree, OP};
use crate::{Device, Result};

/// A validated [`VerifyProblem`] on a device.
#[derive(Clone)]
pub struct VerifyPlan {
    pub(super) device: Device,
    /// Names the plan's tables in a workspace.
    pub(super) id: u64,
    pub(super) trees: Vec<DraftTree>,
    pub(super) rows: usize,
}

impl VerifyPlan {
    /// Validates the problem for `device`. Touches no device memory.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for trees that overlap, leave the launch, or name a parent that comes later.
    pub fn new(device: &Device, problem: &VerifyProblem) -> Result<Self> {
        problem.validate()?;
        let id = crate::backend::next_plan_id();
        Ok(VerifyPlan { device: device.clone(), id, trees: problem.trees.to_vec(), rows: problem.rows })
    }

    /// Sequences of the batch.
    pub fn sequences(&self) -> usize {
        self.trees.len()
    }

    /// Words of a sequence's record in the output.
    pub(super) fn stride(&self) -> usize {
        4 + self.trees.iter().map(|t| t.parents.len()).max().unwrap_or(0).next_multiple_of(4)
    }

    /// Bytes of the output.
    pub fn output_bytes(&self) -> usize {
        self.sequences() * self.stride() * 4
    }

    /// The tables of a launch: per sequence its first row, its number of drafts and the word where its parents begin; then
    /// the parents.
    pub(super) fn tables(&self) -> Vec<u32> {
        let mut at = 3 * self.trees.len() as u32;
        let mut tables = Vec::new();
        for tree in &self.trees {
            let drafts = tree.parents.len() as u32;
            tables.extend([tree.first_row, drafts, at]);
            at += drafts;
        }
        tables.extend(self.trees.iter().flat_map(|tree| &tree.parents));
        tables
    }
}

impl std::fmt::Display for VerifyPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let drafts: usize = self.trees.iter().map(|t| t.parents.len()).sum();
        write!(f, "{OP} on {}: {drafts} drafts of {} sequences", self.device, self.sequences())
    }
}
