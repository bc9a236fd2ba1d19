//! kv_append: packed rows -> norm -> rotation -> q and pages.
//!
//! Proves: every device agrees with the reference over a table of named shapes, storages, norms, rotations and page
//! layouts; nothing but the elements of the outputs is written (outputs, pages, gaps and guard bands start as a NaN
//! pattern that must survive bit for bit) and nothing but the parts is read (gates, gaps and idle position axes hold
//! garbage); the reference agrees with recordings of published models; angles are right to 2e-7 at positions of
//! millions and below zero; the laws of rotation, identity, page permutation and batching hold; every refusal leaves
//! memory as it was. A case that fails in the property test prints as a row for the table.
//!
//! Planted bugs, each seen red and taken out again:
//! - kernel, `a cos + b sin` in the half-split rotation: the table, the property, the worked example, the recordings,
//!   the group law;
//! - kernel, every pair turned by axis 0: the worked example, the table, the property;
//! - kernel, and in turn the reference, eps outside the root: the worked example, the table, the property;
//! - kernel, low word of the turn dropped: the angles (off by 0.017), the table, the property;
//! - kernel, v stored with the slot stride of k: the table and the property, by the poison;
//! - kernel, v normed with the eps of q: the table, the property.
mod harness;

use colatent::DType::{BF16, F16, F32};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem, PADDING};
use colatent::layer::Pairing::{Adjacent, Half};
use colatent::layer::{Gate, LayerConstants, LayerSpec, LayerWeights, Norm, PackedLayout, Pairing, Part, Rope};
use colatent::{Buffer, DType, Device, Error, Tensor, Tolerance, Workspace};
use harness::golden::{self, Golden};
use harness::{Rng, compare, compare_within, devices, poisoned};
use proptest::prelude::*;

// ---- cases ----

#[derive(Debug, Clone, Copy, PartialEq)]
enum N {
    Off,
    Rms,
    Scaled,
    OnePlus,
}
use N::{Off, OnePlus, Rms, Scaled};

#[derive(Debug, Clone, Copy, PartialEq)]
struct R {
    pairing: Pairing,
    first_lane: usize,
    pairs: usize,
    /// Position axes in use: pair `j` turns by axis `j % axes`.
    axes: usize,
    /// The last pairs stand still (proportional rotation).
    zeros: usize,
    mscale: f32,
}

/// How an engine lays out pages: `[page][head][slot]`, `[page][slot][head]`, or K and V of a page side by side in one
/// buffer, `[page][k or v][slot][head]`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pages {
    Hnd,
    Nhd,
    Fused,
}
use Pages::{Fused, Hnd, Nhd};

#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    heads: (usize, usize),
    dims: (usize, usize),
    storage: (DType, DType),
    norms: (N, N, N),
    rope: Option<R>,
    q_scale: f32,
    page_size: usize,
    pages: Pages,
    rows: usize,
    /// One row in so many is padding; 0 for none.
    padding: usize,
    /// Elements before each tensor and between its rows, heads and pages: multiples of 4.
    gap: usize,
    seed: u64,
}

const NO: R = R { pairing: Half, first_lane: 0, pairs: 0, axes: 1, zeros: 0, mscale: 1.0 };

const fn turn(pairing: Pairing, first_lane: usize, pairs: usize, axes: usize) -> Option<R> {
    Some(R { pairing, first_lane, pairs, axes, ..NO })
}

const BASE: Case = Case {
    name: "base",
    heads: (4, 2),
    dims: (16, 16),
    storage: (F32, F32),
    norms: (Off, Off, Off),
    rope: None,
    q_scale: 1.0,
    page_size: 16,
    pages: Hnd,
    rows: 5,
    padding: 0,
    gap: 0,
    seed: 1,
};

#[rustfmt::skip]
const CASES: &[Case] = &[
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
    Case { name: "no rows", rows: 0, ..BASE },
    Case { name: "muse window", heads: (16, 2), dims: (64, 64), rope: turn(Adjacent, 0, 32, 1), norms: (Rms, Rms, Off), q_scale: 5.473_006_5, storage: (BF16, BF16), page_size: 64, rows: 4, ..BASE },
];

/// Of q, k and v: apart, and large enough for their place to show.
const EPS: [f32; 3] = [1e-3, 5e-3, 2e-2];

