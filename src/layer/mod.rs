//! What one layer kind needs from the kernels. The unit of configuration is the layer kind, never the whole model.

#[cfg(feature = "config")]
mod config;
mod gate;
mod indexer;
mod kv_scale;
mod latent;
mod model;
mod norm;
mod packed;
mod presets;
mod rope;
mod rope_scaling;
mod rotation;
mod spec;
mod tail;
mod temperature;

pub use gate::Gate;
pub use indexer::Indexer;
pub use kv_scale::KvScale;
pub(crate) use kv_scale::{CODES, ScalePlaces};
pub use latent::{Latent, LatentForm};
pub use model::{KvGroup, ModelLayer, ModelSpec};
pub use norm::Norm;
pub use packed::{PackedLayout, Part};
pub use rope::{Pairing, Rope};
pub use rope_scaling::{Llama3Scaling, Yarn};
pub(crate) use rotation::Rotation;
pub(crate) use spec::{ConstantPlaces, MOST_LANES};
pub use spec::{LayerConstants, LayerSpec, LayerWeights};
pub use temperature::Temperature;
