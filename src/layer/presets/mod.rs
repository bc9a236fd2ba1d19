//! Layer kinds of published models. Dimensions are the published ones; change the fields for a smaller model.
//!
//! Sources, where a preset names none: the model's `config.json` and its modelling code in `transformers` 5.23.

mod encoders;
mod gemma;
mod glm;
mod latent;
mod llama;
mod muse;
mod others;
mod qwen;

use super::LayerSpec;
use crate::kv::{Birth, Death, Lifetime, Lifetimes};

/// The first slots and the last ones of its own span and nothing else: documents and images that see themselves.
const OWN_SPAN: Lifetimes = Lifetimes::all(Lifetime { birth: Birth::SpanStart, death: Death::SpanEnd });

impl LayerSpec {
    /// Every preset, by family. Where no kernel serves a layer kind [`LayerSpec::validate`] says why, as every plan does.
    pub fn presets() -> Vec<LayerSpec> {
        vec![
            LayerSpec::muse_spark_window(),
            LayerSpec::muse_spark_full(),
            LayerSpec::muse_glimmer_window(),
            LayerSpec::muse_glimmer_full(),
            LayerSpec::muse_glimmer_drafter(),
            LayerSpec::muse_vision_window(),
            LayerSpec::muse_vision_full(),
            LayerSpec::llama3(),
            LayerSpec::llama32_vision_self(),
            LayerSpec::llama32_vision_cross(),
            LayerSpec::llama4_scout_chunked(),
            LayerSpec::llama4_maverick_chunked(),
            LayerSpec::llama4_full(),
            LayerSpec::gemma2_window(),
            LayerSpec::gemma2_full(),
            LayerSpec::gemma3_window(),
            LayerSpec::gemma3_full(),
            LayerSpec::gemma3n_window(),
            LayerSpec::gemma3n_full(),
            LayerSpec::gemma4_window(),
            LayerSpec::gemma4_full(),
            LayerSpec::paligemma(),
            LayerSpec::paligemma2_window(),
            LayerSpec::paligemma2_full(),
            LayerSpec::qwen25_vl(),
            LayerSpec::qwen25_vl_vision_window(),
            LayerSpec::qwen3_vl(),
            LayerSpec::qwen35_full(),
            LayerSpec::glm41v(),
            LayerSpec::glm45v(),
            LayerSpec::gpt_oss_window(),
            LayerSpec::gpt_oss_full(),
            LayerSpec::mistral_window(),
            LayerSpec::ministral3(),
            LayerSpec::mimo_v2_window(),
            LayerSpec::mimo_v2_full(),
            LayerSpec::deepseek_v3(),
            LayerSpec::deepseek_v3_absorbed(),
            LayerSpec::deepseek_v32(),
            LayerSpec::deepseek_v32_absorbed(),
            LayerSpec::kimi_k2(),
            LayerSpec::kimi_k2_absorbed(),
            LayerSpec::kimi_linear_latent(),
            LayerSpec::kimi_linear_absorbed(),
            LayerSpec::minimax_m1(),
            LayerSpec::bagel(),
            LayerSpec::flux_joint(),
            LayerSpec::modernbert_window(),
            LayerSpec::modernbert_full(),
            LayerSpec::siglip(),
        ]
    }
}
