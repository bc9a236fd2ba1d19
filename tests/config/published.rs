//! Configs at published sizes: the fields that the attention depends on, and some that it does not.
//!
//! Sources: those marked C are from the checkpoint's own `config.json`, as collected in ai-dynamo/aiconfigurator
//! (2026-08-21); the others are the defaults of the family's configuration class in `transformers` 5.23 for the named
//! checkpoint, written as a config would be. Lists of layers are cut to a few layers.

/// C: meta-llama/Meta-Llama-3.1-8B.
pub const LLAMA3: &str = r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
  "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": false,
  "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
  "use_cache": true, "vocab_size": 128256}"#;

/// C: meta-llama/Llama-4-Scout-17B-16E-Instruct.
pub const LLAMA4_SCOUT: &str = r#"{"model_type": "llama4", "text_config": {"attention_bias": false,
  "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120, "interleave_moe_layer_step": 1,
  "intermediate_size_mlp": 16384, "max_position_embeddings": 10485760, "model_type": "llama4_text", "num_attention_heads": 40,
  "num_experts_per_tok": 1, "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16,
  "output_router_logits": false, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 16.0, "high_freq_factor": 1.0,
  "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
  "router_aux_loss_coef": 0.001, "use_qk_norm": true}, "torch_dtype": "bfloat16"}"#;

/// C: meta-llama/Llama-4-Maverick-17B-128E-Instruct.
pub const LLAMA4_MAVERICK: &str = r#"{"model_type": "llama4", "text_config": {"attention_chunk_size": 8192, "head_dim": 128,
  "hidden_size": 5120, "interleave_moe_layer_step": 2, "model_type": "llama4_text", "num_attention_heads": 40,
  "num_hidden_layers": 48, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0,
  "use_qk_norm": false}, "torch_dtype": "bfloat16"}"#;

/// Llama-3.2-11B-Vision.
pub const MLLAMA: &str = r#"{"model_type": "mllama", "image_token_index": 128256, "text_config": {"model_type":
  "mllama_text_model", "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38], "hidden_size": 4096, "num_attention_heads": 32,
  "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0,
  "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
  "vision_config": {"attention_heads": 16}}"#;

/// Muse Spark Open.
pub const MUSE_SPARK: &str = r#"{"model_type": "muse_spark", "image_token_id": 200092, "out_hidden_size": 6144, "text_config":
  {"model_type": "muse_spark_text", "num_hidden_layers": 62, "num_attention_heads": 128, "num_key_value_heads": 16,
  "head_dim": 64, "hidden_size": 8192, "rms_norm_eps": 1e-05, "sliding_window": 2048, "final_logit_softcapping": 20.0,
  "qk_scale_factor": 5.4730064863875, "output_multiplier": 0.1767766952966369, "post_norm_eps": 1e-08,
  "residual_gate_temperature": 0.3, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
  "vision_config": {"model_type": "muse_spark_vision"}, "audio_config": {}}"#;

/// Muse Glimmer 30B.
pub const MUSE_GLIMMER: &str = r#"{"model_type": "muse_glimmer_text", "num_hidden_layers": 52, "num_attention_heads": 32,
  "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1e-05, "sliding_window": 2048, "qk_scale_factor": 3.87,
  "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}"#;

/// The block drafter of Muse Glimmer.
pub const MUSE_DRAFTER: &str = r#"{"model_type": "muse_glimmer_assistant", "hidden_size": 6656, "num_hidden_layers": 5,
  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-05, "sliding_window": 2048,
  "block_size": 16, "mask_token_id": 201818, "target_layer_ids": [1, 13, 25, 37, 49], "rope_parameters": {"rope_theta": 500000.0,
  "rope_type": "default"}}"#;

/// The vision tower of Muse Spark.
pub const MUSE_VISION: &str = r#"{"model_type": "muse_spark_vision", "patch_size": 14, "pos_emb_height": 32, "pos_emb_width": 32,
  "num_attention_heads": 16, "num_hidden_layers": 50, "hidden_size": 1536, "layer_norm_eps": 1e-05, "merge_size": 2,
  "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}}"#;

/// Gemma 2 2B.
pub const GEMMA2: &str = r#"{"model_type": "gemma2", "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
  "head_dim": 256, "hidden_size": 2304, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
  "query_pre_attn_scalar": 256, "sliding_window": 4096, "cache_implementation": "hybrid", "rope_theta": 10000.0}"#;

