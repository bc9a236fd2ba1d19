//! The counter of steps: what lets a step be planned once and repeated with growing lengths.

#[cfg(any(feature = "webgpu", feature = "cuda"))]
use std::sync::Arc;
#[cfg(feature = "webgpu")]
use std::sync::Mutex;

#[cfg(any(feature = "webgpu", feature = "cuda"))]
use crate::backend::source::Variant;
use crate::{Buffer, Device, Error, Result};

const OP: &str = "steps";

/// First word of the rows' ends.
pub(crate) const ENDS: usize = 3;

/// The end of a row that has none.
pub(crate) const NEVER: u32 = u32::MAX;

/// A counter on a device: how many steps were done since plans were made over it.
///
/// Plans made `over` the counter ([attention](crate::attention::AttentionPlan::over),
/// [kv_append](crate::kv_append::KvAppendPlan::over), [sampling](crate::sampling::SamplingPlan::over)) read it on the device
/// in every run. So the host plans once for `room` steps, and a step is the same launches every time: no plan, no upload, no
/// wait. On CUDA it can be captured into a graph and replayed. [`Steps::advance`] ends a step. Past the room nothing is
/// stored any more and the last step repeats.
///
/// A counter [of rows](Steps::of_rows) also holds the step at which each row ends: from then on launches pass the row over.
/// [stop](crate::stop::StopPlan::over) writes it, on the device, so that finished agents leave the batch while nobody waits.
/// Row `i` of every plan over the counter is then the same agent's:
///
/// | operation | of a row that has ended |
/// |---|---|
/// | kv_append | nothing is written, neither q nor K and V |
/// | attention | it sees nothing; a tile of keys that only such rows would see is not loaded |
/// | sampling, lm_head | [`NO_TOKEN`](crate::sampling::NO_TOKEN); a slice of the weight that only such rows need is not loaded |
/// | stop | silenced, as before |
///
/// Other rows keep their bits.
///
/// Cloning clones the handle.
#[derive(Clone)]
pub struct Steps {
    device: Device,
    room: u32,
    rows: usize,
    /// Words: steps so far, last step of the room, rows, and of each row the step at which it ends.
    buffer: Buffer,
    #[cfg(feature = "webgpu")]
    bindings: Arc<Mutex<crate::backend::webgpu::Bindings>>,
}

impl Steps {
    /// A counter at 0, with room for `room` steps. Its rows never end.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no step.
    pub fn new(device: &Device, room: u32) -> Result<Self> {
        Steps::of_rows(device, room, 0)
    }

    /// A counter at 0, with room for `room` steps of `rows` rows, each of which may end before.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no step, or 2^30 rows and more.
    pub fn of_rows(device: &Device, room: u32, rows: usize) -> Result<Self> {
        if room == 0 {
            return Err(Error::invalid(OP, "room", "1 step or more", room));
        }
        if rows >= 1 << 30 {
            return Err(Error::invalid(OP, "rows", "less than 2^30", rows));
        }
        let steps = Steps {
            device: device.clone(),
            room,
            rows,
            buffer: Buffer::zeros(device, 4 * (ENDS + rows))?,
            #[cfg(feature = "webgpu")]
            bindings: Default::default(),
        };
        steps.restart()?;
        Ok(steps)
    }

    /// Steps that plans over the counter have room for.
    pub fn room(&self) -> u32 {
        self.room
    }

    /// Rows whose ends it holds; 0 if rows never end.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Back to 0, no row ended: an upload, in the order of the device's work.
    pub fn restart(&self) -> Result<()> {
        let mut words = vec![0, self.room - 1, self.rows as u32];
        words.resize(ENDS + self.rows, NEVER);
        self.buffer.write(0, bytemuck::cast_slice(&words))
    }

    /// One step on: a launch behind everything that the step launched.
    pub fn advance(&self) -> Result<()> {
        match &self.device {
            Device::Reference => self.buffer.write(0, &self.count()?.wrapping_add(1).to_le_bytes()),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => gpu.launch(&crate::backend::cuda::Launch {
                kernel: &gpu.kernel(&Variant::new("advance"))?,
                groups: 1,
                threads: 32,
                shared_bytes: 0,
                args: bytemuck::bytes_of(&self.buffer.block(gpu, OP, "counter")?.address()),
            }),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => gpu.run(|encoder| self.encode(gpu, encoder)),
        }
    }

