//! The layer kind of every recording, written out per family.

use colatent::kv::{Birth, Death, Lifetime, Lifetimes, Modality};
use colatent::layer::*;
use serde_json::Value;

use super::golden::Golden;

const LOOK_BOTH_WAYS: Lifetimes = both_ways(Death::SpanEnd);

const fn both_ways(death: Death) -> Lifetimes {
    Lifetimes::all(Lifetime { birth: Birth::SpanStart, death })
}

/// The layer kind of a recording.
pub fn spec(golden: &Golden) -> LayerSpec {
    let (q, k, v) = (golden.shape("attn.q"), golden.shape("attn.k"), golden.shape("attn.v"));
    let (case, dim) = (golden.case(), q[3]);
    let config = golden.decoder();
    let window = golden.info["kwargs"]["sliding_window"].as_i64().map(|w| w as i32);
    let lifetimes = window.map_or(Lifetimes::causal(), Lifetimes::window);
    let spec = LayerSpec {
        name: format!("{case} {}", golden.info["layer"].as_str().unwrap_or("")),
        head_dim_v: v[3],
        softmax_scale: golden.info["scaling"].as_f64().expect("a scaling") as f32,
        soft_cap: golden.info["softcap"].as_f64().map(|c| c as f32),
        sinks: golden.tensors.contains_key("attn.sinks"),
        lifetimes,
        ..LayerSpec::new(q[1], k[1], dim)
    };
    let rope = &config["rope_parameters"];
    let of_kind = |parameters: &Value| {
        assert_eq!(parameters["rope_type"], "default");
        Rope::plain(dim, number(parameters, "rope_theta"), Pairing::Half)
    };
    // What configs call the kind, and how many lanes turn where only a part of them does.
    let of_window = if window.is_some() { "sliding_attention" } else { "full_attention" };
    let partial = |rope: &Value| (dim as f64 * number(rope, "partial_rotary_factor")) as usize;
    let has_rope = golden.tensors.keys().any(|name| name.starts_with("rope."));
    let rms_eps = || golden.config("rms_norm_eps") as f32;
    match case {
        // The norm of the output has the eps of the other norms, not `post_norm_eps`: with 1e-5 the recorded
        // `raw.o_proj.in` is met to 4e-7, with 1e-8 to 6e-5. The recorded checkpoints are in the converted pairing.
        "muse_spark" | "muse_glimmer" => LayerSpec {
            rope: has_rope.then(|| of_kind(rope)),
            q_scale: golden.config("qk_scale_factor") as f32,
            q_norm: Norm::Rms { eps: rms_eps() },
            k_norm: Norm::Rms { eps: rms_eps() },
            out_norm: if case == "muse_spark" { Norm::Rms { eps: rms_eps() } } else { Norm::None },
            gate: Gate::Sigmoid,
            ..spec
        },
        // Without a cache the family's code makes the mask for the block alone, which is shorter than the window, and
        // leaves it out: every query sees all of the context, however far.
        "muse_glimmer_assistant" => LayerSpec {
            rope: Some(of_kind(rope)),
            q_norm: Norm::RmsScaled { eps: rms_eps() },
            k_norm: Norm::RmsScaled { eps: rms_eps() },
            lifetimes: Lifetimes::causal().with(Modality::Draft, Birth::SpanStart, Death::Never),
            ..spec
        },
        // The first half of the pairs turns by the column, though the family's code calls it h: it flips the axes.
        "muse_vision" => LayerSpec {
            rope: Some(Rope::axial(&[(2, dim / 2), (1, dim / 2)], number(rope, "rope_theta"), Pairing::Half)),
            lifetimes: LOOK_BOTH_WAYS,
            ..spec
        },
        "gemma2" | "mistral" => LayerSpec { rope: Some(of_kind(rope)), ..spec },
        "gemma3" => {
            let death = window.map_or(Death::Never, Death::Window);
            LayerSpec {
                rope: Some(of_kind(&rope[of_window])),
                q_norm: Norm::RmsOnePlus { eps: rms_eps() },
                k_norm: Norm::RmsOnePlus { eps: rms_eps() },
                lifetimes: lifetimes.with(Modality::Image, Birth::SpanStart, death),
                ..spec
            }
        }
        "gpt_oss" => {
            LayerSpec { rope: Some(Rope::yarn(dim, number(rope, "rope_theta"), Pairing::Half, &yarn(rope))), ..spec }
        }
        "llama3" => LayerSpec { rope: Some(llama3(dim, rope)), ..spec },
        // Layers with rotation are chunked and normed, those without have a temperature. The norm comes after the
        // rotation; it has no weights and a rotation keeps the sum of squares, so it may as well come before.
        "llama4" => {
            let layer = golden.info["layer"].as_str().and_then(|l| l.split('.').nth(1)).and_then(|l| l.parse().ok());
            let layer: usize = layer.expect("a layer number");
            if config["no_rope_layers"][layer] == 1 {
                let chunk = golden.config("attention_chunk_size") as i32;
                LayerSpec {
                    rope: Some(Rope::plain(dim, number(rope, "rope_theta"), Pairing::Adjacent)),
                    q_norm: Norm::Rms { eps: rms_eps() },
                    k_norm: Norm::Rms { eps: rms_eps() },
                    lifetimes: lifetimes_of(Birth::Causal, Death::ChunkEnd(chunk)),
                    ..spec
                }
            } else {
                let interval = golden.config("floor_scale") as u32;
                let temperature = Temperature { beta: golden.config("attn_scale") as f32, interval, offset: 1 };
                LayerSpec { q_temperature: Some(temperature), ..spec }
            }
        }
        // `kwargs.sliding_window` is one more than the keys seen on each side, which are half of `local_attention`.
        "modernbert" => {
            let lifetimes = match window {
                Some(w) => {
                    let side = w - 1;
                    assert_eq!(f64::from(2 * side), golden.config("local_attention"));
                    let birth = Birth::Affine { num: 1, den: 1, off: -side };
                    lifetimes_of(birth, Death::Window(side + 1))
                }
                None => LOOK_BOTH_WAYS,
            };
            LayerSpec { rope: Some(of_kind(&rope[of_window])), lifetimes, ..spec }
        }
        "qwen25vl" => LayerSpec { rope: Some(of_kind(rope).with_sections(&sections(rope))), ..spec },
        "qwen3_vl" => LayerSpec {
            rope: Some(of_kind(rope).with_interleaved_sections(sections(rope))),
            q_norm: Norm::RmsScaled { eps: rms_eps() },
            k_norm: Norm::RmsScaled { eps: rms_eps() },
            ..spec
        },
        "qwen3_5" => {
            let turned = Rope::plain(partial(rope), number(rope, "rope_theta"), Pairing::Half);
            LayerSpec {
                rope: Some(turned.with_interleaved_sections(sections(rope))),
                q_norm: Norm::RmsOnePlus { eps: rms_eps() },
                k_norm: Norm::RmsOnePlus { eps: rms_eps() },
                gate: Gate::Sigmoid,
                ..spec
            }
        }
        // Images see themselves within the window, and on global layers not at all.
        "gemma4" => {
            let lifetimes = match window {
                Some(w) => lifetimes.with(Modality::Image, Birth::SpanStart, Death::Window(w)),
                None => lifetimes,
            };
            let full = &rope["full_attention"];
            let proportional = || {
                assert_eq!(full["rope_type"], "proportional");
                Rope::proportional(dim, partial(full), number(full, "rope_theta"))
            };
            LayerSpec {
                rope: Some(window.map_or_else(proportional, |_| of_kind(&rope["sliding_attention"]))),
                q_norm: Norm::RmsScaled { eps: rms_eps() },
                k_norm: Norm::RmsScaled { eps: rms_eps() },
                v_norm: Norm::Rms { eps: rms_eps() },
                lifetimes,
                ..spec
            }
        }
        // The window of this config counts the query's own slot; that of the published one does not.
        "mimo_v2" => {
            let rope = &rope[of_window];
            LayerSpec {
                rope: Some(Rope::plain(partial(rope), number(rope, "rope_theta"), Pairing::Half)),
                v_scale: golden.config("attention_value_scale") as f32,
                ..spec
            }
        }
        "ministral3" => {
            let interval = number(rope, "original_max_position_embeddings") as u32;
            let beta = number(rope, "llama_4_scaling_beta") as f32;
            LayerSpec {
                rope: Some(Rope::yarn(dim, number(rope, "rope_theta"), Pairing::Half, &yarn(rope))),
                q_temperature: Some(Temperature { beta, interval, offset: 0 }),
                ..spec
            }
        }
        "deepseek_v3" | "deepseek_yarn" | "deepseek_v32" => {
            let size = |name: &str| golden.config(name) as usize;
            let (nope, lanes) = (size("qk_nope_head_dim"), size("qk_rope_head_dim"));
            assert_eq!(nope + lanes, dim);
            let theta = number(rope, "rope_theta");
            let turned = match rope["rope_type"].as_str() {
                Some("yarn") => Rope::yarn(lanes, theta, Pairing::Adjacent, &yarn(rope)),
                _ => Rope::plain(lanes, theta, Pairing::Adjacent),
            };
            let indexer = (case == "deepseek_v32").then(|| Indexer {
                heads: size("index_n_heads"),
                dim: size("index_head_dim"),
                count: size("index_topk"),
                block: 1,
            });
            LayerSpec { rope: Some(turned.at_lane(nope)), indexer, ..spec }
        }
        "kimi_linear" => spec, // latent attention in which nothing turns
        // The prefix sees itself as a whole, on window layers too.
        "paligemma" | "paligemma2" => {
            let death = window.map_or(Death::Never, Death::WindowOrSpan);
            let lifetimes = lifetimes.with(Modality::Image, Birth::SpanStart, death);
            LayerSpec { rope: Some(of_kind(rope)), lifetimes, ..spec }
        }
        "mllama" => {
            let hidden = Lifetime { birth: Birth::Causal, death: Death::At(0) };
            if has_rope {
                let lifetimes = lifetimes.with(Modality::Image, hidden.birth, hidden.death);
                LayerSpec { rope: Some(llama3(dim, rope)), lifetimes, ..spec }
            } else {
                LayerSpec {
                    q_norm: Norm::RmsScaled { eps: rms_eps() },
                    k_norm: Norm::RmsScaled { eps: rms_eps() },
                    lifetimes: Lifetimes::all(hidden).with(Modality::Image, Birth::Causal, Death::Never),
                    ..spec
                }
            }
        }
        "glm4v" | "glm4v_moe" => {
            let pairing = if case == "glm4v" { Pairing::Adjacent } else { Pairing::Half };
            let turned = Rope::plain(partial(rope), number(rope, "rope_theta"), pairing);
            LayerSpec { rope: Some(turned.with_sections(&sections(rope))), ..spec }
        }
        "gemma3n" => LayerSpec {
            rope: Some(of_kind(&rope[of_window])),
            q_norm: Norm::RmsScaled { eps: rms_eps() },
            k_norm: Norm::RmsScaled { eps: rms_eps() },
            v_norm: Norm::Rms { eps: rms_eps() },
            ..spec
        },
        "siglip" => LayerSpec { lifetimes: LOOK_BOTH_WAYS, ..spec },
        "flux" => {
            let axes = config["axes_dims_rope"].as_array().expect("axes").iter().zip(0u8..);
            let axes: Vec<(u8, usize)> = axes.map(|(n, axis)| (axis, n.as_u64().expect("lanes") as usize)).collect();
            LayerSpec {
                rope: Some(Rope::axial(&axes, 1e4, Pairing::Adjacent)),
                q_norm: Norm::RmsScaled { eps: 1e-6 },
                k_norm: Norm::RmsScaled { eps: 1e-6 },
                lifetimes: LOOK_BOTH_WAYS,
                ..spec
            }
        }
        "bagel" => LayerSpec {
            rope: Some(of_kind(rope)),
            q_norm: Norm::RmsScaled { eps: rms_eps() },
            k_norm: Norm::RmsScaled { eps: rms_eps() },
            lifetimes: lifetimes.with(Modality::Image, Birth::SpanStart, Death::Never).with(
                Modality::Noise,
                Birth::SpanStart,
                Death::SpanEnd,
            ),
            ..spec
        },
        other => panic!("no layer kind for recordings of {other}"),
    }
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or_else(|| panic!("no {name} in {of}"))
}

