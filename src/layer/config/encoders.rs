//! Encoders that are no part of a decoder's family: ModernBERT, SigLIP; and the diffusion transformer FLUX.

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads, layer_types, unknown_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::{Birth, Death, Lifetime, Lifetimes};
use crate::layer::model::ModelSpec;
use crate::layer::{LayerSpec, Norm, Pairing, Rope};

/// What sees its own span as a whole.
const OWN_SPAN: Lifetime = Lifetime { birth: Birth::SpanStart, death: Death::SpanEnd };

/// The vision tower of SigLIP: an image sees itself, positions are learned and added before the first layer.
pub(super) fn siglip(fields: &Fields) -> Result<ModelSpec> {
    let kind = LayerSpec { lifetimes: Lifetimes::all(OWN_SPAN), ..heads(fields)? };
    let types = layer_types(fields, |_, _| FULL)?;
    by_type("siglip", &types, |_| Ok(Some(kind.clone())))
}

/// FLUX.1: text and image are one span on all layers, joint ones and single ones; three axes of positions with frequencies
/// of their own on adjacent lanes.
pub(super) fn flux(fields: &Fields) -> Result<ModelSpec> {
    let count = |name: &str, default: usize| fields.usize_if(name).map(|n| n.unwrap_or(default));
    let (heads, dim) = (count("num_attention_heads", 24)?, count("attention_head_dim", 128)?);
    let axes = fields.usizes_if("axes_dims_rope")?.unwrap_or(vec![16, 56, 56]);
    if axes.len() != 3 || axes.iter().sum::<usize>() != dim {
        return Err(fields.wrong("axes_dims_rope", &format!("three axes of {dim} lanes"), format!("{axes:?}")));
    }
    let blocks = [(Rope::TIME, axes[0]), (Rope::HEIGHT, axes[1]), (Rope::WIDTH, axes[2])];
    let norm = Norm::RmsScaled { eps: 1e-6 };
    let kind = LayerSpec {
        rope: Some(Rope::axial(&blocks, 1e4, Pairing::Adjacent)),
        q_norm: norm,
        k_norm: norm,
        lifetimes: Lifetimes::all(OWN_SPAN),
        ..LayerSpec::new(heads, heads, dim)
    };
    // Both see the same: the single ones have text and image in one stream from the start.
    let layers = count("num_layers", 19)? + count("num_single_layers", 38)?;
    fields.skip(&["pooled_projection_dim", "joint_attention_dim"]);
    by_type("flux", &vec!["joint".to_string(); layers], |_| Ok(Some(kind.clone())))
}

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
            FULL => (global, OWN_SPAN),
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
