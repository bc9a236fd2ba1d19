//! Recorded layers as problems for the crate: layer kind, stream, positions, packed rows, weights. Written out per family
//! and apart from the crate's presets and its reader of configs, so that those can be held against it.

use colatent::kv::{Birth, Death, Lifetimes, Modality};
use colatent::layer::*;
use serde_json::Value;

use super::golden::Golden;

/// One recorded layer, ready to run.
pub struct Layer {
    pub spec: LayerSpec,
    /// The stream: spans of one modality, in order.
    pub spans: Vec<(Modality, usize)>,
    /// Per token the position on each axis.
    pub positions: Vec<[i32; 4]>,
    /// Where the parts of a packed row lie, as the family's projections have them.
    pub layout: PackedLayout,
    /// Rows of the packed projection, `[tokens, layout.width]`.
    pub packed: Vec<f32>,
    pub weights: LayerWeights,
}

impl Layer {
    pub fn of(golden: &Golden) -> Layer {
        let spec = spec(golden);
        let layout = match golden.case() {
            "qwen3_5" => spec.packed_gate_by_head(),
            _ if !golden.has("raw.v_proj.out") && golden.case() == "gemma4" => spec.packed_shared_kv(),
            _ => spec.packed(),
        };
        Layer {
            spec,
            layout,
            spans: spans(golden),
            positions: positions(golden),
            packed: packed(golden),
            weights: weights(golden),
        }
    }
}

const LOOK_BOTH_WAYS: Lifetimes = both_ways(Death::SpanEnd);

const fn both_ways(death: Death) -> Lifetimes {
    Lifetimes::all(colatent::kv::Lifetime { birth: Birth::SpanStart, death })
}

