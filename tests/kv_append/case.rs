//! What is appended: the table of cases, and random ones.

use colatent::DType::{self, BF16, E4M3, F16, F32, I8};
use colatent::layer::Pairing::{self, Adjacent, Half};
use colatent::layer::{Gate, KvScale, LayerSpec, LayerWeights, Norm, PackedLayout, Part, Rope, Temperature};
use proptest::prelude::*;

use crate::harness::Rng;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum N {
    Off,
    Rms,
    Scaled,
    OnePlus,
    Layer,
    LayerBiased,
    LayerByHead,
    Clip,
}
pub use N::{Clip, LayerBiased, LayerByHead, Off, OnePlus, Rms, Scaled};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct R {
    pub pairing: Pairing,
    pub first_lane: usize,
    pub pairs: usize,
    /// Position axes in use: pair `j` turns by axis `j % axes`.
    pub axes: usize,
    /// The last pairs stand still (proportional rotation).
    pub zeros: usize,
    pub mscale: f32,
}

/// How an engine lays out pages: `[page][head][slot]`, `[page][slot][head]`, or K and V of a page side by side in one
/// buffer, `[page][k or v][slot][head]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pages {
    Hnd,
    Nhd,
    Fused,
}
pub use Pages::{Fused, Hnd, Nhd};

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub heads: (usize, usize),
    pub dims: (usize, usize),
    pub storage: (DType, DType),
    pub norms: (N, N, N),
    pub rope: Option<R>,
    pub q_scale: f32,
    pub temperature: Option<Temperature>,
    pub v_scale: f32,
    /// V turns as K does.
    pub v_rope: bool,
    pub page_size: usize,
    pub pages: Pages,
    pub rows: usize,
    /// One row in so many is padding; 0 for none.
    pub padding: usize,
    /// Elements before each tensor and between its rows, heads and pages: multiples of 4.
    pub gap: usize,
    pub seed: u64,
}

const NO: R = R { pairing: Half, first_lane: 0, pairs: 0, axes: 1, zeros: 0, mscale: 1.0 };

pub const fn turn(pairing: Pairing, first_lane: usize, pairs: usize, axes: usize) -> Option<R> {
    Some(R { pairing, first_lane, pairs, axes, ..NO })
}

pub const BASE: Case = Case {
    name: "base",
    heads: (4, 2),
    dims: (16, 16),
    storage: (F32, F32),
    norms: (Off, Off, Off),
    rope: None,
    q_scale: 1.0,
    temperature: None,
    v_scale: 1.0,
    v_rope: false,
    page_size: 16,
    pages: Hnd,
    rows: 5,
    padding: 0,
    gap: 0,
    seed: 1,
};

