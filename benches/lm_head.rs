//! The last projection with its draw, beside a copy of the weight's bytes: the floor is one read of the weight, two with a
//! top-k.

use std::time::Duration;

use colatent::lm_head::{LmHeadArgs, LmHeadPlan, LmHeadProblem};
use colatent::sampling::{SamplingOutput, SamplingRow};
use colatent::{Buffer, DType, Device, Tensor, Workspace};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Name, rows, width, vocabulary.
const SHAPES: &[(&str, usize, usize, usize)] = &[("1x512x32k", 1, 512, 32_768), ("16x512x32k", 16, 512, 32_768)];

fn lm_head(c: &mut Criterion) {
    let device = Device::detect();
    let mut group = c.benchmark_group("lm_head");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    for &(name, rows, width, vocab) in SHAPES {
        let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let tensor = |rows: usize| {
            let values: Vec<f32> = (0..rows * width).map(value).collect();
            Tensor::from_f32(&device, DType::BF16, &[rows, width], &values).expect("memory")
        };
        let (hidden, weight) = (tensor(rows), tensor(vocab));
        let out = Buffer::zeros(&device, SamplingOutput::bytes(rows)).expect("memory for the output");
        let plain = SamplingRow { temperature: 0.8, ..SamplingRow::default() };
        let confidence = SamplingRow { confidence: 20, ..plain };
        for (kind, row) in
            [("plain", plain), ("confidence", confidence), ("top-k", SamplingRow { top_k: 50, ..confidence })]
        {
            let problem = LmHeadProblem {
                hidden_dtype: DType::BF16,
                weight_dtype: DType::BF16,
                rows: (0..rows as u32).map(|agent| SamplingRow { agent, ..row }).collect(),
                width,
                vocab,
                output_multiplier: 1.0,
                soft_cap: None,
                seed: 1,
            };
            let plan = LmHeadPlan::new(&device, &problem).expect("a valid problem");
            let mut workspace = Workspace::new(&device).expect("an empty workspace");
            group.throughput(Throughput::Bytes(weight.buffer().bytes() as u64));
            group.bench_function(BenchmarkId::new(name, kind), |b| {
                b.iter(|| {
                    let args = LmHeadArgs { hidden: &hidden, weight: &weight, out: &out };
                    plan.run(&args, &mut workspace).expect("a run");
                    device.synchronize().expect("a device that lives");
                })
            });
        }
        let copy = Buffer::zeros(&device, weight.buffer().bytes()).expect("memory");
        group.bench_function(BenchmarkId::new(name, "copy of the weight"), |b| {
            b.iter(|| {
                copy.copy_from(weight.buffer()).expect("a copy");
                device.synchronize().expect("a device that lives");
            })
        });
    }
    group.finish();
}

criterion_group!(benches, lm_head);
criterion_main!(benches);
