//! Kernel sources: embedded at build time, specialised by a header of constants.

#[cfg(feature = "webgpu")]
include!(concat!(env!("OUT_DIR"), "/shaders.rs"));
#[cfg(feature = "cuda")]
include!(concat!(env!("OUT_DIR"), "/cuda.rs"));

use crate::DType;

/// One variant of a kernel: the constants of its header are also its cache key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    /// Stem of the file and, on CUDA, name of its entry point.
    pub kernel: &'static str,
    /// Constants in the order of the header, already rendered: `("HEAD_DIM", "64u")`.
    pub constants: Vec<(&'static str, String)>,
    /// Aliases of the dtype fragments: `("q", F16)` renders `load_q` over the binding `q`.
    pub loads: Vec<(&'static str, DType)>,
}

impl Variant {
    pub fn new(kernel: &'static str) -> Self {
        Variant { kernel, constants: Vec::new(), loads: Vec::new() }
    }
    pub fn u32(mut self, name: &'static str, value: usize) -> Self {
        self.constants.push((name, format!("{value}u")));
        self
    }
    pub fn bool(mut self, name: &'static str, value: bool) -> Self {
        self.constants.push((name, value.to_string()));
        self
    }
    /// Declares how binding `name` stores its elements: the type `<name>_chunk` (4 elements) and the functions
    /// `unpack_<name>` and `pack_<name>` between a chunk and `vec4<f32>`, and `word_<name>`, a chunk's first 32 bits.
    pub fn storage(mut self, name: &'static str, dtype: DType) -> Self {
        self.loads.push((name, dtype));
        self
    }

    /// The complete WGSL text.
    #[cfg(feature = "webgpu")]
    pub fn wgsl(&self) -> String {
        let mut s = String::new();
        for (name, value) in &self.constants {
            s += &format!("const {name} = {value};\n");
        }
        for (name, dtype) in &self.loads {
            let (chunk, stem) = match dtype {
                DType::F32 => ("vec4<u32>", "f32"),
                DType::F16 => ("vec2<u32>", "f16"),
                DType::BF16 => ("vec2<u32>", "bf16"),
                DType::E4M3 => ("u32", "e4m3"),
                DType::I8 => ("u32", "i8"),
            };
            s += &format!("alias {name}_chunk = {chunk};\n");
            s += &format!("fn unpack_{name}(x: {name}_chunk) -> vec4<f32> {{ return unpack_{stem}_chunk(x); }}\n");
            s += &format!("fn pack_{name}(x: vec4<f32>) -> {name}_chunk {{ return pack_{stem}_chunk(x); }}\n");
            let first = if dtype.is_code() { "x" } else { "x.x" };
            s += &format!("fn word_{name}(x: {name}_chunk) -> u32 {{ return {first}; }}\n");
        }
        s + source(SHADERS, self.kernel)
    }

    /// The complete CUDA C++ text. Constants are macros, so that `#if` can read them as well; binding `name` has elements
    /// of type `<name>_t`.
    #[cfg(feature = "cuda")]
    pub fn cuda(&self) -> String {
        let mut s = String::from("struct f16;\nstruct bf16;\nstruct e4m3;\nstruct i8;\ntypedef float f32;\n");
        for (name, value) in &self.constants {
            s += &format!("#define {name} {value}\n");
        }
        for (name, dtype) in &self.loads {
            s += &format!("typedef {dtype} {name}_t;\n");
        }
        s + source(CUDA, self.kernel)
    }

    /// The constants on one line, for messages.
    pub fn options(&self) -> String {
        let c = self.constants.iter().map(|(n, v)| format!("{n}={v}"));
        let l = self.loads.iter().map(|(n, d)| format!("{n}:{d}"));
        c.chain(l).collect::<Vec<_>>().join(" ")
    }
}

/// The expanded source of a kernel. Names are literals of this crate and `tests/layout.rs` checks the files.
#[cfg(any(feature = "webgpu", feature = "cuda"))]
fn source(table: &'static [(&str, &str)], name: &str) -> &'static str {
    table.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text)
}
