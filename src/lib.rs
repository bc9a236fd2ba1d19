#![doc = include_str!("../README.md")]
// Without a GPU device, what plans lay out for one has no reader.
#![cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code, unused_imports, unused_variables))]

pub mod attention;
pub(crate) mod backend;
mod calls;
mod device;
mod dtype;
pub mod ensemble;
mod error;
pub mod kv;
pub mod kv_append;
pub mod layer;
pub mod lm_head;
pub mod merge;
pub mod rebase;
pub mod sampling;
pub mod select;
mod steps;
pub mod stop;
mod tensor;
pub mod verify;

pub use backend::Workspace;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub use backend::cuda::{launch_text, nvrtc::compile_offline, tensor_map_of_rows};
#[cfg(feature = "cuda")]
pub use cudarc;
pub use device::Device;
pub use dtype::{DType, Tolerance};
pub use error::{Error, Result};
pub use steps::Steps;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub use steps::steps_cuda_variants;
#[cfg(feature = "webgpu")]
#[doc(hidden)]
pub use steps::steps_shader_variants;
pub use tensor::{Buffer, Tensor};
#[cfg(feature = "webgpu")]
pub use wgpu;

/// The code of `docs/contemplating.md` runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../docs/contemplating.md")]
struct Contemplating;

/// And that of `docs/select.md`.
#[cfg(doctest)]
#[doc = include_str!("../docs/select.md")]
struct Select;