/// Steep, so that a position off by one step shows.
const HOT: Option<Temperature> = Some(Temperature { beta: 0.5, interval: 3, offset: 1 });

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case { name: "plain copy", ..BASE },
    Case { name: "d8", heads: (1, 1), dims: (8, 8), rope: turn(Half, 0, 4, 1), page_size: 1, ..BASE },
    Case { name: "d24 pairs split chunks", heads: (3, 1), dims: (24, 24), rope: turn(Half, 0, 9, 1), rows: 7, ..BASE },
    Case { name: "d40 adjacent", heads: (5, 1), dims: (40, 40), rope: turn(Adjacent, 0, 20, 1), storage: (F16, F16), ..BASE },
    Case { name: "d64", heads: (8, 2), dims: (64, 64), rope: turn(Half, 0, 32, 1), norms: (Rms, Rms, Off), q_scale: 5.5, storage: (BF16, BF16), page_size: 64, ..BASE },
    Case { name: "d64 vision", heads: (4, 4), dims: (64, 64), rope: turn(Adjacent, 0, 32, 2), storage: (F16, BF16), ..BASE },
    Case { name: "d72", heads: (2, 2), dims: (72, 72), rope: turn(Half, 0, 36, 1), norms: (Scaled, Scaled, Off), gap: 4, ..BASE },
    Case { name: "d80 partial", heads: (7, 1), dims: (80, 80), rope: turn(Half, 0, 16, 1), norms: (OnePlus, OnePlus, Off), storage: (F32, F16), ..BASE },
    Case { name: "d96", heads: (6, 2), dims: (96, 96), rope: turn(Half, 0, 48, 3), pages: Nhd, storage: (F16, F32), ..BASE },
    Case { name: "d128", heads: (16, 2), dims: (128, 128), rope: turn(Half, 0, 64, 1), norms: (OnePlus, OnePlus, Rms), page_size: 128, storage: (BF16, F16), ..BASE },
    Case { name: "d256", heads: (2, 1), dims: (256, 256), rope: turn(Half, 0, 128, 1), norms: (Rms, Scaled, OnePlus), storage: (BF16, F32), ..BASE },
    Case { name: "dv smaller", heads: (4, 2), dims: (128, 64), rope: turn(Half, 64, 32, 1), norms: (Rms, Rms, Scaled), ..BASE },
    Case { name: "dv greater", heads: (4, 2), dims: (24, 72), rope: turn(Adjacent, 8, 8, 1), norms: (Off, Rms, Rms), pages: Nhd, gap: 8, ..BASE },
    Case { name: "latent lanes last", heads: (2, 1), dims: (80, 64), rope: turn(Adjacent, 64, 8, 1), storage: (BF16, BF16), ..BASE },
    Case { name: "d576 latent", heads: (3, 1), dims: (576, 512), rope: turn(Adjacent, 512, 32, 1), norms: (Off, Scaled, Rms), rows: 3, ..BASE },
    Case { name: "d512", heads: (2, 1), dims: (512, 512), rope: turn(Half, 0, 256, 1), norms: (Scaled, Scaled, Rms), storage: (BF16, BF16), rows: 3, ..BASE },
    Case { name: "first lane 2", dims: (16, 16), rope: turn(Half, 2, 4, 1), ..BASE },
    Case { name: "first lane 3 adjacent", dims: (24, 24), rope: turn(Adjacent, 3, 9, 4), norms: (Scaled, OnePlus, Off), ..BASE },
    Case { name: "odd pairs adjacent", dims: (16, 16), rope: turn(Adjacent, 0, 5, 1), ..BASE },
    Case { name: "one pair", dims: (8, 8), rope: turn(Half, 6, 1, 1), ..BASE },
    Case { name: "three axes", dims: (64, 64), rope: turn(Half, 0, 32, 3), ..BASE },
    Case { name: "four axes", dims: (64, 64), rope: turn(Half, 0, 32, 4), storage: (F16, F16), ..BASE },
    Case { name: "proportional", dims: (64, 64), rope: Some(R { pairing: Half, pairs: 32, zeros: 24, ..NO }), ..BASE },
    Case { name: "mscale", dims: (64, 64), rope: Some(R { pairing: Half, pairs: 16, mscale: 1.27, ..NO }), q_scale: 0.5, ..BASE },
    Case { name: "mscale adjacent", dims: (64, 64), rope: Some(R { pairing: Adjacent, pairs: 16, mscale: 0.8, ..NO }), ..BASE },
    Case { name: "padding", rows: 9, padding: 3, rope: turn(Half, 0, 8, 1), ..BASE },
    Case { name: "padding only", rows: 3, padding: 1, storage: (F16, F16), ..BASE },
    Case { name: "fused pages", pages: Fused, rope: turn(Half, 0, 8, 1), rows: 8, padding: 4, storage: (F16, BF16), ..BASE },
    Case { name: "gaps", gap: 12, pages: Nhd, rope: turn(Half, 0, 8, 1), storage: (BF16, F16), padding: 2, ..BASE },
    Case { name: "gaps hnd", gap: 4, norms: (Rms, Rms, Rms), storage: (F16, BF16), ..BASE },
    Case { name: "two workgroups", heads: (8, 1), rows: 13, page_size: 1, rope: turn(Half, 0, 8, 1), ..BASE },
    Case { name: "temperature", rows: 9, padding: 4, rope: turn(Half, 0, 8, 1), temperature: HOT, q_scale: 3.0, ..BASE },
    Case { name: "temperature without rotation", norms: (Rms, Rms, Off), temperature: HOT, storage: (BF16, BF16), ..BASE },
    Case { name: "v scaled", norms: (Off, Off, Rms), v_scale: 0.707, storage: (F32, BF16), ..BASE },
    Case { name: "layer norm", norms: (N::Layer, LayerBiased, LayerByHead), rope: turn(Half, 0, 8, 1), ..BASE },
    Case { name: "layer norm by head", heads: (8, 4), dims: (64, 24), norms: (LayerByHead, LayerByHead, LayerBiased), rope: turn(Adjacent, 0, 32, 1), storage: (BF16, F16), gap: 4, ..BASE },
    Case { name: "layer norm of odd heads", heads: (3, 3), dims: (128, 128), norms: (LayerBiased, N::Layer, Off), rope: turn(Half, 3, 9, 2), padding: 2, ..BASE },
    Case { name: "layer norm without rotation", heads: (3, 1), dims: (24, 256), norms: (Off, Rms, LayerBiased), storage: (F16, F32), ..BASE },
    Case { name: "clip", rows: 20, norms: (Clip, Clip, Clip), rope: turn(Half, 0, 8, 1), ..BASE },
    Case { name: "clip beside others", rows: 9, dims: (72, 64), norms: (Clip, LayerBiased, Clip), storage: (BF16, BF16), ..BASE },
    Case { name: "v turns", dims: (64, 64), rope: turn(Half, 0, 32, 3), norms: (Rms, Rms, Rms), v_rope: true, v_scale: 0.707, padding: 2, ..BASE },
    Case { name: "v turns, last lanes", heads: (6, 3), dims: (24, 40), rope: turn(Adjacent, 8, 8, 1), storage: (BF16, F16), v_rope: true, gap: 4, ..BASE },
    // Codes: e4m3 under scales of tokens where the seed is odd, else under one for all.
    Case { name: "e4m3", heads: (4, 2), dims: (64, 64), rope: turn(Half, 0, 32, 1), norms: (Rms, Rms, Rms), storage: (BF16, E4M3), rows: 9, padding: 4, ..BASE },
    Case { name: "e4m3 under one scale", dims: (64, 32), rope: turn(Adjacent, 0, 32, 2), storage: (F32, E4M3), v_scale: 0.707, seed: 2, pages: Nhd, gap: 4, ..BASE },
    Case { name: "i8", heads: (6, 3), dims: (128, 128), rope: turn(Half, 0, 64, 1), norms: (Off, Scaled, LayerBiased), storage: (F16, I8), page_size: 1, ..BASE },
    Case { name: "i8 fused", heads: (3, 3), dims: (80, 48), rope: turn(Half, 3, 9, 1), v_scale: 0.707, storage: (F32, I8), rows: 9, padding: 3, pages: Fused, ..BASE },
    Case { name: "e4m3 latent lanes", heads: (2, 1), dims: (576, 512), rope: turn(Adjacent, 512, 32, 1), storage: (BF16, E4M3), rows: 3, ..BASE },
    Case { name: "no rows", rows: 0, ..BASE },
    Case { name: "muse window", heads: (16, 2), dims: (64, 64), rope: turn(Adjacent, 0, 32, 1), norms: (Rms, Rms, Off), q_scale: 5.473_006_5, storage: (BF16, BF16), page_size: 64, rows: 4, ..BASE },
];

