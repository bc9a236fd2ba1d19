//! Published `config.json` files as layer kinds.
//!
//! One reader per family, since families disagree on what a name means: a window that counts the query's own slot or does
//! not, a rotation that a layer has or lacks, a pattern of layers. Sources: the configuration and modelling code of
//! `transformers` 5.23, family by family; of `diffusers` 0.35 for FLUX.

mod decoders;
mod encoders;
mod fields;
mod gemma;
mod glm;
mod harmless;
mod latent;
mod layers;
mod llama;
mod muse;
mod qwen;
mod rope;

use serde_json::Value;

use super::model::ModelSpec;
use crate::{DType, Error, Result};
use fields::Fields;

/// The operation's name in messages.
const OP: &str = "config";

/// What the config around a decoder's own says of it.
#[derive(Clone, Copy, Default)]
struct Around<'a> {
    /// The family that wraps the decoder.
    model_type: Option<&'a str>,
    dtype: Option<DType>,
}

impl ModelSpec {
    /// Reads a published `config.json`: of a decoder, of a multimodal model (its decoder is read), of an encoder or a
    /// diffusion transformer (which has a `_class_name`). The `vision_config` of a multimodal model is a config of its own.
    ///
    /// Windows, chunks, rotations, norms, gates, caps, sinks, temperatures and who shares K and V with whom come out as
    /// layer kinds and a list of layers. `dtype` becomes the storage of activations and of K and V; change it where the
    /// cache is stored in another type. What a config does not say, because it is code, is the family's: the packing of a
    /// projection ([`super::LayerSpec::packed_gate_by_head`], [`super::LayerSpec::packed_shared_kv`]), adjacent or
    /// half-split pairs. Muse checkpoints in this format are converted to half-split pairs.
    ///
    /// ```
    /// let model = colatent::layer::ModelSpec::from_config_json(
    ///     r#"{"model_type": "mistral", "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 8,
    ///         "num_key_value_heads": 2, "rope_theta": 1e6, "sliding_window": 64, "torch_dtype": "bfloat16"}"#,
    /// )?;
    /// let kind = &model.kinds[0];
    /// assert_eq!((model.layers.len(), kind.num_q_heads, kind.group(), kind.head_dim), (2, 8, 4, 32));
    /// assert_eq!(kind.lifetimes, colatent::kv::Lifetimes::window(64));
    /// # Ok::<(), colatent::Error>(())
    /// ```
    ///
    /// A kind that no kernel serves yet comes out as it is; plans and [`ModelSpec::validate`] refuse it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for text that is no such config, naming the field; [`Error::Unsupported`] for a family, a value or
    /// an unknown field that may change the attention, naming it. Unknown fields whose names do not speak of attention
    /// are passed over.
    pub fn from_config_json(json: &str) -> Result<ModelSpec> {
        let value: Value = match serde_json::from_str(json) {
            Ok(value) => value,
            Err(e) => return Err(Error::invalid(OP, "config", "JSON", e)),
        };
        let Some(object) = value.as_object() else {
            return Err(Error::invalid(OP, "config", "a JSON object", "something else"));
        };
        read(&Fields::new(object, ""), Around::default())
    }
}

