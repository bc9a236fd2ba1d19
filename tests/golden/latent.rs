//! Multi-head latent attention in its two forms, on recorded layers of DeepSeek V3 (with and without YaRN), V3.2 and Kimi
//! Linear: the absorbed form over the latent meets what was recorded in the expanded one; states of both forms merge; the
//! latent row is stored once, normed in its first lanes and turned in its last.
//! Planted and seen red, in each case by all but the refusals: the norm of the latent over the shared lanes too (CUDA
//! kernel; shader); v stored again over the first lanes of k (CUDA kernel).
use crate::harness::choice::choose;
use crate::harness::golden::{Golden, recordings};
use crate::harness::recorded::Layer;
use crate::harness::{compare_within, devices, poisoned};
use crate::{PAGE_SIZE, TOLERANCE};
use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{Latent, LayerConstants, LayerSpec, LayerWeights, Norm, PackedLayout};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Device, Error, Tensor, Workspace};

fn latent_recordings() -> impl Iterator<Item = (&'static str, Golden)> {
    recordings().into_iter().filter(|(_, golden)| golden.has("raw.kv_b_proj.out"))
}

fn latent(golden: &Golden) -> Latent {
    let size = |name: &str| golden.config(name) as usize;
    Latent {
        rank: size("kv_lora_rank"),
        own: size("qk_nope_head_dim"),
        shared: size("qk_rope_head_dim"),
        values: size("v_head_dim"),
        norm: Norm::RmsScaled { eps: 1e-6 },
    }
}

/// Row `lane` of head `head`'s up-projection, of k's own lanes and then of v: `rank` weights.
fn up(golden: &Golden, of: &Latent, head: usize, lane: usize) -> Vec<f64> {
    let row = head * (of.own + of.values) + lane;
    golden.values("weight.kv_b_proj.weight")[row * of.rank..][..of.rank].iter().map(|&w| f64::from(w)).collect()
}

/// What an engine hands to `kv_append` in a form: layer kind, layout, rows of its projections, weights.
struct Form {
    spec: LayerSpec,
    layout: PackedLayout,
    packed: Vec<f32>,
    weights: LayerWeights,
}

fn expanded(golden: &Golden) -> Form {
    let layer = Layer::of(golden);
    Form { weights: layer.weights().clone(), spec: layer.spec, layout: layer.layout, packed: layer.packed }
}

/// Queries times their head's up-projection of k, and the latent row as it was projected.
fn absorbed(golden: &Golden) -> Form {
    let (of, expanded) = (latent(golden), Layer::of(golden).spec);
    let spec = of.absorbed(&expanded);
    let q = golden.values(if golden.has("raw.q_b_proj.out") { "raw.q_b_proj.out" } else { "raw.q_proj.out" });
    let row = golden.values("raw.kv_a_proj_with_mqa.out");
    let (dim, width) = (of.own + of.shared, of.rank + of.shared);
    let mut packed = Vec::new();
    for token in 0..golden.tokens() {
        for head in 0..spec.num_q_heads {
            let q = &q[(token * spec.num_q_heads + head) * dim..][..dim];
            let mut sums = vec![0.0; of.rank];
            for (lane, &x) in q[..of.own].iter().enumerate() {
                for (sum, w) in sums.iter_mut().zip(up(golden, &of, head, lane)) {
                    *sum += w * f64::from(x);
                }
            }
            packed.extend(sums.iter().map(|&x| x as f32).chain(q[of.own..].iter().copied()));
        }
        packed.extend(&row[token * width..][..width]);
    }
    let k_norm = golden.values("weight.kv_a_layernorm.weight").to_vec();
    let weights = LayerWeights { k_norm, ..Default::default() };
    Form { layout: spec.packed(), spec, packed, weights }
}

/// Outputs over the latent times their head's up-projection of v: `[tokens, heads, values]`.
fn projected_up(golden: &Golden, out: &[f32]) -> Vec<f32> {
    let (of, heads) = (latent(golden), Layer::of(golden).spec.num_q_heads);
    let mut all = Vec::new();
    for (i, out) in out.chunks(of.rank).enumerate() {
        for lane in of.own..of.own + of.values {
            let weights = up(golden, &of, i % heads, lane);
            all.push(out.iter().zip(weights).map(|(&x, w)| f64::from(x) * w).sum::<f64>() as f32);
        }
    }
    all
}

