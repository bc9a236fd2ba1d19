//! A layer and its cache, fed by name: a name is the same token wherever, whenever and under whatever view it is
//! appended. So two ways to the same context can be compared from the packed rows to the output.

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Appended, KvCache, Modality, ViewId};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{KvScale, LayerConstants, LayerSpec, Pairing, Rope};
use colatent::{DType, Device, Tensor, Workspace};
use proptest::test_runner::TestCaseError;

use crate::harness::scene::Answer;
use crate::harness::{Rng, compare, poisoned};

const PAGE_SIZE: usize = 16;
const NUM_PAGES: usize = 96;

/// Rotating, causal, 8 query heads over 2 KV heads of 32 lanes.
pub fn rotating() -> LayerSpec {
    LayerSpec { rope: Some(Rope::plain(32, 1e4, Pairing::Half)), ..LayerSpec::new(8, 2, 32) }
}

/// [`rotating`], with K and V as they are or as codes; or [`latent`] as codes with a tail.
pub fn any_storage(seed: u64) -> LayerSpec {
    let (kv_dtype, kv_scale) = [
        (DType::F32, KvScale::None),
        (DType::E4M3, KvScale::Token),
        (DType::I8, KvScale::Token),
        (DType::E4M3, KvScale::Tensor { k: 0.01, v: 0.01 }),
    ][(seed % 4) as usize];
    match kv_scale {
        KvScale::None => rotating(),
        _ if seed % 8 < 4 => LayerSpec { kv_dtype, kv_scale, ..rotating() },
        _ => latent().with_coded_latent(kv_dtype, kv_scale),
    }
}

/// 8 query heads over one row of 32 lanes, which are V too, and 16 that turn.
pub fn latent() -> LayerSpec {
    let rope = Some(Rope::plain(16, 1e4, Pairing::Adjacent).at_lane(32));
    LayerSpec { rope, head_dim_v: 32, v_in_k: true, ..LayerSpec::new(8, 1, 48) }
}

/// A position on every axis alike.
pub fn at(position: i32) -> [i32; 4] {
    [position; 4]
}

/// Query rows of one view and the queries `[rows, heads, dim]` that an append made for them.
#[derive(Clone)]
pub struct Rows {
    pub rows: QueryRows,
    q: Vec<f32>,
    positions: Vec<[i32; 4]>,
}

impl Rows {
    /// `len` of the rows, from `first` on.
    pub fn slice(&self, first: usize, len: usize) -> Rows {
        let n = self.q.len() / self.rows.len as usize;
        let first_slot = self.rows.first_slot + first as i32;
        let rows = QueryRows { first_slot, len: len as u32, ..self.rows.clone() };
        let positions = self.positions[first..first + len].to_vec();
        Rows { rows, q: self.q[first * n..(first + len) * n].to_vec(), positions }
    }

    /// The last row alone.
    pub fn last(&self) -> Rows {
        self.slice(self.rows.len as usize - 1, 1)
    }

    /// The same queries asked of another view.
    pub fn of(&self, view: ViewId) -> Rows {
        Rows { rows: QueryRows { view, ..self.rows.clone() }, ..self.clone() }
    }

    /// The same queries, blind to a range of slots.
    pub fn without(&self, gap: std::ops::Range<i32>) -> Rows {
        Rows { rows: QueryRows { gap: Some(gap), ..self.rows.clone() }, ..self.clone() }
    }
}

/// Names of `n` tokens that no other `who` has.
pub fn names(seed: u64, who: u64, n: usize) -> impl Iterator<Item = u64> + Clone {
    (0..n as u64).map(move |i| seed ^ who << 32 ^ i)
}

pub struct Stream {
    pub device: Device,
    pub spec: LayerSpec,
    pub cache: KvCache,
    pub k: Tensor,
    pub v: Tensor,
    constants: LayerConstants,
}

impl Stream {
    /// An empty cache over pages full of NaN.
    pub fn new(device: &Device, spec: &LayerSpec) -> Stream {
        let scales = poisoned(device, DType::F32, &[2, NUM_PAGES, spec.num_kv_heads, PAGE_SIZE]);
        let pages = |part, dim| {
            let pages = poisoned(device, spec.kv_dtype, &[NUM_PAGES, spec.num_kv_heads, PAGE_SIZE, dim]);
            if spec.kv_scale == KvScale::Token { pages.with_scales(&scales.at(part).unwrap()).unwrap() } else { pages }
        };
        let k = spec.key_pages(&pages(0, spec.key_elements())).unwrap();
        Stream {
            device: device.clone(),
            spec: spec.clone(),
            cache: KvCache::new(PAGE_SIZE, NUM_PAGES).unwrap(),
            v: if spec.v_in_k { k.first_lanes(spec.head_dim_v).unwrap() } else { pages(1, spec.head_dim_v) },
            k,
            constants: LayerConstants::new(device, spec, Default::default()).unwrap(),
        }
    }

