//! The keys that a recorded indexer chooses, from its projections to the bits of the selection.

use colatent::attention::QueryRows;
use colatent::kv::KvCache;
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights, Norm, Pairing, Rope};
use colatent::select::{SelectArgs, SelectPlan, SelectProblem, SelectSpec};
use colatent::{Buffer, DType, Device, Tensor, Workspace};

use super::golden::Golden;

/// The index queries and the one index key of a token, as `kv_append` makes them: LayerNorm of the key, and the first lanes
/// of both turn in halves, unlike those of the layer. Nothing reads its V.
fn index_kind(golden: &Golden, index: &SelectSpec) -> LayerSpec {
    let theta = golden.decoder()["rope_parameters"]["rope_theta"].as_f64().expect("a base");
    LayerSpec {
        k_norm: Norm::Layer { eps: 1e-6, bias: true, by_head: false },
        rope: Some(Rope::plain(golden.config("qk_rope_head_dim") as usize, theta, Pairing::Half)),
        ..LayerSpec::new(index.heads, 1, index.dim)
    }
}

/// `None` for a layer that sees all keys. All tokens of the recording are rows.
pub fn choose(
    device: &Device,
    golden: &Golden,
    spec: &LayerSpec,
    cache: &KvCache,
    rows: &[QueryRows],
) -> Option<Buffer> {
    let index = SelectSpec::of(spec)?;
    let (tokens, kind) = (golden.tokens(), index_kind(golden, &index));
    let (queries, keys) = (golden.values("raw.indexer.wq_b.out"), golden.values("raw.indexer.wk.out"));
    let width = index.heads * index.dim;
    let packed =
        (0..tokens).flat_map(|t| [&queries[t * width..][..width], &keys[t * index.dim..][..index.dim]].concat());
    let packed: Vec<f32> = packed.collect();
    let f32s = |shape: &[usize], x: &[f32]| Tensor::from_f32(device, DType::F32, shape, x).expect("a small tensor");
    let q = super::poisoned(device, DType::F32, &[tokens, index.heads, index.dim]);
    let [k, v] =
        [(); 2].map(|()| super::poisoned(device, DType::F32, &[cache.num_pages(), 1, cache.page_size(), index.dim]));
    let weights = LayerWeights {
        k_norm: golden.values("weight.indexer.k_norm.weight").to_vec(),
        k_bias: golden.values("weight.indexer.k_norm.bias").to_vec(),
        ..Default::default()
    };
    let problem = KvAppendProblem {
        spec: &kind,
        layout: kind.packed_shared_kv(),
        page_size: cache.page_size(),
        num_pages: cache.num_pages(),
        places: &cache.places(rows[0].view, 0..tokens as i32).expect("places"),
        positions: &(0..tokens as i32).map(|t| [t, 0, 0, 0]).collect::<Vec<_>>(),
    };
    let mut workspace = Workspace::new(device).expect("a workspace");
    let args = KvAppendArgs {
        packed: &f32s(&[tokens, width + index.dim], &packed),
        constants: &LayerConstants::new(device, &kind, weights).expect("constants"),
        q: &q,
        k: &k,
        v: &v,
    };
    KvAppendPlan::new(device, &problem).expect("a plan").run(&args, &mut workspace).expect("a launch");

    let factor = ((index.heads * index.dim) as f32).sqrt().recip();
    let weights: Vec<f32> = golden.values("raw.indexer.weights_proj.out").iter().map(|w| w * factor).collect();
    let shape = [cache.num_pages(), cache.page_size(), index.dim];
    let k = Tensor::with_strides(k.buffer().clone(), DType::F32, 0, &shape, &[shape[1] * shape[2], shape[2], 1]);
    let plan = SelectPlan::new(device, &SelectProblem { spec: &index, cache, rows }).expect("a plan");
    let selection = Buffer::zeros(device, tokens * plan.words() * 4).expect("bits");
    let args = SelectArgs {
        q: &q,
        k: &k.expect("pages"),
        weights: &f32s(&[tokens, index.heads], &weights),
        selection: &selection,
    };
    plan.run(&args, &mut workspace).expect("a launch");
    Some(selection)
}
