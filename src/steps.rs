//! The counter of steps: what lets a step be planned once and repeated with growing lengths.

#[cfg(any(feature = "webgpu", feature = "cuda"))]
use std::sync::Arc;
#[cfg(feature = "webgpu")]
use std::sync::Mutex;

#[cfg(any(feature = "webgpu", feature = "cuda"))]
use crate::backend::source::Variant;
use crate::{Buffer, Device, Error, Result};

const OP: &str = "steps";

/// A counter on a device: how many steps were done since plans were made over it.
///
/// Plans made `over` the counter ([attention](crate::attention::AttentionPlan::over),
/// [kv_append](crate::kv_append::KvAppendPlan::over), [sampling](crate::sampling::SamplingPlan::over)) read it on the device
/// in every run. So the host plans once for `room` steps, and a step is the same launches every time: no plan, no upload, no
/// wait. On CUDA it can be captured into a graph and replayed. [`Steps::advance`] ends a step. Past the room nothing is
/// stored any more and the last step repeats.
///
/// Cloning clones the handle.
#[derive(Clone)]
pub struct Steps {
    device: Device,
    room: u32,
    /// Two words: steps so far, last step of the room.
    buffer: Buffer,
    #[cfg(feature = "webgpu")]
    bindings: Arc<Mutex<crate::backend::webgpu::Bindings>>,
}

impl Steps {
    /// A counter at 0, with room for `room` steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no step.
    pub fn new(device: &Device, room: u32) -> Result<Self> {
        if room == 0 {
            return Err(Error::invalid(OP, "room", "1 step or more", room));
        }
        let steps = Steps {
            device: device.clone(),
            room,
            buffer: Buffer::zeros(device, 8)?,
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

    /// Back to 0: an upload, in the order of the device's work.
    pub fn restart(&self) -> Result<()> {
        self.buffer.write(0, bytemuck::bytes_of(&[0, self.room - 1]))
    }

    /// One step on: a launch behind everything that the step launched.
    pub fn advance(&self) -> Result<()> {
        match &self.device {
            Device::Reference => {
                self.buffer.write(0, bytemuck::bytes_of(&[self.count()?.wrapping_add(1), self.room - 1]))
            }
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
        let bytes = self.buffer.read()?;
        Ok(bytes.first_chunk().map_or(0, |&word| u32::from_le_bytes(word)))
    }

    /// The step that a run is at now, for the reference.
    pub(crate) fn now(&self) -> Result<u32> {
        Ok(self.count()?.min(self.room - 1))
    }

    /// Whether plans of `device` can read it.
    pub(crate) fn validate(&self, op: &'static str, device: &Device) -> Result<()> {
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
        write!(f, "Steps(room for {} on {})", self.room, self.device)
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
