//! What is asked: the trees of drafts, and the memory of a run.

use super::{OP, VerifyPlan};
use crate::{Buffer, Error, Result};

/// The drafts of one sequence: a block is a chain, a tree has several children at a place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DraftTree {
    /// The row that reads the sequence's last accepted token. The drafts have the rows behind it.
    pub first_row: u32,
    /// Per draft the row that it follows, counted from `first_row`: 0 is the last accepted token, `i` the draft before it
    /// in this list at place `i - 1`. Parents come first; in the order of depth-first search masks of spans serve the
    /// tree. Of equal tokens under one parent the first counts.
    pub parents: Vec<u32>,
}

impl DraftTree {
    /// A block of `len` drafts, one behind the other.
    pub fn chain(first_row: u32, len: u32) -> Self {
        DraftTree { first_row, parents: (0..len).collect() }
    }

    /// Rows of the sequence: its last accepted token and the drafts.
    pub fn rows(&self) -> usize {
        1 + self.parents.len()
    }

    /// How many drafts lie between the last accepted token and each row, the row included: what is added to the step of
    /// the sequence's draw for that row, and to its position.
    pub fn depths(&self) -> Vec<u32> {
        let mut depths = vec![0; self.rows()];
        for (i, &parent) in self.parents.iter().enumerate() {
            depths[i + 1] = depths.get(parent as usize).map_or(0, |d| d + 1);
        }
        depths
    }
}

/// A batch of sequences.
#[derive(Debug, Clone, Copy)]
pub struct VerifyProblem<'a> {
    /// One per sequence. Their rows do not meet.
    pub trees: &'a [DraftTree],
    /// Rows of the launch that drew the targets.
    pub rows: usize,
}

/// What one run reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct VerifyArgs<'a> {
    /// What `sampling` (or `lm_head`) drew from each row: 16 bytes per row.
    pub sampled: &'a Buffer,
    /// The drafted token of each row, u32; those of first rows are not read.
    pub drafts: &'a Buffer,
    /// Written: [`VerifyPlan::output_bytes`](super::VerifyPlan::output_bytes).
    pub out: &'a Buffer,
}

impl VerifyProblem<'_> {
    /// Checks everything that does not depend on a device.
    pub(super) fn validate(&self) -> Result<()> {
        let total: usize = self.trees.iter().map(DraftTree::rows).sum();
        if self.rows >= 1 << 28 || self.trees.len() >= 1 << 28 {
            let what = format!("{} sequences over {} rows", self.trees.len(), self.rows);
            return Err(Error::unsupported(OP, what, "less than 2^28 of each"));
        }
        let mut taken = vec![false; self.rows];
        for (s, tree) in self.trees.iter().enumerate() {
            let first = tree.first_row as usize;
            let own = first.checked_add(tree.rows()).and_then(|end| taken.get_mut(first..end));
            let Some(own) = own else {
                let got = format!("{} rows from {first} in sequence {s}", tree.rows());
                return Err(Error::invalid(OP, "trees", format!("rows below {}", self.rows), got));
            };
            if own.iter().any(|taken| *taken) {
                let got = format!("row {first} or one behind it twice, in sequence {s} and before");
                return Err(Error::invalid(OP, "trees", format!("{total} rows of their own"), got));
            }
            own.fill(true);
            if let Some((i, &parent)) = tree.parents.iter().enumerate().find(|&(i, &p)| p as usize > i) {
                let got = format!("{parent} for draft {i} of sequence {s}");
                return Err(Error::invalid(OP, "parents", format!("at most {i}: parents come first"), got));
            }
        }
        Ok(())
    }
}

impl VerifyArgs<'_> {
    pub(super) fn validate(&self, plan: &VerifyPlan) -> Result<()> {
        self.sampled.expect_bytes(OP, "sampled", plan.rows * 16)?;
        self.drafts.expect_bytes(OP, "drafts", plan.rows * 4)?;
        self.out.expect_bytes(OP, "out", plan.output_bytes())?;
        if self.out.is_same(self.sampled) || self.out.is_same(self.drafts) {
            return Err(Error::invalid(OP, "out", "a buffer of its own", "one that is read"));
        }
        Ok(())
    }
}
