//! Named scenes of the benchmarks: f32, heads 8/2, d 64, pages of 16.
#![allow(dead_code)] // every bench uses its own part of it

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Birth, Death, KvCache, Lifetimes, Modality};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::{DType, Device, Steps, Tensor, Workspace};

/// Tokens per page.
pub const PAGE_SIZE: usize = 16;

/// A cache with query rows in it, and the layer kind that attends.
pub struct Scene {
    /// The layer kind.
    pub spec: LayerSpec,
    /// The cache.
    pub cache: KvCache,
    /// The rows.
    pub rows: Vec<QueryRows>,
    /// Query-key pairs that are seen, over all query heads: 4 * dim flops each.
    pub pairs: u64,
}

impl Scene {
    /// Names in the order of the report.
    pub const NAMES: [&str; 10] = [
        "prefill_text_256",
        "prefill_text_512",
        "prefill_text_1024",
        "prefill_window_1024_of_128",
        "prefill_mixed_512",
        "decode_1",
        "agents_16",
        "agents_16_unshared",
        "agents_64",
        "agents_64_unshared",
    ];

    /// Builds a scene by name.
    pub fn new(name: &str) -> Scene {
        let mut spec = LayerSpec::new(8, 2, 64);
        let mut cache = KvCache::new(PAGE_SIZE, 4096).expect("a pool");
        let mut rows = Vec::new();
        let mut pairs = 0u64;
        let triangle = |n: u64| n * (n + 1) / 2;
        match name {
            _ if name.starts_with("prefill_text_") || name.starts_with("prefill_window_") => {
                let n: u64 = name.split('_').nth(2).and_then(|n| n.parse().ok()).expect("a length in the name");
                let view = cache.create();
                rows.push(cache.append(view, Modality::Text, n as usize).expect("room").into());
                pairs = triangle(n);
                if name.contains("window") {
                    spec.lifetimes = Lifetimes::window(n as i32 / 8);
                    pairs = triangle(n) - triangle(n - n / 8);
                }
            }
            "prefill_mixed_512" => {
                // Text, an image of 128 seen as a whole, text, the image again, text.
                spec.lifetimes = Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never);
                let view = cache.create();
                for (modality, n) in [
                    (Modality::Text, 64),
                    (Modality::Image, 128),
                    (Modality::Text, 64),
                    (Modality::Image, 128),
                    (Modality::Text, 128),
                ] {
                    rows.push(cache.append(view, modality, n).expect("room").into());
                }
                pairs = triangle(512) + 2 * triangle(127);
            }
            "decode_1" => {
                let view = cache.create();
                cache.append(view, Modality::Text, 2047).expect("room");
                rows.push(cache.append(view, Modality::Text, 1).expect("room").into());
                pairs = 2048;
            }
            _ => {
                let (n, prompt, own) = if name.contains("64") { (64, 512, 16) } else { (16, 2048, 32) };
                let root = cache.create();
                cache.append(root, Modality::Text, prompt).expect("room");
                for _ in 0..n {
                    let view = if name.contains("unshared") {
                        let view = cache.create();
                        cache.append(view, Modality::Text, prompt).expect("room");
                        view
                    } else {
                        cache.fork(root).expect("a child")
                    };
                    cache.append(view, Modality::Text, own - 1).expect("room");
                    rows.push(cache.append(view, Modality::Text, 1).expect("room").into());
                    pairs += (prompt + own) as u64;
                }
            }
        }
        pairs *= spec.num_q_heads as u64;
        Scene { spec, cache, rows, pairs }
    }

    /// The plan of the scene on a device.
    pub fn plan(&self, device: &Device) -> AttentionPlan {
        let problem = AttentionProblem { spec: &self.spec, cache: &self.cache, rows: &self.rows };
        AttentionPlan::new(device, &problem).expect("a valid scene")
    }

    /// The plan of all steps that the counter has room for.
    pub fn plan_over(&self, device: &Device, steps: &Steps) -> AttentionPlan {
        let problem = AttentionProblem { spec: &self.spec, cache: &self.cache, rows: &self.rows };
        AttentionPlan::over(device, &problem, steps).expect("a valid scene")
    }

    /// Flops of the two products over the pairs that are seen.
    pub fn flops(&self) -> u64 {
        4 * self.spec.head_dim as u64 * self.pairs
    }
}

/// Everything one call needs, ready to run again and again.
pub struct Ready {
    device: Device,
    plan: AttentionPlan,
    tensors: [Tensor; 4],
    constants: LayerConstants,
    workspace: Workspace,
}

impl Ready {
    /// Allocates and fills.
    pub fn new(device: &Device, scene: &Scene) -> Ready {
        Ready::with(device, scene, scene.plan(device))
    }

    /// The same for a plan of the scene.
    pub fn with(device: &Device, scene: &Scene, plan: AttentionPlan) -> Ready {
        let spec = &scene.spec;
        let fill = |shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            let values: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0).collect();
            Tensor::from_f32(device, DType::F32, shape, &values).expect("memory")
        };
        let rows = [plan.num_rows(), spec.num_q_heads, spec.head_dim];
        let pages = [scene.cache.num_pages(), spec.num_kv_heads, PAGE_SIZE, spec.head_dim];
        Ready {
            tensors: [fill(&rows), fill(&pages), fill(&pages), fill(&rows)],
            constants: LayerConstants::new(device, spec, Default::default()).expect("no weights are needed"),
            workspace: Workspace::new(device).expect("memory"),
            device: device.clone(),
            plan,
        }
    }

    /// Queries, pages of K, pages of V and the output, for a peer that is given the same numbers.
    pub fn tensors(&self) -> &[Tensor; 4] {
        &self.tensors
    }

    /// Runs once and waits.
    pub fn run(&mut self) {
        let [q, k, v, out] = &self.tensors;
        let args = AttentionArgs { q, k, v, constants: &self.constants, selection: None, gate: None, out, lse: None };
        self.plan.run(&args, &mut self.workspace).expect("a run");
        self.device.synchronize().expect("the device");
    }
}
