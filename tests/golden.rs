//! Recorded attention layers of real model families: the whole path from the projections to what enters the output
//! projection, the attention alone, and the mask bit for bit, on every device.
//! Planted and seen red: a window one key too wide in the kernel, an image born at the key's slot in the definition
//! (mask and path); outputs not rescaled when the maximum grows (path); one token too many seen in the kernel for subgroups
//! (mask and path).
mod harness;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{Gate, LayerConstants, LayerSpec, Norm};
use colatent::{DType, Device, Tensor, Tolerance, Workspace};
use harness::golden::{Golden, spec};
use harness::{compare_within, devices, poisoned};

const PAGE_SIZE: usize = 16;

fn recordings() -> Vec<(&'static str, Golden)> {
    macro_rules! load {
        ($($name:literal)*) => {
            vec![$(($name, Golden::load(include_bytes!(concat!("golden/", $name, ".safetensors"))))),*]
        };
    }
    load!("muse_spark.0" "muse_spark.1" "muse_glimmer.0" "muse_glimmer.1" "gemma3.0" "gemma3.1")
}

/// A cache that holds the recording's stream: an image where its token types say so, text elsewhere.
fn stream(golden: &Golden) -> (KvCache, Vec<QueryRows>) {
    let tokens = golden.tokens();
    let mut cache = KvCache::new(PAGE_SIZE, tokens.div_ceil(PAGE_SIZE) + 1).expect("a pool");
    let view = cache.create();
    let is_image: Vec<bool> = match golden.info.get("token_types").and_then(|t| t.as_array()) {
        Some(types) => types.iter().map(|t| t.as_i64() == Some(1)).collect(),
        None => vec![false; tokens],
    };
    let rows = is_image.chunk_by(|a, b| a == b).map(|run| {
        let modality = if run[0] { Modality::Image } else { Modality::Text };
        QueryRows::from(cache.append(view, modality, run.len()).expect("room"))
    });
    let rows = rows.collect();
    (cache, rows)
}

/// f32 on both sides: the recording's own sums differ from ours by a few times 1e-6.
const TOLERANCE: Tolerance = Tolerance { atol: 2e-5, rtol: 2e-5 };

#[test]
fn projections_to_output_projection() {
    for (name, golden) in recordings() {
        let spec = spec(&golden);
        let (cache, rows) = stream(&golden);
        let tokens = golden.tokens();
        let (heads, kv, dim) = (spec.num_q_heads, spec.num_kv_heads, spec.head_dim);
        let places = cache.places(rows[0].view, 0..tokens as i32).expect("places");
        for device in devices() {
            let layout = spec.packed();
            let packed = Tensor::from_f32(device, DType::F32, &[tokens, layout.width], &golden.packed()).unwrap();
            let constants = LayerConstants::new(device, &spec, golden.weights()).unwrap();
            let q = poisoned(device, DType::F32, &[tokens, heads, dim]);
            let pages = [cache.num_pages(), kv, PAGE_SIZE, dim];
            let (k, v) = (poisoned(device, DType::F32, &pages), poisoned(device, DType::F32, &pages));
            let problem = KvAppendProblem {
                spec: &spec,
                layout,
                page_size: PAGE_SIZE,
                num_pages: cache.num_pages(),
                places: &places,
                positions: &golden.positions(),
            };
            let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
            let mut workspace = Workspace::new(device).unwrap();
            KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut workspace).unwrap();

            let gate = layout.gate.map(|g| {
                let strides = [layout.width, g.head_stride, 1];
                Tensor::with_strides(packed.buffer().clone(), DType::F32, g.offset, &[tokens, heads, dim], &strides)
                    .unwrap()
            });
            let out = poisoned(device, DType::F32, &[tokens, heads, dim]);
            let lse = poisoned(device, DType::F32, &[tokens, heads]);
            let plan =
                AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows }).unwrap();
            let args = AttentionArgs {
                q: &q,
                k: &k,
                v: &v,
                constants: &constants,
                gate: gate.as_ref(),
                out: &out,
                lse: Some(&lse),
            };
            let mut workspace = Workspace::new(device).unwrap();
            plan.run(&args, &mut workspace).unwrap();
            let what = format!("{name} on {device}: o_proj.in");
            compare_within(&what, &out.read_f32().unwrap(), golden.values("raw.o_proj.in"), TOLERANCE).unwrap();
            let want = by_row(golden.values("attn.lse"), heads, tokens);
            compare_within(&format!("{name} on {device}: lse"), &lse.read_f32().unwrap(), &want, TOLERANCE).unwrap();
        }
    }
}

/// `[heads, tokens]` as `[tokens, heads]`.
fn by_row(x: &[f32], heads: usize, tokens: usize) -> Vec<f32> {
    (0..tokens * heads).map(|i| x[i % heads * tokens + i / heads]).collect()
}

/// With q = 0 every visible key weighs the same; with one-hot values the output shows which keys those are.
#[test]
fn masks_bit_for_bit() {
    for (name, golden) in recordings() {
        let tokens = golden.tokens();
        let (cache, rows) = stream(&golden);
        let places = cache.places(rows[0].view, 0..tokens as i32).expect("places");
        let spec = LayerSpec {
            num_q_heads: 1,
            num_kv_heads: 1,
            out_norm: Norm::None,
            gate: Gate::None,
            head_dim_v: 88, // the longest recording has 75 tokens, in one launch
            ..spec(&golden)
        };
        let (dim, dim_v) = (spec.head_dim, spec.head_dim_v);
        assert!(tokens <= dim_v);
        let mut one_hot = vec![0.0; cache.num_pages() * PAGE_SIZE * dim_v];
        for (token, &place) in places.iter().enumerate() {
            one_hot[place as usize * dim_v + token] = 1.0;
        }
        for device in devices() {
            let seen = visible(device, &spec, &cache, &rows, &one_hot, tokens, (dim, dim_v));
            let want: Vec<bool> = golden.values("attn.visible").iter().map(|&x| x != 0.0).collect();
            let wrong = seen.iter().zip(&want).position(|(a, b)| a != b);
            assert_eq!(wrong.map(|i| (i / tokens, i % tokens)), None, "{name} on {device}: query, key");
        }
    }
}

fn visible(
    device: &Device,
    spec: &LayerSpec,
    cache: &KvCache,
    rows: &[QueryRows],
    one_hot: &[f32],
    tokens: usize,
    (dim, dim_v): (usize, usize),
) -> Vec<bool> {
    let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
    let q = zeros(&[tokens, 1, dim]);
    let k = zeros(&[cache.num_pages(), 1, PAGE_SIZE, dim]);
    let v = Tensor::from_f32(device, DType::F32, &[cache.num_pages(), 1, PAGE_SIZE, dim_v], one_hot).unwrap();
    let out = zeros(&[tokens, 1, dim_v]);
    let spec = LayerSpec { q_norm: Norm::None, k_norm: Norm::None, rope: None, ..spec.clone() };
    let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
    let plan = AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache, rows }).unwrap();
    let args = AttentionArgs { q: &q, k: &k, v: &v, constants: &constants, gate: None, out: &out, lse: None };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let out = out.read_f32().unwrap();
    (0..tokens * tokens).map(|i| out[i / tokens * dim_v + i % tokens] > 0.0).collect()
}
