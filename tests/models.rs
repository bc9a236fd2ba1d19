//! `docs/models.md` is made from the presets; this test fails when it is stale. `COLATENT_WRITE=1` writes it.
//!
//! Planted and seen red: a window of Muse changed in the preset (the page); a gate taken from a preset that was recorded
//! with one (its recording).
mod harness;

use std::fmt::Write;

use colatent::Error;
use colatent::kv::{Birth, Death, Lifetime, Modality};
use colatent::layer::{Gate, Latent, LayerSpec, Norm, Pairing, Rope};
use harness::golden::recordings;
use harness::kinds;

/// Presets and the recordings of their kind at other sizes.
const RECORDED: [(&str, &str); 45] = [
    ("muse_spark.window", "muse_spark.0"),
    ("muse_spark.full", "muse_spark.1"),
    ("muse_glimmer.window", "muse_glimmer.0"),
    ("muse_glimmer.full", "muse_glimmer.1"),
    ("muse_glimmer.drafter", "muse_glimmer_assistant.0"),
    ("muse_vision.window", "muse_vision.0"),
    ("muse_vision.full", "muse_vision.1"),
    ("llama3", "llama3.0"),
    ("llama32_vision.self", "mllama.0"),
    ("llama32_vision.cross", "mllama.1"),
    ("llama4_scout.chunked", "llama4.0"),
    ("llama4.full", "llama4.1"),
    ("gemma2.window", "gemma2.0"),
    ("gemma2.full", "gemma2.1"),
    ("paligemma", "paligemma.0"),
    ("paligemma2.window", "paligemma2.0"),
    ("paligemma2.full", "paligemma2.1"),
    ("gemma3.window", "gemma3.0"),
    ("gemma3.full", "gemma3.1"),
    ("qwen25_vl", "qwen25vl.0"),
    ("gpt_oss.window", "gpt_oss.0"),
    ("gpt_oss.full", "gpt_oss.1"),
    ("deepseek_v3", "deepseek_yarn.0"),
    ("deepseek_v3.absorbed", "deepseek_yarn.0"),
    ("deepseek_v32", "deepseek_v32.0"),
    ("deepseek_v32.absorbed", "deepseek_v32.0"),
    ("kimi_linear.latent", "kimi_linear.0"),
    ("kimi_linear.latent.absorbed", "kimi_linear.0"),
    ("gemma4.window", "gemma4.0"),
    ("gemma4.full", "gemma4.1"),
    ("qwen3_vl", "qwen3_vl.0"),
    ("qwen35.full", "qwen3_5.0"),
    ("mimo_v2.full", "mimo_v2.0"),
    ("mimo_v2.window", "mimo_v2.1"),
    ("gemma3n.window", "gemma3n.0"),
    ("gemma3n.full", "gemma3n.1"),
    ("glm41v", "glm4v.0"),
    ("glm45v", "glm4v_moe.0"),
    ("mistral.window", "mistral.0"),
    ("ministral3", "ministral3.0"),
    ("modernbert.full", "modernbert.0"),
    ("modernbert.window", "modernbert.1"),
    ("siglip", "siglip.0"),
    ("flux.joint", "flux.0"),
    ("bagel", "bagel.0"),
];

const HEAD: &str = "\
# Models

Layer kinds of published models, as the presets of `LayerSpec` have them (made by `tests/models.rs`; do not edit). A key `k`
of a span `[start, end)` is seen by queries at slots within its interval; all modalities that are not named share the first
one. Fused before the attention (`kv_append`): norms, rotation, factors of q; fused into it: scale, cap, sinks; fused after
it: norm of the output, gate. *Recorded* names the recording in `tests/golden` that proves the kind at a smaller size.

| layer kind | heads | dims | seen by | rotation | before | within | after | recorded |
|---|---|---|---|---|---|---|---|---|
";

const TAIL: &str = "
## Not served

- Linear-attention layers (Gated DeltaNet of Qwen3.5, KDA of Kimi) and convolutions on k and v (Inkling): out of scope.
- Compressed KV (DeepSeek V4; its outputs that turn back are served: `v_rope`), relative biases (Inkling), weighted norms
  after the rotation.
- Norms of q and k over all their heads at once (MiniMax M2), blocks chosen by an index (MiniMax M3).
- One table of frequencies per sequence length (LongRoPE, dynamic NTK): make one layer kind per table.
";

