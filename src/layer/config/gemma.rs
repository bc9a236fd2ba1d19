//! Gemma 1 to 4 and 3n, alone or in PaliGemma. Windows count the query's own slot.

use serde_json::Value;

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads_or, layer_types, unknown_type, window_by_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::{Birth, Death, Lifetimes, Modality};
use crate::layer::model::{ModelLayer, ModelSpec};
use crate::layer::{LayerSpec, Norm, Pairing};

/// Images that see themselves, on top of the lifetimes of text.
fn with_images(lifetimes: Lifetimes) -> Lifetimes {
    let death = lifetimes.get(Modality::Image).death;
    lifetimes.with(Modality::Image, Birth::SpanStart, death)
}

/// A prefix, appended as one span of images, that sees itself as a whole, on top of the lifetimes of text.
fn with_prefix(lifetimes: Lifetimes) -> Lifetimes {
    let death = match lifetimes.get(Modality::Text).death {
        Death::Window(window) => Death::WindowOrSpan(window),
        other => other,
    };
    lifetimes.with(Modality::Image, Birth::SpanStart, death)
}

fn scale(scalar: f64) -> f32 {
    (1.0 / scalar.sqrt()) as f32
}

/// Causal; in PaliGemma the prefix, appended as one span of images, sees itself.
pub(super) fn first(fields: &Fields, around: Option<&str>) -> Result<ModelSpec> {
    let base = heads_or(fields, Some((16, 16)), Some(256))?;
    let rope = RopeConfig::read(fields, None, Some(1e4))?.rope(fields, base.head_dim, Pairing::Half)?;
    let is_prefix = around == Some("paligemma");
    fields.expect("use_bidirectional_attention", Value::Bool(is_prefix))?;
    let lifetimes = if is_prefix { with_prefix(Lifetimes::causal()) } else { Lifetimes::causal() };
    let kind = LayerSpec { rope: Some(rope), lifetimes, ..base };
    let types = vec![FULL.to_string(); fields.usize("num_hidden_layers")?];
    by_type(around.unwrap_or("gemma"), &types, |_| Ok(Some(kind.clone())))
}

/// Window and global layers in turn, capped scores. In PaliGemma 2 the prefix sees itself as a whole on both, however long.
pub(super) fn second(fields: &Fields, around: Option<&str>) -> Result<ModelSpec> {
    let is_prefix = match around {
        None => false,
        Some("paligemma") => true,
        Some(other) => {
            let got = format!("gemma2 in {other}");
            return Err(fields.unsupported("model_type", got, "gemma2 alone or in paligemma"));
        }
    };
    let base = heads_or(fields, Some((8, 4)), Some(256))?;
    fields.expect("use_bidirectional_attention", Value::Bool(is_prefix))?;
    let base = LayerSpec {
        softmax_scale: scale(fields.f64_if("query_pre_attn_scalar")?.unwrap_or(256.0)),
        soft_cap: Some(fields.f64_if("attn_logit_softcapping")?.unwrap_or(50.0) as f32),
        rope: Some(RopeConfig::read(fields, None, Some(1e4))?.rope(fields, base.head_dim, Pairing::Half)?),
        ..base
    };
    let window = fields.slots_if("sliding_window")?.unwrap_or(4096);
    fields.skip(&["cache_implementation", "sliding_window_size"]);
    let default = |i, _| if (i + 1) % 2 == 1 { WINDOW } else { FULL };
    let mut model = window_by_type(fields, around.unwrap_or("gemma2"), &base, Some(window), default)?;
    if is_prefix {
        model.kinds.iter_mut().for_each(|kind| kind.lifetimes = with_prefix(kind.lifetimes));
    }
    Ok(model)
}

