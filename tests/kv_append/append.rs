//! One call of `kv_append` into pages of one token each.

use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights, PackedLayout};
use colatent::{Device, Tensor, Workspace};

use crate::harness::poisoned;

/// q, k and v of rows that are packed in some way.
pub fn append_from(
    device: &Device,
    (spec, layout): (&LayerSpec, PackedLayout),
    weights: LayerWeights,
    packed: &[f32],
    positions: &[[i32; 4]],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let places: Vec<u32> = (0..positions.len() as u32).collect();
    let (rows, kv) = (places.len(), spec.num_kv_heads);
    let problem = KvAppendProblem { spec, layout, page_size: 1, num_pages: rows, places: &places, positions };
    let plan = KvAppendPlan::new(device, &problem).unwrap();
    let constants = LayerConstants::new(device, spec, weights).unwrap();
    let packed = Tensor::from_f32(device, spec.dtype, &[rows, layout.width], packed).unwrap();
    let q = poisoned(device, spec.dtype, &[rows, spec.num_q_heads, spec.head_dim]);
    let k = poisoned(device, spec.kv_dtype, &[rows, kv, 1, spec.head_dim]);
    let v = poisoned(device, spec.kv_dtype, &[rows, kv, 1, spec.head_dim_v]);
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    (q.read_f32().unwrap(), k.read_f32().unwrap(), v.read_f32().unwrap())
}
