//! The CUDA driver, through cudarc's raw calls: a context and a stream that may be a caller's.

use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaContext, DriverError, result, sys};
use libloading::Library;

use super::{Arch, Launch, Owner, Text, cache, nvrtc};
use crate::{Error, Result};

/// A context, a stream of it, and what the device can do.
pub(super) struct Driver {
    context: sys::CUcontext,
    stream: sys::CUstream,
    owner: Owner,
    pub name: String,
    pub arch: Arch,
    pub num_sms: usize,
    pub shared_limit: usize,
}

// SAFETY: the driver API takes handles from any thread; every call here makes the context current first.
unsafe impl Send for Driver {}
// SAFETY: as above; nothing is changed after construction.
unsafe impl Sync for Driver {}

/// A function of a module that is loaded as long as this lives.
pub(super) struct Function {
    function: sys::CUfunction,
    module: sys::CUmodule,
    context: sys::CUcontext,
    _owner: Owner,
}

// SAFETY: handles of the driver API may be used from any thread.
unsafe impl Send for Function {}
// SAFETY: as above; nothing is changed after construction.
unsafe impl Sync for Function {}

fn failed(op: &'static str) -> impl Fn(DriverError) -> Error {
    move |e| Error::Device { op, message: e.to_string() }
}

/// The driver's library. Names that cudarc looks for as well.
const NAMES: [&str; 3] = ["libcuda.so", "libcuda.so.1", "nvcuda.dll"];

/// The driver's library, which stays loaded.
fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: the driver's library runs no code at load that needs anything of us.
    LIBRARY.get_or_init(|| NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok())).as_ref()
}

/// Whether the driver's library is there. cudarc panics where it is not, so nothing of it is called before this.
fn is_present() -> bool {
    library().is_some()
}