/// Of q, k and v: apart, and large enough for their place to show.
const EPS: [f32; 3] = [1e-3, 5e-3, 2e-2];

impl Case {
    pub fn spec(&self) -> LayerSpec {
        let norm = |n, eps, lanes: usize| match n {
            Off => Norm::None,
            N::Rms => Norm::Rms { eps },
            N::Scaled => Norm::RmsScaled { eps },
            N::OnePlus => Norm::RmsOnePlus { eps },
            N::Layer => Norm::Layer { eps, bias: false, by_head: false },
            LayerBiased => Norm::Layer { eps, bias: true, by_head: false },
            LayerByHead => Norm::Layer { eps, bias: true, by_head: true },
            // About half of the heads are longer.
            Clip => Norm::Clip { most: (lanes as f32 / 3.0).sqrt() },
        };
        let rope = self.rope.map(|r| Rope {
            first_lane: r.first_lane,
            pairing: r.pairing,
            inv_freq: (0..r.pairs)
                .map(|j| if j + r.zeros >= r.pairs { 0.0 } else { 5e5f64.powf(-(j as f64) / r.pairs as f64) })
                .collect(),
            axis: (0..r.pairs).map(|j| (j % r.axes) as u8).collect(),
            mscale: r.mscale,
        });
        LayerSpec {
            name: self.name.into(),
            head_dim_v: self.dims.1,
            q_scale: self.q_scale,
            q_temperature: self.temperature,
            v_scale: self.v_scale,
            rope,
            v_rope: self.v_rope,
            q_norm: norm(self.norms.0, EPS[0], self.dims.0),
            k_norm: norm(self.norms.1, EPS[1], self.dims.0),
            v_norm: norm(self.norms.2, EPS[2], self.dims.1),
            gate: Gate::Sigmoid,
            dtype: self.storage.0,
            kv_dtype: self.storage.1,
            kv_scale: match self.storage.1 {
                E4M3 if self.seed.is_multiple_of(2) => KvScale::Tensor { k: 0.02, v: 0.03 },
                E4M3 | I8 => KvScale::Token,
                _ => KvScale::None,
            },
            ..LayerSpec::new(self.heads.0, self.heads.1, self.dims.0)
        }
    }

