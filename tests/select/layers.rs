//! An indexer's choice read by the layers that share it, against a definition in plain loops: latent attention as in
//! DeepSeek V3.2, which chooses keys, and grouped heads that choose blocks. Index scores are small integers, so that every
//! device chooses the same.
use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Join, KvCache, Modality};
use colatent::layer::{Indexer, LayerConstants, LayerSpec};
use colatent::select::{SelectArgs, SelectPlan, SelectProblem, SelectSpec};
use colatent::{Buffer, DType, Device, Tensor, Workspace};

use crate::harness::{Rng, compare, devices, poisoned};

const PAGE_SIZE: usize = 16;

/// A prompt, two agents that go on and a reader of both: the last rows of the prompt, of each agent and of the reader.
fn scene() -> (KvCache, Vec<QueryRows>) {
    let mut cache = KvCache::new(PAGE_SIZE, 16).unwrap();
    let root = cache.create();
    let prompt = cache.append(root, Modality::Text, 100).unwrap();
    let mut rows = vec![QueryRows { view: root, first_slot: prompt.first_slot + 96, len: 4, gap: None }];
    let agents = cache.fork_many(root, 2).unwrap();
    for (i, &agent) in agents.iter().enumerate() {
        cache.append(agent, Modality::Text, 7 + 13 * i).unwrap();
        rows.push(cache.append(agent, Modality::Text, 1).unwrap().into());
    }
    let reader = cache.join(&agents, Join::Parallel).unwrap();
    rows.push(cache.append(reader, Modality::Text, 2).unwrap().into());
    (cache, rows)
}

struct Inputs {
    index_q: Vec<f32>,
    index_k: Vec<f32>,
    weights: Vec<f32>,
    q: Vec<f32>,
    /// Of two layers.
    k: [Vec<f32>; 2],
    v: [Vec<f32>; 2],
}

/// Numbers as the storage types hold them; index scores are exact.
fn inputs(spec: &LayerSpec, indexer: &Indexer, rows: usize, tokens: usize) -> Inputs {
    let mut rng = Rng(9);
    let mut whole = |n: usize| (0..n).map(|_| rng.below(5) as f32 - 2.0).collect::<Vec<f32>>();
    let index_q = whole(rows * indexer.heads * indexer.dim);
    let (index_k, weights) = (whole(tokens * indexer.dim), whole(rows * indexer.heads));
    let mut real = |n: usize, dtype: DType| {
        let t = Tensor::from_f32(&Device::Reference, dtype, &[n], &rng.values(n)).unwrap();
        t.read_f32().unwrap()
    };
    let q = real(rows * spec.num_q_heads * spec.head_dim, spec.dtype);
    let k = [0; 2].map(|_| real(tokens * spec.num_kv_heads * spec.head_dim, spec.kv_dtype));
    let v = [0, 1].map(|layer| match spec.v_in_k {
        true => k[layer].chunks(spec.head_dim).flat_map(|row| row[..spec.head_dim_v].to_vec()).collect(),
        false => real(tokens * spec.num_kv_heads * spec.head_dim_v, spec.kv_dtype),
    });
    Inputs { index_q, index_k, weights, q, k, v }
}

/// `places[s]` is the place of slot `s`: the keys that the row chooses, as slots.
fn chosen(indexer: &Indexer, inputs: &Inputs, row: usize, places: &[u32]) -> Vec<usize> {
    let Indexer { heads, dim, count, block } = *indexer;
    let mut units: Vec<(f64, usize)> = Vec::new();
    for (unit, places) in places.chunks(block).enumerate() {
        let mut sum = 0.0;
        for &place in places {
            for head in 0..heads {
                let mut dot = 0.0;
                for lane in 0..dim {
                    dot += f64::from(inputs.index_q[(row * heads + head) * dim + lane])
                        * f64::from(inputs.index_k[place as usize * dim + lane]);
                }
                sum += f64::from(inputs.weights[row * heads + head]) * dot.max(0.0);
            }
        }
        units.push((sum / places.len() as f64, unit));
    }
    units.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)));
    let chosen: Vec<usize> = units.iter().take(count).map(|u| u.1).collect();
    (0..places.len()).filter(|slot| chosen.contains(&(slot / block))).collect()
}

