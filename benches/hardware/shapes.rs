//! The named shapes, and what runs them.

use std::time::Instant;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Birth, Death, Join, KvCache, Lifetimes, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, Norm, Pairing, Rope};
use colatent::sampling::{SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, DType, Device, Result, Tensor, Workspace};

/// Tokens per page.
const PAGE_SIZE: usize = 64;
const HEAD_DIM: usize = 128;

/// One row of the comparison. Lengths in tokens; everything is bf16.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// One causal prefill, heads 64/8.
    Prefill { len: usize },
    /// One prefill with images of 512 tokens that see themselves, evenly spread, heads 64/8.
    PrefillImages { len: usize, images: usize, window: Option<i32> },
    /// A token of each of `batch` separate caches.
    Decode { batch: usize, keys: usize, heads: (usize, usize) },
    /// A token of each of `n` agents over one prompt, with `own` tokens of their own, heads 32/8.
    Agents { n: usize, prompt: usize, own: usize },
    /// 64 agents on 4 branches of 4096 tokens over a prompt of 32768, heads 32/8.
    Tree,
    /// One reader of 64 agents' caches of 2048 tokens each, heads 32/8.
    Join,
    /// Norm, rotation and storage of `rows` tokens, heads 64/8.
    KvAppend { rows: usize },
    /// A draw for each of 64 rows of 200 000 logits.
    Sampling,
}

/// How softmax weights enter the second product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Exact,
    /// Rounded once, as the peers do.
    RoundedWeights,
}

impl Way {
    /// What rows say of it; nothing where weights are exact.
    pub fn name(self) -> Option<&'static str> {
        (self == Way::RoundedWeights).then_some("rounded_weights")
    }
}

impl Shape {
    pub fn all() -> Vec<Shape> {
        let mut all = Vec::new();
        for batch in [1, 8, 32, 128] {
            all.extend([1024, 8192, 32768].map(|keys| Shape::Decode { batch, keys, heads: (64, 8) }));
        }
        all.push(Shape::Decode { batch: 64, keys: 32768, heads: (32, 8) });
        for prompt in [512, 4096, 32768] {
            for own in [0, 512, 2048] {
                all.extend([1, 4, 16, 64, 256].map(|n| Shape::Agents { n, prompt, own }));
            }
        }
        all.extend([Shape::Tree, Shape::Join]);
        all.extend([64, 8192].map(|rows| Shape::KvAppend { rows }));
        all.push(Shape::Sampling);
        // What takes longest comes last, should time run out.
        all.extend([4096, 16384, 32768].map(|len| Shape::Prefill { len }));
        for len in [8192, 32768] {
            all.extend([None, Some(4096)].map(|window| Shape::PrefillImages { len, images: 8, window }));
        }
        all.push(Shape::PrefillImages { len: 32768, images: 20, window: None });
        all
    }

    /// The name, the same in every library's rows.
    pub fn name(&self) -> String {
        match *self {
            Shape::Prefill { len } => format!("prefill_causal_{len}"),
            Shape::PrefillImages { len, images, window } => {
                format!("prefill_images_{images}_{len}{}", window.map_or(String::new(), |w| format!("_window_{w}")))
            }
            Shape::Decode { batch, keys, heads: (64, 8) } => format!("decode_b{batch}_k{keys}"),
            Shape::Decode { batch, keys, heads: (q, kv) } => format!("decode_b{batch}_k{keys}_heads_{q}_{kv}"),
            Shape::Agents { n, prompt, own } => format!("agents_n{n}_p{prompt}_u{own}"),
            Shape::Tree => "tree_32768_4x4096_64".into(),
            Shape::Join => "join_64x2048".into(),
            Shape::KvAppend { rows } => format!("kv_append_{rows}"),
            Shape::Sampling => "sampling_64x200000".into(),
        }
    }

