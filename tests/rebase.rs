//! rebase: stored keys turned by a shift, in place.
//!
//! Proves: every device agrees with the reference over a table of named shapes, storages, rotations and page layouts, with
//! and without a delta; nothing but the keys of the runs is written (pages, gaps and guard bands start as a NaN pattern
//! that must survive bit for bit); a run that does not move changes no bit; moves add up and have inverses; the attention
//! factor is not applied again; keys that were appended and rebased are keys that were appended there; attention after a
//! rebase is attention under the shift; the book-keeping refuses tokens that others see; refusals. `drift` measures what
//! many moves cost (`docs/rebase.md` has its table).
//!
//! Planted bugs, each seen red and taken out again:
//! - kernel, `a cos + b sin`: the table, keys appended there, attention under a shift, moves that add up; CUDA kernel, turned
//!   the other way: the same but the last;
//! - kernel, every pair turned by axis 0: the table, keys appended there;
//! - kernel, delta of the run before: the table; CUDA kernel, delta left out of the lanes that do not turn: the table;
//! - definition, mscale applied again: the attention factor, the table;
//! - CUDA kernel, no barrier between a head's lanes and their partners: the table, by the poison of shared memory;
//! - book-keeping, entries of other views not counted: what others see; the shift kept: attention under a shift, drift.
mod harness;

use colatent::DType::{self, BF16, F16, F32};
use colatent::kv::Rebased;
use colatent::layer::Pairing::{self, Adjacent, Half};
use colatent::layer::{LayerConstants, LayerSpec, Rope};
use colatent::rebase::{RebaseArgs, RebasePlan, RebaseProblem};
use colatent::{Buffer, Device, Error, Tensor, Workspace};
use harness::{Rng, compare, devices};

#[path = "rebase/moves.rs"]
mod moves;
#[allow(dead_code)] // of the streams of the laws
#[path = "laws/stream.rs"]
mod stream;
#[path = "rebase/tail.rs"]
mod tail;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    heads: usize,
    dim: usize,
    dtype: DType,
    pairing: Pairing,
    first_lane: usize,
    pairs: usize,
    axes: usize,
    mscale: f32,
    page_size: usize,
    /// Tokens of the runs, one after the other.
    runs: &'static [usize],
    /// Pages as `[page, slot, head, lane]` with so many elements between heads; 0: `[page, head, slot, lane]`, dense.
    gap: usize,
    delta: bool,
    seed: u64,
}

const BASE: Case = Case {
    name: "base",
    heads: 2,
    dim: 16,
    dtype: F32,
    pairing: Half,
    first_lane: 0,
    pairs: 8,
    axes: 1,
    mscale: 1.0,
    page_size: 16,
    runs: &[5],
    gap: 0,
    delta: false,
    seed: 1,
};

#[rustfmt::skip]
const CASES: &[Case] = &[
    BASE,
    Case { name: "d8, pages of one", dim: 8, pairs: 4, heads: 1, page_size: 1, runs: &[3, 2], ..BASE },
    Case { name: "d64 bf16", dim: 64, pairs: 32, dtype: BF16, runs: &[20, 1, 9], ..BASE },
    Case { name: "d64 adjacent f16", dim: 64, pairs: 32, pairing: Adjacent, dtype: F16, runs: &[7, 6], ..BASE },
    Case { name: "d80 partial", dim: 80, pairs: 16, heads: 5, dtype: F16, delta: true, runs: &[4, 4], ..BASE },
    Case { name: "d128", dim: 128, pairs: 64, heads: 4, axes: 3, runs: &[3, 3], ..BASE },
    Case { name: "d256 gap", dim: 256, pairs: 128, heads: 1, dtype: BF16, gap: 8, runs: &[4], ..BASE },
    Case { name: "latent lanes last", dim: 80, first_lane: 64, pairs: 8, pairing: Adjacent, heads: 1, dtype: BF16, ..BASE },
    Case { name: "pairs split chunks", dim: 24, pairs: 9, runs: &[3, 4], gap: 4, ..BASE },
    Case { name: "first lane 3", dim: 24, first_lane: 3, pairs: 9, pairing: Adjacent, axes: 4, dtype: F16, delta: true, ..BASE },
    Case { name: "first lane 2", first_lane: 2, pairs: 4, dtype: BF16, heads: 9, delta: true, runs: &[2, 2, 2], ..BASE },
    Case { name: "four axes, delta", dim: 64, pairs: 32, axes: 4, delta: true, gap: 12, runs: &[1, 1, 1, 1], ..BASE },
    Case { name: "mscale", dim: 64, pairs: 32, mscale: 1.3, ..BASE },
    Case { name: "delta alone", pairs: 0, delta: true, runs: &[2, 3], ..BASE },
    Case { name: "a latent", dim: 576, first_lane: 512, pairs: 32, pairing: Adjacent, heads: 1, dtype: BF16, runs: &[3], ..BASE },
    Case { name: "d576 half", dim: 576, pairs: 288, heads: 2, runs: &[2], ..BASE },
    Case { name: "many heads", dim: 64, pairs: 32, heads: 40, dtype: F16, runs: &[2], ..BASE },
    Case { name: "nothing", runs: &[], ..BASE },
];