/// Every row sees the slots up to its own; of those it chose it takes the softmax.
fn attended(spec: &LayerSpec, inputs: &Inputs, layer: usize, cache: &KvCache, rows: &[QueryRows]) -> Vec<f32> {
    let indexer = spec.indexer.unwrap();
    let (dim, dim_v, kv) = (spec.head_dim, spec.head_dim_v, spec.num_kv_heads);
    let slots = rows.iter().flat_map(|r| (0..r.len as i32).map(|i| (r.view, r.first_slot + i)));
    let mut out = Vec::new();
    for (row, (view, slot)) in slots.enumerate() {
        let places = cache.places(view, 0..slot + 1).unwrap();
        let keys = chosen(&indexer, inputs, row, &places);
        for head in 0..spec.num_q_heads {
            let mut weights = Vec::new();
            // Pages are [page, KV head, slot, lane].
            let at = |slot: usize| {
                let (page, token) = (places[slot] as usize / PAGE_SIZE, places[slot] as usize % PAGE_SIZE);
                (page * kv + head / spec.group()) * PAGE_SIZE + token
            };
            for &key in &keys {
                let mut dot = 0.0;
                for lane in 0..dim {
                    dot += f64::from(inputs.q[(row * spec.num_q_heads + head) * dim + lane])
                        * f64::from(inputs.k[layer][at(key) * dim + lane]);
                }
                weights.push(f64::from(spec.softmax_scale) * dot);
            }
            let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = weights.iter().map(|w| (w - most).exp()).sum();
            for lane in 0..dim_v {
                let mut sum = 0.0;
                for (&key, w) in keys.iter().zip(&weights) {
                    sum += (w - most).exp() / total * f64::from(inputs.v[layer][at(key) * dim_v + lane]);
                }
                out.push(sum as f32);
            }
        }
    }
    out
}

/// Chooses once, attends twice, and returns the outputs of both layers.
fn run(device: &Device, spec: &LayerSpec, inputs: &Inputs, cache: &KvCache, rows: &[QueryRows]) -> [Vec<f32>; 2] {
    let (index, pages) = (SelectSpec::of(spec).unwrap(), cache.num_pages());
    let select = SelectPlan::new(device, &SelectProblem { spec: &index, cache, rows }).unwrap();
    let attend = AttentionPlan::new(device, &AttentionProblem { spec, cache, rows }).unwrap();
    assert_eq!(select.words(), attend.selection_words());
    let n = attend.num_rows();
    let t = |dtype, shape: &[usize], x: &[f32]| Tensor::from_f32(device, dtype, shape, x).unwrap();
    let q = t(spec.dtype, &[n, index.heads, index.dim], &inputs.index_q);
    let k = t(spec.kv_dtype, &[pages, PAGE_SIZE, index.dim], &inputs.index_k);
    let weights = t(DType::F32, &[n, index.heads], &inputs.weights);
    let selection = Buffer::zeros(device, n * select.words() * 4).unwrap();
    let args = SelectArgs { q: &q, k: &k, weights: &weights, selection: &selection };
    select.run(&args, &mut Workspace::new(device).unwrap()).unwrap();

    let constants = LayerConstants::new(device, spec, Default::default()).unwrap();
    let q = t(spec.dtype, &[n, spec.num_q_heads, spec.head_dim], &inputs.q);
    let mut workspace = Workspace::new(device).unwrap();
    [0, 1].map(|layer| {
        let shape = |dim| [pages, spec.num_kv_heads, PAGE_SIZE, dim];
        let k = t(spec.kv_dtype, &shape(spec.head_dim), &inputs.k[layer]);
        let v = match spec.v_in_k {
            true => k.first_lanes(spec.head_dim_v).unwrap(),
            false => t(spec.kv_dtype, &shape(spec.head_dim_v), &inputs.v[layer]),
        };
        let out = poisoned(device, spec.dtype, &[n, spec.num_q_heads, spec.head_dim_v]);
        let args = AttentionArgs {
            q: &q,
            k: &k,
            v: &v,
            constants: &constants,
            selection: Some(&selection),
            gate: None,
            out: &out,
            lse: None,
        };
        attend.run(&args, &mut workspace).unwrap();
        out.read_f32().unwrap()
    })
}

#[test]
fn layers_that_share_a_choice_meet_the_definition() {
    // As in DeepSeek V3.2, with 8 of 128 heads; and grouped heads that choose blocks of keys.
    let keys = Indexer { heads: 4, dim: 16, count: 20, block: 1 };
    let latent = LayerSpec { num_q_heads: 8, indexer: Some(keys), ..LayerSpec::deepseek_v32_absorbed() };
    let latent = LayerSpec { k_norm: colatent::layer::Norm::None, ..latent };
    let blocks = Indexer { count: 2, block: 16, ..keys };
    let grouped = LayerSpec { indexer: Some(blocks), ..LayerSpec::new(8, 2, 64) };
    let halves = |spec: &LayerSpec| LayerSpec { dtype: DType::BF16, kv_dtype: DType::BF16, ..spec.clone() };
    let (cache, rows) = scene();
    for spec in [&latent, &halves(&latent), &grouped, &halves(&grouped)] {
        let n = rows.iter().map(|r| r.len as usize).sum();
        let inputs = inputs(spec, &spec.indexer.unwrap(), n, cache.num_pages() * PAGE_SIZE);
        let want = [0, 1].map(|layer| attended(spec, &inputs, layer, &cache, &rows));
        for device in devices() {
            let got = run(device, spec, &inputs, &cache, &rows);
            for layer in 0..2 {
                let what = format!("{} on {device}, layer {layer}", spec.name);
                compare(&what, &got[layer], &want[layer], spec.dtype).unwrap();
            }
        }
    }
}
