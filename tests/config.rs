//! `ModelSpec::from_config_json`: the configs of the recordings give the recorded layer kinds, configs of published sizes
//! give the presets, and what may change the attention is never passed over.
//!
//! Planted and seen red: Gemma 3's scaling on window layers too, layers of Kimi Linear counted from 0, MiMo's window as if it
//! counted the query's own slot (published sizes); half of ModernBERT's window forgotten (recordings); PaliGemma 2's prefix
//! within the window (both); the account of fields read left out (unknown fields).
#![cfg(feature = "config")]
mod harness;

#[path = "config/published.rs"]
mod published;

use colatent::kv::{Birth, Death, Lifetimes, Modality};
use colatent::layer::{LayerSpec, ModelLayer, ModelSpec};
use colatent::{DType, Error};
use harness::golden::recordings;
use harness::kinds;
use published::*;

fn read(json: &str) -> ModelSpec {
    ModelSpec::from_config_json(json).unwrap_or_else(|e| panic!("{e}\n{json}"))
}

/// Equal but for names, and for the last bits of a scale, which is a square root in f32 here and in f64 there.
#[track_caller]
fn assert_same(got: &LayerSpec, want: &LayerSpec, what: &str) {
    let scale = (got.softmax_scale - want.softmax_scale).abs() <= 2e-7 * want.softmax_scale;
    assert!(scale, "{what}: scale {} and {}", got.softmax_scale, want.softmax_scale);
    let got = LayerSpec { name: want.name.clone(), softmax_scale: want.softmax_scale, ..got.clone() };
    assert_eq!(got, *want, "{what}");
}

#[test]
fn configs_of_recordings_give_the_recorded_kinds() {
    for (name, golden) in recordings() {
        let model = read(&golden.info["config"].to_string());
        // `layers.N.`; FLUX has one joint layer and after it one of its single ones, BAGEL's layers are alike.
        let path = golden.info["layer"].as_str().expect("a layer's name");
        let number = path.split('.').find_map(|part| part.parse::<usize>().ok()).unwrap_or(0);
        let layer = number + usize::from(path.starts_with("single_"));
        let kind = model.kind(layer).expect("an attention layer");
        let mut want = kinds::spec(&golden);
        if name.starts_with("muse_glimmer_assistant") {
            // The recording's context is seen whole, whatever the config's window of 20: see there.
            want.lifetimes = Lifetimes::window(21).with(Modality::Draft, Birth::SpanStart, Death::SpanEnd);
        }
        assert_same(kind, &want, name);
    }
}

