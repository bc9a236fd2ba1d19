//! The CUDA context: memory, compiled kernels, launches. The only place that launches.
//!
//! Two runtimes stand behind it: the driver, and with the feature `cuda-sim` the host, which executes the same kernels
//! one fiber per thread. What is above this module cannot tell them apart.

pub(crate) mod cache;
mod driver;
#[cfg(feature = "cuda-sim")]
pub(crate) mod graph;
mod memory;
pub(crate) mod nvrtc;
#[cfg(feature = "cuda-sim")]
mod sim;
mod tensor_map;

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use cudarc::driver::{CudaStream, sys};

use super::source::Variant;
use crate::{Error, Result, Tensor};
pub(crate) use memory::Block;
pub(crate) use tensor_map::{Boxes, TensorMap};

/// Keeps alive what a raw handle names.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// A compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Arch {
    pub major: u32,
    pub minor: u32,
}

impl Arch {
    /// What the compiler is asked for: from 9.0 on with the features of exactly this architecture.
    pub fn target(&self) -> String {
        let suffix = if self.major >= 9 { "a" } else { "" };
        format!("sm_{}{}{suffix}", self.major, self.minor)
    }
}

/// A context, a stream of it and what was compiled for it.
pub struct Gpu {
    modules: Arc<Modules>,
    runtime: Runtime,
    launches: AtomicU64,
}

enum Runtime {
    Driver(driver::Driver),
    #[cfg(feature = "cuda-sim")]
    Sim(sim::Sim),
}

/// Kernels of one context; devices on several streams of a context share them.
#[derive(Default)]
struct Modules {
    kernels: Mutex<HashMap<Variant, Compiled>>,
}

/// A kernel, once somebody has asked for it and had it; what failed is tried again.
type Compiled = Arc<Mutex<Option<Arc<Kernel>>>>;

/// What is compiled: the entry point's name, the variant's constants for messages, and the whole source.
struct Text {
    kernel: &'static str,
    options: String,
    source: String,
}

/// A kernel that is ready to be launched.
pub(crate) struct Kernel {
    pub name: &'static str,
    code: Code,
}

enum Code {
    Driver(driver::Function),
    #[cfg(feature = "cuda-sim")]
    Sim(sim::Function),
}

/// One launch: a one-dimensional grid, and the kernel's one argument, a struct that goes by value.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Arc<Kernel>,
    pub groups: usize,
    pub threads: usize,
    pub shared_bytes: usize,
    pub args: &'a [u8],
}

