//! What one layer kind needs from the kernels. The unit of configuration is the layer kind, never the whole model.

mod presets;
mod rope;
mod rope_scaling;
mod spec;
mod temperature;

pub use rope::{Pairing, Rope};
pub use rope_scaling::{Llama3Scaling, Yarn};
pub(crate) use spec::ConstantPlaces;
pub use spec::{Gate, LayerConstants, LayerSpec, LayerWeights, Norm, PackedLayout, Part};
pub use temperature::Temperature;