#[test]
fn published_sizes_give_the_presets() {
    let all: [(&str, &[(usize, LayerSpec)]); 32] = [
        (LLAMA3, &[(31, LayerSpec::llama3())]),
        (LLAMA4_SCOUT, &[(46, LayerSpec::llama4_scout_chunked()), (47, LayerSpec::llama4_full())]),
        (LLAMA4_MAVERICK, &[(0, LayerSpec::llama4_maverick_chunked()), (3, LayerSpec::llama4_full())]),
        (MLLAMA, &[(2, LayerSpec::llama32_vision_self()), (3, LayerSpec::llama32_vision_cross())]),
        (MUSE_SPARK, &[(60, converted(LayerSpec::muse_spark_window())), (61, LayerSpec::muse_spark_full())]),
        (MUSE_GLIMMER, &[(0, LayerSpec::muse_glimmer_window()), (51, LayerSpec::muse_glimmer_full())]),
        (MUSE_DRAFTER, &[(4, LayerSpec::muse_glimmer_drafter())]),
        (MUSE_VISION, &[(0, LayerSpec::muse_vision_window()), (49, LayerSpec::muse_vision_full())]),
        (GEMMA2, &[(0, LayerSpec::gemma2_window()), (1, LayerSpec::gemma2_full())]),
        (GEMMA3_27B, &[(4, LayerSpec::gemma3_window()), (5, LayerSpec::gemma3_full())]),
        (GEMMA4, &[(4, LayerSpec::gemma4_window()), (5, LayerSpec::gemma4_full())]),
        (GEMMA3N, &[(3, LayerSpec::gemma3n_window()), (4, LayerSpec::gemma3n_full()), (9, LayerSpec::gemma3n_full())]),
        (GLM41V, &[(39, LayerSpec::glm41v())]),
        (GLM45V, &[(45, LayerSpec::glm45v())]),
        (PALIGEMMA, &[(17, LayerSpec::paligemma())]),
        (PALIGEMMA2, &[(0, LayerSpec::paligemma2_window()), (1, LayerSpec::paligemma2_full())]),
        (QWEN25_VL, &[(27, LayerSpec::qwen25_vl())]),
        (QWEN3_VL, &[(0, LayerSpec::qwen3_vl())]),
        (QWEN35, &[(3, LayerSpec::qwen35_full()), (63, LayerSpec::qwen35_full())]),
        (GPT_OSS, &[(0, LayerSpec::gpt_oss_window()), (1, LayerSpec::gpt_oss_full())]),
        (MISTRAL, &[(0, LayerSpec::mistral_window())]),
        (MINISTRAL3, &[(0, LayerSpec::ministral3())]),
        (MIMO, &[(0, LayerSpec::mimo_v2_full()), (1, LayerSpec::mimo_v2_window()), (5, LayerSpec::mimo_v2_full())]),
        (DEEPSEEK_V3, &[(60, LayerSpec::deepseek_v3())]),
        (DEEPSEEK_V32, &[(60, LayerSpec::deepseek_v32())]),
        (KIMI_K25, &[(0, LayerSpec::kimi_k2())]),
        (MINIMAX_M1, &[(7, LayerSpec::minimax_m1()), (15, LayerSpec::minimax_m1())]),
        (BAGEL, &[(27, LayerSpec::bagel())]),
        (BAGEL_DECODER, &[(27, LayerSpec::bagel())]),
        (FLUX, &[(0, LayerSpec::flux_joint()), (56, LayerSpec::flux_joint())]),
        (SIGLIP, &[(26, LayerSpec::siglip())]),
        (KIMI_LINEAR, &[(3, LayerSpec::kimi_linear_latent()), (7, LayerSpec::kimi_linear_latent())]),
    ];
    let modernbert: (&str, &[(usize, LayerSpec)]) =
        (MODERNBERT, &[(0, LayerSpec::modernbert_full()), (1, LayerSpec::modernbert_window())]);
    for (json, layers) in all.into_iter().chain([modernbert]) {
        let model = read(json);
        for (layer, preset) in layers {
            let what = format!("{} layer {layer}", model.name);
            let kind = model.kind(*layer).unwrap_or_else(|| panic!("{what}: no attention"));
            // Presets are f32; a config says what its checkpoint is.
            assert_same(&LayerSpec { dtype: DType::F32, kv_dtype: DType::F32, ..kind.clone() }, preset, &what);
        }
    }
}

/// Ministral has windows on the layers that its types name; a model without a window cannot have them.
#[test]
fn windows_are_where_the_types_say() {
    let json = MISTRAL.replace("\"mistral\"", "\"ministral\"");
    let count = read(&json).layers.len();
    let mut types = vec!["full_attention"; count];
    types[3] = "sliding_attention";
    let types = serde_json::to_string(&types).unwrap();
    let model = read(&with(&json, "layer_types", &types));
    assert_same(model.kind(3).unwrap(), &LayerSpec::mistral_window(), "window");
    assert_eq!(model.kind(4).unwrap().lifetimes, Lifetimes::causal());
    refused(&with(&with(&json, "layer_types", &types), "sliding_window", "null"), "sliding_window");

    // Written by configs that do not use it.
    let unused = r#"{"model_type": "qwen2_moe", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 1, "rope_theta": 1e6, "use_sliding_window": false, "sliding_window": 0}"#;
    assert_eq!(read(unused).kind(0).unwrap().lifetimes, Lifetimes::causal());
}