impl Gpu {
    /// A stream of its own on device `ordinal`.
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        Ok(Gpu::with(Runtime::Driver(driver::Driver::new(ordinal)?)))
    }

    /// A stream that the caller has.
    pub(crate) fn from_stream(stream: Arc<CudaStream>) -> Result<Self> {
        let (context, raw) = (stream.context().cu_ctx(), stream.cu_stream());
        // SAFETY: the stream keeps itself and its context alive and is kept as the owner.
        Ok(Gpu::with(Runtime::Driver(unsafe { driver::Driver::from_raw(context, raw, Arc::new(stream))? })))
    }

    /// Handles that the caller has.
    ///
    /// # Safety
    /// `context` is a live context, `stream` one of its streams (0x0, 0x1 and 0x2 name the default streams), and both
    /// stay alive as long as `owner` does.
    pub(crate) unsafe fn from_raw(context: sys::CUcontext, stream: sys::CUstream, owner: Owner) -> Result<Self> {
        // SAFETY: the caller's promise.
        Ok(Gpu::with(Runtime::Driver(unsafe { driver::Driver::from_raw(context, stream, owner)? })))
    }

    /// The kernels on the host.
    #[cfg(feature = "cuda-sim")]
    pub(crate) fn sim(major: u32, minor: u32) -> Result<Self> {
        Ok(Gpu::with(Runtime::Sim(sim::Sim::new(Arch { major, minor })?)))
    }

    fn with(runtime: Runtime) -> Self {
        static CONTEXTS: Mutex<Option<HashMap<usize, Weak<Modules>>>> = Mutex::new(None);
        let context = match &runtime {
            Runtime::Driver(driver) => driver.context_id(),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => 0,
        };
        let mut contexts = CONTEXTS.lock().unwrap_or_else(|e| e.into_inner());
        let contexts = contexts.get_or_insert_default();
        let modules = contexts.get(&context).and_then(Weak::upgrade).unwrap_or_default();
        contexts.insert(context, Arc::downgrade(&modules));
        Gpu { modules, runtime, launches: AtomicU64::new(0) }
    }

    /// What the device calls itself.
    pub(crate) fn name(&self) -> &str {
        match &self.runtime {
            Runtime::Driver(driver) => &driver.name,
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => "simulated on the host",
        }
    }

    /// Whether the kernels run on the host.
    pub(crate) fn is_sim(&self) -> bool {
        !matches!(self.runtime, Runtime::Driver(_))
    }

    pub(crate) fn arch(&self) -> Arch {
        match &self.runtime {
            Runtime::Driver(driver) => driver.arch,
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(sim) => sim.arch,
        }
    }

    /// Bytes of shared memory that a block may have: on the host as the architecture it stands in for, or the least
    /// of several.
    pub(crate) fn shared_limit(&self) -> usize {
        match &self.runtime {
            Runtime::Driver(driver) => driver.shared_limit,
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(sim) => {
                if sim.arch.major == 9 {
                    232_448
                } else {
                    101_376
                }
            }
        }
    }

    /// Multiprocessors.
    pub(crate) fn num_sms(&self) -> usize {
        match &self.runtime {
            Runtime::Driver(driver) => driver.num_sms,
            // Few: kernels whose grid follows them do several things one after the other, on two workers.
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => 3,
        }
    }

    /// Launches so far.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Waits for the stream.
    pub(crate) fn synchronize(&self) -> Result<()> {
        match &self.runtime {
            Runtime::Driver(driver) => driver.synchronize(),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => Ok(()),
        }
    }

    /// Whether the stream is being captured into a graph.
    pub(crate) fn is_capturing(&self) -> Result<bool> {
        match &self.runtime {
            Runtime::Driver(driver) => driver.is_capturing(),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(sim) => Ok(sim.capture.is_under_way()),
        }
    }

    /// Refuses what cannot be kept for a graph: allocations, and copies from and to memory of the host that is another's by
    /// the time of a replay.
    fn refuse_in_capture(&self, op: &'static str) -> Result<()> {
        if self.is_capturing()? {
            return Err(Error::Device { op, message: "the stream is being captured".into() });
        }
        Ok(())
    }

    /// Compiles a variant, or finds it compiled. Variants compile side by side; a variant compiles once, and not while the
    /// stream is being captured: the driver loads no module then.
    pub(crate) fn kernel(&self, variant: &Variant) -> Result<Arc<Kernel>> {
        let cell = {
            let mut kernels = self.modules.kernels.lock().unwrap_or_else(|e| e.into_inner());
            kernels.entry(variant.clone()).or_default().clone()
        };
        let mut kernel = cell.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(kernel) = kernel.as_ref() {
            return Ok(kernel.clone());
        }
        if self.is_capturing()? {
            return Err(not_warmed_up(variant.kernel, "one whose plan has no kernel yet"));
        }
        let text = Text { kernel: variant.kernel, options: variant.options(), source: variant.cuda() };
        Ok(kernel.insert(Arc::new(self.compile(&text)?)).clone())
    }

    fn compile(&self, text: &Text) -> Result<Kernel> {
        let code = match &self.runtime {
            Runtime::Driver(driver) => Code::Driver(driver.load(text)?),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(sim) => Code::Sim(sim.load(text)?),
        };
        Ok(Kernel { name: text.kernel, code })
    }

    /// Launches on the stream, without waiting. No groups are no launch.
    pub(crate) fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if launch.groups == 0 {
            return Ok(());
        }
        let most = i32::MAX as usize;
        if launch.groups > most {
            return Err(Error::unsupported(launch.kernel.name, format!("{} blocks", launch.groups), most));
        }
        if launch.shared_bytes > self.shared_limit() {
            let what = format!("{} bytes of shared memory on {}", launch.shared_bytes, self.name());
            return Err(Error::unsupported(launch.kernel.name, what, self.shared_limit()));
        }
        match (&self.runtime, &launch.kernel.code) {
            (Runtime::Driver(driver), Code::Driver(function)) => driver.launch(function, launch)?,
            #[cfg(feature = "cuda-sim")]
            (Runtime::Sim(sim), Code::Sim(_)) if sim.capture.keep(launch) => return Ok(()),
            #[cfg(feature = "cuda-sim")]
            (Runtime::Sim(sim), Code::Sim(function)) => sim.launch(function, launch)?,
            #[cfg(feature = "cuda-sim")]
            _ => {
                let expected = "one compiled for this device";
                return Err(Error::invalid(launch.kernel.name, "kernel", expected, "one of another device"));
            }
        }
        self.launches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A workspace with which a capture cannot go on.