    /// Rounded weights save matrix products, so those shapes have them that such products bound, and their neighbours that
    /// bytes bound.
    pub fn ways(&self) -> &'static [Way] {
        let has_both = match *self {
            Shape::Prefill { .. } => true,
            Shape::PrefillImages { images, window, .. } => images == 8 && window.is_none(),
            Shape::Decode { batch, keys, .. } => keys == 8192 && matches!(batch, 1 | 32),
            Shape::Agents { n, prompt: 32768, own } => matches!((n, own), (1 | 64, 0) | (16 | 64, 512)),
            _ => false,
        };
        if has_both { &[Way::Exact, Way::RoundedWeights] } else { &[Way::Exact] }
    }

    fn heads(&self) -> (usize, usize) {
        match *self {
            Shape::Decode { heads, .. } => heads,
            Shape::Agents { .. } | Shape::Tree | Shape::Join => (32, 8),
            _ => (64, 8),
        }
    }
}

/// A shape with its memory, ready to be run again and again.
pub struct Ready {
    device: Device,
    work: Work,
    workspace: Workspace,
    /// Least bytes that a run reads and writes.
    pub bytes: u64,
    /// Multiplications and additions of visible pairs.
    pub flops: u64,
    /// K/V tiles that the plan loads.
    pub tiles: u64,
}

enum Work {
    Attention { scene: Box<Scene>, plan: Box<AttentionPlan>, memory: Box<Memory> },
    KvAppend { plan: Box<KvAppendPlan>, packed: Tensor, memory: Box<Memory> },
    Sampling { plan: Box<SamplingPlan>, logits: Tensor, out: Buffer },
}

struct Scene {
    spec: LayerSpec,
    cache: KvCache,
    rows: Vec<QueryRows>,
    /// Tokens that rows see, each counted once, and query-key pairs.
    distinct: u64,
    pairs: u64,
}

struct Memory {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    constants: LayerConstants,
}

/// A tensor of numbers between -1 and 1, written without a number ever being an f32.
fn noise(device: &Device, shape: &[usize]) -> Result<Tensor> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Sign, exponent of 2^-1 to 2^-4, mantissa.
        ((state >> 16) & 0x807f | (0x3f00 - ((state >> 9) & 3) * 0x80)) as u16
    };
    let block: Vec<u8> = (0..1 << 20).flat_map(|_| next().to_le_bytes()).collect();
    let buffer = Buffer::zeros(device, shape.iter().product::<usize>() * 2)?;
    for offset in (0..buffer.bytes()).step_by(block.len()) {
        buffer.write(offset, &block[..block.len().min(buffer.bytes() - offset)])?;
    }
    Tensor::new(buffer, DType::BF16, shape)
}