/// Newer configs say what differs in each global layer; those of more than ten layers write `"05"`.
#[test]
fn layers_with_shapes_of_their_own_may_be_written_with_leading_zeros() {
    let mut types = vec!["sliding_attention"; 12];
    (types[5], types[11]) = ("full_attention", "full_attention");
    let own = serde_json::json!({"head_dim": 512, "num_key_value_heads": 4});
    for numbers in [["05", "11"], ["5", "11"]] {
        let mut config: serde_json::Value = serde_json::from_str(GEMMA4).unwrap();
        let text = config["text_config"].as_object_mut().unwrap();
        text.retain(|name, _| !name.contains("global"));
        text.insert("num_hidden_layers".into(), 12.into());
        text.insert("layer_types".into(), types.clone().into());
        text.insert("per_layer_config".into(), serde_json::json!({numbers[0]: own, numbers[1]: own}));
        let model = read(&config.to_string());
        assert_same(model.kind(11).unwrap(), &LayerSpec::gemma4_full(), numbers[0]);
    }
    // A config without layers may have the field as well.
    let none = with(&with(&with(GEMMA4, "num_hidden_layers", "0"), "layer_types", "[]"), "per_layer_config", "{}");
    assert!(read(&none).kinds.is_empty());
}

/// Configs in this format are of converted checkpoints.
fn converted(mut spec: LayerSpec) -> LayerSpec {
    spec.rope.iter_mut().for_each(|r| r.pairing = colatent::layer::Pairing::Half);
    spec
}

#[test]
fn layers_and_groups_are_those_of_the_model() {
    let spark = read(MUSE_SPARK);
    let full: Vec<usize> = (0..62).filter(|&i| spark.kind(i) == Some(&spark.kinds[1])).collect();
    assert_eq!((full[0], full[1], full.len(), spark.kinds.len()), (1, 5, 16, 2)); // counted back from layer 61
    assert_eq!(spark.kv_groups().len(), 1);

    let qwen = read(QWEN35);
    assert_eq!(qwen.layers[0], ModelLayer::Other("linear_attention".into()));
    assert_eq!(qwen.kv_groups()[0].layers, (3..64).step_by(4).collect::<Vec<_>>());
    assert_eq!((qwen.kinds[0].dtype, qwen.kinds[0].kv_dtype), (DType::BF16, DType::BF16));

    let groups = read(GEMMA4).kv_groups();
    let shapes: Vec<_> = groups.iter().map(|g| (g.num_kv_heads, g.head_dim, g.layers.len())).collect();
    assert_eq!(shapes, [(16, 256, 5), (4, 512, 1)]);
    assert_eq!(read(GEMMA4).validate(), Ok(()));
    assert_eq!(read(GEMMA3_4B).kinds[0].num_q_heads, 8); // the class's
}

/// Latent layers are read in the expanded form, with what the absorbed one needs.
#[test]
fn the_absorbed_form_is_one_call_away() {
    for (config, layer, want) in [
        (DEEPSEEK_V3, 60, LayerSpec::deepseek_v3_absorbed()),
        (DEEPSEEK_V32, 60, LayerSpec::deepseek_v32_absorbed()),
        (KIMI_K25, 0, LayerSpec::kimi_k2_absorbed()),
        (KIMI_LINEAR, 3, LayerSpec::kimi_linear_absorbed()),
    ] {
        let model = read(config).absorbed().expect("a latent");
        assert_eq!(model.validate(), Ok(()));
        let of = model.kind(layer).expect("an attention layer");
        let want = LayerSpec { dtype: of.dtype, kv_dtype: of.kv_dtype, ..want };
        assert_same(of, &want, &want.name);
        let group = &model.kv_groups()[0];
        assert_eq!((group.num_kv_heads, group.head_dim, group.head_dim_v, group.v_in_k), (1, 576, 512, true));
    }
    assert!(read(GEMMA4).absorbed().is_none());
}

