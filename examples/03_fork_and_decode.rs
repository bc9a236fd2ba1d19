//! 3 of 4: agents fork from one prompt and decode side by side; then their caches are joined.
//!
//! A fork copies a list of segments and no byte of K or V. Each step is one launch of each operation whoever takes
//! part, and the prompt's tiles are loaded once for all agents instead of once for each. An agent's output has the same
//! bits alone and among its siblings.
//!
//! ```text
//! cargo run --example 03_fork_and_decode
//! ```

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Appended, Join, KvCache, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::{Device, Result, Tensor, Workspace};

const PAGE_SIZE: usize = 16;
const AGENTS: usize = 8;

/// One layer's memory, and the device it lies on.
struct Layer {
    device: Device,
    spec: LayerSpec,
    constants: LayerConstants,
    k: Tensor,
    v: Tensor,
}

/// Numbers in -1..1 that depend on view and slot alone: in a model the token decides them.
fn token(a: &Appended, i: u32, width: usize) -> impl Iterator<Item = f32> {
    let salt = format!("{:?}", a.view).bytes().fold(a.first_slot as u32 + i, |h, b| h.wrapping_mul(31) + u32::from(b));
    (0..width as u32).map(move |d| {
        ((d ^ salt.wrapping_mul(0x9e37)).wrapping_mul(2_654_435_761) >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    })
}

impl Layer {
    fn rows(&self, n: usize) -> Result<Tensor> {
        Tensor::zeros(&self.device, self.spec.dtype, &[n, self.spec.num_q_heads, self.spec.head_dim])
    }

    /// Stores the K and V of everything appended, whoever appended it, and attends with all of it.
    fn step(&self, cache: &KvCache, appended: &[Appended]) -> Result<(AttentionPlan, Vec<f32>)> {
        let layout = self.spec.packed();
        let (mut places, mut positions, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        for a in appended {
            cache.write_places(a, &mut places)?;
            for i in 0..a.len {
                positions.push([a.first_position + i as i32, 0, 0, 0]);
                packed.extend(token(a, i, layout.width));
            }
        }
        let n = places.len();
        let packed = Tensor::from_f32(&self.device, self.spec.dtype, &[n, layout.width], &packed)?;
        let (q, out, Layer { constants, k, v, .. }) = (self.rows(n)?, self.rows(n)?, self);
        let problem = KvAppendProblem {
            spec: &self.spec,
            layout,
            page_size: PAGE_SIZE,
            num_pages: cache.num_pages(),
            places: &places,
            positions: &positions,
        };
        let args = KvAppendArgs { packed: &packed, constants, q: &q, k, v };
        KvAppendPlan::new(&self.device, &problem)?.run(&args, &mut Workspace::new(&self.device)?)?;

        let rows: Vec<QueryRows> = appended.iter().map(|&a| a.into()).collect();
        let plan = AttentionPlan::new(&self.device, &AttentionProblem { spec: &self.spec, cache, rows: &rows })?;
        let args = AttentionArgs { q: &q, k, v, constants, selection: None, gate: None, out: &out, lse: None };
        plan.run(&args, &mut Workspace::new(&self.device)?)?;
        Ok((plan, out.read_f32()?))
    }
}

fn main() -> Result<()> {
    let device = Device::detect();
    let spec = LayerSpec::llama(8, 2, 32, 1e4);
    let mut cache = KvCache::new(PAGE_SIZE, 64)?;
    let pool = || Tensor::zeros(&device, spec.kv_dtype, &[64, spec.num_kv_heads, PAGE_SIZE, spec.head_dim]);
    let constants = LayerConstants::new(&device, &spec, Default::default())?;
    let layer = Layer { k: pool()?, v: pool()?, constants, device: device.clone(), spec };

    let root = cache.create();
    let prompt = cache.append(root, Modality::Text, 300)?;
    layer.step(&cache, &[prompt])?;
    let before = cache.used_pages();
    let agents = cache.fork_many(root, AGENTS)?;
    assert_eq!(cache.used_pages(), before, "a fork takes no page");

    for step in 0..4 {
        let mut appended = Vec::new();
        for &agent in &agents {
            appended.push(cache.append(agent, Modality::Text, 1)?);
        }
        let (plan, all) = layer.step(&cache, &appended)?;
        println!("step {step}: {plan}");
        // The same row once more, alone in its launch. It writes the same K and V to the same places.
        let (_, alone) = layer.step(&cache, &appended[3..4])?;
        let width = alone.len();
        assert_eq!(alone, all[3 * width..4 * width], "siblings change no bit");
    }

    // The synthesiser sees what everyone saw: shared tokens once, positions kept.
    let joined = cache.join(&agents, Join::Parallel)?;
    println!("joined view: {} tokens in {} entries", cache.view(joined)?.len(), cache.view(joined)?.entries().len());
    let word = cache.append(joined, Modality::Text, 1)?;
    layer.step(&cache, &[word])?;
    println!("{} tokens held, {} seen", cache.tokens_shared(&agents)?, cache.tokens_unshared(&agents)?);
    Ok(())
}
