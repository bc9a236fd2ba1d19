//! [`ModelSpec`]: the layer kinds of a model, which layer is of which, and whose pages it reads.

use super::{Latent, LayerSpec};
use crate::{DType, Error, Result};

/// A model as far as its attention goes: a few layer kinds and a list of layers.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The model's family, as its config names it.
    pub name: String,
    /// The layer kinds, each once.
    pub kinds: Vec<LayerSpec>,
    /// The layers in order.
    pub layers: Vec<ModelLayer>,
    /// How K and V of the attention layers come from a latent, in models that have one.
    pub latent: Option<Latent>,
}

/// One layer of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelLayer {
    /// Softmax attention.
    Attention {
        /// Index of its kind in [`ModelSpec::kinds`].
        kind: usize,
        /// The layer whose K and V it reads: itself, or an earlier one of the same kind with which it shares them.
        kv_from: usize,
    },
    /// Something else, by its name in the config: linear attention, which keeps no K and V per token.
    Other(String),
}

/// Layers whose pages have one shape: they can share a spec of pages, though each stores K and V of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvGroup {
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Lanes of k.
    pub head_dim: usize,
    /// Lanes of v.
    pub head_dim_v: usize,
    /// Whether V is the first lanes of K, which have no pages of their own.
    pub v_in_k: bool,
    /// Storage of K and V.
    pub kv_dtype: DType,
    /// Storage of K's [tail](LayerSpec::tail_dtype).
    pub tail_dtype: Option<DType>,
    /// The layers that store K and V, in order.
    pub layers: Vec<usize>,
}

impl ModelSpec {
    /// The kind of a layer; `None` past the end and for layers that are not softmax attention.
    pub fn kind(&self, layer: usize) -> Option<&LayerSpec> {
        match self.layers.get(layer)? {
            ModelLayer::Attention { kind, .. } => self.kinds.get(*kind),
            ModelLayer::Other(_) => None,
        }
    }

    /// The model with its latent layers in their [absorbed form](Latent::absorbed); `None` without latent layers. Configs
    /// are read in the expanded form.
    pub fn absorbed(&self) -> Option<ModelSpec> {
        let latent = self.latent?;
        Some(ModelSpec { kinds: self.kinds.iter().map(|kind| latent.absorbed(kind)).collect(), ..self.clone() })
    }

    /// The groups of layers with pages of one shape, in the order of their first layers. Layers that read another's pages
    /// are in none.
    pub fn kv_groups(&self) -> Vec<KvGroup> {
        let mut groups: Vec<KvGroup> = Vec::new();
        for (layer, of) in self.layers.iter().enumerate() {
            let (ModelLayer::Attention { kv_from, .. }, Some(kind)) = (of, self.kind(layer)) else { continue };
            if *kv_from != layer {
                continue;
            }
            let mut group = KvGroup {
                num_kv_heads: kind.num_kv_heads,
                head_dim: kind.head_dim,
                head_dim_v: kind.head_dim_v,
                v_in_k: kind.v_in_k,
                kv_dtype: kind.kv_dtype,
                tail_dtype: kind.tail_dtype,
                layers: Vec::new(),
            };
            let same = groups.iter_mut().find(|g| KvGroup { layers: Vec::new(), ..(*g).clone() } == group);
            match same {
                Some(same) => same.layers.push(layer),
                None => {
                    group.layers.push(layer);
                    groups.push(group);
                }
            }
        }
        groups
    }

    /// Checks every kind as plans do, and that layers name kinds and earlier layers of their own kind.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a kind that no kernel serves yet, [`Error::Invalid`] for numbers that make no model.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "model";
        self.kinds.iter().try_for_each(|kind| kind.validate(OP))?;
        for (layer, of) in self.layers.iter().enumerate() {
            let ModelLayer::Attention { kind, kv_from } = *of else { continue };
            let source = self.layers.get(kv_from);
            let is_own =
                matches!(source, Some(&ModelLayer::Attention { kind: k, kv_from: f }) if k == kind && f == kv_from);
            if kind >= self.kinds.len() || kv_from > layer || !is_own {
                let expected = "a kind of the model and an earlier layer of that kind with K and V of its own";
                return Err(Error::invalid(OP, "layers", expected, format!("layer {layer}: {of:?}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelSpec {
        let window = LayerSpec::gemma4_window();
        let narrow = LayerSpec { num_kv_heads: 4, head_dim: 128, head_dim_v: 128, rope: None, ..window.clone() };
        let layer = |kind, kv_from| ModelLayer::Attention { kind, kv_from };
        let layers = vec![layer(0, 0), layer(1, 1), ModelLayer::Other("linear".into()), layer(0, 3), layer(0, 3)];
        ModelSpec { name: "test".into(), kinds: vec![window, narrow], layers, latent: None }
    }

    #[test]
    fn groups_are_by_shape_of_pages() {
        let model = model();
        assert_eq!(model.validate(), Ok(()));
        let groups = model.kv_groups();
        assert_eq!(groups.iter().map(|g| g.layers.clone()).collect::<Vec<_>>(), [vec![0, 3], vec![1]]);
        assert_eq!((groups[1].num_kv_heads, groups[1].head_dim), (4, 128));
        assert_eq!((model.kind(1), model.kind(2), model.kind(9)), (Some(&model.kinds[1]), None, None));
    }

    #[test]
    fn layers_share_with_an_earlier_one_of_their_kind() {
        for (kind, kv_from) in [(0, 1), (0, 2), (0, 4), (2, 0), (0, 9)] {
            let mut bad = model();
            bad.layers[3] = ModelLayer::Attention { kind, kv_from };
            assert!(matches!(bad.validate(), Err(Error::Invalid { .. })), "{kind} {kv_from}");
        }
        let mut bad = model();
        bad.kinds[0].head_dim = 1024;
        assert!(matches!(bad.validate(), Err(Error::Unsupported { .. })));
    }
}