/// Gemma 4's small models: the last layers read the K and V of the last layer of their type before them.
#[test]
fn layers_that_share_kv_name_whose() {
    let types = r#"["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]"#;
    let config = |shared: usize| {
        format!(
            r#"{{"model_type": "gemma4_text", "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 1,
            "head_dim": 256, "global_head_dim": 256, "layer_types": {types}, "num_kv_shared_layers": {shared},
            "sliding_window": 512, "use_bidirectional_attention": null}}"#
        )
    };
    // Gemma 3n: the last four read the last layer of their type among the first six.
    let from_last = |layer: &ModelLayer| matches!(layer, ModelLayer::Attention { kv_from, .. } if *kv_from < 6);
    assert!(read(GEMMA3N).layers.iter().skip(6).all(from_last));
    assert_eq!(read(GEMMA3N).layers[9], ModelLayer::Attention { kind: 1, kv_from: 4 });
    let model = read(&config(3));
    let from = |layer: &ModelLayer| match layer {
        ModelLayer::Attention { kv_from, .. } => *kv_from,
        ModelLayer::Other(_) => usize::MAX,
    };
    assert_eq!(model.layers.iter().map(from).collect::<Vec<_>>(), [0, 1, 2, 1, 2, 1]);
    assert_eq!(model.kv_groups()[0].layers, [0, 1, 2]);
    assert_eq!(model.validate(), Ok(()));
    // These models are causal for images too.
    assert_eq!(model.kinds[0].lifetimes, Lifetimes::window(512));
    refused(&config(5), "num_kv_shared_layers");
}

