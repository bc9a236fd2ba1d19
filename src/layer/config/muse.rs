//! Muse Spark, Muse Glimmer, its drafter, the vision tower.

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads, layer_types, unknown_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::{Birth, Death, Lifetime, Lifetimes, Modality};
use crate::layer::model::ModelSpec;
use crate::layer::{Gate, LayerSpec, Norm, Pairing, Rope};

/// Three window layers to a full one, counted back from the last; window layers turn, full ones do not.
pub(super) fn decoder(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let norm = Norm::Rms { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-5) as f32 };
    let is_spark = name == "muse_spark_text";
    let base = LayerSpec {
        q_scale: fields.f64("qk_scale_factor")? as f32,
        q_norm: norm,
        k_norm: norm,
        out_norm: if is_spark { norm } else { Norm::None },
        gate: Gate::Sigmoid,
        ..heads(fields)?
    };
    let window = fields.slots_if("sliding_window")?;
    let rope = RopeConfig::read(fields, None, Some(5e5))?;
    let types = layer_types(fields, |i, count| if (count - 1 - i).is_multiple_of(4) { FULL } else { WINDOW })?;
    // A theta for each layer, 0 where it does not turn. It must say the same as the types.
    if let Some(thetas) = fields.f64s_if("layer_rope_theta")? {
        let want = types.iter().map(|t| if t == FULL { 0.0 } else { rope.theta });
        if !thetas.iter().copied().eq(want) {
            let supported = "the theta of rope_parameters on window layers and 0 on full ones";
            return Err(fields.unsupported("layer_rope_theta", format!("{thetas:?}"), supported));
        }
    }
    by_type(name, &types, |of| match (of, window) {
        (FULL, _) => Ok(Some(base.clone())),
        (WINDOW, Some(window)) => Ok(Some(LayerSpec {
            rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?),
            lifetimes: Lifetimes::window(window),
            ..base.clone()
        })),
        (WINDOW, None) => Err(fields.wrong("sliding_window", "given", "nothing")),
        (other, _) => Err(unknown_type(fields, other, "sliding_attention and full_attention")),
    })
}

/// A block of drafts that sees itself and, as far as the window reaches, the context. This window does not count the
/// query's own slot (`abs(q - k) <= sliding_window`).
pub(super) fn drafter(fields: &Fields) -> Result<ModelSpec> {
    let norm = Norm::RmsScaled { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-5) as f32 };
    let base = heads(fields)?;
    let rope = RopeConfig::read(fields, None, Some(5e5))?.rope(fields, base.head_dim, Pairing::Half)?;
    let base = LayerSpec { rope: Some(rope), q_norm: norm, k_norm: norm, ..base };
    let window = fields.slots_if("sliding_window")?;
    // How many tokens a block has is the caller's business, and from which layers the context comes.
    fields.skip(&["block_size", "target_layer_ids"]);
    let types = layer_types(fields, |_, _| WINDOW)?;
    by_type("muse_glimmer_assistant", &types, |of| {
        let context = match (of, window) {
            (FULL, _) => Lifetimes::causal(),
            (WINDOW, Some(window)) => Lifetimes::window(window.saturating_add(1)),
            (WINDOW, None) => return Err(fields.wrong("sliding_window", "given", "nothing")),
            (other, _) => return Err(unknown_type(fields, other, "sliding_attention and full_attention")),
        };
        let lifetimes = context.with(Modality::Draft, Birth::SpanStart, Death::SpanEnd);
        Ok(Some(LayerSpec { lifetimes, ..base.clone() }))
    })
}

/// Window layers and full ones see their own span: a window of patches, an image. The first half of the pairs turns by the
/// column, the second by the row.
pub(super) fn vision(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    if !base.head_dim.is_multiple_of(4) {
        return Err(fields.wrong("head_dim", "a multiple of 4", base.head_dim));
    }
    let half = base.head_dim / 2;
    let theta = RopeConfig::read(fields, None, Some(1e4))?.theta;
    let base = LayerSpec {
        rope: Some(Rope::axial(&[(Rope::WIDTH, half), (Rope::HEIGHT, half)], theta, Pairing::Half)),
        lifetimes: Lifetimes::all(Lifetime { birth: Birth::SpanStart, death: Death::SpanEnd }),
        ..base
    };
    // The side of a window, in patches: how tokens are cut into spans.
    fields.skip(&["pos_emb_height", "pos_emb_width", "merge_size", "patch_temporal"]);
    let full =
        |i: usize, count: usize| if (i + 1).is_multiple_of(4) || i + 1 == count { FULL } else { "window_attention" };
    let types = layer_types(fields, full)?;
    by_type("muse_vision", &types, |of| match of {
        FULL | "window_attention" => Ok(Some(base.clone())),
        other => Err(unknown_type(fields, other, "window_attention and full_attention")),
    })
}
