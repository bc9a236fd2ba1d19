//! Host arithmetic of a merge.

use super::problem::MergeProblem;
use crate::backend::next_plan_id;
use crate::layer::LayerSpec;
use crate::{Device, Result};

/// A validated merge with its tables, reusable by every layer of the kind.
#[derive(Clone)]
pub struct MergePlan {
    pub(crate) device: Device,
    pub(crate) id: u64,
    pub(crate) spec: LayerSpec,
    pub(crate) indptr: Vec<u32>,
    pub(crate) index: Vec<u32>,
    pub(crate) num_states: usize,
}

impl MergePlan {
    /// Validates the problem.
    pub fn new(device: &Device, problem: &MergeProblem<'_>) -> Result<Self> {
        problem.validate()?;
        Ok(MergePlan {
            device: device.clone(),
            id: next_plan_id(),
            spec: problem.spec.clone(),
            indptr: problem.indptr.to_vec(),
            index: problem.index.to_vec(),
            num_states: problem.num_states,
        })
    }

    /// Rows written.
    pub fn rows(&self) -> usize {
        self.indptr.len() - 1
    }
}

impl std::fmt::Display for MergePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, states) = (self.rows(), self.index.len());
        write!(f, "merge on {}: {states} states into {rows} rows, layer {}", self.device, self.spec.name)
    }
}