/// A NaN whose bits no kernel makes.
fn poison(dtype: DType) -> Vec<u8> {
    match dtype {
        F32 => 0x7fc0_dea4u32.to_le_bytes().to_vec(),
        F16 => 0x7e5du16.to_le_bytes().to_vec(),
        _ => 0x7fdbu16.to_le_bytes().to_vec(),
    }
}

impl Case {
    fn spec(&self) -> LayerSpec {
        let inv_freq = (0..self.pairs).map(|j| 1e4f64.powf(-(j as f64) / self.pairs as f64)).collect();
        let axis = (0..self.pairs).map(|j| (j % self.axes) as u8).collect();
        let rope = Rope { first_lane: self.first_lane, pairing: self.pairing, inv_freq, axis, mscale: self.mscale };
        LayerSpec {
            rope: (self.pairs > 0).then_some(rope),
            kv_dtype: self.dtype,
            head_dim_v: self.dim.min(512),
            ..LayerSpec::new(self.heads, self.heads, self.dim)
        }
    }

    fn num_pages(&self) -> usize {
        self.runs.iter().sum::<usize>().div_ceil(self.page_size) + 2
    }

    /// Runs at shuffled places; idle axes hold garbage.
    fn problem_runs(&self) -> Vec<Rebased> {
        let mut rng = Rng(self.seed);
        let mut free: Vec<u32> = (0..(self.num_pages() * self.page_size) as u32).collect();
        let mut run = |&len: &usize| {
            let places = (0..len).map(|_| free.swap_remove(rng.below(free.len()))).collect();
            let mut shift = [i32::MIN; 4];
            shift[..self.axes].iter_mut().for_each(|s| *s = rng.below(2_000_001) as i32 - 1_000_000);
            Rebased { places, shift }
        };
        self.runs.iter().map(&mut run).collect()
    }

    /// Keys full of poison but for those of the runs.
    fn keys(&self, device: &Device, runs: &[Rebased]) -> Tensor {
        let (p, h, s, d) = (self.num_pages(), self.heads, self.page_size, self.dim);
        let wide = d + self.gap;
        let buffer = Buffer::zeros(device, (self.gap + p * h * s * wide + 64) * self.dtype.size()).unwrap();
        buffer.write(0, &poison(self.dtype).repeat(buffer.bytes() / self.dtype.size())).unwrap();
        let strides = if self.gap == 0 { [h * s * d, s * d, d, 1] } else { [s * h * wide, wide, h * wide, 1] };
        let k = Tensor::with_strides(buffer, self.dtype, self.gap, &[p, h, s, d], &strides).unwrap();
        let flat = whole(&k);
        let mut values = flat.read_f32().unwrap();
        let mut rng = Rng(self.seed ^ 99);
        for i in self.elements(&k, runs) {
            values[i] = self.dtype.round(rng.value());
        }
        // The poison's bits do not survive a trip through f32.
        let bytes = k.buffer().read().unwrap();
        flat.write_f32(&values).unwrap();
        let mut filled = k.buffer().read().unwrap();
        let mut own = vec![false; values.len()];
        self.elements(&k, runs).into_iter().for_each(|i| own[i] = true);
        let size = self.dtype.size();
        for (i, own) in own.iter().enumerate().filter(|(_, own)| !**own) {
            debug_assert!(!own);
            filled[i * size..(i + 1) * size].copy_from_slice(&bytes[i * size..(i + 1) * size]);
        }
        k.buffer().write(0, &filled).unwrap();
        k
    }

