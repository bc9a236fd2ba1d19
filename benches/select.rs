//! Keys chosen per second: 64 index heads of 128 lanes, 2048 tokens of each row's view, bf16.

use std::time::Duration;

use colatent::attention::QueryRows;
use colatent::kv::{KvCache, Lifetimes, Modality};
use colatent::select::{SelectArgs, SelectPlan, SelectProblem, SelectSpec};
use colatent::{Buffer, DType, Device, Tensor, Workspace};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn select(c: &mut Criterion) {
    let device = Device::detect();
    let mut group = c.benchmark_group("select");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    for (name, tokens, block) in [("tokens/8k", 8192, 1), ("blocks of 64/8k", 8192, 64)] {
        let (heads, dim, page_size, rows) = (64, 128, 64, 4);
        let spec = SelectSpec {
            heads,
            dim,
            count: 2048 / block,
            block,
            lifetimes: Lifetimes::causal(),
            dtype: DType::BF16,
            k_dtype: DType::BF16,
        };
        let mut cache = KvCache::new(page_size, tokens / page_size).expect("a pool");
        let view = cache.create();
        cache.append(view, Modality::Text, tokens).expect("room");
        let rows = [QueryRows { view, first_slot: (tokens - rows) as i32, len: rows as u32, gap: None }];
        let plan =
            SelectPlan::new(&device, &SelectProblem { spec: &spec, cache: &cache, rows: &rows }).expect("a plan");
        // A fixed multiplicative sequence: values in -8..8 in no order.
        let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 20) as f32 - 8.0;
        let tensor = |dtype, shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
            Tensor::from_f32(&device, dtype, shape, &values).expect("memory")
        };
        let n = plan.num_rows();
        let (q, k) = (tensor(DType::BF16, &[n, heads, dim]), tensor(DType::BF16, &[cache.num_pages(), page_size, dim]));
        let weights = tensor(DType::F32, &[n, heads]);
        let selection = Buffer::zeros(&device, n * plan.words() * 4).expect("memory");
        let mut workspace = Workspace::new(&device).expect("an empty workspace");
        group.throughput(Throughput::Elements((n * tokens) as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let args = SelectArgs { q: &q, k: &k, weights: &weights, selection: &selection };
                plan.run(&args, &mut workspace).expect("a run");
                device.synchronize().expect("a device that lives");
            })
        });
    }
    group.finish();
}

criterion_group!(benches, select);
criterion_main!(benches);