    pub fn weights(&self, rng: &mut Rng) -> LayerWeights {
        let ((q, kv), (d, dv)) = (self.heads, self.dims);
        let parts = [(self.norms.0, q, d), (self.norms.1, kv, d), (self.norms.2, kv, dv)];
        let all = |(n, heads, lanes)| if n == LayerByHead { heads * lanes } else { lanes };
        let weighted = |n: N| !matches!(n, Off | Rms | Clip);
        let [q_norm, k_norm, v_norm] = parts.map(|p| if weighted(p.0) { rng.values(all(p)) } else { vec![] });
        let biased = |n: N| matches!(n, LayerBiased | LayerByHead);
        let [q_bias, k_bias, v_bias] = parts.map(|p| if biased(p.0) { rng.values(all(p)) } else { vec![] });
        LayerWeights { q_norm, k_norm, v_norm, q_bias, k_bias, v_bias, ..Default::default() }
    }

    /// The spec's own layout, or, with a gap, v first and heads apart.
    pub fn layout(&self, spec: &LayerSpec) -> PackedLayout {
        if self.gap == 0 {
            return spec.packed();
        }
        let ((q, kv), (d, dv), g) = (self.heads, self.dims, self.gap);
        let v = Part { offset: g, head_stride: dv + g };
        let gate = Part { offset: v.offset + kv * v.head_stride, head_stride: dv };
        // q and k of a head side by side would need one head count; heads of k come before those of q.
        let k = Part { offset: gate.offset + q * dv, head_stride: d + g };
        let q_part = Part { offset: k.offset + kv * k.head_stride, head_stride: d + g };
        PackedLayout { q: q_part, k, v, gate: Some(gate), width: q_part.offset + q * (d + g) + 4 }
    }
}

pub fn any_case() -> impl Strategy<Value = Case> {
    let dtype = || prop_oneof![Just(F32), Just(F16), Just(BF16)];
    let norm = || {
        let layer = prop_oneof![Just(N::Layer), Just(LayerBiased), Just(LayerByHead)];
        prop_oneof![Just(Off), Just(Rms), Just(Scaled), Just(OnePlus), Just(Clip), layer]
    };
    let rope = (any::<bool>(), 0usize..24, 1usize..13, 1usize..5, 0usize..3, any::<bool>());
    // Few dims, so that few variants are compiled.
    let dims = prop_oneof![Just((24, 24)), Just((24, 40)), Just((64, 64))];
    let heads = (1usize..4, prop_oneof![Just(1usize), Just(2), Just(3), Just(5), Just(8)]);
    let shape = (heads, dims, 0usize..12, prop_oneof![Just(1usize), Just(7), Just(16)]);
    let memory = (prop_oneof![Just(Hnd), Just(Nhd), Just(Fused)], 0usize..4, 0usize..4);
    (shape, (dtype(), dtype()), (norm(), norm(), norm()), proptest::option::of(rope), memory, any::<u64>()).prop_map(
        |(((kv, group), dims, rows, page_size), storage, norms, rope, (pages, gap, padding), seed)| {
            let rope = rope.map(|(half, first, pairs, axes, zeros, scaled)| {
                let first_lane = first.min(dims.0 - 2);
                R {
                    pairing: if half { Half } else { Adjacent },
                    first_lane,
                    pairs: pairs.min((dims.0 - first_lane) / 2),
                    axes,
                    zeros,
                    mscale: if scaled { 1.25 } else { 1.0 },
                }
            });
            let heads = (kv * group, kv);
            let (gap, q_scale) = (4 * gap, 1.0 + norms.0 as u8 as f32);
            Case {
                name: "found",
                heads,
                dims,
                storage,
                norms,
                rope,
                q_scale,
                temperature: HOT.filter(|_| seed % 3 == 0),
                v_scale: if seed % 2 == 0 { 1.0 } else { 0.707 },
                v_rope: false,
                page_size,
                pages,
                rows,
                padding,
                gap,
                seed,
            }
        },
    )
}