fn read(fields: &Fields, around: Around) -> Result<ModelSpec> {
    let (model_type, class) = (fields.str_if("model_type")?, fields.str_if("_class_name")?);
    let Some(name) = model_type.or(class) else {
        return Err(fields.wrong("model_type", "given", "nothing"));
    };
    let dtype = fields.dtype()?;
    // The decoder of a multimodal model. Its own config speaks for it; what is around it are towers and tokens.
    if let Some(decoder) = fields.object_if("text_config")? {
        wrapper(fields, name)?;
        return read(&decoder, Around { model_type: Some(name), dtype });
    }
    // A multimodal model that calls its decoder so.
    if let Some(decoder) = fields.object_if("llm_config")?.filter(|_| name == "bagel") {
        fields.skip(&["latent_patch_size", "max_latent_size"]);
        fields.finish()?;
        return read(&decoder, Around { model_type: Some(name), dtype });
    }
    let mut model = match name {
        "muse_spark_text" | "muse_glimmer_text" => muse::decoder(fields, name)?,
        "muse_glimmer_assistant" => muse::drafter(fields)?,
        "muse_spark_vision" | "muse_glimmer_vision" => muse::vision(fields)?,
        "llama" | "mistral" | "mixtral" | "ministral" | "ministral3" => llama::decoder(fields, name)?,
        "llama4_text" => llama::llama4(fields)?,
        "mllama_text_model" => llama::with_cross_layers(fields)?,
        "gemma" => gemma::first(fields, around.model_type)?,
        "gemma2" => gemma::second(fields, around.model_type)?,
        "gemma3_text" => gemma::third(fields)?,
        "gemma3n_text" => gemma::third_n(fields)?,
        "gemma4_text" | "gemma4_unified_text" => gemma::fourth(fields)?,
        "qwen2" if around.model_type == Some("bagel") || fields.get("layer_module").is_some() => qwen::bagel(fields)?,
        "qwen2" | "qwen2_moe" | "qwen2_vl" | "qwen2_vl_text" | "qwen2_5_vl" | "qwen2_5_vl_text" => {
            qwen::second(fields, name)?
        }
        "qwen3" | "qwen3_moe" | "qwen3_vl_text" | "qwen3_vl_moe_text" => qwen::third(fields, name)?,
        "qwen3_5_text" | "qwen3_5_moe_text" => qwen::gated(fields)?,
        "deepseek_v3" | "deepseek_v32" | "kimi_k2" => latent::decoder(fields, name)?,
        "kimi_linear" => latent::between_linear_layers(fields)?,
        "glm4v_text" | "glm4v_moe_text" => glm::decoder(fields, name)?,
        "minimax_m1" | "minimax_text_01" => decoders::minimax(fields, name)?,
        "minimax_m2" => return Err(decoders::norms_over_all_heads(fields)),
        "gpt_oss" => decoders::gpt_oss(fields)?,
        "mimo_v2_flash" => decoders::mimo(fields)?,
        "modernbert" => encoders::modernbert(fields)?,
        "siglip_vision_model" | "siglip2_vision_model" => encoders::siglip(fields)?,
        "FluxTransformer2DModel" => encoders::flux(fields)?,
        other => {
            let supported = "muse_spark, muse_glimmer and its assistant, llama, mistral, mixtral, ministral, ministral3, \
                             llama4, mllama, gemma to gemma4, gemma3n, paligemma, glm4v, glm4v_moe, qwen2 to qwen3_5 with \
                             their vl and moe kinds, deepseek_v3, deepseek_v32, kimi_k2, kimi_linear, minimax_m1, \
                             minimax_text_01, gpt_oss, mimo_v2_flash, bagel, modernbert, siglip_vision_model, \
                             siglip2_vision_model, FluxTransformer2DModel";
            return Err(fields.unsupported("model_type", other, supported));
        }
    };
    // Written by some exporters into every config.
    fields.expect("add_cross_attention", Value::Bool(false))?;
    fields.expect("is_encoder_decoder", Value::Bool(false))?;
    fields.finish()?;
    let dtype = dtype.or(around.dtype).unwrap_or(DType::F32);
    for kind in &mut model.kinds {
        (kind.dtype, kind.kv_dtype) = (dtype, dtype);
    }
    Ok(ModelSpec { name: around.model_type.unwrap_or(name).into(), ..model })
}

/// Looks over the fields around a decoder's config. Those of towers and their projectors are read on their own, if at all.
fn wrapper(fields: &Fields, name: &str) -> Result<()> {
    let decoders = [
        "muse_spark",
        "muse_glimmer",
        "llama4",
        "mllama",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gemma4_unified",
        "paligemma",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
        "qwen3_vl_moe",
        "qwen3_5",
        "qwen3_5_moe",
        "kimi_k25",
        "kimi_k3",
        "glm4v",
        "glm4v_moe",
        "mistral3",
    ];
    if !decoders.contains(&name) {
        return Err(fields.unsupported("model_type", name, &format!("around a text_config: {}", decoders.join(", "))));
    }
    fields.skip(&["vision_config", "audio_config", "use_unified_vision_chunk", "multimodal_projector_bias"]);
    fields.skip(&["projector_ln_eps", "projection_layer_norm_eps"]);
    fields.skip(&["vision_feature_layer", "spatial_merge_size", "use_global_head"]);
    fields.finish()
}
