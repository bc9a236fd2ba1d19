//! `kv_append` alone: q, k and v of the recorded layers, from their projections.

use colatent::DType::F32;
use colatent::Tolerance;

use crate::append::append_from;
use crate::harness::golden::recordings;
use crate::harness::recorded::{Layer, recorded_lanes};
use crate::harness::{compare, compare_within, devices};

#[test]
fn queries_keys_and_values() {
    for (name, golden) in recordings() {
        let layer = Layer::of(&golden);
        let spec = &layer.spec;
        for device in devices() {
            let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
            for (run, weights) in &layer.runs {
                let rows = &layer.packed[run.start * layer.layout.width..run.end * layer.layout.width];
                let positions = &layer.positions[run.clone()];
                let own = append_from(device, (spec, layer.layout), weights.clone(), rows, positions);
                q.extend(own.0);
                k.extend(own.1);
                v.extend(own.2);
            }
            // The recording's angles are f32: position * inv_freq with both rounded at 2^-24, so off by 2^-23 of
            // themselves where the frequency is not exactly 1. It moves a lane by that much of its partner.
            let frequencies = spec.rope.iter().flat_map(|r| &r.inv_freq).filter(|&&f| f < 1.0);
            let radians = frequencies.fold(0.0, |most: f64, f| most.max(*f)) as f32 * golden.tokens() as f32;
            let tol = |want: &[f32]| {
                let base = F32.tolerance();
                let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
                Tolerance { atol: base.atol + radians / (1u32 << 23) as f32 * largest, ..base }
            };
            let what = |n: &str| format!("{name} {n} on {device}");
            let (want_q, want_k) = (recorded_lanes(&golden, "attn.q"), recorded_lanes(&golden, "attn.k"));
            // A drafter's context and images that text reads have no queries, and that text has no keys.
            let q = &q[q.len() - want_q.len()..];
            assert_eq!(q.len(), golden.queries() * spec.num_q_heads * spec.head_dim);
            compare_within(&what("q"), q, &want_q, tol(&want_q)).unwrap();
            compare_within(&what("k"), &k[..want_k.len()], &want_k, tol(&want_k)).unwrap();
            let want_v = golden.by_token("attn.v");
            compare(&what("v"), &v[..want_v.len()], &want_v, F32).unwrap();
        }
    }
}