/// Gemma 3 27B, in the form in which it was published: what is not said is the class's.
pub const GEMMA3_27B: &str = r#"{"model_type": "gemma3", "mm_tokens_per_image": 256, "boi_token_index": 255999, "text_config":
  {"head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504, "model_type": "gemma3_text", "num_attention_heads": 32,
  "num_hidden_layers": 62, "num_key_value_heads": 16, "query_pre_attn_scalar": 168, "rope_scaling": {"factor": 8.0,
  "rope_type": "linear"}, "sliding_window": 1024}, "vision_config": {"model_type": "siglip_vision_model"}}"#;

/// Gemma 3 4B, likewise.
pub const GEMMA3_4B: &str = r#"{"model_type": "gemma3", "text_config": {"hidden_size": 2560, "model_type": "gemma3_text",
  "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}}"#;

/// Gemma 3n E4B, layers cut to 10 of which the last 4 have no K and V of their own.
pub const GEMMA3N: &str = r#"{"model_type": "gemma3n", "audio_soft_tokens_per_image": 188, "text_config": {"model_type":
  "gemma3n_text", "activation_sparsity_pattern": [0.95, 0.0], "altup_active_idx": 0, "altup_coef_clip": 120.0,
  "altup_correct_scale": true, "altup_num_inputs": 4, "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_size": 2048,
  "hidden_size_per_layer_input": 256, "laurel_rank": 64, "num_attention_heads": 8, "num_hidden_layers": 10,
  "num_key_value_heads": 2, "num_kv_shared_layers": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
  "rope_local_base_freq": 10000.0, "rope_scaling": null, "rope_theta": 1000000.0, "sliding_window": 512},
  "vision_config": {"model_type": "gemma3n_vision"}, "audio_config": {"conf_attention_chunk_size": 12}}"#;

/// GLM-4.1V 9B.
pub const GLM41V: &str = r#"{"model_type": "glm4v", "image_token_id": 151343, "text_config": {"model_type": "glm4v_text",
  "attention_bias": true, "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2,
  "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "rope_scaling": {"rope_type": "default",
  "mrope_section": [8, 12, 12]}}, "vision_config": {"num_heads": 12}}"#;

/// GLM-4.5V.
pub const GLM45V: &str = r#"{"model_type": "glm4v_moe", "image_token_id": 151363, "text_config": {"model_type":
  "glm4v_moe_text", "attention_bias": true, "first_k_dense_replace": 1, "head_dim": 128, "hidden_size": 4096, "n_group": 1,
  "n_routed_experts": 128, "num_attention_heads": 96, "num_hidden_layers": 46, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
  "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5, "rope_theta": 10000.0},
  "topk_group": 1, "use_qk_norm": false}, "vision_config": {"num_heads": 12}}"#;

/// C: google/gemma-4-31B-it, layers cut to 6.
pub const GEMMA4: &str = r#"{"model_type": "gemma4", "image_token_id": 258880, "vision_soft_tokens_per_image": 280, "text_config":
  {"attention_bias": false, "attention_k_eq_v": true, "enable_moe_block": false, "global_head_dim": 512, "head_dim": 256,
  "hidden_size_per_layer_input": 0, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention",
  "sliding_attention", "sliding_attention", "full_attention"], "model_type": "gemma4_text", "num_attention_heads": 32,
  "num_global_key_value_heads": 4, "num_hidden_layers": 6, "num_key_value_heads": 16, "num_kv_shared_layers": 0,
  "rms_norm_eps": 1e-06, "rope_parameters": {"full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0,
  "rope_type": "proportional"}, "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}, "sliding_window": 1024,
  "use_bidirectional_attention": "vision", "use_double_wide_mlp": false, "vocab_size_per_layer_input": 262144},
  "vision_config": {"head_dim": 72}}"#;

/// PaliGemma 3B.
pub const PALIGEMMA: &str = r#"{"model_type": "paligemma", "projection_dim": 2048, "image_token_index": 257152, "text_config":
  {"hidden_size": 2048, "intermediate_size": 16384, "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18,
  "num_image_tokens": 256, "num_key_value_heads": 1}, "vision_config": {"hidden_size": 1152}}"#;

/// PaliGemma 2 3B, its prefix marked as later versions of its class write it.
pub const PALIGEMMA2: &str = r#"{"model_type": "paligemma", "projection_dim": 2304, "image_token_index": 257152, "text_config":
  {"hidden_size": 2304, "intermediate_size": 9216, "model_type": "gemma2", "num_attention_heads": 8, "num_hidden_layers": 26,
  "num_image_tokens": 256, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "use_bidirectional_attention": true},
  "vision_config": {"hidden_size": 1152}}"#;