/// The layer kind of a recording.
pub fn spec(golden: &Golden) -> LayerSpec {
    let (q, k, v) = (golden.shape("attn.q"), golden.shape("attn.k"), golden.shape("attn.v"));
    let (case, dim) = (golden.case(), q[3]);
    let config = &golden.info["config"];
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
        "gemma2" => LayerSpec { rope: Some(of_kind(rope)), ..spec },
        "gemma3" => {
            let (kind, death) = match window {
                Some(w) => ("sliding_attention", Death::Window(w)),
                None => ("full_attention", Death::Never),
            };
            LayerSpec {
                rope: Some(of_kind(&rope[kind])),
                q_norm: Norm::RmsOnePlus { eps: rms_eps() },
                k_norm: Norm::RmsOnePlus { eps: rms_eps() },
                lifetimes: lifetimes.with(Modality::Image, Birth::SpanStart, death),
                ..spec
            }
        }
        "gpt_oss" => {
            LayerSpec { rope: Some(Rope::yarn(dim, number(rope, "rope_theta"), Pairing::Half, &yarn(rope))), ..spec }
        }
        "llama3" => {
            let scaling = Llama3Scaling {
                factor: number(rope, "factor"),
                low_freq_factor: number(rope, "low_freq_factor"),
                high_freq_factor: number(rope, "high_freq_factor"),
                original_context: number(rope, "original_max_position_embeddings"),
            };
            let plain = Rope::plain(dim, number(rope, "rope_theta"), Pairing::Half);
            LayerSpec { rope: Some(plain.scaled_llama3(&scaling)), ..spec }
        }
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
            let (kind, lifetimes) = match window {
                Some(w) => {
                    let side = w - 1;
                    assert_eq!(f64::from(2 * side), golden.config("local_attention"));
                    let birth = Birth::Affine { num: 1, den: 1, off: -side };
                    ("sliding_attention", lifetimes_of(birth, Death::Window(side + 1)))
                }
                None => ("full_attention", LOOK_BOTH_WAYS),
            };
            LayerSpec { rope: Some(of_kind(&rope[kind])), lifetimes, ..spec }
        }
        "qwen25vl" => LayerSpec { rope: Some(of_kind(rope).with_sections(&sections(rope))), ..spec },
        "qwen3_vl" => LayerSpec {
            rope: Some(of_kind(rope).with_interleaved_sections(sections(rope))),
            q_norm: Norm::RmsScaled { eps: rms_eps() },
            k_norm: Norm::RmsScaled { eps: rms_eps() },
            ..spec
        },
        "qwen3_5" => {
            let lanes = (dim as f64 * number(rope, "partial_rotary_factor")) as usize;
            let rope =
                Rope::plain(lanes, number(rope, "rope_theta"), Pairing::Half).with_interleaved_sections(sections(rope));
            LayerSpec {
                rope: Some(rope),
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
                let lanes = (dim as f64 * number(full, "partial_rotary_factor")) as usize;
                Rope::proportional(dim, lanes, number(full, "rope_theta"))
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
            let rope = &rope[if window.is_some() { "sliding_attention" } else { "full_attention" }];
            let lanes = (dim as f64 * number(rope, "partial_rotary_factor")) as usize;
            LayerSpec {
                rope: Some(Rope::plain(lanes, number(rope, "rope_theta"), Pairing::Half)),
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
        "deepseek_v3" | "deepseek_yarn" => {
            let (nope, lanes) =
                (golden.config("qk_nope_head_dim") as usize, golden.config("qk_rope_head_dim") as usize);
            assert_eq!(nope + lanes, dim);
            let theta = number(rope, "rope_theta");
            let turned = match rope["rope_type"].as_str() {
                Some("yarn") => Rope::yarn(lanes, theta, Pairing::Adjacent, &yarn(rope)),
                _ => Rope::plain(lanes, theta, Pairing::Adjacent),
            };
            LayerSpec { rope: Some(turned.at_lane(nope)), ..spec }
        }
        "kimi_linear" => spec, // latent attention in which nothing turns
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
    Lifetimes::all(colatent::kv::Lifetime { birth, death })
}

/// Images where the token types or the sequence lengths say so, a draft block at the end of a drafter's stream, text
/// elsewhere.
fn spans(golden: &Golden) -> Vec<(Modality, usize)> {
    let tokens = golden.tokens();
    if let Some(lengths) = golden.info["kwargs"]["sequence_lengths"].as_array() {
        return lengths.iter().filter_map(|n| n.as_u64()).map(|n| (Modality::Image, n as usize)).collect();
    }
    if let Some(types) = golden.info["token_types"].as_array() {
        let runs = types.chunk_by(|a, b| a == b);
        return runs.map(|r| (if r[0] == 1 { Modality::Image } else { Modality::Text }, r.len())).collect();
    }
    match tokens - golden.queries() {
        0 => vec![(Modality::Text, tokens)],
        context => vec![(Modality::Text, context), (Modality::Draft, golden.queries())],
    }
}

fn positions(golden: &Golden) -> Vec<[i32; 4]> {
    let tokens = golden.tokens();
    if let Some(ids) = golden.tensors.get("input.position_ids") {
        let at = |axis: usize, t: usize| ids.values[axis * tokens + t] as i32;
        return (0..tokens).map(|t| [at(0, t), at(1, t), at(2, t), 0]).collect();
    }
    if let Some(grids) = golden.info["grid_thw"].as_array() {
        return grids.iter().flat_map(|grid| patches(grid, golden.config("pos_emb_height") as usize)).collect();
    }
    (0..tokens as i32).map(|t| [t, 0, 0, 0]).collect()
}

/// Row and column of every patch of an image, both counted from 1, in the order of windows of `side` by `side` patches.
fn patches(grid: &Value, side: usize) -> Vec<[i32; 4]> {
    let size = |i: usize| grid[i].as_u64().expect("a grid size") as usize;
    assert_eq!(size(0), 1, "one frame");
    let mut all = Vec::new();
    for top in (0..size(1)).step_by(side) {
        for left in (0..size(2)).step_by(side) {
            for row in top..size(1).min(top + side) {
                all.extend((left..size(2).min(left + side)).map(|column| [0, row as i32 + 1, column as i32 + 1, 0]));
            }
        }
    }
    all
}

/// The projections as rows of [`LayerSpec::packed`]: q, k, v and, if the layer has one, gate.
fn packed(golden: &Golden) -> Vec<f32> {
    let tokens = golden.tokens();
    let recorded = |name: &str| golden.tensors.get(&format!("raw.{name}.out")).map(|t| t.values.clone());
    let parts: Vec<Vec<f32>> = if golden.has("raw.kv_b_proj.out") {
        expanded_latents(golden)
    } else if let Some(fused) = recorded("Wqkv") {
        vec![fused]
    } else {
        ["q_proj", "k_proj", "v_proj", "gate_proj"].iter().filter_map(|name| recorded(name)).collect()
    };
    let row = |t: usize| {
        parts.iter().enumerate().flat_map(move |(i, part)| {
            // Only the queries of a drafter are projected; nothing reads the others' q.
            let missing = if i == 0 { tokens - golden.queries() } else { 0 };
            let width = part.len() / (tokens - missing);
            let at = t.checked_sub(missing).map(|t| &part[t * width..(t + 1) * width]);
            at.map_or(vec![0.0; width], <[f32]>::to_vec)
        })
    };
    (0..tokens).flat_map(row).collect()
}

/// q, k and v of multi-head latent attention in the expanded form: every head's k is its own lanes without rotation, then
/// the rotated lanes that all heads share.
fn expanded_latents(golden: &Golden) -> Vec<Vec<f32>> {
    let (tokens, heads) = (golden.tokens(), golden.shape("attn.q")[1]);
    let size = |name: &str| golden.config(name) as usize;
    let (nope, rope, dim_v, rank) =
        (size("qk_nope_head_dim"), size("qk_rope_head_dim"), size("v_head_dim"), size("kv_lora_rank"));
    let (latent, expanded) = (golden.values("raw.kv_a_proj_with_mqa.out"), golden.values("raw.kv_b_proj.out"));
    let (mut k, mut v) = (Vec::new(), Vec::new());
    for token in 0..tokens {
        for head in 0..heads {
            let own = &expanded[(token * heads + head) * (nope + dim_v)..][..nope + dim_v];
            k.extend_from_slice(&own[..nope]);
            k.extend_from_slice(&latent[token * (rank + rope) + rank..][..rope]);
            v.extend_from_slice(&own[nope..]);
        }
    }
    let q = if golden.has("raw.q_b_proj.out") { "raw.q_b_proj.out" } else { "raw.q_proj.out" };
    vec![golden.values(q).to_vec(), k, v]
}

/// The norm weights and sinks of the layer.
fn weights(golden: &Golden) -> LayerWeights {
    let of = |name: &str| golden.tensors.get(name).map_or(vec![], |t| t.values.clone());
    LayerWeights {
        q_norm: of("weight.q_norm.weight"),
        k_norm: of("weight.k_norm.weight"),
        sinks: of("attn.sinks"),
        ..Default::default()
    }
}

/// The recorded q or k as `[tokens, heads, dim]` in this crate's order of lanes. The recording of latent attention has the
/// first lanes of its adjacent pairs before the second ones.
pub fn recorded_lanes(golden: &Golden, name: &str) -> Vec<f32> {
    let x = golden.by_token(name);
    if !golden.case().starts_with("deepseek") {
        return x;
    }
    let (nope, rope) = (golden.config("qk_nope_head_dim") as usize, golden.config("qk_rope_head_dim") as usize);
    let dim = nope + rope;
    let lane = |d: usize| if d < nope { d } else { nope + (d - nope) / 2 + (d - nope) % 2 * rope / 2 };
    (0..x.len()).map(|i| x[i / dim * dim + lane(i % dim)]).collect()
}