    /// The elements of the runs' keys, in the order of tokens, heads and lanes.
    fn elements(&self, k: &Tensor, runs: &[Rebased]) -> Vec<usize> {
        let s = k.strides();
        let places = runs.iter().flat_map(|r| &r.places).map(|&p| p as usize);
        let first = |p: usize, h: usize| k.offset() + p / self.page_size * s[0] + h * s[1] + p % self.page_size * s[2];
        places.flat_map(|p| (0..self.heads).flat_map(move |h| (0..self.dim).map(move |d| first(p, h) + d))).collect()
    }

    fn delta(&self, device: &Device) -> Option<Tensor> {
        let shape = [self.runs.len(), self.heads, self.dim];
        let values = Rng(self.seed ^ 7).values(shape.iter().product());
        self.delta.then(|| Tensor::from_f32(device, F32, &shape, &values).unwrap())
    }

    /// The keys of the runs after the move; what else the buffer holds is checked.
    fn run(&self, device: &Device) -> Result<Vec<f32>, String> {
        let runs = self.problem_runs();
        let k = self.keys(device, &runs);
        turn(device, &self.spec(), self.page_size, &runs, &k, self.delta(device).as_ref());
        let (bytes, size) = (k.buffer().read().unwrap(), self.dtype.size());
        let own = self.elements(&k, &runs);
        let mut is_own = vec![false; bytes.len() / size];
        own.iter().for_each(|&i| is_own[i] = true);
        let poison = poison(self.dtype);
        if let Some(i) = bytes.chunks(size).zip(&is_own).position(|(b, own)| !own && b != poison) {
            return Err(format!("element {i} of the buffer was written"));
        }
        let values = whole(&k).read_f32().unwrap();
        Ok(own.into_iter().map(|i| values[i]).collect())
    }
}

/// The whole buffer behind a view.
fn whole(t: &Tensor) -> Tensor {
    Tensor::new(t.buffer().clone(), t.dtype(), &[t.buffer().bytes() / t.dtype().size()]).unwrap()
}

/// One rebase of `k`.
fn turn(device: &Device, spec: &LayerSpec, page_size: usize, runs: &[Rebased], k: &Tensor, delta: Option<&Tensor>) {
    let num_pages = k.shape()[0];
    let problem = RebaseProblem { spec, page_size, num_pages, runs, has_delta: delta.is_some() };
    let plan = RebasePlan::new(device, &problem).unwrap();
    let constants = LayerConstants::new(device, spec, Default::default()).unwrap();
    let args = RebaseArgs { k, constants: &constants, delta };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
}

