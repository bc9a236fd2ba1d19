//! Qwen2 to Qwen3.5, with and without images.

use serde_json::Value;

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads, layer_types, unknown_type, window_by_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::{Birth, Death, Lifetimes, Modality};
use crate::layer::model::ModelSpec;
use crate::layer::{Gate, LayerSpec, Norm, Pairing};

/// Layer types where a window, if it is used at all, begins at a layer; the kinds then differ by the window alone.
fn windows(fields: &Fields, name: &str, base: LayerSpec) -> Result<ModelSpec> {
    let is_used = fields.bool_if("use_sliding_window")?.unwrap_or(false);
    fields.skip(&["sliding_window"]); // 0 where it is not used
    let window = if is_used { fields.slots_if("sliding_window")? } else { None };
    let first = fields.usize_if("max_window_layers")?.unwrap_or(0);
    let default = |i, _| if window.is_some() && i >= first { WINDOW } else { FULL };
    window_by_type(fields, name, &base, window, default)
}

/// Qwen2, Qwen2-VL and Qwen2.5-VL: contiguous sections where there are images. A published config of the latter has no
/// `text_config`.
pub(super) fn second(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let rope = RopeConfig::read(fields, None, Some(1e4))?;
    let rope = if matches!(name, "qwen2" | "qwen2_moe") { rope } else { rope.or_sections(&[16, 24, 24], false) };
    let base = LayerSpec { rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?), ..base };
    fields.skip(&["vision_config"]);
    windows(fields, name, base)
}

/// The decoder of BAGEL: norms of q and k, which its published `llm_config.json` leaves to the code that reads it. Clean
/// images see themselves and are seen by what follows; noise sees itself and what came before, and nobody else sees it.
pub(super) fn bagel(fields: &Fields) -> Result<ModelSpec> {
    fields.skip(&["layer_module"]); // which experts a layer has
    fields.expect("qk_norm", Value::Bool(true))?;
    fields.expect("is_causal", Value::Bool(true))?;
    let norm = Norm::RmsScaled { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-6) as f32 };
    let lifetimes = Lifetimes::causal();
    let lifetimes = lifetimes.with(Modality::Image, Birth::SpanStart, Death::Never);
    let lifetimes = lifetimes.with(Modality::Noise, Birth::SpanStart, Death::SpanEnd);
    let base = heads(fields)?;
    let rope = Some(RopeConfig::read(fields, None, Some(1e4))?.rope(fields, base.head_dim, Pairing::Half)?);
    let base = LayerSpec { rope, q_norm: norm, k_norm: norm, lifetimes, ..base };
    // Masks are the spans' own: a window would be another model's.
    fields.expect("use_sliding_window", Value::Bool(false))?;
    windows(fields, "bagel", base)
}

/// Qwen3 and Qwen3-VL: weighted norms, interleaved sections where there are images.
pub(super) fn third(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let base = heads(fields)?;
    fields.expect("use_qk_norm", Value::Bool(true))?;
    let has_images = name.contains("_vl_");
    let rope = RopeConfig::read(fields, None, Some(if has_images { 5e6 } else { 1e6 }))?;
    let rope = if has_images { rope.or_sections(&[24, 20, 20], true).interleaved() } else { rope };
    let norm = Norm::RmsScaled { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-6) as f32 };
    let base =
        LayerSpec { rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?), q_norm: norm, k_norm: norm, ..base };
    windows(fields, name, base)
}

/// Qwen3.5 and 3.6: linear attention and, on every fourth layer, softmax attention with a gate.
pub(super) fn gated(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let rope = RopeConfig::read(fields, None, Some(1e7))?.or_sections(&[11, 11, 10], true).interleaved();
    let norm = Norm::RmsOnePlus { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-6) as f32 };
    let base = LayerSpec {
        rope: Some(rope.or_part(0.25).rope(fields, base.head_dim, Pairing::Half)?),
        q_norm: norm,
        k_norm: norm,
        gate: if fields.bool_if("attn_output_gate")?.unwrap_or(true) { Gate::Sigmoid } else { Gate::None },
        ..base
    };
    let interval = fields.usize_if("full_attention_interval")?.unwrap_or(4).max(1);
    let types = layer_types(fields, |i, _| if (i + 1).is_multiple_of(interval) { FULL } else { "linear_attention" })?;
    by_type("qwen3_5", &types, |of| match of {
        FULL => Ok(Some(base.clone())),
        "linear_attention" => Ok(None),
        other => Err(unknown_type(fields, other, "linear_attention and full_attention")),
    })
}
