//! Where an operation runs: one enum, one `match` per operation.

#[cfg(any(feature = "webgpu", feature = "cuda"))]
use std::sync::Arc;

use crate::Result;

/// A device that runs the crate's operations. Cloning clones the handle.
#[derive(Clone)]
#[non_exhaustive]
pub enum Device {
    /// The definition: plain loops in f64 on the CPU. Slow, always present, what the others are compared with.
    Reference,
    /// An NVIDIA GPU behind the CUDA driver.
    #[cfg(feature = "cuda")]
    Cuda(Arc<crate::backend::cuda::Gpu>),
    /// Any GPU behind `wgpu`, or a software driver.
    #[cfg(feature = "webgpu")]
    WebGpu(Arc<crate::backend::webgpu::Gpu>),
}

impl Device {
    /// The best device of this machine: CUDA if a GPU, its driver and its compiler are there, else WebGPU if there is an
    /// adapter, else the reference.
    pub fn detect() -> Device {
        #[cfg(feature = "cuda")]
        if let (Ok(device), Ok(_)) = (Device::cuda(), crate::backend::cuda::nvrtc::Nvrtc::get()) {
            return device;
        }
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

    /// The first CUDA device, on a stream of its own.
    ///
    /// # Errors
    /// [`crate::Error::CudaUnavailable`] with what was looked for.
    #[cfg(feature = "cuda")]
    pub fn cuda() -> Result<Device> {
        Device::cuda_at(0)
    }

    /// CUDA device number `ordinal`, on a stream of its own.
    #[cfg(feature = "cuda")]
    pub fn cuda_at(ordinal: usize) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(crate::backend::cuda::Gpu::new(ordinal)?)))
    }

    /// The compiler of CUDA kernels with its version: NVRTC, loaded from `COLATENT_NVRTC_DIR`, a toolkit's folder or the
    /// system's loader.
    ///
    /// # Errors
    /// [`crate::Error::CudaUnavailable`] with where it was looked for.
    #[cfg(feature = "cuda")]
    pub fn cuda_compiler() -> Result<String> {
        crate::backend::cuda::nvrtc::Nvrtc::get().map(|_| crate::backend::cuda::nvrtc::version_name())
    }

    /// The folder in which compiled CUDA kernels are kept: `COLATENT_CACHE_DIR`, else one in the user's cache folder.
    #[cfg(feature = "cuda")]
    pub fn cuda_cache() -> Option<std::path::PathBuf> {
        crate::backend::cuda::cache::folder()
    }

    /// A stream that the caller has: everything is launched on it.
    #[cfg(feature = "cuda")]
    pub fn from_cuda_stream(stream: Arc<cudarc::driver::CudaStream>) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(crate::backend::cuda::Gpu::from_stream(stream)?)))
    }

    /// A context and a stream that the caller has as raw handles: everything is launched on that stream, with that
    /// context current for the call. 0x2 names another stream on each thread of the host: such a device is for one thread.
    ///
    /// # Safety
    /// `context` is a live context, `stream` one of its streams (0x0, 0x1 and 0x2 name its default streams), and both
    /// stay alive as long as `owner`, which the device and its kernels hold.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_cuda_raw(
        context: cudarc::driver::sys::CUcontext,
        stream: cudarc::driver::sys::CUstream,
        owner: Arc<dyn std::any::Any + Send + Sync>,
    ) -> Result<Device> {
        // SAFETY: the caller's promise.
        Ok(Device::Cuda(Arc::new(unsafe { crate::backend::cuda::Gpu::from_raw(context, stream, owner)? })))
    }

    /// The CUDA kernels executed on the CPU, for tests of the kernels: needs a C++ compiler when it runs.
    #[cfg(feature = "cuda-sim")]
    pub fn cuda_sim() -> Result<Device> {
        Device::cuda_sim_arch(8, 0)
    }

    /// The same with the kernels that a GPU of compute capability `major.minor` gets.
    #[cfg(feature = "cuda-sim")]
    pub fn cuda_sim_arch(major: u32, minor: u32) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(crate::backend::cuda::Gpu::sim(major, minor)?)))
    }

    /// What `step` launches on a simulated device, kept instead of done, as a graph of the CUDA driver.
    #[cfg(feature = "cuda-sim")]
    #[doc(hidden)]
    pub fn sim_capture(&self, step: impl FnOnce() -> Result<()>) -> Result<crate::backend::cuda::graph::SimGraph> {
        match self {
            Device::Cuda(gpu) => crate::backend::cuda::graph::SimGraph::capture(gpu, step),
            other => Err(crate::Error::invalid("capture", "device", "a simulated CUDA device", other)),
        }
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

    /// The kind in one word: `reference`, `cuda`, `cuda-sim`, `cuda-sim-90` (the kernels for Hopper) or `webgpu`.
    pub fn kind(&self) -> &'static str {
        match self {
            Device::Reference => "reference",
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) if gpu.is_sim() && gpu.arch().major == 9 => "cuda-sim-90",
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) if gpu.is_sim() => "cuda-sim",
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => "cuda",
            #[cfg(feature = "webgpu")]
            Device::WebGpu(_) => "webgpu",
        }
    }

    /// Kernels launched on this device so far, on CUDA; 0 elsewhere. For tests and reports that count launches.
    pub fn launches(&self) -> u64 {
        match self {
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => gpu.launches(),
            _ => 0,
        }
    }

    /// Waits until everything submitted so far is done. No operation of the crate calls it.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Device::Reference => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => gpu.synchronize(),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => gpu.synchronize(),
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Reference => f.write_str("reference (CPU, f64)"),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => {
                let (name, target, sms) = (gpu.name(), gpu.arch().target(), gpu.num_sms());
                write!(f, "{} ({name}, {target}, {sms} multiprocessors)", self.kind())
            }
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
