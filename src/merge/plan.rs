//! Host arithmetic of a merge.

use super::params::HEADER_WORDS;
use super::problem::{MergeProblem, OP, validate_positions};
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
    /// Of the rows, where outputs are turned back.
    pub(crate) positions: Option<Vec<[i32; 4]>>,
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
            positions: None,
        })
    }

    /// The plan with the rows' positions, by which outputs of a layer kind with [`LayerSpec::v_rope`] are turned back.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for another number of positions than rows, or a layer that turns no values.
    pub fn with_positions(self, positions: &[[i32; 4]]) -> Result<Self> {
        validate_positions(OP, &self.spec, self.rows(), positions)?;
        Ok(MergePlan { id: next_plan_id(), positions: Some(positions.to_vec()), ..self })
    }

    /// Rows written.
    pub fn rows(&self) -> usize {
        self.indptr.len() - 1
    }

    /// The tables of a launch: header, indptr, index, positions.
    pub(super) fn tables(&self) -> Vec<u32> {
        let indptr_base = HEADER_WORDS as u32;
        let mut words = vec![self.rows() as u32, indptr_base, indptr_base + self.indptr.len() as u32, 0];
        words.extend(&self.indptr);
        words.extend(&self.index);
        words.extend(self.positions.iter().flatten().flatten().map(|&p| p as u32));
        words
    }
}

impl std::fmt::Display for MergePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, states) = (self.rows(), self.index.len());
        write!(f, "merge on {}: {states} states into {rows} rows, layer {}", self.device, self.spec.name)?;
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => write!(f, "; 1 launch, {}", super::cuda::describe(&self.spec, rows)),
            _ => Ok(()),
        }
    }
}