#[test]
fn the_page_of_models_is_fresh() {
    let mut page = String::from(HEAD);
    for spec in LayerSpec::presets() {
        row(&mut page, &spec).unwrap();
    }
    page.push_str("\n## Refused\n\nWhat every plan says of these layers today:\n\n");
    let before = page.len();
    for spec in LayerSpec::presets() {
        match spec.validate(format_op(&spec)) {
            Ok(()) => {}
            Err(error @ Error::Unsupported { .. }) => writeln!(page, "- `{}`", error).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    if page.len() == before {
        page.push_str("- nothing: every layer kind above is served\n");
    }
    page.push_str(TAIL);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/models.md");
    if std::env::var_os("COLATENT_WRITE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let have = std::fs::read_to_string(path).unwrap_or_default();
    let stale = page.lines().zip(have.lines()).find(|(a, b)| a != b);
    assert_eq!(stale, None, "docs/models.md is stale: run with COLATENT_WRITE=1");
    assert_eq!(page, have, "docs/models.md is stale: run with COLATENT_WRITE=1");
}

/// Plans name the operation first; here the layer kind stands in its place.
fn format_op(spec: &LayerSpec) -> &'static str {
    Box::leak(spec.name.clone().into_boxed_str())
}

fn row(page: &mut String, spec: &LayerSpec) -> std::fmt::Result {
    let recorded = RECORDED.iter().find(|(preset, _)| *preset == spec.name).map_or("", |(_, recording)| recording);
    let dims = match (spec.head_dim, spec.head_dim_v) {
        (d, v) if d == v => d.to_string(),
        (d, v) if spec.v_in_k => format!("{d}/{v}, V in K"),
        (d, v) => format!("{d}/{v}"),
    };
    let heads = format!("{}/{}", spec.num_q_heads, spec.num_kv_heads);
    let (masks, rope) = (masks(spec), spec.rope.as_ref().map_or("none".into(), rotation));
    let parts = [&heads, &dims, &masks, &rope, &before(spec), &within(spec), &after(spec), recorded];
    writeln!(page, "| `{}` | {} |", spec.name, parts.join(" | "))
}

fn masks(spec: &LayerSpec) -> String {
    let common = spec.lifetimes.get(Modality::Text);
    let mut all = vec![interval(common)];
    for modality in Modality::ALL {
        let own = spec.lifetimes.get(modality);
        if own != common {
            all.push(format!("{modality} {}", interval(own)));
        }
    }
    all.join(", ")
}

fn interval(lifetime: Lifetime) -> String {
    let birth = match lifetime.birth {
        Birth::Causal => "k".into(),
        Birth::SpanStart => "start".into(),
        Birth::At(slot) => slot.to_string(),
        Birth::Affine { num: 1, den: 1, off } => format!("k{off:+}"),
        Birth::Affine { num, den, off } => format!("k*{num}/{den}{off:+}"),
    };
    let death = match lifetime.death {
        Death::Never => "never".into(),
        Death::SpanEnd => "end".into(),
        Death::Window(w) => format!("k+{w}"),
        Death::WindowOrSpan(w) => format!("max(k+{w}, end)"),
        Death::ChunkEnd(c) => format!("end of chunk of {c}"),
        Death::At(slot) => slot.to_string(),
    };
    format!("[{birth}, {death})")
}

fn rotation(rope: &Rope) -> String {
    let turning = rope.inv_freq.iter().filter(|&&f| f > 0.0).count();
    let pairing = match rope.pairing {
        Pairing::Half => "half",
        Pairing::Adjacent => "adjacent",
    };
    let mut text = format!("lanes {}..{} {pairing}", rope.first_lane, rope.first_lane + rope.lanes());
    let mut runs: Vec<(u8, usize)> = Vec::new();
    for &axis in &rope.axis {
        match runs.last_mut() {
            Some((last, pairs)) if *last == axis => *pairs += 1,
            _ => runs.push((axis, 1)),
        }
    }
    let name = |axis: u8| ["t", "h", "w", "x"][axis as usize];
    if runs.len() > 3 {
        let count = |axis: u8| rope.axis.iter().filter(|&&a| a == axis).count();
        write!(text, ", t {} h {} w {} interleaved", count(0), count(1), count(2)).unwrap();
    } else if runs.len() > 1 {
        let runs: Vec<String> = runs.iter().map(|&(axis, pairs)| format!("{} {pairs}", name(axis))).collect();
        write!(text, ", {}", runs.join(" ")).unwrap();
    }
    let slowest = rope.inv_freq.iter().filter(|&&f| f > 0.0).fold(f64::INFINITY, |least, &f| least.min(f));
    write!(text, ", waves to {:.0}", std::f64::consts::TAU / slowest).unwrap();
    if turning < rope.inv_freq.len() {
        write!(text, ", {turning} pairs turn").unwrap();
    }
    if rope.mscale != 1.0 {
        write!(text, ", times {:.4}", rope.mscale).unwrap();
    }
    text
}

fn norm(norm: Norm) -> &'static str {
    match norm {
        Norm::None => "",
        Norm::Rms { .. } => "RMS",
        Norm::RmsScaled { .. } => "RMS w",
        Norm::RmsOnePlus { .. } => "RMS 1+w",
        Norm::Layer { .. } => "LayerNorm",
        Norm::Clip { .. } => "clip",
    }
}

fn before(spec: &LayerSpec) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (part, of) in [("q", spec.q_norm), ("k", spec.k_norm), ("v", spec.v_norm)] {
        if of != Norm::None {
            parts.push(format!("{part} {}", norm(of)));
        }
    }
    if spec.q_scale != 1.0 {
        parts.push(format!("q times {:.3}", spec.q_scale));
    }
    if let Some(t) = spec.q_temperature {
        let p = if t.offset == 0 { "p".into() } else { format!("(p + {})", t.offset) };
        parts.push(format!("q times 1 + {} ln(1 + floor({p} / {}))", t.beta, t.interval));
    }
    if spec.v_scale != 1.0 {
        parts.push(format!("v times {:.3}", spec.v_scale));
    }
    parts.join(", ")
}