impl Scene {
    fn new(shape: &Shape, way: Way, scale: usize) -> Result<Scene> {
        let (q, kv) = shape.heads();
        let (bf16, rounded_weights) = (DType::BF16, way == Way::RoundedWeights);
        let mut spec = LayerSpec { rounded_weights, dtype: bf16, kv_dtype: bf16, ..LayerSpec::new(q, kv, HEAD_DIM) };
        let small = |n: usize| if n == 0 { 0 } else { (n / scale).max(1) };
        let triangle = |n: usize| (n * (n + 1) / 2) as u64;
        let tokens = match *shape {
            Shape::Prefill { len } | Shape::PrefillImages { len, .. } => small(len),
            Shape::Decode { batch, keys, .. } => batch * (small(keys) + PAGE_SIZE),
            Shape::Agents { n, prompt, own } => small(prompt) + n * (small(own) + 2 * PAGE_SIZE),
            Shape::Tree => small(32768) + 4 * small(4096) + 128 * PAGE_SIZE,
            Shape::Join => 64 * (small(2048) + PAGE_SIZE),
            Shape::KvAppend { .. } | Shape::Sampling => 0,
        };
        let mut cache = KvCache::new(PAGE_SIZE, tokens / PAGE_SIZE + 64)?;
        let mut rows: Vec<QueryRows> = Vec::new();
        let (mut distinct, mut pairs) = (0u64, 0u64);
        let root = cache.create();
        match *shape {
            Shape::Prefill { len } => {
                let len = small(len);
                rows.push(cache.append(root, Modality::Text, len)?.into());
                (distinct, pairs) = (len as u64, triangle(len));
            }
            Shape::PrefillImages { len, images, window } => {
                let (len, image) = (small(len), small(512).min(small(len) / images));
                let text = len / images - image;
                let death = window.map_or(Death::Never, |w| Death::WindowOrSpan(small(w as usize) as i32));
                let base = window.map_or(Lifetimes::causal(), |w| Lifetimes::window(small(w as usize) as i32));
                spec.lifetimes = base.with(Modality::Image, Birth::SpanStart, death);
                for _ in 0..images {
                    if text > 0 {
                        rows.push(cache.append(root, Modality::Text, text)?.into());
                    }
                    rows.push(cache.append(root, Modality::Image, image)?.into());
                }
                let total = images * (text + image);
                (distinct, pairs) = (total as u64, triangle(total) + images as u64 * triangle(image - 1));
                if let Some(w) = window.map(|w| small(w as usize)) {
                    // Without the images' sight beyond the window: a little less than what is computed.
                    pairs -= triangle(total.saturating_sub(w));
                }
            }
            Shape::Decode { batch, keys, .. } => {
                for _ in 0..batch {
                    let view = cache.create();
                    if small(keys) > 1 {
                        cache.append(view, Modality::Text, small(keys) - 1)?;
                    }
                    rows.push(cache.append(view, Modality::Text, 1)?.into());
                }
                distinct = (batch * small(keys)) as u64;
                pairs = distinct;
            }
            Shape::Agents { n, prompt, own } => {
                cache.append(root, Modality::Text, small(prompt))?;
                for agent in cache.fork_many(root, n)? {
                    if own > 0 {
                        cache.append(agent, Modality::Text, small(own))?;
                    }
                    rows.push(cache.append(agent, Modality::Text, 1)?.into());
                }
                let own = small(own) + 1;
                distinct = (small(prompt) + n * own) as u64;
                pairs = (n * (small(prompt) + own)) as u64;
            }
            Shape::Tree => {
                cache.append(root, Modality::Text, small(32768))?;
                for branch in cache.fork_many(root, 4)? {
                    cache.append(branch, Modality::Text, small(4096))?;
                    for leaf in cache.fork_many(branch, 16)? {
                        rows.push(cache.append(leaf, Modality::Text, 1)?.into());
                    }
                }
                distinct = (small(32768) + 4 * small(4096) + 64) as u64;
                pairs = 64 * (small(32768) + small(4096) + 1) as u64;
            }
            Shape::Join => {
                let agents = cache.fork_many(root, 64)?;
                for &agent in &agents {
                    cache.append(agent, Modality::Text, small(2048))?;
                }
                let reader = cache.join(&agents, Join::Parallel)?;
                rows.push(cache.append(reader, Modality::Text, 1)?.into());
                distinct = 64 * small(2048) as u64 + 1;
                pairs = distinct;
            }
            Shape::KvAppend { .. } | Shape::Sampling => {}
        }
        Ok(Scene { spec, cache, rows, distinct, pairs })
    }

    fn plan(&self, device: &Device) -> Result<AttentionPlan> {
        AttentionPlan::new(device, &AttentionProblem { spec: &self.spec, cache: &self.cache, rows: &self.rows })
    }
}

impl Memory {
    fn new(device: &Device, spec: &LayerSpec, rows: usize, pages: usize) -> Result<Memory> {
        let kv = [pages, spec.num_kv_heads, PAGE_SIZE, HEAD_DIM];
        Ok(Memory {
            q: noise(device, &[rows, spec.num_q_heads, HEAD_DIM])?,
            k: noise(device, &kv)?,
            v: noise(device, &kv)?,
            out: noise(device, &[rows, spec.num_q_heads, HEAD_DIM])?,
            constants: LayerConstants::new(device, spec, Default::default())?,
        })
    }
}

