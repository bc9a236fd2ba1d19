//! NVRTC, NVIDIA's run-time compiler, loaded when it is first needed. Its absence is an error, never a panic.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::null;
use std::sync::OnceLock;

use libloading::Library;

use crate::{Error, Result};

type Program = *mut c_void;
type Status = c_int;

/// The compiler's entry points.
pub(crate) struct Nvrtc {
    /// Must be in the process before the compiler looks for it: not every package has it on the compiler's own path.
    _builtins: Option<Library>,
    _library: Library,
    /// Major and minor version.
    pub version: (i32, i32),
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
}

/// What a compilation gave.
pub(crate) struct Compiled {
    pub cubin: Vec<u8>,
    pub log: String,
}

/// Options of every compilation besides the architecture.
pub(crate) const OPTIONS: [&str; 2] = ["--std=c++17", "--ptxas-options=-v"];

/// Folders to look into before the loader's own: `COLATENT_NVRTC_DIR`, then the places of a toolkit.
fn folders() -> Vec<PathBuf> {
    let of = |name: &str, below: &str| std::env::var_os(name).map(|d| PathBuf::from(d).join(below));
    let named =
        [of("COLATENT_NVRTC_DIR", ""), of("CUDA_HOME", "lib64"), of("CUDA_PATH", "lib64"), of("CUDA_PATH", "bin")];
    named.into_iter().flatten().chain([PathBuf::from("/usr/local/cuda/lib64")]).collect()
}

const NAMES: [&str; 5] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"];

fn open(path: impl AsRef<std::ffi::OsStr>) -> Option<Library> {
    // SAFETY: the compiler's libraries run nothing at load that needs anything of us.
    unsafe { Library::new(path.as_ref()) }.ok()
}

impl Nvrtc {
    /// The process's compiler.
    ///
    /// # Errors
    /// [`Error::CudaUnavailable`] with where it was looked for.
    pub fn get() -> Result<&'static Nvrtc> {
        static NVRTC: OnceLock<Result<Nvrtc>> = OnceLock::new();
        NVRTC.get_or_init(Nvrtc::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Nvrtc> {
        let folders = folders();
        for folder in &folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
            names.sort();
            let find =
                |stem: &str| names.iter().find(|n| n.starts_with(stem) && !n.contains(".alt.")).map(|n| folder.join(n));
            let builtins = find("libnvrtc-builtins.so").or_else(|| find("nvrtc-builtins64")).and_then(open);
            let library = find("libnvrtc.so").or_else(|| find("nvrtc64")).and_then(open);
            if let Some(library) = library {
                return Nvrtc::bind(builtins, library);
            }
        }
        match NAMES.iter().find_map(open) {
            Some(library) => Nvrtc::bind(None, library),
            None => {
                let looked_for = format!("NVRTC ({}) in {folders:?} and by the system's loader", NAMES.join(", "));
                Err(Error::CudaUnavailable { looked_for, reason: "none of them is there".into() })
            }
        }
    }

    fn bind(builtins: Option<Library>, library: Library) -> Result<Nvrtc> {
        fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T> {
            // SAFETY: the type of each field is that of the function in NVRTC's interface, the same since 11.2.
            let found = unsafe { library.get::<T>(name.as_bytes()) };
            found.map(|s| *s).map_err(|e| Error::CudaUnavailable { looked_for: name.into(), reason: e.to_string() })
        }
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
        let version: Version = symbol(&library, "nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid.
        check(unsafe { version(&mut major, &mut minor) }, "nvrtcVersion")?;
        Ok(Nvrtc {
            create: symbol(&library, "nvrtcCreateProgram")?,
            compile: symbol(&library, "nvrtcCompileProgram")?,
            log_size: symbol(&library, "nvrtcGetProgramLogSize")?,
            log: symbol(&library, "nvrtcGetProgramLog")?,
            cubin_size: symbol(&library, "nvrtcGetCUBINSize")?,
            cubin: symbol(&library, "nvrtcGetCUBIN")?,
            destroy: symbol(&library, "nvrtcDestroyProgram")?,
            version: (major, minor),
            _builtins: builtins,
            _library: library,
        })
    }

    /// Compiles `source` to a cubin for `target` (`sm_90a`).
    ///
    /// # Errors
    /// [`Error::Compile`] with the options and the compiler's log.
    pub fn compile(&self, kernel: &str, source: &str, target: &str) -> Result<Compiled> {
        let options: Vec<String> =
            std::iter::once(format!("-arch={target}")).chain(OPTIONS.iter().map(|o| o.to_string())).collect();
        let failed = |log: String| Error::Compile { kernel: kernel.into(), options: options.join(" "), log };
        let c = |text: &str| CString::new(text).map_err(|e| failed(e.to_string()));
        let (text, name) = (c(source)?, c(&format!("{kernel}.cu"))?);
        let owned = options.iter().map(|o| c(o)).collect::<Result<Vec<_>>>()?;
        let pointers: Vec<*const c_char> = owned.iter().map(|o| o.as_ptr()).collect();

        let mut program = Guard { nvrtc: self, program: std::ptr::null_mut() };
        // SAFETY: the strings are terminated and outlive the call; there are no headers.
        let status = unsafe { (self.create)(&mut program.program, text.as_ptr(), name.as_ptr(), 0, null(), null()) };
        check(status, "nvrtcCreateProgram")?;
        // SAFETY: the program exists; the options are terminated and outlive the call.
        let status = unsafe { (self.compile)(program.program, pointers.len() as c_int, pointers.as_ptr()) };
        let log = self.fetch(program.program, self.log_size, self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_string();
        if status != 0 {
            return Err(failed(log));
        }
        let cubin = self.fetch(program.program, self.cubin_size, self.cubin)?;
        Ok(Compiled { cubin, log })
    }

    fn fetch(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        data: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program exists.
        check(unsafe { size(program, &mut bytes) }, "the size of NVRTC's output")?;
        let mut out = vec![0u8; bytes];
        // SAFETY: NVRTC writes as many bytes as it said.
        check(unsafe { data(program, out.as_mut_ptr().cast()) }, "NVRTC's output")?;
        Ok(out)
    }
}

/// Destroys the program on every way out.
struct Guard<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: created by `compile`, destroyed once.
            unsafe { (self.nvrtc.destroy)(&mut self.program) };
        }
    }
}

fn check(status: Status, what: &str) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::Device { op: "nvrtc", message: format!("{what}: status {status}") }) }
}

/// The compiler's name with its version, for messages and cache keys.
pub(crate) fn version_name() -> String {
    match Nvrtc::get() {
        Ok(n) => format!("NVRTC {}.{}", n.version.0, n.version.1),
        Err(_) => "no NVRTC".into(),
    }
}

/// Compiles a kernel's text for an architecture without a device, and returns the compiler's log and the cubin, which also
/// goes to `folder`, if there is one, as the cache would keep it.
#[doc(hidden)]
pub fn compile_offline(
    kernel: &str,
    source: &str,
    target: &str,
    folder: Option<&std::path::Path>,
) -> Result<(String, Vec<u8>)> {
    let compiled = Nvrtc::get()?.compile(kernel, source, target)?;
    super::cache::keep(folder, source, target, &compiled.cubin);
    Ok((compiled.log, compiled.cubin))
}
