//! 1 of 4: an attention state is `(out, lse)`, and states over disjoint keys merge exactly.
//!
//! Everything else in this crate rests on that: keys may be cut anywhere (into splits, segments, agents, devices), each
//! part attended alone, and the parts put together afterwards. Here one query attends to 100 keys in three ways, as
//! three rows of one launch: to all of them, to the first half, to the second half. Then the halves are merged.
//!
//! ```text
//! cargo run --example 01_merge_states
//! ```

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Device, Result, Tensor, Workspace};

const PAGE_SIZE: usize = 16;
const KEYS: i32 = 100;

/// Deterministic numbers in -1..1.
fn values(n: usize, salt: u32) -> Vec<f32> {
    let bits = |i: u32| i.wrapping_add(salt).wrapping_mul(2_654_435_761) >> 8;
    (0..n as u32).map(|i| bits(i) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

fn main() -> Result<()> {
    let device = Device::detect();
    println!("device: {device}");
    // 4 query heads over 2 KV heads of 32 lanes, causal, f32, no norms and no rotation.
    let spec = LayerSpec::new(4, 2, 32);
    let (heads, lanes) = (spec.num_q_heads, spec.head_dim);

    // The book-keeping: 100 tokens of text. The pages' contents are ours to write; here they are just numbers.
    let mut cache = KvCache::new(PAGE_SIZE, 8)?;
    let view = cache.create();
    cache.append(view, Modality::Text, KEYS as usize)?;
    let pages = [cache.num_pages(), spec.num_kv_heads, PAGE_SIZE, lanes];
    let k = Tensor::from_f32(&device, DType::F32, &pages, &values(pages.iter().product(), 1))?;
    let v = Tensor::from_f32(&device, DType::F32, &pages, &values(pages.iter().product(), 2))?;

    // Three rows at the same slot with the same query: a gap hides slots that the row would otherwise see.
    let row = |gap| QueryRows { view, first_slot: KEYS - 1, len: 1, gap };
    let rows = [row(None), row(Some(KEYS / 2..KEYS)), row(Some(0..KEYS / 2))];
    let query = values(heads * lanes, 3);
    let q = Tensor::from_f32(&device, DType::F32, &[3, heads, lanes], &query.repeat(3))?;
    let out = Tensor::zeros(&device, DType::F32, &[3, heads, lanes])?;
    let lse = Tensor::zeros(&device, DType::F32, &[3, heads])?;
    let constants = LayerConstants::new(&device, &spec, Default::default())?;
    let plan = AttentionPlan::new(&device, &AttentionProblem { spec: &spec, cache: &cache, rows: &rows })?;
    println!("{plan}");
    let args = AttentionArgs {
        q: &q,
        k: &k,
        v: &v,
        constants: &constants,
        selection: None,
        gate: None,
        out: &out,
        lse: Some(&lse),
    };
    // A workspace holds the tables of one plan; each plan that is in use at the same time has its own.
    plan.run(&args, &mut Workspace::new(&device)?)?;

    // States 1 and 2 into one row. A layer with sinks or an output norm would leave those to this merge: they must be
    // applied once, to the whole.
    let merged = Tensor::zeros(&device, DType::F32, &[1, heads, lanes])?;
    let merged_lse = Tensor::zeros(&device, DType::F32, &[1, heads])?;
    let problem = MergeProblem { spec: &spec, indptr: &[0, 2], index: &[1, 2], num_states: 3 };
    let merge = MergePlan::new(&device, &problem)?;
    println!("{merge}");
    let args = MergeArgs {
        states: &out,
        state_lse: &lse,
        constants: &constants,
        gate: None,
        out: &merged,
        lse: Some(&merged_lse),
    };
    merge.run(&args, &mut Workspace::new(&device)?)?;

    let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let (all, halves) = (out.read_f32()?, merged.read_f32()?);
    let (all_lse, halves_lse) = (lse.read_f32()?, merged_lse.read_f32()?);
    println!("lse of the whole {:?}, of the merged halves {:?}", &all_lse[..heads], halves_lse);
    let error = worst(&all[..heads * lanes], &halves).max(worst(&all_lse[..heads], &halves_lse));
    println!("worst difference {error:.1e}");
    assert!(error < 1e-5, "a state merged from parts is the state of the whole");
    Ok(())
}