pub(super) fn not_warmed_up(op: &'static str, got: &'static str) -> Error {
    Error::invalid(op, "workspace", "one that was warmed up with this plan before the capture began", got)
}

/// Compiles and launches a kernel that belongs to no operation, for tests of what kernels are made of. Its one argument is
/// `params` followed by the addresses of `buffers`.
#[doc(hidden)]
pub fn launch_text(
    device: &crate::Device,
    (kernel, source): (&'static str, &str),
    (groups, threads, shared_bytes): (usize, usize, usize),
    params: &[u8],
    buffers: &[&crate::Buffer],
) -> Result<()> {
    let crate::Device::Cuda(gpu) = device else {
        return Err(Error::invalid(kernel, "device", "a CUDA device", device));
    };
    let kernel = Arc::new(gpu.compile(&Text { kernel, options: String::new(), source: source.into() })?);
    let mut args = params.to_vec();
    for buffer in buffers {
        args.extend(buffer.block(gpu, kernel.name, "buffers")?.address().to_le_bytes());
    }
    // As many bytes as an argument with a tensor map has.
    args.resize(args.len().next_multiple_of(128), 0);
    // Args are read as words of 8 bytes: a Vec of u64 has their alignment.
    let words: Vec<u64> = args.chunks(8).map(|c| c.iter().rev().fold(0, |w, &b| w << 8 | u64::from(b))).collect();
    gpu.launch(&Launch { kernel: &kernel, groups, threads, shared_bytes, args: bytemuck::cast_slice(&words) })?;
    gpu.synchronize()
}

/// A tensor map of the first `rows` rows of 64 16-bit elements of a buffer, for boxes of `rows_of_box` of them; for tests of
/// what kernels are made of.
///
/// # Errors
/// [`Error::Unsupported`] where there are no tensor maps.
#[doc(hidden)]
pub fn tensor_map_of_rows(
    device: &crate::Device,
    buffer: &crate::Buffer,
    rows: usize,
    rows_of_box: usize,
) -> Result<[u8; 128]> {
    let crate::Device::Cuda(gpu) = device else {
        return Err(Error::invalid("tensor map", "device", "a CUDA device", device));
    };
    let address = buffer.block(gpu, "tensor map", "buffer")?.address();
    let boxes = Boxes { address, dims: [64, rows, 1, 1], strides: [128, 0, 0], size: [64, rows_of_box] };
    let map = gpu.tensor_map(&boxes);
    map.map(bytemuck::cast)
        .ok_or_else(|| Error::unsupported("tensor map", device.to_string(), "compute capability 9.0"))
}

/// Elements of a chunk: strides in params count these.
pub(crate) const CHUNK: usize = 4;

/// Where a tensor lies: the address of its first element, and its strides in chunks, without the last dimension's. A
/// dimension of one element has stride 0.
///
/// # Errors
/// [`Error::Unsupported`] where the address or a stride is not a multiple of `align` elements, or 32 bits cannot count
/// the chunks of a stride; [`Error::Invalid`] for memory of another device.
pub(crate) fn place<const N: usize>(
    gpu: &Arc<Gpu>,
    op: &'static str,
    argument: &'static str,
    tensor: &Tensor,
    align: usize,
) -> Result<(u64, [u32; N])> {
    let size = tensor.dtype().size();
    let address = tensor.buffer().block(gpu, op, argument)?.address() + (tensor.offset() * size) as u64;
    let mut strides = [0; N];
    let mut fits = address.is_multiple_of((align * size) as u64);
    for (place, (&n, &stride)) in strides.iter_mut().zip(tensor.shape().iter().zip(tensor.strides())) {
        let stride = if n > 1 { stride } else { 0 };
        fits &= stride.is_multiple_of(align.max(CHUNK)) && stride / CHUNK <= u32::MAX as usize;
        *place = (stride / CHUNK) as u32;
    }
    if fits {
        return Ok((address, strides));
    }
    let what = format!("{argument} at address {address:#x} with strides {:?} on CUDA", tensor.strides());
    Err(Error::unsupported(op, what, format!("multiples of {align} elements, strides below 2^34")))
}