    /// As [`Steps::advance`], into the caller's encoder, on a WebGPU device.
    #[cfg(feature = "webgpu")]
    pub fn encode_advance(&self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        match &self.device {
            Device::WebGpu(gpu) => self.encode(gpu, encoder),
            other => Err(Error::invalid(OP, "device", "a WebGPU device", other)),
        }
    }

    #[cfg(feature = "webgpu")]
    fn encode(&self, gpu: &Arc<crate::backend::webgpu::Gpu>, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        use crate::backend::webgpu::{Access, Launch};
        let kernel = gpu.kernel(&Variant::new("advance"), &[Access::ReadWrite])?;
        let buffers = [self.buffer.on(gpu, OP, "counter")?];
        let launch = Launch { kernel: &kernel, params: &[0; 16], buffers: &buffers, groups: 1 };
        let mut bindings = self.bindings.lock().unwrap_or_else(|e| e.into_inner());
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(OP), timestamp_writes: None });
        gpu.encode(&mut bindings, &mut pass, &launch)
    }

    /// Compiles what [`Steps::advance`] needs on a CUDA device, so that it can be captured into a graph. Other devices
    /// need nothing.
    pub fn warm_up(&self) -> Result<()> {
        match &self.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => gpu.kernel(&Variant::new("advance")).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Steps so far. Waits for the device.
    pub fn count(&self) -> Result<u32> {
        Ok(self.words()?[0])
    }

    /// Of each row the step from which on it takes no part, if it is known already. What the cache holds of it behind its
    /// end was never written: truncate it. Waits for the device.
    pub fn ends(&self) -> Result<Vec<Option<u32>>> {
        Ok(self.words()?[ENDS..].iter().map(|&end| Some(end).filter(|&end| end != NEVER)).collect())
    }

    fn words(&self) -> Result<Vec<u32>> {
        let bytes = self.buffer.read()?; // in whole groups of words
        Ok(bytes.chunks_exact(4).take(ENDS + self.rows).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The step that a run is at now, for the reference.
    pub(crate) fn now(&self) -> Result<u32> {
        Ok(self.count()?.min(self.room - 1))
    }

    /// Whether each row has ended at the step that a run is at now, for the reference; no entry if rows never end.
    pub(crate) fn ended(&self) -> Result<Vec<bool>> {
        let words = self.words()?;
        Ok(words[ENDS..].iter().map(|&end| words[0] >= end).collect())
    }

    /// Ends a row, unless it has ended before: what `stop` does, for the reference.
    pub(crate) fn end(&self, row: usize, step: u32) -> Result<()> {
        let end = self.words()?[ENDS + row].min(step);
        self.buffer.write(4 * (ENDS + row), &end.to_le_bytes())
    }

    /// Whether plans of `device` with `rows` rows can read it.
    pub(crate) fn validate(&self, op: &'static str, device: &Device, rows: usize) -> Result<()> {
        if self.rows != 0 && self.rows != rows {
            return Err(Error::invalid(
                op,
                "steps",
                format!("a counter of {rows} rows"),
                format!("one of {}", self.rows),
            ));
        }
        let is_same = match (&self.device, device) {
            (Device::Reference, Device::Reference) => true,
            #[cfg(feature = "cuda")]
            (Device::Cuda(own), Device::Cuda(gpu)) => Arc::ptr_eq(own, gpu),
            #[cfg(feature = "webgpu")]
            (Device::WebGpu(own), Device::WebGpu(gpu)) => Arc::ptr_eq(own, gpu),
            #[cfg(any(feature = "webgpu", feature = "cuda"))]
            _ => false,
        };
        let other = || Error::invalid(op, "steps", format!("a counter of {device}"), format!("one of {}", self.device));
        is_same.then_some(()).ok_or_else(other)
    }

    /// The counter's memory.
    pub(crate) fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Steps(room for {} of {} rows on {})", self.room, self.rows, self.device)
    }
}

/// Name and WGSL text of the counter's kernel, for tests that compile it offline.
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub fn steps_shader_variants() -> Vec<(String, String)> {
    vec![("advance".into(), Variant::new("advance").wgsl())]
}

/// Name and CUDA C++ text of the counter's kernel, for tests that compile it offline.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn steps_cuda_variants() -> Vec<(String, String)> {
    vec![("advance".into(), Variant::new("advance").cuda())]
}
