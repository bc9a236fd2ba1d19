//! The host in the place of a GPU: kernels are compiled by the host's C++ compiler against the shim in `cuda/sim` and
//! executed one fiber per thread. For development: it finds wrong results, races of barriers and accesses out of bounds,
//! and says nothing about speed.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_void};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

use super::graph::Capture;
use super::{Arch, Launch, Text, cache};
use crate::{Error, Result};

const SHIM: &str = include_str!("../../../cuda/sim/shim.h");
const RUNTIME: [&str; 9] = [
    SHIM,
    include_str!("../../../cuda/sim/runtime.h"),
    include_str!("../../../cuda/sim/runtime.cpp"),
    include_str!("../../../cuda/sim/shared.cpp"),
    include_str!("../../../cuda/sim/memory.cpp"),
    include_str!("../../../cuda/sim/primitives.cpp"),
    include_str!("../../../cuda/sim/mbarrier.cpp"),
    include_str!("../../../cuda/sim/bulk.cpp"),
    include_str!("../../../cuda/sim/wgmma.cpp"),
];

/// Bytes of a message of the shim.
const MESSAGE: usize = 512;

/// The launch as `cuda/sim/shim.h` declares it.
#[repr(C)]
struct SimLaunch {
    groups: u32,
    threads: u32,
    shared_bytes: u32,
    workers: u32,
    seed: u32,
    jitter: u32,
    args: *const c_void,
}

type Entry = unsafe extern "C" fn(*const SimLaunch, *mut c_char) -> c_int;
type Allocate = unsafe extern "C" fn(u64) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void, u64);

/// The host as a device.
pub(super) struct Sim {
    /// What it stands in for.
    pub arch: Arch,
    /// What every kernel calls; loaded first, and as long as any kernel is.
    _runtime: Library,
    allocate: Allocate,
    free: Free,
    /// Sizes of allocations by address, for recordings.
    blocks: Mutex<BTreeMap<u64, usize>>,
    /// `COLATENT_SIM_RECORD`: a folder that gets every launch, to be repeated under sanitizers.
    record: Option<PathBuf>,
    /// `COLATENT_SIM_SEED`: the order of blocks and warps of every launch; without it, launches differ.
    seed: Option<u32>,
    launches: AtomicU32,
    pub capture: Capture,
}

/// Launches of one kernel that a recording keeps: enough to choose from, and no disk full of them.
const MOST_RECORDED: u32 = 16;

/// A kernel's entry point, with the library that holds it.
pub(super) struct Function {
    entry: Entry,
    /// Bytes of the kernel's argument: the driver would read as many, whatever the host has laid out.
    args_bytes: u64,
    _library: Library,
    source: String,
    recorded: AtomicU32,
}

fn unavailable(reason: impl ToString) -> Error {
    Error::CudaUnavailable {
        looked_for: "a C++17 compiler for kernels on the host (CXX, or g++)".into(),
        reason: reason.to_string(),
    }
}

/// The runtime as one text: its files in the order in which they include each other.
fn runtime() -> String {
    let lines = RUNTIME.iter().flat_map(|text| text.lines());
    let own = |line: &&str| !line.starts_with("#include \"") && !line.starts_with("#pragma once");
    let text = lines.filter(own).collect::<Vec<_>>().join("\n");
    format!("#define COLATENT_SIM_RUNTIME\n{text}\n")
}

impl Sim {
    pub fn new(arch: Arch) -> Result<Self> {
        let library = compile("runtime", &runtime(), &["-pthread"], RTLD_GLOBAL).map_err(|e| match e {
            Error::Compile { log, .. } => unavailable(log),
            other => other,
        })?;
        // SAFETY: the runtime defines the symbol with this type.
        let allocate = *unsafe { library.get::<Allocate>(b"sim_allocate\0") }.map_err(unavailable)?;
        // SAFETY: as above.
        let free = *unsafe { library.get::<Free>(b"sim_free\0") }.map_err(unavailable)?;
        let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
        Ok(Sim {
            arch,
            _runtime: library,
            allocate,
            free,
            blocks: Mutex::default(),
            record: std::env::var_os("COLATENT_SIM_RECORD").map(PathBuf::from),
            seed: number("COLATENT_SIM_SEED"),
            launches: AtomicU32::new(1),
            capture: Capture::default(),
        })
    }