fn within(spec: &LayerSpec) -> String {
    let mut parts = vec![format!("scale {:.5}", spec.softmax_scale)];
    parts.extend(spec.soft_cap.map(|cap| format!("cap {cap}")));
    parts.extend(spec.sinks.then(|| "sinks".into()));
    let unit = |block| if block == 1 { "keys".to_string() } else { format!("blocks of {block}") };
    parts.extend(
        spec.indexer.map(|i| format!("{} {} chosen by {} heads of {}", i.count, unit(i.block), i.heads, i.dim)),
    );
    parts.join(", ")
}

fn after(spec: &LayerSpec) -> String {
    let mut parts: Vec<&str> = Vec::new();
    if spec.out_norm != Norm::None {
        parts.push(norm(spec.out_norm));
    }
    parts.extend(match spec.gate {
        Gate::None => None,
        Gate::Sigmoid => Some("sigmoid gate"),
        Gate::Softplus => Some("softplus gate"),
        Gate::HeadSigmoid => Some("sigmoid gate per head"),
        Gate::HeadSoftplus => Some("softplus gate per head"),
    });
    parts.join(", ")
}

/// What a layer kind is like at any size.
fn shape(spec: &LayerSpec) -> String {
    let rope = spec.rope.as_ref().map(|r| {
        let mut runs = r.axis.clone();
        runs.dedup();
        let mut axes = runs.clone();
        axes.sort_unstable();
        axes.dedup();
        let order: Vec<u8> = if runs.len() == axes.len() { runs } else { vec![] }; // none where they take turns
        (r.pairing, axes, order, r.lanes() == spec.head_dim, r.mscale)
    });
    let birth = |lifetime: Lifetime| match lifetime.birth {
        Birth::Affine { .. } => "affine".to_string(),
        other => format!("{other:?}"),
    };
    let death = |l: Lifetime| format!("{:?}", l.death).chars().take_while(|c| c.is_alphabetic()).collect::<String>();
    let lifetimes = Modality::ALL.map(|m| spec.lifetimes.get(m)).map(|l| (birth(l), death(l)));
    let norms = [spec.q_norm, spec.k_norm, spec.v_norm, spec.out_norm];
    let rest = (
        spec.soft_cap.is_some(),
        spec.sinks,
        spec.q_temperature.map(|t| (t.beta, t.offset)),
        spec.q_scale,
        spec.v_scale,
    );
    format!("{rope:?} {lifetimes:?} {norms:?} {:?} {rest:?}", spec.gate)
}

/// A preset differs from its recording in numbers alone.
#[test]
fn presets_are_what_was_recorded() {
    let all = recordings();
    for (preset, recording) in RECORDED {
        let preset = LayerSpec::presets().into_iter().find(|p| p.name == preset).unwrap();
        let golden = &all.iter().find(|(name, _)| *name == recording).unwrap().1;
        let mut recorded = kinds::spec(golden);
        if preset.name == "muse_spark.window" {
            // The preset is the native checkpoint's; the recorded one is converted.
            recorded.rope.iter_mut().for_each(|r| r.pairing = Pairing::Adjacent);
        }
        if preset.name == "muse_glimmer.drafter" {
            // The recording's context is seen whole: see there.
            let death = Death::Window(1);
            recorded.lifetimes =
                colatent::kv::Lifetimes::window(1).with(Modality::Draft, Birth::SpanStart, Death::SpanEnd);
            assert_eq!(recorded.lifetimes.get(Modality::Text).death, death);
        }
        if preset.v_in_k {
            // Recorded in the expanded form.
            let size = |name: &str| golden.config(name) as usize;
            let latent = Latent {
                rank: size("kv_lora_rank"),
                own: size("qk_nope_head_dim"),
                shared: size("qk_rope_head_dim"),
                values: size("v_head_dim"),
                norm: preset.k_norm,
            };
            recorded = latent.absorbed(&recorded);
        }
        if preset.name.starts_with("deepseek_v3") {
            // Recorded with unequal weights of YaRN's factor, which leave some of it on cos and sin.
            recorded.rope.iter_mut().for_each(|r| r.mscale = 1.0);
        }
        assert_eq!(shape(&preset), shape(&recorded), "{} and {recording}", preset.name);
    }
}
