//! Two minds for ensembles. [`Memory`] writes down what is fed and where, draws by a hash, and shows what a row sees:
//! book-keeping without arithmetic. [`Mind`] is a model of one layer on a device, whose tokens depend on all it sees.

use std::collections::HashMap;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, Stats};
use colatent::ensemble::{Batch, Ensemble, Input};
use colatent::kv::{KvCache, Modality, ViewId};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, Pairing, Rope};
use colatent::sampling::{Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem};
use colatent::{Buffer, DType, Device, Tensor, Workspace};

use crate::harness::{Rng, poisoned};

pub const VOCAB: usize = 24;
pub const PAGE_SIZE: usize = 16;

/// What lies where.
#[derive(Default, Clone)]
pub struct Memory {
    at: HashMap<u32, (Input, i32)>,
}

impl Memory {
    /// A prompt of tokens 1000, 1001, ... in a view of its own.
    pub fn prompt(&mut self, cache: &mut KvCache, len: usize) -> ViewId {
        let view = cache.create();
        let appended = cache.append(view, Modality::Text, len).unwrap();
        let mut places = Vec::new();
        cache.write_places(&appended, &mut places).unwrap();
        for (i, place) in places.into_iter().enumerate() {
            self.at.insert(place, (Input::Token(1000 + i as u32), i as i32));
        }
        view
    }

    pub fn write(&mut self, batch: &Batch) {
        for ((&input, &place), position) in batch.inputs.iter().zip(&batch.places).zip(&batch.positions) {
            self.at.insert(place, (input, position[0]));
        }
    }

    /// Everything a row at `slot` of the view sees under a causal mask, with the positions it sees it at.
    pub fn seen(&self, cache: &KvCache, view: ViewId, slot: i32) -> Vec<(Input, i32)> {
        let mut seen = Vec::new();
        for entry in cache.view(view).unwrap().entries() {
            let slots = entry.slot_base..entry.slot_end().min(slot + 1).max(entry.slot_base);
            for place in cache.places(view, slots).unwrap() {
                let (input, position) = self.at[&place];
                seen.push((input, position + entry.shift[0]));
            }
        }
        seen
    }

    pub fn all(&self, cache: &KvCache, view: ViewId) -> Vec<(Input, i32)> {
        self.seen(cache, view, i32::MAX - 1)
    }

    /// Writes the batch down and draws by a hash of agent and step.
    pub fn draw(&mut self, batch: &Batch) -> Vec<Sampled> {
        self.write(batch);
        batch.draws.iter().map(|d| drawn(hashed(d.sampling.agent, d.sampling.step))).collect()
    }
}

pub fn hashed(agent: u32, step: u32) -> u32 {
    Rng(u64::from(agent) << 32 | u64::from(step)).below(VOCAB) as u32
}

pub fn drawn(token: u32) -> Sampled {
    Sampled { token, log_prob: -1.0, confidence: 1.0, ..Sampled::default() }
}

pub fn tokens(inputs: &[(Input, i32)]) -> Vec<u32> {
    let token = |(input, _): &(Input, i32)| match input {
        Input::Token(token) => *token,
        Input::Inserted { tag, index } => 100_000 * (tag + 1) + index,
        Input::Mask => u32::MAX,
    };
    inputs.iter().map(token).collect()
}

/// Rotating, causal, 4 query heads over 2 KV heads of 16 lanes.
pub fn spec() -> LayerSpec {
    LayerSpec { rope: Some(Rope::plain(16, 1e4, Pairing::Half)), ..LayerSpec::new(4, 2, 16) }
}

pub struct Mind {
    pub device: Device,
    pub spec: LayerSpec,
    pub cache: KvCache,
    /// Of the last batch.
    pub stats: Stats,
    k: Tensor,
    v: Tensor,
    constants: LayerConstants,
    head: Vec<f32>,
}

impl Mind {
    /// An empty cache over pages full of NaN.
    pub fn new(device: &Device) -> Mind {
        let (spec, pages) = (spec(), 96);
        let memory = || poisoned(device, DType::F32, &[pages, spec.num_kv_heads, PAGE_SIZE, spec.head_dim]);
        Mind {
            device: device.clone(),
            cache: KvCache::new(PAGE_SIZE, pages).unwrap(),
            stats: Stats::default(),
            k: memory(),
            v: memory(),
            constants: LayerConstants::new(device, &spec, Default::default()).unwrap(),
            head: Rng(99).values(spec.num_q_heads * spec.head_dim * VOCAB),
            spec,
        }
    }