impl Case {
    fn spec(&self) -> LayerSpec {
        let norm = |n, eps| match n {
            Off => Norm::None,
            N::Rms => Norm::Rms { eps },
            N::Scaled => Norm::RmsScaled { eps },
            N::OnePlus => Norm::RmsOnePlus { eps },
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
            rope,
            q_norm: norm(self.norms.0, EPS[0]),
            k_norm: norm(self.norms.1, EPS[1]),
            v_norm: norm(self.norms.2, EPS[2]),
            gate: Gate::Sigmoid,
            dtype: self.storage.0,
            kv_dtype: self.storage.1,
            ..LayerSpec::new(self.heads.0, self.heads.1, self.dims.0)
        }
    }

    fn weights(&self, rng: &mut Rng) -> LayerWeights {
        let mut w = |n: N, d: usize| if matches!(n, Scaled | OnePlus) { rng.values(d) } else { vec![] };
        LayerWeights {
            q_norm: w(self.norms.0, self.dims.0),
            k_norm: w(self.norms.1, self.dims.0),
            v_norm: w(self.norms.2, self.dims.1),
            ..Default::default()
        }
    }

    /// The spec's own layout, or, with a gap, v first and heads apart.
    fn layout(&self, spec: &LayerSpec) -> PackedLayout {
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

/// A NaN whose bits no kernel makes.
fn poison(dtype: DType) -> Vec<u8> {
    match dtype {
        F32 => 0x7fc0_dea4u32.to_le_bytes().to_vec(),
        F16 => 0x7e5du16.to_le_bytes().to_vec(),
        _ => 0x7fdbu16.to_le_bytes().to_vec(),
    }
}

/// A buffer full of poison and a view of it: `dims` from outermost in memory with padding after each, `axes` picks the
/// view's dimensions.
fn view(device: &Device, dtype: DType, gap: usize, memory: &[usize], axes: &[usize]) -> Tensor {
    let mut strides = vec![1; memory.len()];
    for i in (0..memory.len() - 1).rev() {
        strides[i] = strides[i + 1] * memory[i + 1] + gap;
    }
    let size = dtype.size();
    // A guard band of 64 elements follows the last.
    let buffer = Buffer::zeros(device, (gap + strides[0] * memory[0].max(1) + 64) * size).unwrap();
    fill(&buffer, dtype);
    Tensor::with_strides(buffer, dtype, gap, memory, &strides).unwrap().permute(axes).unwrap()
}

fn fill(buffer: &Buffer, dtype: DType) {
    buffer.write(0, &poison(dtype).repeat(buffer.bytes() / dtype.size())).unwrap();
}

/// One case on one device, up to the run.
struct Setup {
    plan: KvAppendPlan,
    constants: LayerConstants,
    packed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    places: Vec<u32>,
    ws: Workspace,
}

impl Setup {
    fn new(case: &Case, device: &Device) -> Setup {
        let mut rng = Rng(case.seed);
        let spec = case.spec();
        let layout = case.layout(&spec);
        let constants = LayerConstants::new(device, &spec, case.weights(&mut rng)).unwrap();
        let (kv, (d, dv)) = (case.heads.1, case.dims);

        // Rows at shuffled places of a pool with pages to spare.
        let num_pages = case.rows.div_ceil(case.page_size) + 2;
        let slots = num_pages * case.page_size;
        let mut free: Vec<u32> = (0..slots as u32).collect();
        let is_padding = |row: usize| case.padding > 0 && row % case.padding == case.padding - 1;
        let places: Vec<u32> = (0..case.rows)
            .map(|row| if is_padding(row) { PADDING } else { free.swap_remove(rng.below(free.len())) })
            .collect();
        let positions: Vec<[i32; 4]> = (0..case.rows)
            .map(|_| {
                let mut p = [i32::MIN; 4]; // idle axes hold garbage
                let axes = case.rope.map_or(0, |r| r.axes);
                p[..axes].iter_mut().for_each(|p| *p = rng.below(2_000_001) as i32 - 1_000_000);
                p
            })
            .collect();

        // What lies between the parts is NaN, and so is the gate.
        let mut rows = vec![f32::NAN; case.rows * layout.width];
        for row in rows.chunks_mut(layout.width.max(1)) {
            for (part, heads, lanes) in [(layout.q, case.heads.0, d), (layout.k, kv, d), (layout.v, kv, dv)] {
                for h in 0..heads {
                    let at = part.offset + h * part.head_stride;
                    row[at..at + lanes].copy_from_slice(&rng.values(lanes));
                }
            }
        }
        let packed = view(device, spec.dtype, case.gap, &[case.rows, layout.width], &[0, 1]);
        packed.write_f32(&rows).unwrap();
        let q = view(device, spec.dtype, case.gap, &[case.rows, case.heads.0, d], &[0, 1, 2]);
        let (p, s) = (num_pages, case.page_size);
        let (k, v) = match case.pages {
            Hnd => (
                view(device, spec.kv_dtype, case.gap, &[p, kv, s, d], &[0, 1, 2, 3]),
                view(device, spec.kv_dtype, case.gap, &[p, kv, s, dv], &[0, 1, 2, 3]),
            ),
            Nhd => (
                view(device, spec.kv_dtype, case.gap, &[p, s, kv, d], &[0, 2, 1, 3]),
                view(device, spec.kv_dtype, case.gap, &[p, s, kv, dv], &[0, 2, 1, 3]),
            ),
            Fused => {
                let all = view(device, spec.kv_dtype, case.gap, &[p, 2, s, kv, d.max(dv)], &[0, 1, 3, 2, 4]);
                let t = all.strides();
                let strides = [t[0], t[2], t[3], t[4]];
                let of = |i: usize, lanes: usize| {
                    let at = all.offset() + i * t[1];
                    let b = all.buffer().clone();
                    Tensor::with_strides(b, spec.kv_dtype, at, &[p, kv, s, lanes], &strides).unwrap()
                };
                (of(0, d), of(1, dv))
            }
        };
        let problem = KvAppendProblem {
            spec: &spec,
            layout,
            page_size: case.page_size,
            num_pages,
            places: &places,
            positions: &positions,
        };
        let plan = KvAppendPlan::new(device, &problem).unwrap();
        Setup { plan, constants, packed, q, k, v, places, ws: Workspace::new(device).unwrap() }
    }

    fn run(&mut self) -> Result<(), Error> {
        let args =
            KvAppendArgs { packed: &self.packed, constants: &self.constants, q: &self.q, k: &self.k, v: &self.v };
        self.plan.run(&args, &mut self.ws)
    }

    /// The elements that the run must write, as (tensor, element offset) in the order of rows, heads, lanes.
    fn written<'a>(&'a self, t: &'a Tensor) -> Vec<usize> {
        let (shape, s) = (t.shape(), t.strides());
        let mut at = Vec::new();
        for (row, &place) in self.places.iter().enumerate() {
            let first = match (shape.len(), place) {
                (3, _) => row * s[0],
                (_, PADDING) => continue,
                _ => place as usize / shape[2] * s[0] + place as usize % shape[2] * s[2],
            };
            for h in 0..shape[1] {
                at.extend((0..shape[shape.len() - 1]).map(|d| t.offset() + first + h * s[1] + d));
            }
        }
        at
    }

    /// What was written to q, k and v.
    fn outputs(&self) -> [Vec<f32>; 3] {
        [&self.q, &self.k, &self.v].map(|t| {
            let all = whole(t).read_f32().unwrap();
            self.written(t).into_iter().map(|i| all[i]).collect()
        })
    }

    /// Whether everything else is still poison.
    fn check_untouched(&self) -> Result<(), String> {
        for (name, t, others) in [("q", &self.q, vec![]), ("k", &self.k, vec![&self.v]), ("v", &self.v, vec![&self.k])]
        {
            let mut written = self.written(t);
            for other in others.into_iter().filter(|o| o.buffer().is_same(t.buffer())) {
                written.extend(self.written(other));
            }
            check_poison(name, t, &written)?;
        }
        Ok(())
    }
}

/// The whole buffer behind a view.
fn whole(t: &Tensor) -> Tensor {
    Tensor::new(t.buffer().clone(), t.dtype(), &[t.buffer().bytes() / t.dtype().size()]).unwrap()
}

/// Whether every element of the buffer except `written` holds the poison pattern.
fn check_poison(name: &str, t: &Tensor, written: &[usize]) -> Result<(), String> {
    let bytes = t.buffer().read().unwrap();
    let size = t.dtype().size();
    let mut is_written = vec![false; bytes.len() / size];
    written.iter().for_each(|&i| is_written[i] = true);
    let poison = poison(t.dtype());
    match bytes.chunks(size).zip(&is_written).position(|(b, w)| !w && b != poison) {
        Some(i) => Err(format!("{name}: element {i} of the buffer was written")),
        None => Ok(()),
    }
}

/// Runs a case on every device and compares with the reference.
fn check(case: &Case) -> Result<(), String> {
    let mut want: Option<[Vec<f32>; 3]> = None;
    for device in devices() {
        let mut setup = Setup::new(case, device);
        let fail = |e: String| format!("{device}: {e}\n{case:?},");
        setup.run().map_err(|e| fail(e.to_string()))?;
        setup.check_untouched().map_err(fail)?;
        let got = setup.outputs();
        if let Some(i) = got.iter().flatten().position(|x| !x.is_finite()) {
            return Err(fail(format!("value {i} of q, k, v is not finite: it was not written, or made from garbage")));
        }
        let want = want.get_or_insert_with(|| got.clone());
        let types = [case.storage.0, case.storage.1, case.storage.1];
        for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
            compare(name, &got[i], &want[i], types[i]).map_err(fail)?;
        }
    }
    Ok(())
}

