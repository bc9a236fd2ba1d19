//! Where the parts of a packed row lie means nothing: every layout of the same q, k and v gives the same bits.

use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem, PADDING};
use colatent::layer::{Gate, LayerConstants, LayerSpec, PackedLayout, Part, Rope};
use colatent::{DType::F32, Tensor, Workspace};

use super::case::{BASE, Case, Rms, Scaled, turn};
use crate::append::append_from;
use crate::harness::{Rng, devices, poisoned};
use colatent::layer::Pairing::Half;

const ROWS: usize = 3;

/// q, k and v of some rows, heads and lanes contiguous, and the weights of their norms.
struct Parts {
    spec: LayerSpec,
    values: [Vec<f32>; 3],
}

impl Parts {
    fn new(kv_heads: usize, dim_v: usize, gate: Gate) -> Parts {
        let norms = (Scaled, Rms, Rms);
        let case = Case { heads: (4, kv_heads), dims: (16, dim_v), rope: turn(Half, 0, 8, 1), norms, ..BASE };
        let spec = LayerSpec { gate, rope: Some(Rope::plain(16, 1e4, Half)), ..case.spec() };
        let mut rng = Rng(3);
        let lanes = [4 * 16, kv_heads * 16, kv_heads * dim_v];
        Parts { spec, values: lanes.map(|n| rng.values(ROWS * n)) }
    }

    /// The rows in a layout, NaN between the parts.
    fn packed(&self, layout: &PackedLayout) -> Vec<f32> {
        let s = &self.spec;
        let mut rows = vec![f32::NAN; ROWS * layout.width];
        let parts = [(layout.v, s.num_kv_heads, s.head_dim_v), (layout.k, s.num_kv_heads, s.head_dim)];
        let mut put = |part: Part, heads: usize, lanes: usize, values: &[f32]| {
            for (i, x) in values.iter().enumerate() {
                let (row, h, d) = (i / (heads * lanes), i / lanes % heads, i % lanes);
                rows[row * layout.width + part.offset + h * part.head_stride + d] = *x;
            }
        };
        for ((part, heads, lanes), values) in parts.into_iter().zip([&self.values[2], &self.values[1]]) {
            put(part, heads, lanes, values);
        }
        put(layout.q, s.num_q_heads, s.head_dim, &self.values[0]);
        rows
    }
}

fn positions() -> Vec<[i32; 4]> {
    (0..ROWS as i32).map(|i| [7 + 100 * i, 0, 0, 0]).collect()
}

#[test]
fn every_layout_gives_the_same_bits() {
    let part = |offset: usize, head_stride: usize| Part { offset, head_stride };
    let own = Parts::new(2, 24, Gate::Sigmoid);
    let alike = Parts::new(4, 16, Gate::None);
    // v | k | q with room between heads; q, k and v of a head side by side; k and v of a head side by side.
    let apart = PackedLayout { v: part(4, 28), k: part(60, 20), q: part(100, 16), gate: None, width: 168 };
    let by_head = PackedLayout { q: part(0, 48), k: part(16, 48), v: part(32, 48), gate: None, width: 192 };
    let kv_by_head = PackedLayout { q: part(0, 16), k: part(64, 40), v: part(80, 40), gate: None, width: 144 };
    for (parts, layout) in
        [(&own, own.spec.packed_gate_by_head()), (&own, apart), (&own, kv_by_head), (&alike, by_head)]
    {
        for device in devices() {
            let run = |layout: PackedLayout| {
                let case = Case { heads: (4, parts.spec.num_kv_heads), norms: (Scaled, Rms, Rms), ..BASE };
                let weights = case.weights(&mut Rng(8));
                append_from(device, (&parts.spec, layout), weights, &parts.packed(&layout), &positions())
            };
            assert_eq!(run(layout), run(parts.spec.packed()), "{layout:?} on {device}");
        }
    }
}

#[test]
fn keys_serve_as_values() {
    let mut parts = Parts::new(2, 16, Gate::None);
    parts.values[2] = parts.values[1].clone();
    for device in devices() {
        let run = |layout: PackedLayout| {
            let weights = Case { norms: (Scaled, Rms, Rms), ..BASE }.weights(&mut Rng(8));
            append_from(device, (&parts.spec, layout), weights, &parts.packed(&layout), &positions())
        };
        assert_eq!(run(parts.spec.packed_shared_kv()), run(parts.spec.packed()), "{device}");
    }
}

/// A layer that reads another layer's pages has queries alone: its rows are padding, and no page is touched.
#[test]
fn a_layer_without_keys_of_its_own_appends_its_queries() {
    let parts = Parts::new(2, 16, Gate::Sigmoid);
    let spec = &parts.spec;
    let layout = spec.packed_q();
    assert_eq!((layout.width, layout.gate.map(|g| g.offset)), (128, Some(64)));
    for device in devices() {
        let weights = Case { norms: (Scaled, Rms, Rms), ..BASE }.weights(&mut Rng(8));
        let whole =
            append_from(device, (spec, spec.packed()), weights.clone(), &parts.packed(&spec.packed()), &positions());
        let rows: Vec<f32> = parts.values[0].chunks(64).flat_map(|q| q.iter().copied().chain([f32::NAN; 64])).collect();
        let (places, positions) = ([PADDING; ROWS], positions());
        let problem =
            KvAppendProblem { spec, layout, page_size: 4, num_pages: 2, places: &places, positions: &positions };
        let plan = KvAppendPlan::new(device, &problem).unwrap();
        let constants = LayerConstants::new(device, spec, weights).unwrap();
        let packed = Tensor::from_f32(device, F32, &[ROWS, layout.width], &rows).unwrap();
        let (q, pages) = (poisoned(device, F32, &[ROWS, 4, 16]), poisoned(device, F32, &[2, 2, 4, 16]));
        let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &pages, v: &pages };
        plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
        assert_eq!(q.read_f32().unwrap(), whole.0, "{device}");
        assert!(pages.read_f32().unwrap().iter().all(|x| x.is_nan()), "{device}");
    }
}