#[test]
fn table() {
    let mut failed = Vec::new();
    for case in CASES {
        let want = case.run(&devices()[0]).unwrap();
        for device in devices() {
            let check = case.run(device).and_then(|got| compare("k", &got, &want, case.dtype));
            failed.extend(check.err().map(|e| format!("{} on {device}: {e}\n{case:?},", case.name)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_run_that_does_not_move_keeps_its_bits() {
    for device in devices() {
        for dtype in DType::ALL {
            let case = Case { dtype, runs: &[7], axes: 2, ..BASE };
            let mut runs = case.problem_runs();
            runs[0].shift = [0, 0, 77, -5]; // axes that turn no pair
            let k = case.keys(device, &runs);
            // NaN, infinities and both zeros, as a product with cos 1 and sin 0 would not keep them.
            let wild = [f32::NAN, f32::INFINITY, -0.0, 0.0, f32::NEG_INFINITY];
            let flat = whole(&k);
            let mut values = flat.read_f32().unwrap();
            case.elements(&k, &runs).iter().enumerate().for_each(|(n, &i)| values[i] = wild[n % wild.len()]);
            flat.write_f32(&values).unwrap();
            let before = k.buffer().read().unwrap();
            turn(device, &case.spec(), case.page_size, &runs, &k, None);
            assert_eq!(k.buffer().read().unwrap(), before, "{dtype} on {device}");
        }
    }
}

#[test]
fn moves_add_up_and_have_inverses() {
    for device in devices() {
        let case = Case { dim: 64, pairs: 32, axes: 3, runs: &[6, 3], ..BASE };
        let runs = case.problem_runs();
        let by = |f: fn(i32) -> i32| -> Vec<Rebased> {
            runs.iter()
                .map(|r| Rebased { shift: r.shift.map(|s| if s == i32::MIN { s } else { f(s) }), ..r.clone() })
                .collect()
        };
        let keys = |steps: &[Vec<Rebased>]| {
            let k = case.keys(device, &runs);
            steps.iter().for_each(|runs| turn(device, &case.spec(), case.page_size, runs, &k, None));
            let values = whole(&k).read_f32().unwrap();
            case.elements(&k, &runs).into_iter().map(|i| values[i]).collect::<Vec<f32>>()
        };
        let (whole, part, rest) = (by(|s| s), by(|s| s / 3), by(|s| s - s / 3));
        compare("sum", &keys(&[part, rest]), &keys(std::slice::from_ref(&whole)), F32).unwrap();
        compare("inverse", &keys(&[whole, by(|s| -s)]), &keys(&[]), F32).unwrap();
    }
}

#[test]
fn the_attention_factor_is_not_applied_again() {
    for device in devices() {
        let case = Case { dim: 64, pairs: 32, runs: &[4], ..BASE };
        let scaled = Case { mscale: 1.7, ..case };
        assert_eq!(scaled.run(device).unwrap(), case.run(device).unwrap(), "on {device}");
    }
}

#[test]
fn refusals() {
    let spec = LayerSpec::llama(2, 1, 8, 1e4);
    let run = |places: &[u32]| Rebased { places: places.to_vec(), shift: [3, 0, 0, 0] };
    for device in devices() {
        let plan = |runs: &[Rebased], pages: (usize, usize)| {
            let problem = RebaseProblem { spec: &spec, page_size: pages.0, num_pages: pages.1, runs, has_delta: false };
            RebasePlan::new(device, &problem)
        };
        let names = |result: Result<(), Error>, want: &str| match result {
            Err(Error::Invalid { op: "rebase", argument, .. }) if argument == want => {}
            other => panic!("{want}: {other:?} on {device}"),
        };
        names(plan(&[run(&[0, 6])], (3, 2)).map(|_| ()), "runs");
        names(plan(&[run(&[0, 1]), run(&[1])], (3, 2)).map(|_| ()), "runs");
        names(plan(&[run(&[0])], (0, 2)).map(|_| ()), "page_size");
        let plan = plan(&[run(&[0, 5])], (3, 2)).unwrap();
        assert!(plan.to_string().contains("2 tokens of 1 runs"), "{plan}");
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).unwrap();
        let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
        let other = LayerConstants::new(device, &LayerSpec::llama(4, 1, 16, 1e4), Default::default()).unwrap();
        let (good, delta) = (zeros(F32, &[2, 1, 3, 8]), zeros(F32, &[1, 1, 8]));
        for (want, k, constants, delta) in [
            ("k", &zeros(F32, &[2, 1, 3, 16]), &constants, None),
            ("k", &zeros(F16, &[2, 1, 3, 8]), &constants, None),
            ("delta", &good, &constants, Some(&delta)),
            ("constants", &good, &other, None),
        ] {
            let args = RebaseArgs { k, constants, delta };
            names(plan.run(&args, &mut Workspace::new(device).unwrap()), want);
        }
        for other in devices().iter().filter(|d| d.kind() != device.kind()) {
            let foreign = Tensor::zeros(other, F32, &[2, 1, 3, 8]).unwrap();
            let args = RebaseArgs { k: &foreign, constants: &constants, delta: None };
            assert!(plan.run(&args, &mut Workspace::new(device).unwrap()).is_err());
        }
    }
}