/// Lane pairs of each of the three axes.
fn sections(rope: &Value) -> [usize; 3] {
    let list = rope["mrope_section"].as_array().expect("sections");
    [0, 1, 2].map(|axis| list[axis].as_u64().expect("a number of pairs") as usize)
}

fn llama3(dim: usize, rope: &Value) -> Rope {
    let scaling = Llama3Scaling {
        factor: number(rope, "factor"),
        low_freq_factor: number(rope, "low_freq_factor"),
        high_freq_factor: number(rope, "high_freq_factor"),
        original_context: number(rope, "original_max_position_embeddings"),
    };
    Rope::plain(dim, number(rope, "rope_theta"), Pairing::Half).scaled_llama3(&scaling)
}

fn yarn(rope: &Value) -> Yarn {
    let plain = Yarn {
        truncate: rope["truncate"].as_bool().unwrap_or(true),
        beta_fast: number(rope, "beta_fast"),
        beta_slow: number(rope, "beta_slow"),
        ..Yarn::new(number(rope, "factor"), number(rope, "original_max_position_embeddings"))
    };
    match rope["mscale_all_dim"].as_f64() {
        Some(all_dim) => plain.with_mscale(number(rope, "mscale"), all_dim),
        None => plain,
    }
}

fn lifetimes_of(birth: Birth, death: Death) -> Lifetimes {
    Lifetimes::all(Lifetime { birth, death })
}
