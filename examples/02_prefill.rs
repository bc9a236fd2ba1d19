//! 2 of 4: prefill of a mixed stream: text, an image that sees itself as a whole, text. Two launches, no mask tensor.
//!
//! What may see what is a row of the layer kind's table: modality -> (birth, death). The image's keys are born at the
//! image's first slot, so its patches see each other in both directions while text stays causal. The plan is host
//! arithmetic: it can be printed, and it counts the K/V tiles before anything runs.
//!
//! ```text
//! cargo run --example 02_prefill
//! ```

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Birth, Death, KvCache, Lifetimes, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, Norm};
use colatent::{DType, Device, Result, Tensor, Workspace};

const PAGE_SIZE: usize = 16;

/// Deterministic numbers in -1..1.
fn values(n: usize, salt: u32) -> Vec<f32> {
    let bits = |i: u32| i.wrapping_add(salt).wrapping_mul(2_654_435_761) >> 8;
    (0..n as u32).map(|i| bits(i) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// Runs the prefill on a device and returns the output `[rows, heads * lanes]`.
fn prefill(device: &Device, spec: &LayerSpec) -> Result<Vec<f32>> {
    // The stream: three spans, one view. An append makes room and says at which slots and positions.
    let mut cache = KvCache::new(PAGE_SIZE, 16)?;
    let view = cache.create();
    let spans = [(Modality::Text, 20), (Modality::Image, 64), (Modality::Text, 36)];
    let (mut rows, mut places, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for (modality, len) in spans {
        let appended = cache.append(view, modality, len)?;
        cache.write_places(&appended, &mut places)?;
        // Four axes per token; this layer's rotation uses the first. An image with (t, h, w) positions would use three
        // and `append_at`, which says where text goes on.
        positions.extend((0..len as i32).map(|i| [appended.first_position + i, 0, 0, 0]));
        rows.push(QueryRows::from(appended));
    }
    let n = places.len();

    // The fused projection's output, one row per token: q, k and v one behind the other. An engine computes it.
    let (heads, kv_heads, lanes) = (spec.num_q_heads, spec.num_kv_heads, spec.head_dim);
    let layout = spec.packed();
    let packed = Tensor::from_f32(device, spec.dtype, &[n, layout.width], &values(n * layout.width, 1))?;
    let constants = LayerConstants::new(device, spec, Default::default())?;
    let q = Tensor::zeros(device, spec.dtype, &[n, heads, lanes])?;
    let pool = || Tensor::zeros(device, spec.kv_dtype, &[cache.num_pages(), kv_heads, PAGE_SIZE, lanes]);
    let (k, v) = (pool()?, pool()?);

    // First launch: split, norm, rotate, round, store into the pages.
    let problem = KvAppendProblem {
        spec,
        layout,
        page_size: PAGE_SIZE,
        num_pages: cache.num_pages(),
        places: &places,
        positions: &positions,
    };
    let append = KvAppendPlan::new(device, &problem)?;
    println!("{append}");
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
    append.run(&args, &mut Workspace::new(device)?)?;

    // Second: every row attends. On a GPU device this is the work list and its merge.
    let out = Tensor::zeros(device, spec.dtype, &[n, heads, lanes])?;
    let plan = AttentionPlan::new(device, &AttentionProblem { spec, cache: &cache, rows: &rows })?;
    println!("{plan}");
    let args =
        AttentionArgs { q: &q, k: &k, v: &v, constants: &constants, selection: None, gate: None, out: &out, lse: None };
    plan.run(&args, &mut Workspace::new(device)?)?;
    out.read_f32()
}

fn main() -> Result<()> {
    let device = Device::detect();
    let causal = LayerSpec {
        q_norm: Norm::Rms { eps: 1e-5 },
        k_norm: Norm::Rms { eps: 1e-5 },
        kv_dtype: DType::BF16,
        ..LayerSpec::llama(8, 2, 64, 1e4)
    };
    let spec = LayerSpec {
        lifetimes: Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never),
        ..causal.clone()
    };
    let got = prefill(&device, &spec)?;

    // The definition agrees. K is rounded to bf16 after arithmetic that may fall on either side of a tie, so the
    // allowance is that of bf16.
    let tolerance = spec.kv_dtype.tolerance();
    let want = prefill(&Device::reference(), &spec)?;
    assert!(got.iter().zip(&want).all(|(&g, &w)| tolerance.accepts(g, w)), "the device agrees with the definition");

    // Row 20 is the image's first patch. Seeing the patches after it changes its output; text before the image and the
    // image's last patch see the same under both tables.
    let plain = prefill(&device, &causal)?;
    let differs = |row: usize| got.chunks(8 * 64).nth(row) != plain.chunks(8 * 64).nth(row);
    println!("rows that a bidirectional image changes: {:?}", (0..120).filter(|&r| differs(r)).collect::<Vec<_>>());
    assert!(!differs(19) && differs(20) && !differs(84));
    Ok(())
}