/// Appends all tokens and attends with `rows`, over what the recorded indexer chose if there is one: out, lse, and the pages
/// of k.
fn run(device: &Device, golden: &Golden, form: &Form, cache: &KvCache, rows: &[QueryRows]) -> [Tensor; 3] {
    let Form { spec, layout, packed, weights } = form;
    let selection = choose(device, golden, spec, cache, rows);
    let tokens = packed.len() / layout.width;
    let f32s = |shape: &[usize]| poisoned(device, DType::F32, shape);
    let packed = Tensor::from_f32(device, DType::F32, &[tokens, layout.width], packed).unwrap();
    let constants = LayerConstants::new(device, spec, weights.clone()).unwrap();
    let q = f32s(&[tokens, spec.num_q_heads, spec.head_dim]);
    let k = f32s(&[cache.num_pages(), spec.num_kv_heads, PAGE_SIZE, spec.head_dim]);
    let v = match spec.v_in_k {
        true => k.first_lanes(spec.head_dim_v).unwrap(),
        false => f32s(&[cache.num_pages(), spec.num_kv_heads, PAGE_SIZE, spec.head_dim_v]),
    };
    let problem = KvAppendProblem {
        spec,
        layout: *layout,
        page_size: PAGE_SIZE,
        num_pages: cache.num_pages(),
        places: &cache.places(rows[0].view, 0..tokens as i32).unwrap(),
        positions: &(0..tokens as i32).map(|t| [t, 0, 0, 0]).collect::<Vec<_>>(),
    };
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
    KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap()).unwrap();

    let plan = AttentionPlan::new(device, &AttentionProblem { spec, cache, rows }).unwrap();
    let (heads, dim, n) = (spec.num_q_heads, spec.head_dim, plan.num_rows());
    let first = rows[0].first_slot as usize * heads * dim;
    let q = Tensor::with_strides(q.buffer().clone(), DType::F32, first, &[n, heads, dim], &[heads * dim, dim, 1]);
    let (out, lse) = (f32s(&[n, heads, spec.head_dim_v]), f32s(&[n, heads]));
    let args = AttentionArgs {
        q: &q.unwrap(),
        k: &k,
        v: &v,
        constants: &constants,
        selection: selection.as_ref(),
        gate: None,
        out: &out,
        lse: Some(&lse),
    };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    [out, lse, k]
}

fn stream(tokens: usize) -> (KvCache, QueryRows) {
    let mut cache = KvCache::new(PAGE_SIZE, tokens.div_ceil(PAGE_SIZE) + 1).unwrap();
    let view = cache.create();
    let rows = QueryRows::from(cache.append(view, Modality::Text, tokens).unwrap());
    (cache, rows)
}

#[test]
fn the_absorbed_form_meets_what_was_recorded() {
    for (name, golden) in latent_recordings() {
        let (cache, rows) = stream(golden.tokens());
        for device in devices() {
            let [out, ..] = run(device, &golden, &absorbed(&golden), &cache, std::slice::from_ref(&rows));
            let out = projected_up(&golden, &out.read_f32().unwrap());
            compare_within(&format!("{name} on {device}"), &out, golden.projected(), TOLERANCE).unwrap();
        }
    }
}

/// A prefix in the expanded form, what comes after it in the absorbed one: the outputs of the second go through the
/// up-projection, which keeps their weights, and are states like any other.
#[test]
fn states_of_both_forms_merge() {
    const PREFIX: i32 = 29;
    // Rows that choose keys would choose others among a part of them.
    for (name, golden) in latent_recordings().filter(|(_, golden)| !golden.has("raw.indexer.wk.out")) {
        let tokens = golden.tokens();
        let (cache, all) = stream(tokens);
        let part =
            |gap| QueryRows { first_slot: PREFIX, len: tokens as u32 - PREFIX as u32, gap: Some(gap), ..all.clone() };
        let prefix = [part(PREFIX..tokens as i32)];
        let rest = [part(0..PREFIX)];
        for device in devices() {
            let (of, form) = (latent(&golden), expanded(&golden));
            let (heads, n) = (form.spec.num_q_heads, tokens - PREFIX as usize);
            let [out, lse, _] = run(device, &golden, &form, &cache, &prefix);
            let [latent_out, latent_lse, _] = run(device, &golden, &absorbed(&golden), &cache, &rest);
            let mut states = out.read_f32().unwrap();
            states.extend(projected_up(&golden, &latent_out.read_f32().unwrap()));
            let mut state_lse = lse.read_f32().unwrap();
            state_lse.extend(latent_lse.read_f32().unwrap());

            let indptr: Vec<u32> = (0..=n as u32).map(|r| 2 * r).collect();
            let index: Vec<u32> = (0..n as u32).flat_map(|r| [r, r + n as u32]).collect();
            let problem = MergeProblem { spec: &form.spec, indptr: &indptr, index: &index, num_states: 2 * n };
            let t = |shape: &[usize], x: &[f32]| Tensor::from_f32(device, DType::F32, shape, x).unwrap();
            let merged = poisoned(device, DType::F32, &[n, heads, of.values]);
            let args = MergeArgs {
                states: &t(&[2 * n, heads, of.values], &states),
                state_lse: &t(&[2 * n, heads], &state_lse),
                constants: &LayerConstants::new(device, &form.spec, form.weights.clone()).unwrap(),
                gate: None,
                out: &merged,
                lse: None,
            };
            MergePlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap()).unwrap();
            let want = &golden.projected()[PREFIX as usize * heads * of.values..];
            let what = format!("{name} on {device}: merged");
            compare_within(&what, &merged.read_f32().unwrap(), want, TOLERANCE).unwrap();
        }
    }
}