/// The error names the field.
#[track_caller]
fn refused(json: &str, field: &str) {
    let error = ModelSpec::from_config_json(json).expect_err(json);
    assert!(matches!(error, Error::Unsupported { .. } | Error::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains(field), "{error} does not name {field}");
}

/// The config with a field of the decoder set to a value, or added.
fn with(json: &str, field: &str, value: &str) -> String {
    let mut config: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let decoder = if config.get("text_config").is_some() { &mut config["text_config"] } else { &mut config };
    decoder[field] = serde_json::from_str(value).expect("JSON");
    config.to_string()
}

const ALL: [&str; 33] = [
    MINIMAX_M1,
    BAGEL_DECODER,
    FLUX,
    SIGLIP,
    GEMMA3N,
    GLM41V,
    GLM45V,
    LLAMA3,
    LLAMA4_SCOUT,
    LLAMA4_MAVERICK,
    MLLAMA,
    MUSE_SPARK,
    MUSE_GLIMMER,
    MUSE_DRAFTER,
    MUSE_VISION,
    GEMMA2,
    GEMMA3_27B,
    GEMMA3_4B,
    GEMMA4,
    PALIGEMMA,
    PALIGEMMA2,
    QWEN25_VL,
    QWEN3_VL,
    QWEN35,
    GPT_OSS,
    MISTRAL,
    MINISTRAL3,
    MIMO,
    DEEPSEEK_V3,
    DEEPSEEK_V32,
    KIMI_K25,
    KIMI_LINEAR,
    MODERNBERT,
];

#[test]
fn an_unknown_field_that_speaks_of_attention_is_refused_by_name() {
    for json in ALL {
        for (field, value) in [
            ("attention_sink_bias", "true"),
            ("qk_clip_threshold", "100.0"),
            ("use_alibi", "true"),
            ("kv_source_layers", "[0, 1]"),
            ("num_sink_tokens", "4"),
        ] {
            refused(&with(json, field, value), field);
        }
        // Of training and of other parts of the model, and what is not there.
        for (field, value) in [("tokenizer_class", "\"Fast\""), ("attention_sink_bias", "null"), ("num_experts", "8")] {
            read(&with(json, field, value));
        }
    }
    refused(
        r#"{"model_type": "gemma3", "vision_prefix": 1, "attention_of_images": "none", "text_config": {}}"#,
        "attention_of_images",
    );
}

#[test]
fn a_known_field_with_an_unknown_value_is_refused_by_name() {
    for (json, field, value) in [
        (LLAMA3, "rope_scaling", r#"{"rope_type": "dynamic", "factor": 2.0}"#),
        (LLAMA3, "rope_scaling", r#"{"rope_type": "linear", "factor": 2.0, "ramp": 3}"#),
        (LLAMA3, "num_attention_heads", "\"32\""),
        (LLAMA3, "num_key_value_heads", "-8"),
        (LLAMA3, "torch_dtype", "\"float8_e4m3fn\""),
        (GEMMA2, "use_bidirectional_attention", "true"),
        (GEMMA3_27B, "layer_types", r#"["sliding_attention"]"#),
        (GEMMA4, "use_bidirectional_attention", "\"all\""),
        (GPT_OSS, "sliding_window", "0"),
        (LLAMA4_SCOUT, "no_rope_layers", "[1, 1]"),
        (LLAMA4_SCOUT, "layer_types", r#"["full_attention"]"#),
        (MUSE_GLIMMER, "layer_rope_theta", "[500000.0]"),
        (QWEN25_VL, "rope_scaling", r#"{"type": "mrope", "mrope_section": [16, 24, 25]}"#),
        (KIMI_LINEAR, "mla_use_output_gate", "true"),
        (KIMI_LINEAR, "mla_use_nope", "false"),
        (KIMI_K25, "add_cross_attention", "true"),
        (QWEN35, "partial_rotary_factor", "0"),
        (GEMMA4, "per_layer_config", r#"{"0": {"head_dim": 128}}"#), // a window layer
        (GEMMA4, "per_layer_config", r#"{"5": {"head_dim": 128, "sliding_window": 9}}"#),
    ] {
        // A field within an object is named as well as the object.
        let inner =
            ["dynamic", "ramp", "mrope_section", "sliding_window"].into_iter().find(|name| value.contains(name));
        let field = if field == "torch_dtype" { "dtype" } else { field };
        let json = match (field, json) {
            // This config has the factor among the rotation's.
            ("partial_rotary_factor", json) => {
                json.replace("\"partial_rotary_factor\": 0.25", "\"partial_rotary_factor\": 0.0")
            }
            ("dtype", json) => with(json, "torch_dtype", value),
            _ => with(json, field, value),
        };
        refused(&json, inner.unwrap_or(field));
    }
    // A layer kind that sees all keys has no such field, and one that chooses has all of them.
    refused(&with(DEEPSEEK_V3, "index_topk", "2048"), "index_topk");
    let chooses = with(DEEPSEEK_V3, "model_type", "\"deepseek_v32\"");
    assert!(ModelSpec::from_config_json(&chooses).is_err_and(|e| e.to_string().contains("index_n_heads")));
    refused(r#"{"model_type": "glm_moe_dsa", "index_topk": 2048}"#, "glm_moe_dsa");
    refused(r#"{"model_type": "mamba2"}"#, "mamba2");
    refused(r#"{"model_type": "minimax_m2", "use_qk_norm": true, "qk_norm_type": "per_layer"}"#, "qk_norm_type");
    refused(&with(GLM45V, "use_qk_norm", "true"), "use_qk_norm");
    refused(&with(MINIMAX_M1, "attn_type_list", "[0, 0, 1]"), "attn_type_list");
    refused(&with(MINIMAX_M1, "sliding_window", "4096"), "sliding_window");
    refused(&with(BAGEL_DECODER, "qk_norm", "false"), "qk_norm");
    refused(&with(BAGEL_DECODER, "use_sliding_window", "true"), "use_sliding_window");
    refused(&BAGEL.replace("\"visual_gen\"", "\"attention_of_images\""), "attention_of_images");
    refused(&with(FLUX, "axes_dims_rope", "[32, 32, 32, 32]"), "axes_dims_rope");
    refused(&with(FLUX, "_class_name", "\"Flux2Transformer2DModel\""), "Flux2Transformer2DModel");
    refused(&with(GLM41V, "partial_rotary_factor", "0.25"), "mrope_section");
    refused(r#"{"model_type": "flava", "text_config": {"model_type": "llama"}}"#, "flava");
    refused(r#"{"hidden_size": 8}"#, "model_type");
    for text in ["", "[]", "{", "7"] {
        assert!(matches!(ModelSpec::from_config_json(text), Err(Error::Invalid { .. })), "{text}");
    }
}
