//! Draws per second over vocabularies of real size. `rows x vocab`, bf16 logits, with and without truncation.

use std::time::Duration;

use colatent::sampling::{SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, DType, Device, Tensor, Workspace};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn sampling(c: &mut Criterion) {
    let device = Device::detect();
    let mut group = c.benchmark_group("sampling");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    for (name, rows, vocab) in [("16x32k", 16, 32_768), ("64x200k", 64, 200_000)] {
        // A fixed multiplicative sequence: values in -8..8 in no order.
        let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 20) as f32 - 8.0;
        let values: Vec<f32> = (0..rows * vocab).map(value).collect();
        let logits = Tensor::from_f32(&device, DType::BF16, &[rows, vocab], &values).expect("memory for the logits");
        let out = Buffer::zeros(&device, SamplingOutput::bytes(rows)).expect("memory for the output");
        let plain = SamplingRow { temperature: 0.8, ..SamplingRow::default() };
        for (kind, row) in [("plain", plain), ("top-k and top-p", SamplingRow { top_k: 50, top_p: 0.9, ..plain })] {
            let problem = SamplingProblem {
                logits_dtype: DType::BF16,
                rows: (0..rows as u32).map(|agent| SamplingRow { agent, ..row }).collect(),
                vocab,
                output_multiplier: 1.0,
                soft_cap: None,
                seed: 1,
            };
            let plan = SamplingPlan::new(&device, &problem).expect("a valid problem");
            let mut workspace = Workspace::new(&device).expect("an empty workspace");
            group.throughput(Throughput::Bytes((rows * vocab * DType::BF16.size()) as u64));
            group.bench_function(BenchmarkId::new(name, kind), |b| {
                b.iter(|| {
                    plan.run(&SamplingArgs { logits: &logits, out: &out }, &mut workspace).expect("a run");
                    device.synchronize().expect("a device that lives");
                })
            });
        }
    }
    group.finish();
}

criterion_group!(benches, sampling);
criterion_main!(benches);