/// The row of a token is `[norm of the latent | turned shared lanes]`, and nothing else is written: by the definition in
/// one place here, from the recorded projection and the recorded rotation.
#[test]
fn a_latent_row_is_stored_once() {
    for (name, golden) in latent_recordings() {
        let (of, (cache, rows)) = (latent(&golden), stream(golden.tokens()));
        let raw = golden.values("raw.kv_a_proj_with_mqa.out");
        let weights = golden.values("weight.kv_a_layernorm.weight");
        let shared = crate::harness::recorded::recorded_lanes(&golden, "attn.k");
        let (heads, dim, width) = (Layer::of(&golden).spec.num_kv_heads, of.own + of.shared, of.rank + of.shared);
        let mut want = Vec::new();
        for token in 0..golden.tokens() {
            let row = &raw[token * width..][..of.rank];
            let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / of.rank as f64;
            let root = (mean + 1e-6).sqrt();
            want.extend(row.iter().zip(weights).map(|(&x, &w)| (f64::from(x) / root * f64::from(w)) as f32));
            want.extend(&shared[token * heads * dim + of.own..][..of.shared]);
        }
        for device in devices() {
            let [_, _, k] = run(device, &golden, &absorbed(&golden), &cache, std::slice::from_ref(&rows));
            let (k, tokens) = (k.read_f32().unwrap(), golden.tokens());
            let places = cache.places(rows.view, 0..tokens as i32).unwrap();
            let mut got = Vec::new();
            let mut untouched = k.clone();
            for place in places {
                let at = place as usize * width;
                got.extend_from_slice(&k[at..at + width]);
                untouched[at..at + width].fill(f32::NAN);
            }
            assert!(untouched.iter().all(|x| x.is_nan()), "{name} on {device}: written elsewhere");
            compare_within(&format!("{name} on {device}: rows"), &got, &want, TOLERANCE).unwrap();
        }
    }
}

#[test]
fn v_in_k_is_refused_where_it_is_not() {
    let plain = Latent { rank: 16, own: 8, shared: 8, values: 8, norm: Norm::None }.absorbed(&LayerSpec::new(2, 2, 16));
    assert_eq!(plain.validate("test"), Ok(()));
    let rope = Some(colatent::layer::Rope::plain(8, 1e4, colatent::layer::Pairing::Half));
    for bad in [
        LayerSpec { head_dim_v: 32, ..plain.clone() },
        LayerSpec { rope, ..plain.clone() },
        LayerSpec { v_scale: 0.5, ..plain.clone() },
        LayerSpec { v_norm: Norm::Rms { eps: 1e-6 }, ..plain.clone() },
    ] {
        assert!(matches!(bad.validate("test"), Err(Error::Invalid { argument: "v_in_k", .. })), "{bad:?}");
    }
    let (cache, rows) = stream(3);
    for device in devices() {
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (q, out, k) = (zeros(&[3, 2, 24]), zeros(&[3, 2, 16]), zeros(&[2, 1, PAGE_SIZE, 24]));
        let constants = LayerConstants::new(device, &plain, Default::default()).unwrap();
        let rows = std::slice::from_ref(&rows);
        let plan = AttentionPlan::new(device, &AttentionProblem { spec: &plain, cache: &cache, rows }).unwrap();
        let (apart, view) = (zeros(&[2, 1, PAGE_SIZE, 16]), k.first_lanes(16).unwrap());
        for (v, is_right) in [(&apart, false), (&view, true)] {
            let args = AttentionArgs {
                q: &q,
                k: &k,
                v,
                constants: &constants,
                selection: None,
                gate: None,
                out: &out,
                lse: None,
            };
            let ran = plan.run(&args, &mut Workspace::new(device).unwrap());
            match is_right {
                true => ran.unwrap(),
                false => assert!(matches!(ran, Err(Error::Invalid { argument: "v", .. })), "{device}: {ran:?}"),
            }
        }
        assert!(matches!(k.first_lanes(25), Err(Error::Invalid { argument: "lanes", .. })));
    }
}
