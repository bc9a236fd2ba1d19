//! Recorded layers as problems for the crate: layer kind (`kinds.rs`), stream, positions, packed rows, weights. Written out
//! per family and apart from the crate's presets and its reader of configs, so that those can be held against it.

use std::ops::Range;

use colatent::kv::Modality;
use colatent::layer::*;
use serde_json::Value;

use super::golden::Golden;
use super::kinds::spec;

/// One recorded layer, ready to run.
pub struct Layer {
    pub spec: LayerSpec,
    /// The stream: spans of one modality, in order. The recorded queries are the last of its tokens, the recorded keys the
    /// first.
    pub spans: Vec<(Modality, usize)>,
    /// Of each span the slots that its rows do not see.
    pub gaps: Vec<Option<Range<i32>>>,
    /// Per token the position on each axis.
    pub positions: Vec<[i32; 4]>,
    /// Where the parts of a packed row lie, as the family's projections have them.
    pub layout: PackedLayout,
    /// Rows of the packed projection, `[tokens, layout.width]`.
    pub packed: Vec<f32>,
    /// Tokens in runs: those of a run share their weights. One run unless some tokens have projections of their own; the
    /// sinks are of all.
    pub runs: Vec<(Range<usize>, LayerWeights)>,
}

impl Layer {
    pub fn of(golden: &Golden) -> Layer {
        let spec = spec(golden);
        let spans = spans(golden);
        let tokens = spans.iter().map(|&(_, len)| len).sum();
        let layout = match golden.case() {
            "qwen3_5" => spec.packed_gate_by_head(),
            _ if !golden.has("raw.v_proj.out") && golden.case() == "gemma4" => spec.packed_shared_kv(),
            _ => spec.packed(),
        };
        Layer {
            spec,
            layout,
            gaps: gaps(golden, &spans),
            spans,
            positions: positions(golden, tokens),
            packed: packed(golden, tokens),
            runs: runs(golden, tokens),
        }
    }

