//! Which unread fields of a config can be passed over.
//!
//! A config has far more fields than an attention layer: those of experts, tokens, training and generation. A list of all
//! would never be whole, so a field that nobody read is passed over unless a word of its name speaks of attention.

/// Words of names that may change what an attention layer computes. Names are split at underscores.
const SPEAKS_OF_ATTENTION: &[&str] = &[
    "alibi",
    "attention",
    "attn",
    "bidirectional",
    "block",
    "blocks",
    "cap",
    "causal",
    "chunk",
    "chunked",
    "chunks",
    "clip",
    "compress",
    "compression",
    "compressor",
    "conv",
    "cross",
    "dilated",
    "dilation",
    "gate",
    "gated",
    "global",
    "head",
    "heads",
    "hybrid",
    "index",
    "indexer",
    "indices",
    "interval",
    "k",
    "key",
    "keys",
    "kv",
    "landmark",
    "latent",
    "layer",
    "layers",
    "linear",
    "local",
    "lora",
    "mask",
    "masked",
    "masking",
    "mla",
    "mrope",
    "mscale",
    "nope",
    "norm",
    "pattern",
    "pool",
    "pooled",
    "pooling",
    "position",
    "positional",
    "positions",
    "prefix",
    "q",
    "qk",
    "qkv",
    "query",
    "ratio",
    "relative",
    "rope",
    "rotary",
    "scale",
    "scales",
    "scaling",
    "shared",
    "sharing",
    "sink",
    "sinks",
    "sliding",
    "softcap",
    "softcapping",
    "softmax",
    "sparse",
    "sparsity",
    "span",
    "state",
    "stride",
    "swa",
    "temperature",
    "theta",
    "topk",
    "v",
    "value",
    "values",
    "window",
    "windows",
    "yarn",
];

/// Names with such a word that change nothing here. Projections, their biases and low ranks come before the attention;
/// caps of logits, multipliers and residuals after it.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "attention_bias",
    "attention_dropout",
    "attn_implementation",
    "attn_pdrop",
    "attn_res_block_size",
    "chunk_size_feed_forward",
    "decoder_sparse_step",
    "enable_moe_block",
    "final_logit_softcapping",
    "first_k_dense_replace",
    "hidden_size_per_layer_input",
    "ignore_index",
    "image_token_index",
    "interleave_moe_layer_step",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layernorm_epsilon",
    "logit_scale",
    "max_position_embeddings",
    "mlp_layer_types",
    "mlp_only_layers",
    "moe_layers",
    "moe_layer_freq",
    "model_max_length",
    "moe_latent_size",
    "moe_shared_expert_intermediate_size",
    "n_shared_experts",
    "norm_bias",
    "norm_eps",
    "norm_topk_prob",
    "num_hidden_layers",
    "num_nextn_predict_layers",
    "num_shared_experts",
    "pruned_heads",
    "qkv_bias",
    "remove_invalid_values",
    "q_lora_rank",
    "residual_gate_temperature",
    "rms_norm_eps",
    "routed_scaling_factor",
    "shared_expert_intermediate_size",
    "sparse_pred_ignore_index",
    "sparse_prediction",
    "temperature",
    "top_k",
    "topk_group",
    "topk_method",
    "use_bidirectional_attention_in_encoder",
    "vocab_size_per_layer_input",
    "prefix",
    "post_norm_eps",
    "output_multiplier",
    "cross_attention_hidden_size",
    "latent_moe_use_norm",
];

/// Beginnings and ends of names of experts, tokens, towers, training and generation.
const BEGINNINGS: &[&str] = &[
    "moe_",
    "router_",
    "vision_",
    "audio_",
    "image_",
    "video_",
    "linear_",
    "mtp_",
    "mamba_",
    "output_",
    "classifier_",
];
const ENDS: &[&str] = &["_token_id", "_token_index", "_dropout", "_act", "_activation", "_token"];

/// Whether an unread field may be passed over.
pub(super) fn is_harmless(name: &str) -> bool {
    let speaks = || name.split('_').any(|word| SPEAKS_OF_ATTENTION.contains(&word));
    HARMLESS.contains(&name)
        || name.contains("expert")
        || BEGINNINGS.iter().any(|b| name.starts_with(b))
        || ENDS.iter().any(|e| name.ends_with(e))
        || !speaks()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attention_are_not_passed_over() {
        for name in ["attention_sink_bias", "qk_clip", "use_alibi", "sliding_window_pattern", "index_topk", "kv_stride"]
        {
            assert!(!is_harmless(name), "{name}");
        }
        for name in ["vocab_size", "hidden_act", "norm_topk_prob", "num_local_experts", "eos_token_id", "foo"] {
            assert!(is_harmless(name), "{name}");
        }
    }
}