/// Qwen2.5-VL 7B: no text_config, a window that is not used.
pub const QWEN25_VL: &str = r#"{"model_type": "qwen2_5_vl", "attention_dropout": 0.0, "hidden_size": 3584, "image_token_id": 151655,
  "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
  "rope_scaling": {"mrope_section": [16, 24, 24], "type": "mrope"}, "rope_theta": 1000000.0, "sliding_window": 32768,
  "torch_dtype": "bfloat16", "use_sliding_window": false, "vision_config": {"window_size": 112}}"#;

/// C: Qwen/Qwen3-VL-30B-A3B-Instruct: the sections are the class's.
pub const QWEN3_VL: &str = r#"{"model_type": "qwen3_vl_moe", "image_token_id": 151655, "text_config": {"attention_bias": false,
  "decoder_sparse_step": 1, "dtype": "bfloat16", "head_dim": 128, "hidden_size": 2048, "mlp_only_layers": [], "model_type":
  "qwen3_vl_moe_text", "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
  "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 5000000}, "vision_config": {"depth": 27}}"#;

/// C: Qwen/Qwen3.5-27B.
pub const QWEN35: &str = r#"{"model_type": "qwen3_5", "text_config": {"attention_bias": false, "attn_output_gate": true,
  "dtype": "bfloat16", "full_attention_interval": 4, "head_dim": 256, "hidden_size": 5120, "linear_conv_kernel_dim": 4,
  "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_value_head_dim": 128,
  "mlp_only_layers": [], "model_type": "qwen3_5_text", "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false,
  "num_attention_heads": 24, "num_hidden_layers": 64, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "mamba_ssm_dtype":
  "float32", "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10], "rope_type": "default", "rope_theta":
  10000000, "partial_rotary_factor": 0.25}}, "vision_config": {"depth": 27}}"#;

/// C: openai/gpt-oss-20b; the types of layers are the class's.
pub const GPT_OSS: &str = r#"{"model_type": "gpt_oss", "attention_bias": true, "experts_per_token": 4, "head_dim": 64,
  "hidden_size": 2880, "initial_context_length": 4096, "num_attention_heads": 64, "num_hidden_layers": 24,
  "num_key_value_heads": 8, "num_local_experts": 32, "rms_norm_eps": 1e-05, "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0,
  "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false}, "rope_theta": 150000,
  "sliding_window": 128, "swiglu_limit": 7.0}"#;

/// Mistral 7B v0.1.
pub const MISTRAL: &str = r#"{"model_type": "mistral", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096}"#;

/// Ministral 3 8B.
pub const MINISTRAL3: &str = r#"{"model_type": "mistral3", "text_config": {"model_type": "ministral3", "head_dim": 128,
  "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 34, "num_key_value_heads": 8, "rope_parameters": {"type":
  "yarn", "rope_theta": 1000000.0, "factor": 16.0, "original_max_position_embeddings": 16384, "max_position_embeddings": 262144,
  "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}, "sliding_window": null},
  "vision_feature_layer": -1, "spatial_merge_size": 2}"#;

/// C: XiaomiMiMo/MiMo-V2-Flash, layers cut to 6.
pub const MIMO: &str = r#"{"model_type": "mimo_v2_flash", "num_hidden_layers": 6, "hidden_size": 4096, "num_attention_heads": 64,
  "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128, "rope_theta": 5000000, "swa_rope_theta": 10000,
  "partial_rotary_factor": 0.334, "sliding_window": 128, "sliding_window_size": 128, "attention_chunk_size": 128,
  "swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128,
  "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0], "moe_layer_freq": [0, 1, 1, 1, 1, 1], "n_group": 1, "topk_group": 1,
  "topk_method": "noaux_tc", "layernorm_epsilon": 1e-05, "attention_value_scale": 0.707, "add_swa_attention_sink_bias": true,
  "add_full_attention_sink_bias": false, "torch_dtype": "bfloat16"}"#;

/// C: deepseek-ai/DeepSeek-V3.
pub const DEEPSEEK_V3: &str = r#"{"model_type": "deepseek_v3", "attention_bias": false, "ep_size": 1, "first_k_dense_replace": 3,
  "hidden_size": 7168, "kv_lora_rank": 512, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 128, "num_hidden_layers": 61, "num_key_value_heads": 128,
  "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
  "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func":
  "sigmoid", "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128}"#;

/// DeepSeek V3.2: the config of V3 and that of its indexer.
pub const DEEPSEEK_V32: &str = r#"{"model_type": "deepseek_v32", "index_head_dim": 128,
  "index_n_heads": 64, "index_topk": 2048, "attention_bias": false, "ep_size": 1, "first_k_dense_replace": 3,
  "hidden_size": 7168, "kv_lora_rank": 512, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 128, "num_hidden_layers": 61, "num_key_value_heads": 128,
  "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
  "original_max_position_embeddings": 4096, "type": "yarn"}, "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func":
  "sigmoid", "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128}"#;