    /// Memory of exactly this size, filled with NaN: nothing may be read before it is written.
    pub fn allocate(&self, bytes: usize) -> Result<u64> {
        // SAFETY: any size may be asked for.
        let address = unsafe { (self.allocate)(bytes as u64) } as u64;
        if address == 0 {
            return Err(Error::Device { op: "allocation", message: format!("{bytes} bytes are not to be had") });
        }
        self.blocks.lock().unwrap_or_else(|e| e.into_inner()).insert(address, bytes);
        Ok(address)
    }

    pub fn free(&self, address: u64, bytes: usize) {
        self.blocks.lock().unwrap_or_else(|e| e.into_inner()).remove(&address);
        // SAFETY: allocated by `allocate` with this size, given back once.
        unsafe { (self.free)(address as *mut c_void, bytes as u64) };
    }

    pub fn load(&self, text: &Text) -> Result<Function> {
        let source = format!("{SHIM}\n#line 1 \"{}.cu\"\n{}", text.kernel, text.source);
        let library = compile(text.kernel, &source, &["-DCOLATENT_SIM", "-fvisibility=hidden"], RTLD_LOCAL);
        let library = library.map_err(|e| match e {
            Error::Compile { kernel, log, .. } => Error::Compile { kernel, options: text.options.clone(), log },
            other => other,
        })?;
        // SAFETY: the shim's KERNEL macro defines the symbol with this type.
        let entry = unsafe { library.get::<Entry>(b"colatent_launch\0") }.map_err(unavailable)?;
        // SAFETY: as above.
        let args_bytes = unsafe { library.get::<*const u64>(b"colatent_args_bytes\0").map(|bytes| **bytes) };
        let args_bytes = args_bytes.map_err(unavailable)?;
        Ok(Function { entry: *entry, args_bytes, _library: library, source, recorded: AtomicU32::new(0) })
    }

    pub fn launch(&self, function: &Function, launch: &Launch<'_>) -> Result<()> {
        if (launch.args.len() as u64) < function.args_bytes {
            let expected = format!("{} bytes", function.args_bytes);
            return Err(Error::invalid(launch.kernel.name, "args", expected, launch.args.len()));
        }
        let number = self.launches.fetch_add(1, Ordering::Relaxed);
        let seed = self.seed.unwrap_or(number);
        let record = self.record.as_ref();
        if let Some(folder) = record.filter(|_| function.recorded.fetch_add(1, Ordering::Relaxed) < MOST_RECORDED) {
            self.record(folder, number, function, launch)
                .map_err(|e| Error::Device { op: "recording of a launch", message: e.to_string() })?;
        }
        let sim = SimLaunch {
            groups: launch.groups as u32,
            threads: launch.threads as u32,
            shared_bytes: launch.shared_bytes as u32,
            workers: 1 + seed % 2,
            seed,
            jitter: [0, 7][(seed / 2 % 2) as usize],
            args: launch.args.as_ptr().cast(),
        };
        let mut message = [0u8; MESSAGE];
        // SAFETY: the kernel's struct is what the caller laid out for it, its pointers are blocks of this device, and
        // the message has the room that the shim's header asks for.
        let failed = unsafe { (function.entry)(&sim, message.as_mut_ptr().cast()) } != 0;
        if failed {
            let text = message.split(|&b| b == 0).next().unwrap_or_default();
            let message = format!("{} (COLATENT_SIM_SEED={seed})", String::from_utf8_lossy(text));
            return Err(Error::Device { op: launch.kernel.name, message });
        }
        Ok(())
    }

