//! Which keys each query of a launch sees, found out by asking the attention.

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::KvCache;
use colatent::layer::{Gate, LayerConstants, LayerSpec, LayerWeights, Norm};
use colatent::{Buffer, DType, Device, Tensor, Workspace};

/// Most keys of a launch: the lanes of v, one for each key.
pub const MOST_KEYS: usize = 96;

/// `[queries, keys]` for the first `keys` slots of the rows' view, all of one view. With q = 0 every visible key weighs the
/// same; with one-hot values the output shows which keys those are. `selection` is what the rows chose, if the kind has an
/// indexer.
pub fn visible(
    device: &Device,
    kind: &LayerSpec,
    (cache, rows): (&KvCache, &[QueryRows]),
    selection: Option<&Buffer>,
    keys: usize,
) -> Vec<bool> {
    assert!(keys <= MOST_KEYS);
    let spec = LayerSpec {
        num_q_heads: 1,
        num_kv_heads: 1,
        head_dim: 8,
        head_dim_v: MOST_KEYS,
        sinks: false,
        q_norm: Norm::None,
        k_norm: Norm::None,
        v_norm: Norm::None,
        out_norm: Norm::None,
        gate: Gate::None,
        rope: None,
        ..kind.clone()
    };
    let places = cache.places(rows[0].view, 0..keys as i32).expect("places");
    let pages = [cache.num_pages(), 1, cache.page_size()];
    let mut one_hot = vec![0.0; pages[0] * pages[2] * MOST_KEYS];
    for (key, &place) in places.iter().enumerate() {
        one_hot[place as usize * MOST_KEYS + key] = 1.0;
    }
    let queries: usize = rows.iter().map(|r| r.len as usize).sum();
    let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).expect("a small tensor");
    let (q, out) = (zeros(&[queries, 1, 8]), zeros(&[queries, 1, MOST_KEYS]));
    let k = zeros(&[pages[0], 1, pages[2], 8]);
    let v = Tensor::from_f32(device, DType::F32, &[pages[0], 1, pages[2], MOST_KEYS], &one_hot).expect("small pages");
    let constants = LayerConstants::new(device, &spec, LayerWeights::default()).expect("constants");
    let plan = AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache, rows }).expect("a plan");
    let args =
        AttentionArgs { q: &q, k: &k, v: &v, constants: &constants, selection, gate: None, out: &out, lse: None };
    plan.run(&args, &mut Workspace::new(device).expect("a workspace")).expect("a run");
    let out = out.read_f32().expect("the output");
    (0..queries * keys).map(|i| out[i / keys * MOST_KEYS + i % keys] > 0.0).collect()
}