    /// Tokens of the stream.
    pub fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// Those of the first run, which are all where there is one; the attention reads the sinks alone.
    pub fn weights(&self) -> &LayerWeights {
        &self.runs[0].1
    }
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

/// Cross-attention: keys are tokens of images, queries are text.
fn is_cross(golden: &Golden) -> bool {
    golden.case() == "mllama" && !golden.has("rope.cos")
}

/// Images where the token types or the sequence lengths say so, a draft block at the end of a drafter's stream, text
/// elsewhere. A prefix that sees itself and a joint stream are one image; where text reads images, they come first.
fn spans(golden: &Golden) -> Vec<(Modality, usize)> {
    let tokens = golden.tokens();
    if let Some(prefix) = golden.info["prefix"].as_u64() {
        return vec![(Modality::Image, prefix as usize), (Modality::Text, tokens - prefix as usize)];
    }
    if let Some(splits) = golden.info["splits"].as_array() {
        let modality = |mode: &Value| match mode.as_str() {
            Some("full") => Modality::Image,
            Some("noise") => Modality::Noise,
            _ => Modality::Text,
        };
        return splits.iter().map(|split| (modality(&split[0]), number(&split[1]))).collect();
    }
    if golden.case() == "flux" {
        return vec![(Modality::Image, tokens)];
    }
    if is_cross(golden) {
        let images = golden.info["images"].as_array().expect("where images are").iter().map(number);
        let mut cuts: Vec<usize> = std::iter::once(0).chain(images).chain([golden.queries()]).collect();
        cuts.dedup();
        let each = number(&golden.info["image_tokens"]);
        let images = std::iter::repeat_n((Modality::Image, each), tokens / each);
        return images.chain(cuts.windows(2).map(|cut| (Modality::Text, cut[1] - cut[0]))).collect();
    }
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

/// Text behind an image does not see the image before that. The published code lets text in front of the first image see
/// all of them.
fn gaps(golden: &Golden, spans: &[(Modality, usize)]) -> Vec<Option<Range<i32>>> {
    let mut gaps = vec![None; spans.len()];
    if is_cross(golden) {
        let each = spans[0].1 as i32;
        assert_eq!(spans.len(), 5, "two images, and text in front of, between and behind them");
        gaps[3] = Some(each..2 * each);
        gaps[4] = Some(0..each);
    }
    gaps
}

fn positions(golden: &Golden, tokens: usize) -> Vec<[i32; 4]> {
    if let Some(ids) = golden.tensors.get("input.position_ids") {
        let axes = ids.values.len() / tokens;
        let at = |axis: usize, t: usize| if axis < axes { ids.values[axis * tokens + t] as i32 } else { 0 };
        return (0..tokens).map(|t| [0, 1, 2, 3].map(|axis| at(axis, t))).collect();
    }
    if let Some(all) = golden.info["positions"].as_array() {
        return all.iter().map(|p| [number(&p[0]) as i32, number(&p[1]) as i32, number(&p[2]) as i32, 0]).collect();
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

/// Whether a token has the second of a layer's two sets of projections and norms: images that are made (BAGEL), text of
/// a joint stream (FLUX).
fn is_second(golden: &Golden, token: usize) -> bool {
    match golden.case() {
        "bagel" => golden.info["made"][token] == 1,
        "flux" => golden.has("raw.add_q_proj.out") && token < number(&golden.info["text"]),
        _ => false,
    }
}

/// The names of q, k, v and gate in a set of projections.
fn projections(golden: &Golden, second: bool) -> [&'static str; 4] {
    match (golden.case(), second) {
        ("bagel", true) => ["q_proj_moe_gen", "k_proj_moe_gen", "v_proj_moe_gen", ""],
        ("flux", false) => ["to_q", "to_k", "to_v", ""],
        ("flux", true) => ["add_q_proj", "add_k_proj", "add_v_proj", ""],
        _ => ["q_proj", "k_proj", "v_proj", "gate_proj"],
    }
}

/// The projections as rows of [`LayerSpec::packed`]: q, k, v and, if the layer has one, gate. What a token has no projection
/// of is zero: q of a drafter's context and of images that text reads, k and v of that text.
fn packed(golden: &Golden, tokens: usize) -> Vec<f32> {
    let recorded = |name: &str| golden.tensors.get(&format!("raw.{name}.out")).map(|t| t.values.clone());
    let sets: Vec<(bool, Vec<Vec<f32>>)> = if golden.has("raw.kv_b_proj.out") {
        vec![(false, expanded_latents(golden))]
    } else if let Some(fused) = recorded("Wqkv") {
        vec![(false, vec![fused])]
    } else {
        let of =
            |second: bool| (second, projections(golden, second).iter().filter_map(|name| recorded(name)).collect());
        vec![of(false), of(true)]
    };
    let mut rows = vec![Vec::new(); tokens];
    for (second, parts) in sets {
        let own: Vec<usize> = (0..tokens).filter(|&t| is_second(golden, t) == second).collect();
        if own.is_empty() {
            continue;
        }
        for (i, part) in parts.iter().enumerate() {
            // q is of the last tokens, the rest of the first.
            let have = own.len().min(if i == 0 { golden.queries() } else { golden.tokens() });
            let width = part.len() / have;
            let missing = vec![0.0; (own.len() - have) * width];
            let whole = if i == 0 { [&missing[..], part] } else { [part, &missing[..]] }.concat();
            for (&t, row) in own.iter().zip(whole.chunks(width)) {
                rows[t].extend(row);
            }
        }
    }
    rows.concat()
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
fn weights(golden: &Golden, second: bool) -> LayerWeights {
    let of = |name: &str| golden.tensors.get(name).map_or(vec![], |t| t.values.clone());
    let [q, k] = match (golden.case(), second) {
        ("bagel", true) => ["q_norm_moe_gen", "k_norm_moe_gen"],
        ("flux", false) => ["norm_q", "norm_k"],
        ("flux", true) => ["norm_added_q", "norm_added_k"],
        _ => ["q_norm", "k_norm"],
    }
    .map(|name| of(&format!("weight.{name}.weight")));
    LayerWeights { q_norm: q, k_norm: k, sinks: of("attn.sinks"), ..Default::default() }
}

fn runs(golden: &Golden, tokens: usize) -> Vec<(Range<usize>, LayerWeights)> {
    let second: Vec<bool> = (0..tokens).map(|t| is_second(golden, t)).collect();
    let mut first = 0;
    let run = |run: &[bool]| {
        first += run.len();
        (first - run.len()..first, weights(golden, run[0]))
    };
    second.chunk_by(|a, b| a == b).map(run).collect()
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