impl Ready {
    pub fn new(device: &Device, shape: &Shape, way: Way, scale: usize) -> Result<Ready> {
        let workspace = Workspace::new(device)?;
        let ready =
            |work, bytes: u64, flops, tiles| Ready { device: device.clone(), work, workspace, bytes, flops, tiles };
        match *shape {
            Shape::Sampling => {
                let (rows, vocab) = (64, 200_000 / scale);
                let row = |agent| SamplingRow { temperature: 0.8, top_p: 0.95, agent, ..Default::default() };
                let plan = SamplingPlan::new(
                    device,
                    &SamplingProblem {
                        logits_dtype: DType::BF16,
                        rows: (0..rows as u32).map(row).collect(),
                        vocab,
                        output_multiplier: 1.0,
                        soft_cap: None,
                        seed: 1,
                    },
                )?;
                let logits = noise(device, &[rows, vocab])?;
                let out = Buffer::zeros(device, SamplingOutput::bytes(rows))?;
                let bytes = 2 * rows * vocab;
                Ok(ready(Work::Sampling { plan: Box::new(plan), logits, out }, bytes as u64, 0, 0))
            }
            Shape::KvAppend { rows } => {
                let rows = (rows / scale).max(1);
                let (q, kv) = shape.heads();
                let spec = LayerSpec {
                    dtype: DType::BF16,
                    kv_dtype: DType::BF16,
                    rope: Some(Rope::plain(HEAD_DIM, 1e4, Pairing::Half)),
                    q_norm: Norm::Rms { eps: 1e-6 },
                    k_norm: Norm::Rms { eps: 1e-6 },
                    ..LayerSpec::new(q, kv, HEAD_DIM)
                };
                let pages = rows.div_ceil(PAGE_SIZE);
                let places: Vec<u32> = (0..rows as u32).collect();
                let positions: Vec<[i32; 4]> = (0..rows as i32).map(|p| [p, 0, 0, 0]).collect();
                let layout = spec.packed();
                let plan = KvAppendPlan::new(
                    device,
                    &KvAppendProblem {
                        spec: &spec,
                        layout,
                        page_size: PAGE_SIZE,
                        num_pages: pages,
                        places: &places,
                        positions: &positions,
                    },
                )?;
                let memory = Memory::new(device, &spec, rows, pages)?;
                let packed = noise(device, &[rows, layout.width])?;
                let bytes = 2 * 2 * rows * layout.width;
                let work = Work::KvAppend { plan: Box::new(plan), packed, memory: Box::new(memory) };
                Ok(ready(work, bytes as u64, 0, 0))
            }
            _ => {
                let scene = Scene::new(shape, way, scale)?;
                let plan = scene.plan(device)?;
                let memory = Memory::new(device, &scene.spec, plan.num_rows(), scene.cache.num_pages())?;
                let spec = &scene.spec;
                let kv = scene.distinct * (spec.num_kv_heads * HEAD_DIM * 2 * 2) as u64;
                let rows = (plan.num_rows() * spec.num_q_heads * HEAD_DIM * 2 * 2) as u64;
                let flops = 4 * scene.pairs * (spec.num_q_heads * HEAD_DIM) as u64;
                let tiles = plan.stats().tiles_loaded;
                let work = Work::Attention { scene: Box::new(scene), plan: Box::new(plan), memory: Box::new(memory) };
                Ok(ready(work, kv + rows, flops, tiles))
            }
        }
    }

    pub fn run(&mut self) -> Result<()> {
        match &self.work {
            Work::Attention { plan, memory: m, .. } => {
                let (q, k, v, constants, out) = (&m.q, &m.k, &m.v, &m.constants, &m.out);
                plan.run(
                    &AttentionArgs { q, k, v, constants, selection: None, gate: None, out, lse: None },
                    &mut self.workspace,
                )
            }
            Work::KvAppend { plan, packed, memory: m } => {
                let (q, k, v, constants) = (&m.q, &m.k, &m.v, &m.constants);
                plan.run(&KvAppendArgs { packed, constants, q, k, v }, &mut self.workspace)
            }
            Work::Sampling { plan, logits, out } => plan.run(&SamplingArgs { logits, out }, &mut self.workspace),
        }
    }

    /// Kernels of one run.
    pub fn launches(&mut self) -> Result<u64> {
        let before = self.device.launches();
        self.run()?;
        Ok(self.device.launches() - before)
    }

    /// Median time of the host's planning in microseconds; 0 where a plan is no arithmetic of views.
    pub fn plan_us(&self) -> Result<f64> {
        let Work::Attention { scene, .. } = &self.work else { return Ok(0.0) };
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            scene.plan(&self.device)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[2])
    }

    pub fn describe(&self) -> String {
        match &self.work {
            Work::Attention { plan, .. } => plan.to_string(),
            Work::KvAppend { plan, .. } => plan.to_string(),
            Work::Sampling { plan, .. } => plan.to_string(),
        }
    }
}
