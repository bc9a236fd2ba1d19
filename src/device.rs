//! Where an operation runs: one enum, one `match` per operation.

#[cfg(feature = "webgpu")]
use std::sync::Arc;

use crate::Result;

/// A device that runs the crate's operations. Cloning clones the handle.
#[derive(Clone)]
#[non_exhaustive]
pub enum Device {
    /// The definition: plain loops in f64 on the CPU. Slow, always present, what the others are compared with.
    Reference,
    /// Any GPU behind `wgpu`, or a software driver.
    #[cfg(feature = "webgpu")]
    WebGpu(Arc<crate::backend::webgpu::Gpu>),
}

impl Device {
    /// The best device of this machine: WebGPU if there is an adapter, else the reference.
    pub fn detect() -> Device {
        #[cfg(feature = "webgpu")]
        if let Ok(device) = Device::webgpu() {
            return device;
        }
        Device::Reference
    }

    /// The CPU reference.
    pub fn reference() -> Device {
        Device::Reference
    }

    /// The first WebGPU adapter, real GPUs before software drivers.
    ///
    /// # Errors
    /// [`crate::Error::WebGpuUnavailable`] with what was looked for.
    #[cfg(feature = "webgpu")]
    pub fn webgpu() -> Result<Device> {
        Ok(Device::WebGpu(Arc::new(crate::backend::webgpu::Gpu::detect()?)))
    }

    /// A `wgpu` device and queue that the caller owns. `info` is what the caller's adapter says of itself.
    #[cfg(feature = "webgpu")]
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue, info: &wgpu::AdapterInfo) -> Result<Device> {
        Ok(Device::WebGpu(Arc::new(crate::backend::webgpu::Gpu::from_parts(device, queue, info)?)))
    }

    /// The kind in one word: `reference` or `webgpu`.
    pub fn kind(&self) -> &'static str {
        match self {
            Device::Reference => "reference",
            #[cfg(feature = "webgpu")]
            Device::WebGpu(_) => "webgpu",
        }
    }

    /// Waits until everything submitted so far is done. No operation of the crate calls it.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Device::Reference => Ok(()),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => gpu.synchronize(),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Reference => f.write_str("reference (CPU, f64)"),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => write!(f, "webgpu ({})", gpu.name()),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
