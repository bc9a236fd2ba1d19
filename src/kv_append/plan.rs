//! [`KvAppendPlan`]: the validated problem, ready for any number of layers. Host arithmetic only.

use super::OP;
use super::problem::{KvAppendProblem, PADDING};
use crate::layer::{LayerSpec, PackedLayout};
use crate::{Device, Error, Result, Steps};

/// A validated [`KvAppendProblem`] on a device: made once per step and layer kind, or once [for many
/// steps](KvAppendPlan::over); run once per layer of that kind.
#[derive(Clone)]
pub struct KvAppendPlan {
    pub(super) device: Device,
    /// Names the plan's tables in a workspace. A clone has the same tables, so it keeps the number.
    pub(super) id: u64,
    pub(super) spec: LayerSpec,
    pub(super) layout: PackedLayout,
    pub(super) page_size: usize,
    pub(super) num_pages: usize,
    pub(super) places: Vec<u32>,
    pub(super) positions: Vec<[i32; 4]>,
    /// The counter by which a run finds its step's places and positions.
    pub(super) steps: Option<Steps>,
}

impl KvAppendPlan {
    /// Validates the problem for `device`. Touches no device memory.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a layer, layout, place or position list that makes no sense,
    /// [`crate::Error::Unsupported`] for what the device's kernel does not do.
    pub fn new(device: &Device, problem: &KvAppendProblem) -> Result<Self> {
        KvAppendPlan::with(device, problem, None)
    }

    /// A plan for all steps that the counter has room for: `places` and `positions` are those of all rows of the first
    /// step, then of the second, and so on. A run has the rows of the step that the counter is at; past the room it
    /// stores no k and v.
    ///
    /// # Errors
    /// As [`KvAppendPlan::new`], and [`crate::Error::Invalid`] if the places are not the same number for each step or the
    /// counter is another device's.
    pub fn over(device: &Device, problem: &KvAppendProblem, steps: &Steps) -> Result<Self> {
        steps.validate(OP, device, problem.places.len() / steps.room() as usize)?;
        if !problem.places.len().is_multiple_of(steps.room() as usize) {
            let expected = format!("the same number of rows for each of {} steps", steps.room());
            return Err(Error::invalid(OP, "places", expected, problem.places.len()));
        }
        KvAppendPlan::with(device, problem, Some(steps.clone()))
    }

    fn with(device: &Device, problem: &KvAppendProblem, steps: Option<Steps>) -> Result<Self> {
        problem.validate()?;
        let plan = KvAppendPlan {
            device: device.clone(),
            id: crate::backend::next_plan_id(),
            spec: problem.spec.clone(),
            layout: problem.layout,
            page_size: problem.page_size,
            num_pages: problem.num_pages,
            places: problem.places.to_vec(),
            positions: problem.positions.to_vec(),
            steps,
        };
        match device {
            Device::Reference => {}
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => super::params::validate_layout(&plan, "CUDA")?,
            #[cfg(feature = "webgpu")]
            Device::WebGpu(_) => super::webgpu::validate(&plan)?,
        }
        Ok(plan)
    }

    /// Rows of the packed tensor and of q: those of one step.
    pub fn rows(&self) -> usize {
        self.places.len() / self.room()
    }

    fn room(&self) -> usize {
        self.steps.as_ref().map_or(1, |s| s.room() as usize)
    }

    /// Heads of q, k and v in one row: what one launch splits its work into.
    pub(super) fn heads(&self) -> usize {
        heads(&self.spec)
    }

    /// The tables of a launch: of all steps the rows' places, their positions and, if the layer has a temperature, the factors of the
    /// positions, f32.
    pub(super) fn tables(&self) -> Vec<u32> {
        let positions = self.positions.iter().flatten().map(|&p| p as u32);
        let factor = |p: &[i32; 4]| self.spec.q_temperature.map(|t| (t.at(p[0]) as f32).to_bits());
        self.places.iter().copied().chain(positions).chain(self.positions.iter().filter_map(factor)).collect()
    }

    /// Bytes that a run has to read and write at least, in the first step.
    fn bytes(&self) -> usize {
        let spec = &self.spec;
        let stored = self.places.iter().take(self.rows()).filter(|&&p| p != PADDING).count();
        let q = spec.num_q_heads * spec.head_dim;
        let v = if spec.v_in_k { 0 } else { spec.head_dim_v };
        let [read, kept] = [spec.head_dim, spec.key_elements()].map(|k| stored * spec.num_kv_heads * (k + v));
        (2 * self.rows() * q + read) * spec.dtype.size() + kept * spec.kv_dtype.size()
    }
}

/// Heads of q, k and v in one row of a layer kind; V in K is none.
pub(super) fn heads(spec: &LayerSpec) -> usize {
    spec.num_q_heads + if spec.v_in_k { 1 } else { 2 } * spec.num_kv_heads
}

impl std::fmt::Display for KvAppendPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = &self.spec;
        let padding = self.places.iter().take(self.rows()).filter(|&&p| p == PADDING).count();
        write!(f, "{OP} {} on {}: {} rows ({padding} padding)", s.name, self.device, self.rows())?;
        if let Some(steps) = &self.steps {
            write!(f, ", {} steps", steps.room())?;
        }
        write!(f, ", {}/{} heads of {}/{}", s.num_q_heads, s.num_kv_heads, s.head_dim, s.head_dim_v)?;
        write!(f, ", {} to q {} and kv {}", s.dtype, s.dtype, s.kv_dtype)?;
        if let Some(dtype) = s.tail_dtype {
            write!(f, " with {} lanes in {dtype}", s.tail_lanes())?;
        }
        write!(f, ", {} pages of {}, {} bytes at least", self.num_pages, self.page_size, self.bytes())?;
        match &self.device {
            Device::Reference => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => write!(f, "; 1 launch, {}", super::cuda::describe(self)),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(_) => write!(f, "; 1 launch, {}", super::webgpu::describe(self)),
        }
    }
}