#[test]
fn devices_agree_on_the_table() {
    let failed: Vec<String> = CASES.iter().filter_map(|case| check(case).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), CASES.len(), failed.join("\n"));
}

fn any_case() -> impl Strategy<Value = Case> {
    let dtype = || prop_oneof![Just(F32), Just(F16), Just(BF16)];
    let norm = || prop_oneof![Just(Off), Just(Rms), Just(Scaled), Just(OnePlus)];
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn devices_agree_on_any_case(case in any_case()) {
        check(&case).map_err(TestCaseError::fail)?;
    }
}

// ---- recordings ----

#[test]
fn recordings_of_published_models_are_met() {
    for bytes in [
        &include_bytes!("golden/muse_spark.0.safetensors")[..],
        include_bytes!("golden/muse_spark.1.safetensors"),
        include_bytes!("golden/muse_glimmer.0.safetensors"),
        include_bytes!("golden/muse_glimmer.1.safetensors"),
        include_bytes!("golden/gemma3.0.safetensors"),
        include_bytes!("golden/gemma3.1.safetensors"),
    ] {
        let golden = Golden::load(bytes);
        let spec = golden::spec(&golden);
        let rows = golden.tokens();
        for device in devices() {
            let (q, k, v) = append(device, &spec, golden.weights(), &golden.packed(), &golden.positions());
            // The recording's angles are f32, position * inv_freq with both rounded at 2^-24: up to 24 rad where the
            // frequency is not exactly 1, so 3e-6 rad. It moves a lane by that much of its partner, which is at most
            // sqrt(16) after the norm.
            let tol = |scale: f32| {
                let base = F32.tolerance();
                Tolerance { atol: base.atol + if spec.rope.is_some() { 4.0 * 3e-6 * scale } else { 0.0 }, ..base }
            };
            let what = |n: &str| format!("{} {n} on {device}", spec.name);
            assert_eq!(q.len(), rows * spec.num_q_heads * spec.head_dim);
            compare_within(&what("q"), &q, &golden.by_token("attn.q"), tol(spec.q_scale)).unwrap();
            compare_within(&what("k"), &k, &golden.by_token("attn.k"), tol(1.0)).unwrap();
            compare(&what("v"), &v, &golden.by_token("attn.v"), F32).unwrap();
        }
    }
}

