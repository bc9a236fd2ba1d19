//! Multi-head latent attention, read in the expanded form: DeepSeek V3 and V3.2, Kimi K2 and K2.5, Kimi Linear.

use serde_json::Value;

use super::fields::Fields;
use super::layers::{FULL, by_type, layer_types, unknown_type};
use super::rope::RopeConfig;
use crate::Result;
use crate::layer::model::ModelSpec;
use crate::layer::{Indexer, Latent, LayerSpec, Norm, Pairing};

/// Heads and dims: q and k have lanes that do not turn and then lanes that do; a KV head for each query head.
fn heads(fields: &Fields) -> Result<(LayerSpec, Latent)> {
    let heads = fields.usize("num_attention_heads")?;
    let latent = Latent {
        rank: fields.usize("kv_lora_rank")?,
        own: fields.usize("qk_nope_head_dim")?,
        shared: fields.usize("qk_rope_head_dim")?,
        values: fields.usize("v_head_dim")?,
        norm: Norm::RmsScaled { eps: 1e-6 }, // the classes' own, not the config's
    };
    // Derived from those in some configs, and of the projection of q.
    fields.skip(&["num_key_value_heads", "head_dim", "qk_head_dim", "q_lora_rank"]);
    let spec = LayerSpec::new(heads, heads, latent.own + latent.shared);
    Ok((LayerSpec { head_dim_v: latent.values, ..spec }, latent))
}

/// DeepSeek V3 and the Kimi models that are built like it, and DeepSeek V3.2, whose layers choose their keys. YaRN's factor
/// is squared in the softmax scale.
pub(super) fn decoder(fields: &Fields, name: &str) -> Result<ModelSpec> {
    let (base, latent) = heads(fields)?;
    let rope = RopeConfig::read(fields, None, Some(1e4))?;
    let pairing = match fields.bool_if("rope_interleave")?.unwrap_or(true) {
        true => Pairing::Adjacent,
        false => Pairing::Half,
    };
    let scale = rope.mscale_all_dim * rope.mscale_all_dim / (base.head_dim as f64).sqrt();
    let indexer = match name {
        "deepseek_v32" => Some(Indexer {
            heads: fields.usize("index_n_heads")?,
            dim: fields.usize("index_head_dim")?,
            count: fields.usize("index_topk")?,
            block: 1,
        }),
        _ => None,
    };
    let kind = LayerSpec {
        indexer,
        softmax_scale: scale as f32,
        rope: Some(rope.rope(fields, latent.shared, pairing)?.at_lane(latent.own)),
        ..base
    };
    fields.skip(&["ep_size", "scoring_func", "seq_aux"]);
    // Later versions of the classes write the type of every layer, though there is but one.
    let only = if kind.indexer.is_some() { "indexed_attention" } else { FULL };
    let types = layer_types(fields, |_, _| only)?;
    let model = by_type(name, &types, |of| match of == only {
        true => Ok(Some(kind.clone())),
        false => Err(unknown_type(fields, of, only)),
    })?;
    Ok(ModelSpec { latent: Some(latent), ..model })
}

/// Kimi Linear: latent layers without rotation between layers of linear attention.
pub(super) fn between_linear_layers(fields: &Fields) -> Result<ModelSpec> {
    let (base, latent) = heads(fields)?;
    fields.expect("mla_use_nope", Value::Bool(true))?;
    fields.expect("mla_use_output_gate", Value::Bool(false))?;
    fields.skip(&["rope_theta", "rope_scaling", "rope_parameters"]); // nothing turns
    let count = fields.usize("num_hidden_layers")?;
    let types: Vec<String> = match fields.strs_if("layer_types")? {
        Some(types) => types.iter().map(|t| t.to_string()).collect(),
        None => {
            let Some(list) = fields.object_if("linear_attn_config")? else {
                return Err(fields.wrong("linear_attn_config", "given", "nothing"));
            };
            // Layers are counted from 1 here.
            let full = list.usizes_if("full_attn_layers")?.unwrap_or_default();
            (1..=count).map(|i| if full.contains(&i) { FULL.into() } else { "linear_attention".to_string() }).collect()
        }
    };
    fields.skip(&["linear_attn_config"]);
    if types.len() != count {
        return Err(fields.wrong("layer_types", &format!("a list of {count}"), format!("one of {}", types.len())));
    }
    let model = by_type("kimi_linear", &types, |of| Ok((of == FULL).then(|| base.clone())))?;
    Ok(ModelSpec { latent: Some(latent), ..model })
}
