//! Encoders that are no part of a decoder's family: ModernBERT.

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads, layer_types, unknown_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::{Birth, Death, Lifetime, Lifetimes};
use crate::layer::model::ModelSpec;
use crate::layer::{LayerSpec, Pairing};

/// A full layer to two with a window that looks both ways: half of `local_attention` on each side. A document is a view.
pub(super) fn modernbert(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let side = fields.slots_if("local_attention")?.unwrap_or(128) / 2;
    let every = fields.usize_if("global_attn_every_n_layers")?.unwrap_or(3).max(1);
    let global = fields.f64_if("global_rope_theta")?.unwrap_or(1.6e5);
    let local = fields.f64_if("local_rope_theta")?.unwrap_or(1e4);
    let is_new = fields.get("rope_parameters").is_some();
    fields.skip(&[
        "deterministic_flash_attn",
        "reference_compile",
        "repad_logits_with_grad",
        "position_embedding_type",
    ]);
    fields.skip(&["classifier_pooling"]);
    let types = layer_types(fields, |i, _| if i.is_multiple_of(every) { FULL } else { WINDOW })?;
    by_type("modernbert", &types, |of| {
        let (theta, lifetime) = match of {
            FULL => (global, Lifetime { birth: Birth::SpanStart, death: Death::SpanEnd }),
            WINDOW => {
                let birth = Birth::Affine { num: 1, den: 1, off: -side };
                (local, Lifetime { birth, death: Death::Window(side.saturating_add(1)) })
            }
            other => return Err(unknown_type(fields, other, "sliding_attention and full_attention")),
        };
        let rope = if is_new { RopeConfig::read(fields, Some(of), Some(theta))? } else { RopeConfig::plain(theta) };
        let rope = Some(rope.rope(fields, base.head_dim, Pairing::Half)?);
        Ok(Some(LayerSpec { rope, lifetimes: Lifetimes::all(lifetime), ..base.clone() }))
    })
}