/// Appends rows to a fresh pool of one-slot pages: q, k, v as `[row, head, lane]`.
fn append(
    device: &Device,
    spec: &LayerSpec,
    weights: LayerWeights,
    packed: &[f32],
    positions: &[[i32; 4]],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let places: Vec<u32> = (0..positions.len() as u32).collect();
    let (rows, kv) = (places.len(), spec.num_kv_heads);
    let layout = spec.packed();
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

// ---- worked examples and laws ----

#[test]
fn a_worked_example() {
    // One head of 8: RMS norm with mean square 1 and eps 3 halves everything, pair 0 = lanes (0, 4) turns by
    // 3 * pi / 2: (a, b) -> (b, -a). q is doubled.
    let rope = Rope {
        first_lane: 0,
        pairing: Half,
        inv_freq: vec![std::f64::consts::FRAC_PI_2, 0.0, 0.0, 0.0],
        axis: vec![2, 0, 0, 0],
        mscale: 1.0,
    };
    let spec = LayerSpec {
        q_scale: 2.0,
        q_norm: Norm::Rms { eps: 3.0 },
        k_norm: Norm::RmsOnePlus { eps: 3.0 },
        rope: Some(rope),
        ..LayerSpec::new(1, 1, 8)
    };
    let weights = LayerWeights { k_norm: vec![1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0], ..Default::default() };
    let x = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0];
    let v = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    for device in devices() {
        let (gq, gk, gv) = append(device, &spec, weights.clone(), &[x, x, v].concat(), &[[9, 9, 3, 9]]);
        // q: halved, turned, doubled. k: halved, lanes 0 and 4 times 2 and 4, turned.
        compare("q", &gq, &[-1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0], F32).unwrap();
        compare("k", &gk, &[-2.0, -0.5, 0.5, 0.5, -1.0, 0.5, 0.5, 0.5], F32).unwrap();
        assert_eq!(gv, v);
    }
}

