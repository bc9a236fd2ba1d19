//! Contexts, compilation and launches. Nothing here names an operation.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod source;
#[cfg(feature = "webgpu")]
pub(crate) mod webgpu;
pub(crate) mod workspace;

pub use workspace::Workspace;
pub(crate) use workspace::next_plan_id;
