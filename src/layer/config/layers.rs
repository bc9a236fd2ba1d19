//! What every family has: heads and dims, a type for each layer, and the kinds among them.

use std::collections::BTreeMap;

use super::fields::Fields;
use crate::Result;
use crate::kv::Lifetimes;
use crate::layer::LayerSpec;
use crate::layer::model::{ModelLayer, ModelSpec};

/// Heads and dims of a decoder: `num_key_value_heads` and `head_dim` are the query heads and `hidden_size` over heads where
/// a config leaves them out.
pub(super) fn heads(fields: &Fields) -> Result<LayerSpec> {
    heads_or(fields, None, None)
}

/// As [`heads`], with the family's numbers of `(query, KV)` heads and its head dim for configs that leave them out.
pub(super) fn heads_or(fields: &Fields, default: Option<(usize, usize)>, head_dim: Option<usize>) -> Result<LayerSpec> {
    let q = match (fields.usize_if("num_attention_heads")?, default) {
        (Some(q), _) => q,
        (None, Some((q, _))) => q,
        (None, None) => fields.usize("num_attention_heads")?,
    };
    let kv = fields.usize_if("num_key_value_heads")?.or(default.map(|d| d.1)).unwrap_or(q);
    let hidden = fields.usize_if("hidden_size")?;
    let dim = match (fields.usize_if("head_dim")?.or(head_dim), hidden) {
        (Some(dim), _) => dim,
        (None, Some(hidden)) if q > 0 => hidden / q,
        _ => fields.usize("head_dim")?,
    };
    Ok(LayerSpec::new(q, kv, dim))
}

/// The type of each layer: `layer_types`, or what `default` says of a layer's index.
pub(super) fn layer_types(fields: &Fields, default: impl Fn(usize, usize) -> &'static str) -> Result<Vec<String>> {
    let count = fields.usize("num_hidden_layers")?;
    match fields.strs_if("layer_types")? {
        None => Ok((0..count).map(|i| default(i, count).to_string()).collect()),
        Some(types) if types.len() == count => Ok(types.iter().map(|t| t.to_string()).collect()),
        Some(types) => {
            Err(fields.wrong("layer_types", &format!("a list of {count}"), format!("one of {}", types.len())))
        }
    }
}

/// The model whose layers are of these types, with a kind for each type from `kind`; `None` for what is no softmax
/// attention.
pub(super) fn by_type(
    name: &str,
    types: &[String],
    mut kind: impl FnMut(&str) -> Result<Option<LayerSpec>>,
) -> Result<ModelSpec> {
    let mut kinds: Vec<LayerSpec> = Vec::new();
    let mut known: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    let mut layers = Vec::new();
    for (layer, of) in types.iter().enumerate() {
        let index = match known.get(of.as_str()) {
            Some(index) => *index,
            None => {
                let index = kind(of)?.map(|spec| {
                    kinds.push(LayerSpec { name: format!("{name}.{of}"), ..spec });
                    kinds.len() - 1
                });
                known.insert(of, index);
                index
            }
        };
        layers.push(match index {
            Some(kind) => ModelLayer::Attention { kind, kv_from: layer },
            None => ModelLayer::Other(of.clone()),
        });
    }
    Ok(ModelSpec { name: name.into(), kinds, layers, latent: None })
}

/// The error for a layer type that the family does not have.
pub(super) fn unknown_type(fields: &Fields, of: &str, supported: &str) -> crate::Error {
    fields.unsupported("layer_types", of, supported)
}

/// The types of window and full layers.
pub(super) const WINDOW: &str = "sliding_attention";
/// See [`WINDOW`].
pub(super) const FULL: &str = "full_attention";

/// A model whose layers differ by a window alone.
pub(super) fn window_by_type(
    fields: &Fields,
    name: &str,
    full: &LayerSpec,
    window: Option<i32>,
    default: impl Fn(usize, usize) -> &'static str,
) -> Result<ModelSpec> {
    by_type(name, &layer_types(fields, default)?, |of| match (of, window) {
        (FULL, _) => Ok(Some(full.clone())),
        (WINDOW, Some(window)) => Ok(Some(LayerSpec { lifetimes: Lifetimes::window(window), ..full.clone() })),
        (WINDOW, None) => Err(fields.wrong("sliding_window", "given and used", "neither")),
        (other, _) => Err(unknown_type(fields, other, "sliding_attention and full_attention")),
    })
}