fn rotating(pairing: Pairing, dim: usize, inv_freq: Vec<f64>) -> LayerSpec {
    let rope = Rope { first_lane: 0, pairing, axis: vec![0; inv_freq.len()], inv_freq, mscale: 1.0 };
    LayerSpec { rope: Some(rope), ..LayerSpec::new(1, 1, dim) }
}

#[test]
fn angles_are_right_at_every_position() {
    // (1, 0) turns into (cos, sin). Frequencies of one radian and more down to none; positions around zero, around
    // whole and eighth turns, and far out.
    let inv_freq = vec![1.0, 0.731, 5e5f64.powf(-0.5), 2e-6, std::f64::consts::FRAC_PI_4, 6.0, 1e-9, 0.0];
    let spec = rotating(Half, 16, inv_freq.clone());
    let mut rng = Rng(5);
    let mut positions: Vec<[i32; 4]> = (-20..20).map(|p| [p, 0, 0, 0]).collect();
    positions.extend([1_000_000, -1_000_000, 999_983, 1 << 20, 16_777_217].map(|p| [p, 0, 0, 0]));
    positions.extend((0..4000).map(|_| [rng.below(2_000_001) as i32 - 1_000_000, 0, 0, 0]));
    let mut row = [0.0; 48];
    (0..8).for_each(|j| (row[j], row[16 + j]) = (1.0, 1.0));
    let packed = row.repeat(positions.len());
    for device in devices() {
        let (q, k, _) = append(device, &spec, LayerWeights::default(), &packed, &positions);
        assert_eq!(q, k);
        let mut worst = (0.0, 0, 0.0);
        for (row, p) in positions.iter().enumerate() {
            for (j, f) in inv_freq.iter().enumerate() {
                let (sin, cos) = (f64::from(p[0]) * f).sin_cos();
                for (lane, want) in [(j, cos), (j + 8, sin)] {
                    let error = (f64::from(q[row * 16 + lane]) - want).abs();
                    if error > worst.0 {
                        worst = (error, p[0], *f);
                    }
                }
            }
        }
        println!("{device}: worst cos or sin off by {:.2e} at position {} of frequency {}", worst.0, worst.1, worst.2);
        assert!(worst.0 <= 2e-7, "{device}: {worst:?} (error, position, frequency)");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rotation keeps the length of every pair, and R(a) R(b) = R(a + b).
    #[test]
    fn rotations_are_a_group(a in -500_000i32..500_000, b in -500_000i32..500_000, half: bool, seed: u64) {
        let mut rng = Rng(seed);
        let pairing = if half { Half } else { Adjacent };
        let spec = rotating(pairing, 16, (0..8).map(|j| 1e4f64.powf(-f64::from(j) / 8.0)).collect());
        let rope = spec.rope.clone().unwrap();
        let x = rng.values(16);
        let row = |x: &[f32]| [x, x, x].concat();
        for device in devices() {
            let turned = |x: &[f32], p: i32| append(device, &spec, Default::default(), &row(x), &[[p, 0, 0, 0]]).1;
            let once = turned(&x, a);
            let lengths = |x: &[f32]| -> Vec<f32> {
                (0..8).map(|j| { let (l, r) = rope.pair(j); x[l].hypot(x[r]) }).collect()
            };
            compare("length", &lengths(&once), &lengths(&x), F32).map_err(TestCaseError::fail)?;
            compare("sum", &turned(&once, b), &turned(&x, a + b), F32).map_err(TestCaseError::fail)?;
            compare("back", &turned(&once, -a), &x, F32).map_err(TestCaseError::fail)?;
        }
    }
}

/// Without norm and rotation an append is a copy, bit for bit, negative zeros included.
#[test]
fn append_then_read_is_the_identity() {
    for dtype in DType::ALL {
        let case = Case { name: "identity", storage: (dtype, dtype), pages: Nhd, gap: 4, rows: 12, ..BASE };
        for device in devices() {
            let mut setup = Setup::new(&case, device);
            let mut values = setup.packed.read_f32().unwrap();
            values.iter_mut().step_by(7).filter(|x| x.is_finite()).for_each(|x| *x = -0.0);
            setup.packed.write_f32(&values).unwrap();
            setup.run().unwrap();
            let layout = case.layout(&case.spec());
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let [q, k, v] = setup.outputs();
            let width = layout.width;
            for (got, part, heads, lanes) in [(q, layout.q, 4, 16), (k, layout.k, 2, 16), (v, layout.v, 2, 16)] {
                let packed = setup.packed.read_f32().unwrap();
                let want: Vec<f32> = (0..case.rows * heads * lanes)
                    .map(|i| {
                        packed[i / (heads * lanes) * width
                            + part.offset
                            + i / lanes % heads * part.head_stride
                            + i % lanes]
                    })
                    .collect();
                assert_eq!(bits(&got), bits(&want), "{dtype} on {device}");
            }
        }
    }
}

/// The physical page means nothing, and a row is the same alone as in a batch: both bitwise.
#[test]
fn places_and_company_mean_nothing() {
    let case = Case {
        name: "company",
        dims: (64, 64),
        rope: turn(Half, 0, 32, 1),
        norms: (Rms, Scaled, Rms),
        storage: (F16, F32),
        rows: 6,
        page_size: 1,
        ..BASE
    };
    let spec = case.spec();
    let layout = spec.packed();
    let mut rng = Rng(9);
    let weights = case.weights(&mut rng);
    let rows: Vec<Vec<f32>> = (0..6).map(|_| rng.values(layout.width)).collect();
    let positions: Vec<[i32; 4]> = (0..6).map(|i| [i * 100_003, 0, 0, 0]).collect();
    for device in devices() {
        let whole = append(device, &spec, weights.clone(), &rows.concat(), &positions);
        let order = [3usize, 0, 5, 1, 4, 2];
        let shuffled: Vec<f32> = order.iter().flat_map(|&i| rows[i].clone()).collect();
        let other = append(device, &spec, weights.clone(), &shuffled, &order.map(|i| positions[i]));
        let part = |x: &[f32], i: usize| x[i * x.len() / 6..(i + 1) * x.len() / 6].to_vec();
        for (at, &i) in order.iter().enumerate() {
            let alone = append(device, &spec, weights.clone(), &rows[i], &positions[i..=i]);
            for (whole, other, alone) in
                [(&whole.0, &other.0, &alone.0), (&whole.1, &other.1, &alone.1), (&whole.2, &other.2, &alone.2)]
            {
                assert_eq!(part(whole, i), part(other, at), "{device}");
                assert_eq!(&part(whole, i), alone, "{device}");
            }
        }
    }
}

/// One plan and one workspace serve many layers; another plan in between changes nothing.
#[test]
fn a_plan_serves_every_layer_of_its_kind() {
    let kind = Case { name: "kind", norms: (Scaled, Scaled, Off), rope: turn(Half, 0, 8, 1), ..BASE };
    for device in devices() {
        let mut one = Setup::new(&kind, device);
        let mut other = Setup::new(&Case { name: "other", seed: 2, rows: 40, ..BASE }, device);
        one.run().unwrap();
        let first = one.outputs();
        std::mem::swap(&mut one.ws, &mut other.ws);
        other.run().unwrap();
        std::mem::swap(&mut one.ws, &mut other.ws);
        other.run().unwrap();
        // The next layer: other weights, other input.
        let weights = LayerWeights { q_norm: vec![1.0; 16], k_norm: vec![0.5; 16], ..Default::default() };
        one.constants = LayerConstants::new(device, &kind.spec(), weights).unwrap();
        std::mem::swap(&mut one.ws, &mut other.ws);
        one.run().unwrap();
        assert_ne!(one.outputs(), first);
        one.constants = LayerConstants::new(device, &kind.spec(), kind.weights(&mut Rng(kind.seed))).unwrap();
        one.run().unwrap();
        assert_eq!(one.outputs(), first);
    }
}

/// Work encoded into the caller's encoder, on the caller's device, is the same work.
#[cfg(feature = "webgpu")]
#[test]
fn encoded_work_is_the_same_work() {
    use colatent::wgpu;
    if !devices().iter().any(|d| d.kind() == "webgpu") {
        return;
    }
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = wgpu::Backends::PRIMARY;
    let adapters = pollster::block_on(wgpu::Instance::new(desc).enumerate_adapters(wgpu::Backends::PRIMARY));
    let wanted = wgpu::DeviceDescriptor { required_limits: adapters[0].limits(), ..Default::default() };
    let (own, queue) = pollster::block_on(adapters[0].request_device(&wanted)).unwrap();
    let device = Device::from_wgpu(own.clone(), queue.clone(), &adapters[0].get_info()).unwrap();

    let case = Case { name: "encoded", rope: turn(Half, 0, 8, 1), ..BASE };
    let mut ran = Setup::new(&case, &Device::reference());
    ran.run().unwrap();
    let mut encoded = Setup::new(&case, &device);
    let mut encoder = own.create_command_encoder(&Default::default());
    let Setup { plan, constants, packed, q, k, v, ws, .. } = &mut encoded;
    plan.encode(&KvAppendArgs { packed, constants, q, k, v }, ws, &mut encoder).unwrap();
    check_poison("before the submit", &encoded.q, &[]).unwrap();
    queue.submit([encoder.finish()]);
    encoded.check_untouched().unwrap();
    for (got, want) in encoded.outputs().iter().zip(&ran.outputs()) {
        compare("encoded", got, want, F32).unwrap();
    }

    // A workspace, a tensor or a plan of another device is refused.
    let mut mixed = Setup::new(&case, &device);
    mixed.ws = Workspace::new(&devices()[1]).unwrap();
    refused("workspace of another device", mixed.run(), "workspace");
    mixed.ws = Workspace::new(&Device::reference()).unwrap();
    refused("workspace of the reference", mixed.run(), "workspace");
    let Setup { plan, constants, packed, q, k, v, ws, .. } = &mut ran;
    let mut encoder = own.create_command_encoder(&Default::default());
    let args = KvAppendArgs { packed, constants, q, k, v };
    refused("plan of the reference", plan.encode(&args, ws, &mut encoder), "device");
}

// ---- refusals ----

fn refused(what: &str, result: Result<impl Sized, Error>, argument: &str) {
    match result {
        Ok(_) => panic!("{what}: accepted"),
        Err(e) => {
            let text = e.to_string();
            assert!(
                text.starts_with("kv_append") && text.contains(argument),
                "{what}: {text} does not name {argument}"
            );
        }
    }
}

#[test]
fn impossible_problems_are_refused() {
    let spec = LayerSpec::new(2, 1, 8);
    let places = [0, PADDING, 5];
    let positions = [[0; 4]; 3];
    let good = KvAppendProblem {
        spec: &spec,
        layout: spec.packed(),
        page_size: 3,
        num_pages: 2,
        places: &places,
        positions: &positions,
    };
    let bad_spec = |change: fn(&mut LayerSpec)| {
        let mut s = spec.clone();
        change(&mut s);
        s
    };
    let dim = bad_spec(|s| s.head_dim = 12);
    let eps = bad_spec(|s| s.v_norm = Norm::Rms { eps: f32::NAN });
    let lanes = bad_spec(|s| s.rope = Some(Rope::plain(16, 1e4, Half)));
    let layout = |change: fn(&mut PackedLayout)| {
        let mut l = spec.packed();
        change(&mut l);
        l
    };
    for device in devices() {
        let plan = |p: &KvAppendProblem| KvAppendPlan::new(device, p);
        let text = plan(&good).unwrap().to_string();
        assert!(text.contains("3 rows (1 padding)") && text.contains(device.kind()), "{text}");
        refused("place twice", plan(&KvAppendProblem { places: &[4, 0, 4], ..good }), "places");
        refused("place past the end", plan(&KvAppendProblem { places: &[4, 6, 0], ..good }), "places");
        refused("no page", plan(&KvAppendProblem { num_pages: 0, ..good }), "places");
        refused("empty pages", plan(&KvAppendProblem { page_size: 0, ..good }), "page_size");
        refused(
            "too many slots",
            plan(&KvAppendProblem { page_size: 1 << 20, num_pages: 1 << 12, ..good }),
            "page_size",
        );
        refused("overflow", plan(&KvAppendProblem { num_pages: usize::MAX, ..good }), "page_size");
        refused("positions missing", plan(&KvAppendProblem { positions: &positions[..2], ..good }), "positions");
        refused("head dim", plan(&KvAppendProblem { spec: &dim, ..good }), "head_dim 12");
        refused("eps", plan(&KvAppendProblem { spec: &eps, ..good }), "v_norm");
        refused("rope", plan(&KvAppendProblem { spec: &lanes, ..good }), "rope");
        for (name, l) in [
            ("layout.q", layout(|l| l.q.head_stride = 30)),
            ("layout.k", layout(|l| l.k.offset = 28)),
            ("layout.v", layout(|l| l.v.offset = usize::MAX)),
            ("layout.v", layout(|l| l.width -= 1)),
            ("layout.gate", layout(|l| l.gate = Some(Part { offset: 0, head_stride: 80 }))),
        ] {
            refused(name, plan(&KvAppendProblem { layout: l, ..good }), name);
        }
        if device.kind() == "webgpu" {
            let odd = layout(|l| {
                l.v.offset += 2;
                l.width += 2;
            });
            refused("offset 2", plan(&KvAppendProblem { layout: odd, ..good }), "layout.v");
        }
    }
}

#[test]
fn unfit_tensors_are_refused_and_memory_stays() {
    let case = Case { name: "unfit", norms: (Scaled, Off, Off), rope: turn(Half, 0, 8, 1), ..BASE };
    for device in devices() {
        let gpu = device.kind() == "webgpu";
        let mut setup = Setup::new(&case, device);
        let (packed, q, k, v, constants) =
            (setup.packed.clone(), setup.q.clone(), setup.k.clone(), setup.v.clone(), setup.constants.clone());
        let spec = case.spec();
        let strided = |t: &Tensor, offset: usize, shape: &[usize], strides: &[usize]| {
            let bytes = 4 * (offset + 64 + shape.iter().zip(strides).map(|(a, b)| a * b).sum::<usize>());
            let buffer = Buffer::zeros(device, bytes).unwrap();
            fill(&buffer, t.dtype());
            Tensor::with_strides(buffer, t.dtype(), offset, shape, strides).unwrap()
        };
        let s = k.shape().to_vec();
        let typed = |t: &Tensor| Tensor::zeros(device, F16, t.shape()).unwrap();
        let elsewhere = |t: &Tensor| {
            // The reference's memory on a GPU and the other way about; with one device there is no elsewhere.
            devices()
                .iter()
                .find(|d| d.kind() != device.kind())
                .map(|d| Tensor::zeros(d, t.dtype(), t.shape()).unwrap())
        };
        let plain_constants =
            LayerConstants::new(device, &LayerSpec { q_norm: Norm::None, ..spec.clone() }, Default::default());
        let nope = LayerSpec { rope: None, ..spec.clone() };
        let nope_constants = LayerConstants::new(device, &nope, case.weights(&mut Rng(1)));

        let mut rows: Vec<(&str, Setup, &str)> = Vec::new();
        let mut add = |what: &'static str, argument: &'static str, change: &dyn Fn(&mut Setup)| {
            let mut changed = Setup::new(&case, device);
            (changed.packed, changed.q, changed.k, changed.v) = (packed.clone(), q.clone(), k.clone(), v.clone());
            changed.constants = constants.clone();
            change(&mut changed);
            rows.push((what, changed, argument));
        };
        add("packed type", "packed", &|s| s.packed = typed(&packed));
        add("q type", "q", &|s| s.q = typed(&q));
        add("k type", "k", &|s| s.k = typed(&k));
        add("v type", "v", &|s| s.v = typed(&v));
        add("packed width", "packed", &|s| s.packed = Tensor::zeros(device, F32, &[5, 8]).unwrap());
        add("q rank", "q", &|s| s.q = Tensor::zeros(device, F32, &[5, 64]).unwrap());
        add("k not permuted", "k", &|x| x.k = Tensor::zeros(device, F32, &[s[0], s[2], s[1], s[3]]).unwrap());
        add("v page count", "v", &|x| x.v = Tensor::zeros(device, F32, &[s[0] + 1, s[1], s[2], s[3]]).unwrap());
        add("lanes apart", "q", &|s| s.q = strided(&q, 0, &[5, 4, 16], &[128, 32, 2]));
        add("q on itself", "q", &|s| s.q = strided(&q, 0, &[5, 4, 16], &[64, 8, 1]));
        add("k on itself", "k", &|x| x.k = strided(&k, 0, &s, &[0, s[2] * s[3], s[3], 1]));
        add("q in packed", "q", &|s| s.q = Tensor::new(packed.buffer().clone(), F32, &[5, 4, 16]).unwrap());
        add("constants without weights", "constants", &|s| s.constants = plain_constants.clone().unwrap());
        add("constants without rotation", "constants", &|s| s.constants = nope_constants.clone().unwrap());
        if gpu {
            add("offset 2", "q", &|s| s.q = strided(&q, 2, &[5, 4, 16], &[64, 16, 1]));
            add("stride 66", "k", &|x| x.k = strided(&k, 0, &s, &[1024, 512, 18, 1]));
        }
        for (name, t) in [("packed", &packed), ("q", &q), ("k", &k), ("v", &v)] {
            let Some(t) = elsewhere(t) else { continue };
            add("elsewhere", name, &|s| {
                *match name {
                    "packed" => &mut s.packed,
                    "q" => &mut s.q,
                    "k" => &mut s.k,
                    _ => &mut s.v,
                } = t.clone()
            });
        }
        for (what, mut changed, argument) in rows {
            refused(what, changed.run(), &format!("kv_append: {argument}"));
        }
        for (name, t) in [("q", &q), ("k", &k), ("v", &v)] {
            check_poison(name, t, &[]).unwrap_or_else(|e| panic!("{device}: {e}"));
        }
        // And the same tensors, unchanged, are accepted.
        setup.run().unwrap();
        setup.check_untouched().unwrap();
    }
}
