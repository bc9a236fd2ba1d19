//! Decoders that are a family of their own: gpt-oss, MiniMax, MiMo.

use super::fields::Fields;
use super::layers::{FULL, WINDOW, by_type, heads, layer_types, unknown_type, window_by_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::kv::Lifetimes;
use crate::layer::model::ModelSpec;
use crate::layer::{LayerSpec, Pairing};

/// Window and full layers in turn, a sink for each head.
pub(super) fn gpt_oss(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let rope = RopeConfig::read(fields, None, Some(1.5e5))?;
    let base = LayerSpec { sinks: true, rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?), ..base };
    let window = fields.slots_if("sliding_window")?.unwrap_or(128);
    fields.skip(&["initial_context_length"]);
    window_by_type(fields, "gpt_oss", &base, Some(window), |i, _| if (i + 1) % 2 == 1 { WINDOW } else { FULL })
}

/// MiniMax M1 and Text-01: softmax attention where `attn_type_list` has a 1, linear attention elsewhere; half of the head
/// turns. The factors of the residual stream come after the attention.
pub(super) fn minimax(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let part = fields.usize_if("rotary_dim")?.map_or(1.0, |lanes| lanes as f64 / base.head_dim as f64);
    let rope = RopeConfig::read(fields, None, Some(1e6))?.or_part(part);
    let base = LayerSpec { rope: Some(rope.rope(fields, base.head_dim, Pairing::Half)?), ..base };
    if let Some(window) = fields.slots_if("sliding_window")? {
        return Err(fields.unsupported("sliding_window", window, "no window"));
    }
    let list = fields.usizes_if("attn_type_list")?;
    let types = layer_types(fields, |i, _| match list.as_ref().and_then(|list| list.get(i)) {
        Some(1) => FULL,
        Some(0) => "linear_attention",
        _ => "missing from attn_type_list",
    })?;
    fields.skip(&["block_size", "shared_moe_mode", "shared_intermediate_size"]); // of linear attention and experts
    for part in ["full_attention", "linear_attention", "mlp"] {
        fields.skip(&[&format!("layernorm_{part}_alpha"), &format!("layernorm_{part}_beta")]);
    }
    by_type(name, &types, |of| match of {
        FULL => Ok(Some(base.clone())),
        "linear_attention" => Ok(None),
        other => Err(unknown_type(fields, other, "linear_attention and full_attention")),
    })
}

/// The refusal of MiniMax M2: its q and k are normed over all heads at once.
pub(super) fn norms_over_all_heads(fields: &Fields) -> crate::Error {
    let name = if fields.get("qk_norm_type").is_some() { "qk_norm_type" } else { "model_type" };
    fields.unsupported(name, "norms of q and k over all their heads", "norms over one head each")
}

/// MiMo-V2-Flash: window layers have KV heads, a theta and sinks of their own. The published `sliding_window_size` does not
/// count the query's own slot; the `sliding_window` of configs written by `transformers` does.
pub(super) fn mimo(fields: &Fields) -> Result<ModelSpec> {
    let base = heads(fields)?;
    let base = LayerSpec {
        head_dim_v: fields.usize_if("v_head_dim")?.unwrap_or(base.head_dim),
        v_scale: fields.f64_if("attention_value_scale")?.unwrap_or(1.0) as f32,
        ..base
    };
    let published = fields.slots_if("sliding_window_size")?.map(|w| w.saturating_add(1));
    let own = fields.slots_if("sliding_window")?;
    let Some(window) = published.or(own) else {
        return Err(fields.wrong("sliding_window", "given", "nothing"));
    };
    let pattern = fields.usizes_if("hybrid_layer_pattern")?;
    let is_window = |i: usize| match &pattern {
        Some(pattern) => pattern.get(i) == Some(&1),
        None => i > 0 && !(i + 1).is_multiple_of(6),
    };
    let types = layer_types(fields, |i, _| if is_window(i) { WINDOW } else { FULL })?;
    fields.skip(&["attention_chunk_size"]); // no layer is chunked
    let window_theta = fields.f64_if("swa_rope_theta")?;
    let has_old_theta = window_theta.is_some();
    let window_heads = fields.usize_if("swa_num_attention_heads")?.unwrap_or(base.num_q_heads);
    let window_kv = fields.usize_if("swa_num_key_value_heads")?.unwrap_or(2 * base.num_kv_heads);
    let window_dim = fields.usize_if("swa_head_dim")?.unwrap_or(base.head_dim);
    let window_dim_v = fields.usize_if("swa_v_head_dim")?.unwrap_or(base.head_dim_v);
    let window_sinks = fields.bool_if("add_swa_attention_sink_bias")?.unwrap_or(true);
    let full_sinks = fields.bool_if("add_full_attention_sink_bias")?.unwrap_or(false);
    by_type("mimo_v2_flash", &types, |of| match of {
        FULL => {
            let rope = RopeConfig::read(fields, Some(FULL), Some(5e6))?;
            let rope = Some(rope.rope(fields, base.head_dim, Pairing::Half)?);
            Ok(Some(LayerSpec { sinks: full_sinks, rope, ..base.clone() }))
        }
        WINDOW => {
            let mut rope = RopeConfig::read(fields, Some(WINDOW), Some(1e4))?;
            if has_old_theta {
                rope.theta = window_theta.unwrap_or(rope.theta);
            }
            let heads = LayerSpec::new(window_heads, window_kv, window_dim);
            let base = LayerSpec { head_dim_v: window_dim_v, v_scale: base.v_scale, ..heads };
            Ok(Some(LayerSpec {
                sinks: window_sinks,
                rope: Some(rope.rope(fields, window_dim, Pairing::Half)?),
                lifetimes: Lifetimes::window(window),
                ..base
            }))
        }
        other => Err(unknown_type(fields, other, "sliding_attention and full_attention")),
    })
}
