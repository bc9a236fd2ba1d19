//! GLM-4.1V and GLM-4.5V. They differ in what their configs do not say: the pairs of the rotation.

use serde_json::Value;

use super::fields::Fields;
use super::layers::{FULL, by_type, heads};
use super::rope::RopeConfig;
use crate::Result;
use crate::layer::model::ModelSpec;
use crate::layer::{LayerSpec, Pairing};

/// Causal, contiguous sections on half of the head: adjacent pairs in GLM-4.1V, half-split ones in GLM-4.5V.
pub(super) fn decoder(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let base = heads(fields)?;
    fields.expect("use_qk_norm", Value::Bool(false))?;
    let rope = RopeConfig::read(fields, None, Some(1e4))?.or_sections(&[8, 12, 12], false);
    let (rope, pairing) = match name {
        "glm4v_text" => (rope, Pairing::Adjacent),
        _ => (rope.or_part(0.5), Pairing::Half),
    };
    let kind = LayerSpec { rope: Some(rope.rope(fields, base.head_dim, pairing)?), ..base };
    let types = vec![FULL.to_string(); fields.usize("num_hidden_layers")?];
    by_type(name, &types, |_| Ok(Some(kind.clone())))
}