/// `cuTensorMapEncodeTiled`, which drivers have from CUDA 12.0 on: the map, type of elements, rank, address, sizes, strides of
/// all dimensions but the first, sizes of the box, strides of its elements, interleave, swizzle, promotion, filling.
type EncodeTiled = unsafe extern "C" fn(
    *mut Map,
    c_int,
    u32,
    *mut c_void,
    *const u64,
    *const u64,
    *const u32,
    *const u32,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// What the driver writes.
#[repr(C, align(128))]
struct Map([u64; 16]);

/// Not through cudarc, which has the function only where it is built beside a toolkit that has it, and panics where the
/// driver has not.
fn encode_tiled() -> Option<EncodeTiled> {
    static ENCODE: OnceLock<Option<EncodeTiled>> = OnceLock::new();
    *ENCODE.get_or_init(|| {
        // SAFETY: the driver defines the symbol with this type.
        unsafe { library()?.get::<EncodeTiled>(b"cuTensorMapEncodeTiled\0") }.map(|symbol| *symbol).ok()
    })
}

fn unavailable(reason: impl ToString) -> Error {
    let looked_for = "an NVIDIA driver (libcuda.so.1 or nvcuda.dll) and a device".to_string();
    Error::CudaUnavailable { looked_for, reason: reason.to_string() }
}

/// Makes a context current for a while, and leaves the thread as it was.
struct Current;

impl Current {
    fn new(context: sys::CUcontext) -> Result<Option<Current>> {
        if result::ctx::get_current().map_err(failed("context"))? == Some(context) {
            return Ok(None);
        }
        // SAFETY: the context is alive: whoever asks holds its owner.
        unsafe { sys::cuCtxPushCurrent_v2(context) }.result().map_err(failed("context"))?;
        Ok(Some(Current))
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pops what `new` pushed. A failure leaves nothing to be done.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

impl Driver {
    pub fn new(ordinal: usize) -> Result<Self> {
        if !is_present() {
            return Err(unavailable("the library is not on this system"));
        }
        let count = CudaContext::device_count().map_err(unavailable)?;
        let before = result::ctx::get_current().map_err(unavailable)?.unwrap_or(std::ptr::null_mut());
        if count as usize <= ordinal {
            return Err(unavailable(format!("device {ordinal} was asked for, {count} are there")));
        }
        let context = CudaContext::new(ordinal).map_err(unavailable)?;
        let stream = context.new_stream().map_err(unavailable)?;
        let (raw_context, raw_stream) = (context.cu_ctx(), stream.cu_stream());
        // cudarc made its context current; the thread gets back what it had.
        // SAFETY: the context was current, or there was none.
        unsafe { result::ctx::set_current(before) }.map_err(unavailable)?;
        // SAFETY: the stream keeps itself and its context alive.
        unsafe { Driver::from_raw(raw_context, raw_stream, Arc::new(stream)) }
    }

    /// # Safety
    /// `context` is alive, `stream` is one of its streams or a default one, and both live as long as `owner`.
    pub unsafe fn from_raw(context: sys::CUcontext, stream: sys::CUstream, owner: Owner) -> Result<Self> {
        if !is_present() {
            return Err(unavailable("the library is not on this system"));
        }
        let _current = Current::new(context)?;
        let mut device = 0;
        // SAFETY: the context is current.
        unsafe { sys::cuCtxGetDevice(&mut device) }.result().map_err(failed("context"))?;
        // SAFETY: the device is the current context's.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map_err(failed("device attribute"));
        let arch = Arch {
            major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        };
        let name = result::device::get_name(device).map_err(failed("device name"))?;
        if arch.major < 8 {
            return Err(unavailable(format!(
                "{name} has compute capability {}.{}, 8.0 is needed",
                arch.major, arch.minor
            )));
        }
        Ok(Driver {
            num_sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
            shared_limit: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize,
            context,
            stream,
            owner,
            name,
            arch,
        })
    }

    pub fn context_id(&self) -> usize {
        self.context as usize
    }

    pub fn synchronize(&self) -> Result<()> {
        let _current = Current::new(self.context)?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("synchronize"))
    }

    pub fn is_capturing(&self) -> Result<bool> {
        let _current = Current::new(self.context)?;
        // SAFETY: the stream is alive.
        let status = unsafe { result::stream::is_capturing(self.stream) }.map_err(failed("stream"))?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        let _current = Current::new(self.context)?;
        // SAFETY: the context is current.
        unsafe { result::malloc_sync(bytes.max(1)) }.map_err(failed("allocation"))
    }

    /// Gives memory back; the driver waits for work that uses it. An error here has nobody to go to.
    pub fn free(&self, address: u64) {
        if let Ok(_current) = Current::new(self.context) {
            // SAFETY: the address came from `allocate` and is given back once.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    pub fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        let _current = Current::new(self.context)?;
        // SAFETY: the range is a block's.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream) }.map_err(failed("memset"))
    }

    /// The driver takes a copy of pageable memory before it returns, so `bytes` may go at once; of memory that it knows, as
    /// pinned memory, it does not, and the copy is waited for.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let _current = Current::new(self.context)?;
        let mut kind = 0u32;
        let asked = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
        // SAFETY: the attribute is 32 bits wide; an address that the driver does not know is an error and nothing else.
        let known = unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), asked, bytes.as_ptr() as u64) };
        // SAFETY: the range is within a block.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream) }.map_err(failed("write"))?;
        if known.result().is_ok() { self.synchronize() } else { Ok(()) }
    }

    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let _current = Current::new(self.context)?;
        // SAFETY: both ranges are blocks' of this context.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }.map_err(failed("copy"))
    }

    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let _current = Current::new(self.context)?;
        // SAFETY: the range is a block's, and the copy is over before `bytes` can be touched again.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream) }.map_err(failed("read"))?;
        self.synchronize()
    }

    /// Compiles a kernel, or takes it from the disk, and loads it.
    pub fn load(&self, text: &Text) -> Result<Function> {
        let image = cache::image(text, &self.arch.target())?;
        let _current = Current::new(self.context)?;
        let refused = |e: DriverError| Error::Compile {
            kernel: text.kernel.into(),
            options: text.options.clone(),
            log: format!("the driver does not load what {} compiled: {e}", nvrtc::version_name()),
        };
        // SAFETY: the image is a cubin that was verified when it was read, and outlives the call.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(refused)?;
        let mut function =
            Function { function: std::ptr::null_mut(), module, context: self.context, _owner: self.owner.clone() };
        let name = CString::new(text.kernel).unwrap_or_default();
        // SAFETY: the module is loaded.
        function.function = unsafe { result::module::get_function(module, name) }.map_err(refused)?;
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is the module's. An upper bound; a launch takes what it asks for.
        unsafe { result::function::set_function_attribute(function.function, most, self.shared_limit as i32) }
            .map_err(failed("shared memory"))?;
        Ok(function)
    }

    /// A tensor map of 16-bit elements whose boxes have rows of `size[0]` elements, turned in as many bytes as they have;
    /// zeros outside. Bytes between elements of dimensions 1 to 3 are multiples of 16. None where the driver refuses.
    pub fn encode_tiled(
        &self,
        address: u64,
        dims: [usize; 4],
        strides: [u64; 3],
        size: [usize; 2],
    ) -> Option<[u64; 16]> {
        const UINT16: c_int = 1;
        const L2_128_BYTES: c_int = 2;
        let swizzle = match size[0] * 2 {
            32 => 1,
            64 => 2,
            128 => 3,
            _ => return None,
        };
        let encode = encode_tiled()?;
        let _current = Current::new(self.context).ok()?;
        let (dims, size) = (dims.map(|d| d as u64), [size[0] as u32, size[1] as u32, 1, 1]);
        let mut map = Map([0; 16]);
        // SAFETY: the map has the alignment and the size that the driver writes; the arrays have as many elements as the
        // rank asks for. The address is kept in the map and not touched.
        let result = unsafe {
            encode(
                &mut map,
                UINT16,
                4,
                address as *mut c_void,
                dims.as_ptr(),
                strides.as_ptr(),
                size.as_ptr(),
                [1; 4].as_ptr(),
                0,
                swizzle,
                L2_128_BYTES,
                0,
            )
        };
        (result == 0).then_some(map.0)
    }

    pub fn launch(&self, function: &Function, launch: &Launch<'_>) -> Result<()> {
        let _current = Current::new(self.context)?;
        let mut args = [launch.args.as_ptr().cast_mut().cast::<c_void>()];
        let grid = (launch.groups as u32, 1, 1);
        let block = (launch.threads as u32, 1, 1);
        // SAFETY: the kernel takes one struct by value, which the driver copies before it returns; its pointers are
        // blocks' that the caller holds, and its indices are bounded by tables and params that the host validated.
        unsafe {
            result::launch_kernel(function.function, grid, block, launch.shared_bytes as u32, self.stream, &mut args)
        }
        .map_err(failed(launch.kernel.name))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        if let Ok(_current) = Current::new(self.context) {
            // SAFETY: loaded by `load`, unloaded once; the owner keeps the context alive until after this.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}
