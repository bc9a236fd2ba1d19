//! Llama 3, Llama 4, Llama 3.2 Vision and the Mistral models.

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads, layer_types, unknown_type, window_by_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::{Birth, Death, Lifetime, Lifetimes, Modality};
use crate::layer::model::ModelSpec;
use crate::layer::{LayerSpec, Norm, Pairing, Temperature};

/// Causal, or with Mistral's window, which counts the query's own slot; Ministral has layers of both kinds.
pub(super) fn decoder(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let theta = if name == "llama" { 1e4 } else { 1e6 };
    let rope = RopeConfig::read(fields, None, Some(theta))?;
    let temperature = rope.temperature.map(|(beta, interval)| Temperature {
        beta: beta as f32,
        interval: interval as u32,
        offset: 0,
    });
    if temperature.is_some() && name != "ministral3" {
        return Err(fields.unsupported("llama_4_scaling_beta", "a number", "ministral3 models with it"));
    }
    let window = if name == "llama" { None } else { fields.slots_if("sliding_window")? };
    let full =
        LayerSpec { rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?), q_temperature: temperature, ..base };
    fields.skip(&["pretraining_tp"]);
    window_by_type(fields, name, &full, window, |_, _| if window.is_some() { WINDOW } else { FULL })
}

/// Chunked layers that turn (adjacent pairs, then a weightless norm, which commutes), and full layers that do not, with a
/// temperature that counts positions from 1.
pub(super) fn llama4(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let count = fields.usize("num_hidden_layers")?;
    let interval = fields.usize_if("no_rope_layer_interval")?.unwrap_or(4).max(1);
    let turns = fields.usizes_if("no_rope_layers")?.filter(|t| !t.is_empty());
    let turns = turns.unwrap_or_else(|| (0..count).map(|i| usize::from(!(i + 1).is_multiple_of(interval))).collect());
    let types = layer_types(fields, |i, _| if turns.get(i) == Some(&1) { "chunked_attention" } else { FULL })?;
    let rope = RopeConfig::read(fields, None, Some(5e5))?.rope(fields, base.head_dim, Pairing::Adjacent)?;
    let norm = match fields.bool_if("use_qk_norm")?.unwrap_or(true) {
        true => Norm::Rms { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-5) as f32 },
        false => Norm::None,
    };
    let chunk = fields.slots_if("attention_chunk_size")?.unwrap_or(8192);
    let is_tuned = fields.bool_if("attn_temperature_tuning")?.unwrap_or(true);
    let temperature = Temperature {
        beta: fields.f64_if("attn_scale")?.unwrap_or(0.1) as f32,
        interval: fields.usize_if("floor_scale")?.unwrap_or(8192) as u32,
        offset: 1,
    };
    let chunked = LayerSpec {
        rope: Some(rope),
        q_norm: norm,
        k_norm: norm,
        lifetimes: Lifetimes::all(Lifetime { birth: Birth::Causal, death: Death::ChunkEnd(chunk) }),
        ..base.clone()
    };
    let full = LayerSpec { q_temperature: is_tuned.then_some(temperature), ..base };
    // Rotation and chunks are two lists in the config; here they are one.
    if turns.len() != count || types.iter().zip(&turns).any(|(of, &t)| (of == "chunked_attention") != (t == 1)) {
        let supported = "rotation on chunked layers and none on full ones";
        return Err(fields.unsupported("no_rope_layers", format!("{turns:?}"), supported));
    }
    by_type("llama4", &types, |of| match of {
        "chunked_attention" => Ok(Some(chunked.clone())),
        FULL => Ok(Some(full.clone())),
        other => Err(unknown_type(fields, other, "chunked_attention and full_attention")),
    })
}

/// Llama 3 layers that do not see images, and among them layers that see nothing else: see
/// [`LayerSpec::llama32_vision_self`].
pub(super) fn with_cross_layers(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let rope = RopeConfig::read(fields, None, Some(5e5))?.rope(fields, base.head_dim, Pairing::Half)?;
    let norm = Norm::RmsScaled { eps: fields.f64_if("rms_norm_eps")?.unwrap_or(1e-5) as f32 };
    let Some(cross) = fields.usizes_if("cross_attention_layers")? else {
        return Err(fields.wrong("cross_attention_layers", "given", "nothing"));
    };
    let count = fields.usize("num_hidden_layers")?;
    let types: Vec<String> =
        (0..count).map(|i| if cross.contains(&i) { "cross_attention".into() } else { FULL.into() }).collect();
    let hidden = Lifetime { birth: Birth::Causal, death: Death::At(0) };
    by_type("mllama", &types, |of| {
        Ok(Some(match of {
            FULL => LayerSpec {
                rope: Some(rope.clone()),
                lifetimes: Lifetimes::causal().with(Modality::Image, hidden.birth, hidden.death),
                ..base.clone()
            },
            _ => LayerSpec {
                q_norm: norm,
                k_norm: norm,
                lifetimes: Lifetimes::all(hidden).with(Modality::Image, Birth::Causal, Death::Never),
                ..base.clone()
            },
        }))
    })
}
