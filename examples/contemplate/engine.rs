//! Drives the operations: one book-keeping of pages for all layers, a K and a V tensor per layer, one plan per step and
//! layer kind.

use std::collections::{BTreeSet, HashMap};
use std::ops::AddAssign;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows, Stats};
use colatent::ensemble::{Batch, mix};
use colatent::kv::{KvCache, Modality, ViewId};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights};
use colatent::sampling::{Sampled, SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, DType, Device, Tensor, Workspace};

use crate::Result;
use crate::model::{D_MODEL, FULL, LOGIT_CAP, Model, OUTPUT_MULTIPLIER, VOCAB, WINDOW, linear, rms_norm};
use crate::verify::Verifier;

/// Tokens of a page.
pub const PAGE: usize = 16;

/// K/V tiles counted over layers and launches.
#[derive(Clone, Copy, Default)]
pub struct Tiles {
    /// Loaded.
    pub loaded: u64,
    /// Would be loaded if every view had a copy of its own.
    pub unshared: u64,
}

impl AddAssign<Stats> for Tiles {
    fn add_assign(&mut self, stats: Stats) {
        self.loaded += stats.tiles_loaded;
        self.unshared += stats.tiles_unshared;
    }
}

/// Device memory for batches of one number of rows; kept, so that later steps of that size allocate nothing.
#[derive(Clone)]
struct Rows {
    packed: Tensor,
    gate: Tensor,
    q: Tensor,
    out: Tensor,
    logits: Tensor,
    sampled: Buffer,
}

/// A workspace holds the tables of one plan, and two kinds take turns within a step: each has its own.
struct KindWorkspaces {
    append: Workspace,
    attention: Workspace,
}

/// One layer's memory on the device.
struct LayerMemory {
    constants: LayerConstants,
    k: Tensor,
    v: Tensor,
}

/// The model, the cache and the device.
pub struct Engine {
    /// The weights.
    pub model: Model,
    /// Who sees what.
    pub cache: KvCache,
    /// Counted since the last [`Engine::reset_counters`].
    pub tiles: Tiles,
    /// Repeats every attention call, if asked to.
    pub verifier: Option<Verifier>,
    device: Device,
    /// Key of the weights and of the noise.
    pub seed: u64,
    memory: Vec<LayerMemory>,
    kinds: [KindWorkspaces; 2],
    sampling: Workspace,
    rows: HashMap<usize, Rows>,
}

impl Engine {
    /// Allocates `pages` pages for every layer.
    pub fn new(device: &Device, seed: u64, pages: usize, verify: bool) -> Result<Self> {
        let model = Model::new(seed);
        let pool =
            |spec: &LayerSpec, lanes| Tensor::zeros(device, spec.kv_dtype, &[pages, spec.num_kv_heads, PAGE, lanes]);
        let mut memory = Vec::new();
        for layer in &model.layers {
            let spec = &model.kinds[layer.kind];
            memory.push(LayerMemory {
                constants: LayerConstants::new(device, spec, LayerWeights::default())?,
                k: pool(spec, spec.head_dim)?,
                v: pool(spec, spec.head_dim_v)?,
            });
        }
        let workspaces = || -> Result<KindWorkspaces> {
            Ok(KindWorkspaces { append: Workspace::new(device)?, attention: Workspace::new(device)? })
        };
        Ok(Engine {
            cache: KvCache::new(PAGE, pages)?,
            tiles: Tiles::default(),
            verifier: if verify { Some(Verifier::new(&model)?) } else { None },
            device: device.clone(),
            seed,
            memory,
            kinds: [workspaces()?, workspaces()?],
            sampling: Workspace::new(device)?,
            rows: HashMap::new(),
            model,
        })
    }

    /// Bytes of one page in all layers.
    pub fn page_bytes(&self) -> usize {
        self.memory.iter().map(|m| [&m.k, &m.v].map(|t| t.strides()[0] * t.dtype().size()).iter().sum::<usize>()).sum()
    }

    /// Pages that some view reaches.
    pub fn used_pages(&self) -> BTreeSet<u32> {
        (0..self.cache.num_pages() as u32).filter(|&p| self.cache.page_refs(p) > 0).collect()
    }

    /// Makes room for `hidden` (rows of the latent space) at the end of the view and adds the rows to the batch.
    pub fn stage(&mut self, batch: &mut Batch, view: ViewId, modality: Modality, hidden: &[f32]) -> Result<()> {
        let appended = self.cache.append(view, modality, hidden.len() / D_MODEL)?;
        self.cache.write_places(&appended, &mut batch.places)?;
        // Positions count on in one dimension, whatever the modality, as in the model this one imitates.
        batch.positions.extend((0..appended.len as i32).map(|i| [appended.first_position + i; 4]));
        batch.rows.push(QueryRows::from(appended));
        Ok(())
    }

