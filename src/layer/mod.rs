//! What one layer kind needs from the kernels. The unit of configuration is the layer kind, never the whole model.

mod presets;
mod rope;
mod spec;

pub use rope::{Pairing, Rope};
pub(crate) use spec::ConstantPlaces;
pub use spec::{Gate, LayerConstants, LayerSpec, LayerWeights, Norm, PackedLayout, Part};