/// Five window layers to a global one; images see themselves on all of them, within the window on window layers.
pub(super) fn third(fields: &Fields) -> Result<ModelSpec> {
    let base = heads_or(fields, Some((8, 4)), Some(256))?;
    fields.expect("use_bidirectional_attention", Value::Bool(false))?;
    fields.expect("attn_logit_softcapping", Value::Null)?;
    let norm = Norm::RmsOnePlus { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-6) as f32 };
    let base = LayerSpec {
        softmax_scale: scale(fields.f64_if("query_pre_attn_scalar")?.unwrap_or(256.0)),
        q_norm: norm,
        k_norm: norm,
        ..base
    };
    let window = fields.slots_if("sliding_window")?.unwrap_or(4096);
    let pattern = fields.usize_if("sliding_window_pattern")?;
    let pattern = fields.usize_if("_sliding_window_pattern")?.or(pattern).unwrap_or(6).max(1);
    let local_theta = fields.f64_if("rope_local_base_freq")?.unwrap_or(1e4);
    fields.skip(&["cache_implementation"]);
    let is_new = fields.get("rope_parameters").is_some();
    let types = layer_types(fields, |i, _| if (i + 1).is_multiple_of(pattern) { FULL } else { WINDOW })?;
    by_type("gemma3", &types, |of| {
        let (rope, lifetimes) = match of {
            FULL => (RopeConfig::read(fields, Some(FULL), Some(1e6))?, Lifetimes::causal()),
            WINDOW if is_new => (RopeConfig::read(fields, Some(WINDOW), Some(1e4))?, Lifetimes::window(window)),
            // In the old form the scaling and `rope_theta` are those of the global layers alone.
            WINDOW => (RopeConfig::plain(local_theta), Lifetimes::window(window)),
            other => return Err(unknown_type(fields, other, "sliding_attention and full_attention")),
        };
        let rope = Some(rope.rope(fields, base.head_dim, Pairing::Half)?);
        Ok(Some(LayerSpec { rope, lifetimes: with_images(lifetimes), ..base.clone() }))
    })
}

/// Gemma 3n: four window layers to a full one, causal for images too. Norms, scale and sharing are those of Gemma 4, the
/// rotations those of Gemma 3 without its scaling. Sparse activations, altup and laurel are outside of the attention.
pub(super) fn third_n(fields: &Fields) -> Result<ModelSpec> {
    let base = heads_or(fields, Some((8, 2)), Some(256))?;
    let eps = fields.f64_if("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    let base = LayerSpec {
        softmax_scale: 1.0,
        q_norm: Norm::RmsScaled { eps },
        k_norm: Norm::RmsScaled { eps },
        v_norm: Norm::Rms { eps },
        ..base
    };
    let window = fields.slots_if("sliding_window")?.unwrap_or(512);
    let sharing = fields.usize_if("num_kv_shared_layers")?.unwrap_or(15);
    let local_theta = fields.f64_if("rope_local_base_freq")?.unwrap_or(1e4);
    fields.skip(&["query_pre_attn_scalar", "activation_sparsity_pattern", "altup_coef_clip", "altup_correct_scale"]);
    let is_new = fields.get("rope_parameters").is_some();
    let types = layer_types(fields, |i, _| if (i + 1).is_multiple_of(5) { FULL } else { WINDOW })?;
    let mut model = by_type("gemma3n", &types, |of| {
        let (rope, lifetimes) = match of {
            FULL => (RopeConfig::read(fields, Some(FULL), Some(1e6))?, Lifetimes::causal()),
            WINDOW if is_new => (RopeConfig::read(fields, Some(WINDOW), Some(1e4))?, Lifetimes::window(window)),
            WINDOW => (RopeConfig::plain(local_theta), Lifetimes::window(window)),
            other => return Err(unknown_type(fields, other, "sliding_attention and full_attention")),
        };
        Ok(Some(LayerSpec { rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?), lifetimes, ..base.clone() }))
    })?;
    share(fields, &mut model, &types, sharing)?;
    Ok(model)
}