    /// Writes a launch as `cuda/sim/driver.cpp` reads it: the source, numbers, arguments, and every allocation that an
    /// argument points into.
    fn record(&self, folder: &Path, number: u32, function: &Function, launch: &Launch<'_>) -> std::io::Result<()> {
        // Several processes, and in each several devices, may write to one folder.
        let (process, arch) = (std::process::id(), self.arch.target());
        let folder = folder.join(format!("{}-{process}-{arch}-{number:05}", launch.kernel.name));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("kernel.cpp"), &function.source)?;
        std::fs::write(folder.join("args.bin"), launch.args)?;
        let numbers = format!("{} {} {}\n", launch.groups, launch.threads, launch.shared_bytes);
        std::fs::write(folder.join("launch.txt"), numbers)?;
        let blocks = self.blocks.lock().unwrap_or_else(|e| e.into_inner());
        for word in launch.args.as_chunks::<8>().0 {
            let address = u64::from_le_bytes(*word);
            let Some((&start, &bytes)) = blocks.range(..=address).next_back() else { continue };
            if address < start + bytes as u64 {
                // SAFETY: the allocation is in the list, so it has not been given back.
                let content = unsafe { std::slice::from_raw_parts(start as *const u8, bytes) };
                std::fs::write(folder.join(format!("block-{start:x}.bin")), content)?;
            }
        }
        Ok(())
    }
}

/// Compiles C++ to a library, or finds it compiled, and loads it.
fn compile(name: &str, source: &str, options: &[&str], scope: i32) -> Result<Library> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    // fmaf() must be one instruction, as it is on a GPU.
    let cpu = if std::arch::is_x86_feature_detected!("fma") { "-march=x86-64-v3" } else { "-march=x86-64" };
    let common = ["-std=c++17", "-O2", cpu, "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-shared", "-w"];
    let options = [&common, options].concat();
    let key = format!("{compiler} {}\n{source}", options.join(" "));
    let folder = cache::folder().unwrap_or_else(std::env::temp_dir).join("sim");
    let path = folder.join(format!("{name}-{}.so", cache::name(&key)));
    // SAFETY: the library is one of ours; its initialisers touch nothing but itself.
    let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | scope) };
    if let Ok(library) = open(&path) {
        return Ok(library);
    }
    std::fs::create_dir_all(&folder).map_err(unavailable)?;
    let scratch = path.with_extension(format!("{}.{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut child = Command::new(&compiler)
        .args(&options)
        .args(["-x", "c++", "-", "-o"])
        .arg(&scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| unavailable(format!("{compiler}: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A compiler that stops reading says why in its log.
        let _ = stdin.write_all(source.as_bytes());
    }
    let output = child.wait_with_output().map_err(unavailable)?;
    if !output.status.success() {
        return Err(Error::Compile {
            kernel: name.into(),
            options: options.join(" "),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    std::fs::rename(&scratch, &path).map_err(unavailable)?;
    open(&path).map_err(unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::{Code, Kernel};

    const OUTSIDE: &str = "
        struct OutsideArgs { u32* words; u64 first; };
        KERNEL(outside, OutsideArgs, 32, 1) { args.words[args.first + threadIdx.x] = threadIdx.x; }";

    /// A kernel that writes outside of its allocation ends its launch with a sentence, and the next launch runs.
    #[test]
    fn access_outside_of_an_allocation_is_an_error() {
        let Ok(sim) = Sim::new(Arch { major: 8, minor: 0 }) else { return };
        let prelude = include_str!("../../../cuda/common/prelude.cuh");
        let text = Text { kernel: "outside", options: String::new(), source: format!("{prelude}{OUTSIDE}") };
        let kernel =
            std::sync::Arc::new(Kernel { name: "outside", code: Code::Sim(sim.load(&text).expect("a kernel")) });
        let Code::Sim(function) = &kernel.code else { return };
        let words = sim.allocate(4096).expect("memory");
        let launch = |first: u64| {
            let args = [words, first];
            let args = bytemuck::bytes_of(&args);
            sim.launch(function, &Launch { kernel: &kernel, groups: 2, threads: 32, shared_bytes: 0, args })
        };
        for outside in [1024, 1024 + 5000, u64::MAX - 40] {
            let error = launch(outside).expect_err("an access outside").to_string();
            assert!(error.contains("outside of every allocation"), "{error}");
            assert!(error.contains("block"), "{error}");
        }
        launch(1024 - 32).expect("an access inside");
        sim.free(words, 4096);
    }
}