    /// Runs the rows through all layers: `[rows, D_MODEL]`. Whoever is in the batch, it is one launch of each operation
    /// per layer.
    pub fn forward(&mut self, batch: &Batch, hidden: Vec<f32>) -> Result<Vec<f32>> {
        let n = batch.places.len();
        let mut x = hidden;
        let t = self.rows(n)?;
        let plans = [self.plan(WINDOW, batch)?, self.plan(FULL, batch)?];
        if let Some(verifier) = &mut self.verifier {
            verifier.plan(&self.model.kinds, &self.cache, &batch.rows)?;
        }
        for (i, (layer, memory)) in self.model.layers.iter().zip(&self.memory).enumerate() {
            let width = self.model.kinds[layer.kind].packed().width;
            let (append, attention) = &plans[layer.kind];
            let workspaces = &mut self.kinds[layer.kind];
            let packed = linear(&rms_norm(&x), &layer.qkv_gate, D_MODEL, width);
            t.packed.buffer().write(0, bytemuck::cast_slice(&packed))?;
            let LayerMemory { constants, k, v } = memory;
            append.run(&KvAppendArgs { packed: &t.packed, constants, q: &t.q, k, v }, &mut workspaces.append)?;
            let args = AttentionArgs {
                q: &t.q,
                k,
                v,
                constants,
                selection: None,
                gate: Some(&t.gate),
                out: &t.out,
                lse: None,
            };
            attention.run(&args, &mut workspaces.attention)?;
            self.tiles += attention.stats();
            let attended = t.out.read_f32()?;
            if let Some(verifier) = &mut self.verifier {
                verifier.check(i, layer.kind, &args, &attended)?;
            }
            add(&mut x, &linear(&attended, &layer.out, attended.len() / n, D_MODEL));
            let mlp = layer.mlp(&rms_norm(&x));
            add(&mut x, &mlp);
        }
        Ok(x)
    }

    fn plan(&self, kind: usize, batch: &Batch) -> Result<(KvAppendPlan, AttentionPlan)> {
        let spec = &self.model.kinds[kind];
        let append = KvAppendProblem {
            spec,
            layout: spec.packed(),
            page_size: PAGE,
            num_pages: self.cache.num_pages(),
            places: &batch.places,
            positions: &batch.positions,
        };
        let attention = AttentionProblem { spec, cache: &self.cache, rows: &batch.rows };
        Ok((KvAppendPlan::new(&self.device, &append)?, AttentionPlan::new(&self.device, &attention)?))
    }

    /// Draws a byte for each row of the stream, and says how sure the model is. A draw depends on seed, agent and step
    /// alone, never on who else draws.
    pub fn sample(&mut self, hidden: &[f32], rows: &[SamplingRow]) -> Result<Vec<Sampled>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.model.logits(hidden);
        self.draw(&logits, rows, OUTPUT_MULTIPLIER, Some(LOGIT_CAP))
    }

    /// One byte for all rows: drawn from the mean of their distributions, since a cap comes between them and the head.
    pub fn sample_mixed(&mut self, hidden: &[f32], row: SamplingRow) -> Result<Sampled> {
        let logits: Vec<Vec<f32>> = self.model.logits(hidden).chunks(VOCAB).map(capped).collect();
        let rows: Vec<&[f32]> = logits.iter().map(Vec::as_slice).collect();
        let mixed = mix::probabilities(&rows, &vec![1.0; rows.len()])?;
        Ok(*self.draw(&mixed, &[row], 1.0, None)?.first().ok_or("a row gives a token")?)
    }

    fn draw(
        &mut self,
        logits: &[f32],
        rows: &[SamplingRow],
        multiplier: f32,
        cap: Option<f32>,
    ) -> Result<Vec<Sampled>> {
        let problem = SamplingProblem {
            logits_dtype: DType::F32,
            rows: rows.to_vec(),
            vocab: VOCAB,
            output_multiplier: multiplier,
            soft_cap: cap,
            seed: self.seed,
        };
        let t = self.rows(rows.len())?;
        t.logits.buffer().write(0, bytemuck::cast_slice(logits))?;
        let plan = SamplingPlan::new(&self.device, &problem)?;
        plan.run(&SamplingArgs { logits: &t.logits, out: &t.sampled }, &mut self.sampling)?;
        Ok(SamplingOutput::read(&t.sampled, rows.len())?)
    }

    /// Runs one token and forgets it, so that compiling the kernels is not measured with the first prompt.
    pub fn warm_up(&mut self) -> Result<()> {
        let view = self.cache.create();
        let mut batch = Batch::default();
        let token = self.model.embed_text(b" ");
        self.stage(&mut batch, view, Modality::Text, &token)?;
        let hidden = self.forward(&batch, token)?;
        self.sample(&hidden, &[SamplingRow::default()])?;
        self.cache.release(view)?;
        self.reset_counters();
        Ok(())
    }

    /// Starts to count anew.
    pub fn reset_counters(&mut self) {
        self.tiles = Tiles::default();
    }

    fn rows(&mut self, n: usize) -> Result<Rows> {
        if let Some(rows) = self.rows.get(&n) {
            return Ok(rows.clone());
        }
        // Both kinds have the same heads, lanes and packing.
        let spec = &self.model.kinds[FULL];
        let (heads, d, dv) = (spec.num_q_heads, spec.head_dim, spec.head_dim_v);
        let layout = spec.packed();
        let gate = layout.gate.ok_or("the layers of this model have a gate")?;
        let packed = Tensor::zeros(&self.device, spec.dtype, &[n, layout.width])?;
        let strides = [layout.width, gate.head_stride, 1];
        let rows = Rows {
            // The gate is read where the projection left it.
            gate: Tensor::with_strides(packed.buffer().clone(), spec.dtype, gate.offset, &[n, heads, dv], &strides)?,
            packed,
            q: Tensor::zeros(&self.device, spec.dtype, &[n, heads, d])?,
            out: Tensor::zeros(&self.device, spec.dtype, &[n, heads, dv])?,
            logits: Tensor::zeros(&self.device, DType::F32, &[n, VOCAB])?,
            sampled: Buffer::zeros(&self.device, n * 16)?,
        };
        self.rows.insert(n, rows.clone());
        Ok(rows)
    }
}

/// Logits as the sampler sees them.
fn capped(logits: &[f32]) -> Vec<f32> {
    logits.iter().map(|l| LOGIT_CAP * (l * OUTPUT_MULTIPLIER / LOGIT_CAP).tanh()).collect()
}

/// Adds to the residual stream.
fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
