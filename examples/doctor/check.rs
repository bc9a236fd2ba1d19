//! What a device would run, whether it gives the reference's numbers, and how fast it copies.

use std::time::Instant;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::sampling::{SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, DType, Device, Result, Tensor, Workspace};
use serde_json::{Value, json};

const PAGE_SIZE: usize = 16;
const NUM_PAGES: usize = 64;
/// A prompt with a picture in it, and a token of each agent.
const PROMPT: [(Modality, usize); 3] = [(Modality::Text, 40), (Modality::Image, 30), (Modality::Text, 20)];
const AGENTS: usize = 5;
const VOCAB: usize = 1000;

/// The layer kinds that are tried, in every storage type.
fn layers() -> Vec<LayerSpec> {
    let kinds = [LayerSpec::llama(8, 2, 64, 1e4), LayerSpec::gemma3_window()];
    kinds
        .into_iter()
        .flat_map(|kind| {
            DType::ALL.map(|dtype| LayerSpec {
                name: format!("{} {dtype}", kind.name),
                num_q_heads: 8,
                num_kv_heads: 2,
                dtype,
                kv_dtype: dtype,
                ..kind.clone()
            })
        })
        .collect()
}

/// A number in -1..1 for every index.
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let mix = |i: usize| (i as u32 ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
    (0..n).map(|i| (mix(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// One step of one layer: the prompt and a token of each agent are stored and attend.
struct Step {
    spec: LayerSpec,
    cache: KvCache,
    rows: Vec<QueryRows>,
    places: Vec<u32>,
    positions: Vec<[i32; 4]>,
}

impl Step {
    fn new(spec: LayerSpec) -> Result<Step> {
        let mut cache = KvCache::new(PAGE_SIZE, NUM_PAGES)?;
        let root = cache.create();
        let mut appended = Vec::new();
        for (modality, len) in PROMPT {
            appended.push(cache.append(root, modality, len)?);
        }
        for agent in cache.fork_many(root, AGENTS)? {
            appended.push(cache.append(agent, Modality::Text, 1)?);
        }
        let (mut places, mut positions) = (Vec::new(), Vec::new());
        for a in &appended {
            cache.write_places(a, &mut places)?;
            positions.extend((0..a.len as i32).map(|i| [a.first_position + i, 0, 0, 0]));
        }
        Ok(Step { spec, cache, rows: appended.into_iter().map(QueryRows::from).collect(), places, positions })
    }

    fn attention(&self, device: &Device) -> Result<AttentionPlan> {
        AttentionPlan::new(device, &AttentionProblem { spec: &self.spec, cache: &self.cache, rows: &self.rows })
    }

    fn kv_append(&self, device: &Device) -> Result<KvAppendPlan> {
        let problem = KvAppendProblem {
            spec: &self.spec,
            layout: self.spec.packed(),
            page_size: PAGE_SIZE,
            num_pages: NUM_PAGES,
            places: &self.places,
            positions: &self.positions,
        };
        KvAppendPlan::new(device, &problem)
    }

    /// The attention output of the step.
    fn run(&self, device: &Device) -> Result<Vec<f32>> {
        let (spec, rows) = (&self.spec, self.places.len());
        let zeros = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape);
        let width = spec.packed().width;
        let packed = Tensor::from_f32(device, spec.dtype, &[rows, width], &noise(1, rows * width))?;
        let k = zeros(spec.kv_dtype, &[NUM_PAGES, spec.num_kv_heads, PAGE_SIZE, spec.head_dim])?;
        let v = zeros(spec.kv_dtype, &[NUM_PAGES, spec.num_kv_heads, PAGE_SIZE, spec.head_dim_v])?;
        let q = zeros(spec.dtype, &[rows, spec.num_q_heads, spec.head_dim])?;
        let out = zeros(spec.dtype, &[rows, spec.num_q_heads, spec.head_dim_v])?;
        let lanes = |is_weighted: bool| if is_weighted { noise(2, spec.head_dim) } else { vec![] };
        let weights = colatent::layer::LayerWeights {
            q_norm: lanes(spec.q_norm.is_weighted()),
            k_norm: lanes(spec.k_norm.is_weighted()),
            ..Default::default()
        };
        let constants = &LayerConstants::new(device, spec, weights)?;
        let append = KvAppendArgs { packed: &packed, constants, q: &q, k: &k, v: &v };
        self.kv_append(device)?.run(&append, &mut Workspace::new(device)?)?;
        let args = AttentionArgs { q: &q, k: &k, v: &v, constants, selection: None, gate: None, out: &out, lse: None };
        self.attention(device)?.run(&args, &mut Workspace::new(device)?)?;
        out.read_f32()
    }
}

fn sampling(device: &Device) -> Result<SamplingPlan> {
    let row = |agent| SamplingRow { temperature: 0.8, top_k: 100, top_p: 0.9, agent, ..SamplingRow::default() };
    let problem = SamplingProblem {
        logits_dtype: DType::F32,
        rows: (0..AGENTS as u32).map(row).collect(),
        vocab: VOCAB,
        output_multiplier: 1.0,
        soft_cap: None,
        seed: 7,
    };
    SamplingPlan::new(device, &problem)
}

/// Tokens and log-probabilities of a step.
fn sample(device: &Device) -> Result<Vec<(u32, f32)>> {
    let logits: Vec<f32> = noise(3, AGENTS * VOCAB).iter().map(|x| 5.0 * x).collect();
    let logits = Tensor::from_f32(device, DType::F32, &[AGENTS, VOCAB], &logits)?;
    let out = Buffer::zeros(device, SamplingOutput::bytes(AGENTS))?;
    sampling(device)?.run(&SamplingArgs { logits: &logits, out: &out }, &mut Workspace::new(device)?)?;
    Ok(SamplingOutput::read(&out, AGENTS)?.iter().map(|s| (s.token, s.log_prob)).collect())
}

/// Milliseconds until the first outputs of this process: `kv_append` and `attention` are planned, compiled or read from the
/// disk cache that a run before has filled, and run.
pub fn first_outputs(device: &Device) -> Value {
    let timed = || {
        let step = Step::new(layers().remove(0))?;
        let start = Instant::now();
        step.run(device)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    match timed() as Result<f64> {
        Ok(ms) => json!((ms * 10.0).round() / 10.0),
        Err(e) => json!(e.to_string()),
    }
}

/// What each operation would run, in its plan's words.
pub fn plans(device: &Device) -> Vec<String> {
    let mut all = Vec::new();
    for spec in layers() {
        let step = match Step::new(spec) {
            Ok(step) => step,
            Err(e) => return vec![e.to_string()],
        };
        all.push(step.kv_append(device).map_or_else(|e| e.to_string(), |p| p.to_string()));
        all.push(step.attention(device).map_or_else(|e| e.to_string(), |p| p.to_string()));
    }
    all.push(sampling(device).map_or_else(|e| e.to_string(), |p| p.to_string()));
    all
}

/// A small step of every layer kind, and a draw, against the reference.
pub fn parity(device: &Device) -> Vec<Value> {
    let mut all = Vec::new();
    for spec in layers() {
        let (name, tolerance) = (spec.name.clone(), spec.dtype.tolerance());
        let both = || {
            let step = Step::new(spec)?;
            Ok((step.run(device)?, step.run(&Device::reference())?))
        };
        all.push(match both() as Result<(Vec<f32>, Vec<f32>)> {
            Ok((got, want)) => {
                let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
                let ok = got.len() == want.len() && got.iter().zip(&want).all(|(&g, &w)| tolerance.accepts(g, w));
                json!({ "case": name, "ok": ok, "max_abs_error": worst })
            }
            Err(e) => json!({ "case": name, "ok": false, "error": e.to_string() }),
        });
    }
    all.push(match sample(device).and_then(|got| Ok((got, sample(&Device::reference())?))) {
        Ok((got, want)) => {
            let is_near = |(g, w): (&(u32, f32), &(u32, f32))| g.0 == w.0 && (g.1 - w.1).abs() < 1e-4;
            json!({ "case": "sampling f32", "ok": got.iter().zip(&want).all(is_near) })
        }
        Err(e) => json!({ "case": "sampling f32", "ok": false, "error": e.to_string() }),
    });
    all
}

/// Bytes read and written per second by a copy on the device: the median of five.
pub fn copy(device: &Device) -> String {
    const BYTES: usize = 64 << 20;
    let timed = || {
        let (from, to) = (Buffer::zeros(device, BYTES)?, Buffer::zeros(device, BYTES)?);
        let mut seconds = Vec::new();
        for _ in 0..6 {
            device.synchronize()?;
            let start = Instant::now();
            to.copy_from(&from)?;
            device.synchronize()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.remove(0); // the first one warms up
        seconds.sort_by(f64::total_cmp);
        Ok(2.0 * BYTES as f64 / seconds[2] / 1e9)
    };
    match timed() as Result<f64> {
        Ok(rate) => format!("{rate:.1} GB/s"),
        Err(e) => e.to_string(),
    }
}
