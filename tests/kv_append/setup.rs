//! The memory around a call: what must be written, and the poison around it.

use colatent::DType::{self, E4M3, F16, F32, I8};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem, PADDING};
use colatent::layer::{KvScale, LayerConstants, LayerSpec, LayerWeights};
use colatent::{Buffer, Device, Error, Tensor, Workspace};

use super::case::{Case, Fused, Hnd, Nhd};
use crate::append::append_from;
use crate::harness::Rng;

/// A NaN whose bits no kernel makes.
fn poison(dtype: DType) -> Vec<u8> {
    match dtype {
        F32 => 0x7fc0_dea4u32.to_le_bytes().to_vec(),
        F16 => 0x7e5du16.to_le_bytes().to_vec(),
        E4M3 => vec![0xff],
        I8 => vec![0x80],
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

/// Whether nobody wrote these bytes.
pub fn is_poison(bytes: &[u8], dtype: DType) -> bool {
    bytes == poison(dtype).repeat(bytes.len() / dtype.size())
}

pub fn fill(buffer: &Buffer, dtype: DType) {
    buffer.write(0, &poison(dtype).repeat(buffer.bytes() / dtype.size())).unwrap();
}

/// One case on one device, up to the run.
pub struct Setup {
    pub plan: KvAppendPlan,
    pub constants: LayerConstants,
    pub packed: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub places: Vec<u32>,
    pub ws: Workspace,
}

impl Setup {
    pub fn new(case: &Case, device: &Device) -> Setup {
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
                if case.temperature.is_some() {
                    p[0] = rng.below(40) as i32 - 10; // where steps are steep
                }
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
        let (k, v) = match spec.kv_scale {
            // Side by side, [page, slot, head, k or v].
            KvScale::Token => {
                let all = view(device, F32, case.gap, &[2, p, s, kv], &[0, 1, 3, 2]);
                (k.with_scales(&all.at(0).unwrap()).unwrap(), v.with_scales(&all.at(1).unwrap()).unwrap())
            }
            _ => (k, v),
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

    pub fn run(&mut self) -> Result<(), Error> {
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
    pub fn outputs(&self) -> [Vec<f32>; 3] {
        [&self.q, &self.k, &self.v].map(|t| {
            let all = whole(t).read_f32().unwrap();
            self.written(t).into_iter().map(|i| all[i]).collect()
        })
    }

    /// The scales that were written, of k and v; none where there are none.
    pub fn scales(&self) -> [Vec<f32>; 2] {
        [&self.k, &self.v].map(|t| match t.scales() {
            Some(scales) => {
                let all = whole(scales).read_f32().unwrap();
                self.written_scales(scales).into_iter().map(|i| all[i]).collect()
            }
            None => vec![],
        })
    }

    fn written_scales(&self, t: &Tensor) -> Vec<usize> {
        let (shape, s) = (t.shape(), t.strides());
        let places = self.places.iter().filter(|&&place| place != PADDING).map(|&place| place as usize);
        places
            .flat_map(|place| {
                (0..shape[1]).map(move |h| t.offset() + place / shape[2] * s[0] + h * s[1] + place % shape[2] * s[2])
            })
            .collect()
    }

    /// Whether everything else is still poison.
    pub fn check_untouched(&self) -> Result<(), String> {
        if let (Some(k), Some(v)) = (self.k.scales(), self.v.scales()) {
            check_poison("scales", k, &[self.written_scales(k), self.written_scales(v)].concat())?;
        }
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
pub fn check_poison(name: &str, t: &Tensor, written: &[usize]) -> Result<(), String> {
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

/// Appends rows to a fresh pool of one-slot pages: q, k, v as `[row, head, lane]`.
pub fn append(
    device: &Device,
    spec: &LayerSpec,
    weights: LayerWeights,
    packed: &[f32],
    positions: &[[i32; 4]],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    append_from(device, (spec, spec.packed()), weights, packed, positions)
}