    /// A view that was fed these tokens, and the logits of its last row.
    pub fn prompt(&mut self, tokens: &[u32]) -> (ViewId, Vec<f32>) {
        let view = self.cache.create();
        let appended = self.cache.append(view, Modality::Text, tokens.len()).unwrap();
        let mut batch = Batch::default();
        self.cache.write_places(&appended, &mut batch.places).unwrap();
        batch.inputs = tokens.iter().map(|&t| Input::Token(t)).collect();
        batch.positions = (0..tokens.len() as i32).map(|p| [p; 4]).collect();
        batch.rows.push(appended.into());
        let out = self.attend(&batch);
        let width = self.spec.num_q_heads * self.spec.head_dim;
        let logits = self.project(&out[out.len() - width..]);
        (view, logits)
    }

    /// Attention's output of every row: `[rows, heads * dim]`.
    pub fn attend(&mut self, batch: &Batch) -> Vec<f32> {
        let (spec, device, n) = (&self.spec, &self.device, batch.inputs.len());
        let layout = spec.packed();
        let name = |input: &Input| match input {
            Input::Token(token) => u64::from(*token),
            Input::Inserted { tag, index } => u64::from(*tag + 1) << 32 | u64::from(*index),
            Input::Mask => u64::MAX,
        };
        let packed: Vec<f32> = batch.inputs.iter().flat_map(|i| Rng(name(i)).values(layout.width)).collect();
        let packed = Tensor::from_f32(device, spec.dtype, &[n, layout.width], &packed).unwrap();
        let problem = KvAppendProblem {
            spec,
            layout,
            page_size: PAGE_SIZE,
            num_pages: self.cache.num_pages(),
            places: &batch.places,
            positions: &batch.positions,
        };
        let (q, out) = (
            poisoned(device, spec.dtype, &[n, spec.num_q_heads, spec.head_dim]),
            poisoned(device, spec.dtype, &[n, spec.num_q_heads, spec.head_dim]),
        );
        let (k, v, constants) = (&self.k, &self.v, &self.constants);
        let args = KvAppendArgs { packed: &packed, constants, q: &q, k, v };
        KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap()).unwrap();
        let problem = AttentionProblem { spec, cache: &self.cache, rows: &batch.rows };
        let plan = AttentionPlan::new(device, &problem).unwrap();
        let args = AttentionArgs { q: &q, k, v, constants, selection: None, gate: None, out: &out, lse: None };
        plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
        self.stats = plan.stats();
        out.read_f32().unwrap()
    }

    /// Logits of one row.
    pub fn project(&self, hidden: &[f32]) -> Vec<f32> {
        let logit = |t: usize| hidden.iter().enumerate().map(|(i, h)| h * self.head[i * VOCAB + t]).sum::<f32>();
        (0..VOCAB).map(logit).collect()
    }

    /// Logits of every draw.
    pub fn logits(&mut self, batch: &Batch) -> Vec<Vec<f32>> {
        let out = self.attend(batch);
        let width = self.spec.num_q_heads * self.spec.head_dim;
        batch.draws.iter().map(|d| self.project(&out[d.row as usize * width..][..width])).collect()
    }

    /// A token per row of logits.
    pub fn sample(
        &self,
        ensemble: &Ensemble,
        rows: Vec<colatent::sampling::SamplingRow>,
        logits: &[Vec<f32>],
    ) -> Vec<Sampled> {
        let n = rows.len();
        if n == 0 {
            return Vec::new();
        }
        let problem = SamplingProblem {
            logits_dtype: DType::F32,
            rows,
            vocab: VOCAB,
            output_multiplier: 1.0,
            soft_cap: None,
            seed: ensemble.seed(),
        };
        let tensor = Tensor::from_f32(&self.device, DType::F32, &[n, VOCAB], &logits.concat()).unwrap();
        let out = Buffer::zeros(&self.device, SamplingOutput::bytes(n)).unwrap();
        let plan = SamplingPlan::new(&self.device, &problem).unwrap();
        plan.run(&SamplingArgs { logits: &tensor, out: &out }, &mut Workspace::new(&self.device).unwrap()).unwrap();
        SamplingOutput::read(&out, n).unwrap()
    }

    /// One step of the ensemble.
    pub fn step(&mut self, ensemble: &mut Ensemble) -> Batch {
        let batch = ensemble.step(&mut self.cache).unwrap();
        if batch.inputs.is_empty() {
            return batch;
        }
        let logits = self.logits(&batch);
        let drawn = self.sample(ensemble, batch.sampling_rows(), &logits);
        ensemble.accept(&mut self.cache, &drawn).unwrap();
        batch
    }
}
