//! Recorded attention layers of real model families, on every device: the mask bit for bit, the attention alone, and the
//! whole path from the projections to what enters the output projection.
//! Planted and seen red: a window one key too wide in the kernel, an image born at the key's slot in the definition
//! (mask and path); outputs not rescaled when the maximum grows (path); exponents of an axial rotation over both axes,
//! YaRN's factor left out (path); chunks counted from slot 1 (mask, path, attention alone); one token too many seen in
//! the shader for subgroups (mask and path); an index score without its floor of 0, in the shader and in the CUDA kernel, and
//! index lanes that turn in adjacent pairs (mask of DeepSeek V3.2); FLUX's text with the image's norms (path); PaliGemma 2's
//! prefix within the window, the first image of Llama 3.2 seen behind the second (mask, path, attention alone).
#[path = "kv_append/append.rs"]
mod append;
mod harness;
#[path = "golden/latent.rs"]
mod latent;
#[path = "golden/projections.rs"]
mod projections;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::KvCache;
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{Gate, LayerConstants, LayerSpec, Norm};
use colatent::{DType, Device, Tensor, Tolerance, Workspace};
use harness::choice::choose;
use harness::golden::{Golden, recordings};
use harness::recorded::Layer;
use harness::visible::visible;
use harness::{compare_within, devices, poisoned};

const PAGE_SIZE: usize = 16;

/// A cache that holds the recording's stream, the rows of its queries, and the places of its tokens.
struct Stream {
    cache: KvCache,
    rows: Vec<QueryRows>,
    places: Vec<u32>,
}

fn stream(golden: &Golden, layer: &Layer) -> Stream {
    let tokens = layer.tokens();
    let mut cache = KvCache::new(PAGE_SIZE, tokens.div_ceil(PAGE_SIZE) + 1).expect("a pool");
    let view = cache.create();
    let first_query = (tokens - golden.queries()) as i32;
    let mut rows = Vec::new();
    for (&(modality, len), gap) in layer.spans.iter().zip(&layer.gaps) {
        let appended = cache.append(view, modality, len).expect("room");
        if appended.first_slot >= first_query {
            rows.push(QueryRows { gap: gap.clone(), ..appended.into() });
        }
    }
    let places = cache.places(view, 0..tokens as i32).expect("places");
    Stream { cache, rows, places }
}

/// f32 on both sides: the recording's own sums differ from ours by a few times 1e-6.
const TOLERANCE: Tolerance = Tolerance { atol: 2e-5, rtol: 2e-5 };

/// `[heads, tokens]` as `[tokens, heads]`.
fn by_row(x: &[f32], heads: usize, tokens: usize) -> Vec<f32> {
    (0..tokens * heads).map(|i| x[i % heads * tokens + i / heads]).collect()
}

fn tensor(device: &Device, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(device, DType::F32, shape, values).expect("a small tensor")
}

/// Runs the attention of a layer and holds its lse against the recording's. Returns the output.
fn attend(
    device: &Device,
    (name, golden): (&str, &Golden),
    (spec, constants): (&LayerSpec, &LayerConstants),
    stream: &Stream,
    [q, k, v]: [&Tensor; 3],
    gate: Option<&Tensor>,
) -> Vec<f32> {
    let (queries, heads) = (golden.queries(), spec.num_q_heads);
    let out = poisoned(device, DType::F32, &[queries, heads, spec.head_dim_v]);
    let lse = poisoned(device, DType::F32, &[queries, heads]);
    let problem = AttentionProblem { spec, cache: &stream.cache, rows: &stream.rows };
    let selection = choose(device, golden, spec, &stream.cache, &stream.rows);
    let args = AttentionArgs { q, k, v, constants, selection: selection.as_ref(), gate, out: &out, lse: Some(&lse) };
    let plan = AttentionPlan::new(device, &problem).unwrap();
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let want = by_row(golden.values("attn.lse"), heads, queries);
    compare_within(&format!("{name} on {device}: lse"), &lse.read_f32().unwrap(), &want, TOLERANCE).unwrap();
    out.read_f32().unwrap()
}