/// Window layers as Gemma 3's; global layers have their own heads and dim and are causal for images too. The last layers may
/// read the K and V of the last layer of their type before them.
pub(super) fn fourth(fields: &Fields) -> Result<ModelSpec> {
    let base = heads_or(fields, Some((8, 4)), Some(256))?;
    let sees_images = match fields.str_if("use_bidirectional_attention")? {
        None => false,
        Some("vision") => true,
        Some(other) => {
            return Err(fields.unsupported("use_bidirectional_attention", other, "vision, or no such field"));
        }
    };
    let eps = fields.f64_if("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    let base = LayerSpec {
        softmax_scale: 1.0,
        q_norm: Norm::RmsScaled { eps },
        k_norm: Norm::RmsScaled { eps },
        v_norm: Norm::Rms { eps },
        ..base
    };
    let window = fields.slots_if("sliding_window")?.unwrap_or(512);
    let sharing = fields.usize_if("num_kv_shared_layers")?.unwrap_or(0);
    let mut types = layer_types(fields, |i, _| if (i + 1).is_multiple_of(6) { FULL } else { WINDOW })?;
    if let Some(last) = types.last_mut() {
        *last = FULL.into();
    }
    let (global_dim, global_heads) = global_layers(fields, &base, &types)?;
    let has_ropes = fields.get("rope_parameters").is_some();
    let mut model = by_type("gemma4", &types, |of| {
        let spec = match of {
            WINDOW => {
                let text = Lifetimes::window(window);
                let rope =
                    if has_ropes { RopeConfig::read(fields, Some(WINDOW), None)? } else { RopeConfig::plain(1e4) };
                LayerSpec {
                    rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?),
                    lifetimes: if sees_images { with_images(text) } else { text },
                    ..base.clone()
                }
            }
            FULL => {
                let quarter = || RopeConfig::proportional(1e6, 0.25);
                let rope = if has_ropes { RopeConfig::read(fields, Some(FULL), None)? } else { quarter() };
                LayerSpec {
                    num_kv_heads: global_heads,
                    head_dim: global_dim,
                    head_dim_v: global_dim,
                    rope: Some(rope.rope(fields, global_dim, Pairing::Half)?),
                    ..base.clone()
                }
            }
            other => return Err(unknown_type(fields, other, "sliding_attention and full_attention")),
        };
        Ok(Some(spec))
    })?;
    share(fields, &mut model, &types, sharing)?;
    Ok(model)
}

/// The last `sharing` layers read the K and V of the last layer of their type before them.
fn share(fields: &Fields, model: &mut ModelSpec, types: &[String], sharing: usize) -> Result<()> {
    let first_shared = model.layers.len().saturating_sub(sharing);
    for layer in first_shared..model.layers.len() {
        let Some(from) = (0..first_shared).rev().find(|&i| types[i] == types[layer]) else {
            let expected = format!("such that a {} layer remains before them", types[layer]);
            return Err(fields.wrong("num_kv_shared_layers", &expected, sharing));
        };
        if let ModelLayer::Attention { kv_from, .. } = &mut model.layers[layer] {
            *kv_from = from;
        }
    }
    Ok(())
}

/// Head dim and KV heads of Gemma 4's global layers. Published configs name them once; those that `transformers` writes have
/// them for each layer, where they differ from the window layers'.
fn global_layers(fields: &Fields, base: &LayerSpec, types: &[String]) -> Result<(usize, usize)> {
    let named_dim = fields.usize_if("global_head_dim")?;
    let named_heads = fields.usize_if("num_global_key_value_heads")?;
    // Whether K and V of global layers are one projection; only then do they have KV heads of their own.
    let is_shared = fields.bool_if("attention_k_eq_v")?.unwrap_or(false);
    let Some(by_layer) = fields.object_if("per_layer_config")? else {
        let heads = named_heads.filter(|_| is_shared).unwrap_or(base.num_kv_heads);
        return Ok((named_dim.unwrap_or(512), heads));
    };
    let mut found = None;
    let digits = types.len().saturating_sub(1).to_string().len(); // layers may be written with leading zeros
    for (layer, _) in types.iter().enumerate().filter(|(_, of)| *of == FULL) {
        let mut numbers = (base.head_dim, base.num_kv_heads);
        let padded = format!("{layer:0digits$}");
        if let Some(own) = by_layer.object_if(&padded)?.or(by_layer.object_if(&layer.to_string())?) {
            numbers.0 = own.usize_if("head_dim")?.unwrap_or(numbers.0);
            numbers.1 = own.usize_if("num_key_value_heads")?.unwrap_or(numbers.1);
            own.finish_strictly()?;
        }
        if *found.get_or_insert(numbers) != numbers {
            return Err(fields.unsupported(
                "per_layer_config",
                format!("{numbers:?}"),
                "one shape of all global layers",
            ));
        }
    }
    by_layer.finish_strictly()?; // window layers are as the config says outside
    Ok(found.unwrap_or((base.head_dim, base.num_kv_heads)))
}