/// C: moonshotai/Kimi-K2.5.
pub const KIMI_K25: &str = r#"{"model_type": "kimi_k25", "ignore_index": -100, "projection_layer_norm_eps": 1e-05,
  "text_config": {"add_cross_attention": false, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": null, "is_encoder_decoder": false, "kv_lora_rank": 512,
  "model_type": "kimi_k2", "num_attention_heads": 64, "num_hidden_layers": 61, "num_key_value_heads": 64, "prefix": null,
  "pruned_heads": {}, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rope_scaling": {"beta_fast": 32.0,
  "beta_slow": 1.0, "factor": 64.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type":
  "yarn"}, "rope_theta": 50000.0, "temperature": 1.0, "top_k": 50, "v_head_dim": 128}, "use_unified_vision_chunk": true,
  "vision_config": {"pos_emb_type": "divided_fixed"}}"#;

/// Kimi Linear 48B, layers cut to 8 and counted from 1.
pub const KIMI_LINEAR: &str = r#"{"model_type": "kimi_linear", "num_hidden_layers": 8, "num_attention_heads": 32,
  "num_key_value_heads": 32, "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "head_dim": 72, "mla_use_nope": true, "rope_theta": 10000.0, "linear_attn_config": {"full_attn_layers": [4, 8],
  "kda_layers": [1, 2, 3, 5, 6, 7], "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4}}"#;

/// ModernBERT base.
pub const MODERNBERT: &str = r#"{"model_type": "modernbert", "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 22,
  "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_attention": 128, "local_rope_theta": 10000.0,
  "norm_eps": 1e-05, "position_embedding_type": "absolute", "layer_norm_eps": 1e-05, "sparse_prediction": false}"#;

/// MiniMax M1, layers cut to 16.
pub const MINIMAX_M1: &str = r#"{"model_type": "minimax_m1", "attention_dropout": 0.0, "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1,
  0, 0, 0, 0, 0, 0, 0, 1], "head_dim": 128, "hidden_size": 6144, "layernorm_full_attention_alpha": 3.5565588200778455,
  "layernorm_full_attention_beta": 1.0, "layernorm_linear_attention_alpha": 3.5565588200778455,
  "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_alpha": 3.5565588200778455, "layernorm_mlp_beta": 1.0,
  "max_position_embeddings": 10240000, "num_attention_heads": 64, "num_experts_per_tok": 2, "num_hidden_layers": 16,
  "num_key_value_heads": 8, "num_local_experts": 32, "postnorm": true, "rms_norm_eps": 1e-05, "rope_theta": 10000000,
  "rotary_dim": 64, "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "sliding_window": null}"#;

/// BAGEL 7B: its decoder as its own code completes what `llm_config.json` says.
pub const BAGEL_DECODER: &str = r#"{"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
  "num_hidden_layers": 28, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "max_window_layers": 28,
  "use_sliding_window": false, "is_causal": true, "qk_norm": true, "layer_module": "Qwen2MoTDecoderLayer",
  "tie_word_embeddings": false, "torch_dtype": "bfloat16"}"#;

/// BAGEL 7B: the config around its decoder.
pub const BAGEL: &str = r#"{"model_type": "bagel", "architectures": ["BagelForConditionalGeneration"], "visual_gen": true,
  "llm_config": {"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4,
  "num_hidden_layers": 28, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "use_sliding_window": false},
  "vit_config": {"num_hidden_layers": 27}, "latent_patch_size": 2, "max_latent_size": 64}"#;

/// FLUX.1 dev, of its folder `transformer`.
pub const FLUX: &str = r#"{"_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0", "attention_head_dim": 128,
  "axes_dims_rope": [16, 56, 56], "guidance_embeds": true, "in_channels": 64, "joint_attention_dim": 4096,
  "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "patch_size": 1, "pooled_projection_dim": 768}"#;

/// The vision tower of PaliGemma and, with larger images, of Gemma 3.
pub const SIGLIP: &str = r#"{"model_type": "siglip_vision_model", "attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh",
  "hidden_size": 1152, "image_size": 224, "intermediate_size": 4304, "layer_norm_eps": 1e-06, "num_attention_heads": 16,
  "num_channels": 3, "num_hidden_layers": 27, "num_image_tokens": 256, "patch_size": 14, "projection_dim": 2048,
  "torch_dtype": "bfloat16", "vision_use_head": false}"#;