#[test]
fn projections_to_output_projection() {
    for (name, golden) in recordings() {
        let layer = Layer::of(&golden);
        let (spec, stream) = (&layer.spec, stream(&golden, &layer));
        let (tokens, queries) = (layer.tokens(), golden.queries());
        let (heads, kv, dim, dim_v) = (spec.num_q_heads, spec.num_kv_heads, spec.head_dim, spec.head_dim_v);
        for device in devices() {
            let layout = layer.layout;
            let packed = tensor(device, &[tokens, layout.width], &layer.packed);
            let q = poisoned(device, DType::F32, &[tokens, heads, dim]);
            let pages = [stream.cache.num_pages(), kv, PAGE_SIZE];
            let k = poisoned(device, DType::F32, &[pages[0], pages[1], pages[2], dim]);
            let v = poisoned(device, DType::F32, &[pages[0], pages[1], pages[2], dim_v]);
            let mut workspace = Workspace::new(device).unwrap();
            for (run, weights) in &layer.runs {
                let problem = KvAppendProblem {
                    spec,
                    layout,
                    page_size: PAGE_SIZE,
                    num_pages: stream.cache.num_pages(),
                    places: &stream.places[run.clone()],
                    positions: &layer.positions[run.clone()],
                };
                let own = |t: &Tensor, width: usize, shape: &[usize]| {
                    let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
                    let first = run.start * width;
                    Tensor::with_strides(t.buffer().clone(), DType::F32, first, shape, &strides).unwrap()
                };
                let args = KvAppendArgs {
                    packed: &own(&packed, layout.width, &[run.len(), layout.width]),
                    constants: &LayerConstants::new(device, spec, weights.clone()).unwrap(),
                    q: &own(&q, heads * dim, &[run.len(), heads, dim]),
                    k: &k,
                    v: &v,
                };
                KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut workspace).unwrap();
            }

            let part = |t: &Tensor, first: usize, dim: usize, strides: [usize; 3]| {
                let shape = [queries, heads, dim];
                Tensor::with_strides(t.buffer().clone(), DType::F32, first, &shape, &strides).unwrap()
            };
            let first_query = tokens - queries;
            let q = part(&q, first_query * heads * dim, dim, [heads * dim, dim, 1]);
            let constants = LayerConstants::new(device, spec, layer.weights().clone()).unwrap();
            let gate = layout
                .gate
                .map(|g| part(&packed, first_query * layout.width + g.offset, dim_v, [layout.width, g.head_stride, 1]));
            let out = attend(device, (name, &golden), (spec, &constants), &stream, [&q, &k, &v], gate.as_ref());
            compare_within(&format!("{name} on {device}: path"), &out, golden.projected(), TOLERANCE).unwrap();
        }
    }
}

#[test]
fn attention_alone() {
    for (name, golden) in recordings() {
        let layer = Layer::of(&golden);
        let stream = stream(&golden, &layer);
        // What comes after the attention is no part of this one.
        let spec = LayerSpec { out_norm: Norm::None, gate: Gate::None, ..layer.spec.clone() };
        let pages = |recorded: &str, dim: usize| {
            let values = golden.by_token(recorded);
            let mut all = vec![f32::NAN; stream.cache.num_pages() * spec.num_kv_heads * PAGE_SIZE * dim];
            for (row, head) in values.chunks(dim).enumerate() {
                let (token, kv) = (row / spec.num_kv_heads, row % spec.num_kv_heads);
                let (page, slot) =
                    (stream.places[token] as usize / PAGE_SIZE, stream.places[token] as usize % PAGE_SIZE);
                all[((page * spec.num_kv_heads + kv) * PAGE_SIZE + slot) * dim..][..dim].copy_from_slice(head);
            }
            ([stream.cache.num_pages(), spec.num_kv_heads, PAGE_SIZE, dim], all)
        };
        let (k, v) = (pages("attn.k", spec.head_dim), pages("attn.v", spec.head_dim_v));
        for device in devices() {
            let q = tensor(device, &[golden.queries(), spec.num_q_heads, spec.head_dim], &golden.by_token("attn.q"));
            let (k, v) = (tensor(device, &k.0, &k.1), tensor(device, &v.0, &v.1));
            let constants = LayerConstants::new(device, &spec, layer.weights().clone()).unwrap();
            let out = attend(device, (name, &golden), (&spec, &constants), &stream, [&q, &k, &v], None);
            compare_within(&format!("{name} on {device}: attention"), &out, golden.values("attn.out"), TOLERANCE)
                .unwrap();
        }
    }
}

#[test]
fn masks_bit_for_bit() {
    for (name, golden) in recordings() {
        let layer = Layer::of(&golden);
        let stream = stream(&golden, &layer);
        let (tokens, want) = (golden.tokens(), golden.visible());
        let (cache, rows) = (&stream.cache, &stream.rows[..]);
        for device in devices() {
            let selection = choose(device, &golden, &layer.spec, cache, rows);
            let seen = visible(device, &layer.spec, (cache, rows), selection.as_ref(), tokens);
            let wrong = seen.iter().zip(&want).position(|(a, b)| a != b);
            assert_eq!(wrong.map(|i| (i / tokens, i % tokens)), None, "{name} on {device}: query, key");
        }
    }
}