    /// Appends tokens at the positions that follow.
    pub fn append(&mut self, view: ViewId, names: impl IntoIterator<Item = u64>) -> Rows {
        let names: Vec<u64> = names.into_iter().collect();
        let first = self.cache.view(view).unwrap().next_position();
        let positions: Vec<[i32; 4]> = (first..).take(names.len()).map(at).collect();
        self.append_at(view, names, &positions)
    }

    /// Appends tokens at these positions.
    pub fn append_at(&mut self, view: ViewId, names: impl IntoIterator<Item = u64>, positions: &[[i32; 4]]) -> Rows {
        let width = self.spec.packed().width;
        let packed: Vec<f32> = names.into_iter().flat_map(|name| Rng(name).values(width)).collect();
        self.append_packed(view, &packed, positions)
    }

    /// Appends rows of the projection's output at these positions.
    pub fn append_packed(&mut self, view: ViewId, packed: &[f32], positions: &[[i32; 4]]) -> Rows {
        let appended = self.cache.append(view, Modality::Text, positions.len()).unwrap();
        self.write_packed(appended, packed, positions)
    }

    /// Writes the tokens of a span that the cache has made room for.
    pub fn write(&mut self, appended: Appended, names: impl IntoIterator<Item = u64>, positions: &[[i32; 4]]) -> Rows {
        let width = self.spec.packed().width;
        let packed: Vec<f32> = names.into_iter().flat_map(|name| Rng(name).values(width)).collect();
        self.write_packed(appended, &packed, positions)
    }

    fn write_packed(&mut self, appended: Appended, packed: &[f32], positions: &[[i32; 4]]) -> Rows {
        let (spec, n) = (&self.spec, positions.len());
        let mut places = Vec::new();
        self.cache.write_places(&appended, &mut places).unwrap();
        let layout = spec.packed();
        let problem =
            KvAppendProblem { spec, layout, page_size: PAGE_SIZE, num_pages: NUM_PAGES, places: &places, positions };
        let plan = KvAppendPlan::new(&self.device, &problem).unwrap();
        let packed = Tensor::from_f32(&self.device, spec.dtype, &[n, layout.width], packed).unwrap();
        let q = poisoned(&self.device, spec.dtype, &[n, spec.num_q_heads, spec.head_dim]);
        let args = KvAppendArgs { packed: &packed, constants: &self.constants, q: &q, k: &self.k, v: &self.v };
        plan.run(&args, &mut Workspace::new(&self.device).unwrap()).unwrap();
        Rows { rows: appended.into(), q: q.read_f32().unwrap(), positions: positions.to_vec() }
    }

    /// One launch over these rows.
    pub fn attend(&self, rows: &[Rows]) -> Answer {
        let (spec, device) = (&self.spec, &self.device);
        let problem_rows: Vec<QueryRows> = rows.iter().map(|r| r.rows.clone()).collect();
        let problem = AttentionProblem { spec, cache: &self.cache, rows: &problem_rows };
        let mut plan = AttentionPlan::new(device, &problem).unwrap();
        if spec.v_rope {
            let positions: Vec<[i32; 4]> = rows.iter().flat_map(|r| r.positions.iter().copied()).collect();
            plan = plan.with_positions(&positions).unwrap();
        }
        let n = plan.num_rows();
        let q: Vec<f32> = rows.iter().flat_map(|r| r.q.iter().copied()).collect();
        let q = Tensor::from_f32(device, spec.dtype, &[n, spec.num_q_heads, spec.head_dim], &q).unwrap();
        let out = poisoned(device, spec.dtype, &[n, spec.num_q_heads, spec.head_dim_v]);
        let lse = poisoned(device, DType::F32, &[n, spec.num_q_heads]);
        let (k, v, constants) = (&self.k, &self.v, &self.constants);
        let args = AttentionArgs { q: &q, k, v, constants, selection: None, gate: None, out: &out, lse: Some(&lse) };
        plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
        Answer { out: out.read_f32().unwrap(), lse: lse.read_f32().unwrap() }
    }

    /// One row alone.
    pub fn ask(&self, row: &Rows) -> Answer {
        self.attend(std::slice::from_ref(row))
    }
}

/// Whether two answers agree within the table of tolerances.
pub fn close(what: &str, got: &Answer, want: &Answer) -> Result<(), TestCaseError> {
    compare(&format!("{what}: out"), &got.out, &want.out, DType::F32).map_err(TestCaseError::fail)?;
    compare(&format!("{what}: lse"), &got.lse, &want.lse, DType::F32).map_err(TestCaseError::fail)
}
