//! rebase on every device: named shapes, time per call with the wait for the device, bytes moved as throughput, beside a
//! copy of as many bytes.

use colatent::kv::Rebased;
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::rebase::{RebaseArgs, RebasePlan, RebaseProblem};
use colatent::{Buffer, DType, Device, Tensor, Workspace};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Name, tokens, KV heads, head dim.
const SHAPES: &[(&str, usize, usize, usize)] = &[("thought_512", 512, 8, 128), ("thought_4096", 4096, 8, 128)];

const PAGE_SIZE: usize = 16;

fn bench(c: &mut Criterion) {
    let mut devices = vec![Device::reference()];
    #[cfg(feature = "webgpu")]
    devices.extend(Device::webgpu());
    for &(name, tokens, heads, dim) in SHAPES {
        let spec = LayerSpec { kv_dtype: DType::BF16, ..LayerSpec::llama(4 * heads, heads, dim, 5e5) };
        let num_pages = tokens.div_ceil(PAGE_SIZE);
        let runs = [Rebased { places: (0..tokens as u32).collect(), shift: [1000, 0, 0, 0] }];
        let mut group = c.benchmark_group(format!("rebase/{name}"));
        let bytes = tokens * heads * dim * spec.kv_dtype.size();
        group.sample_size(10).throughput(Throughput::Bytes(2 * bytes as u64));
        for device in &devices {
            let problem = RebaseProblem { spec: &spec, page_size: PAGE_SIZE, num_pages, runs: &runs, has_delta: false };
            let plan = RebasePlan::new(device, &problem).expect("a valid problem");
            let constants = LayerConstants::new(device, &spec, Default::default()).expect("no weights are needed");
            let k = Tensor::zeros(device, spec.kv_dtype, &[num_pages, heads, PAGE_SIZE, dim]).expect("memory");
            let values: Vec<f32> = (0..k.len()).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
            k.write_f32(&values).expect("as many values as elements");
            let args = RebaseArgs { k: &k, constants: &constants, delta: None };
            let mut workspace = Workspace::new(device).expect("memory");
            group.bench_function(device.kind(), |b| {
                b.iter(|| {
                    plan.run(&args, &mut workspace).expect("a run");
                    device.synchronize().expect("the device");
                })
            });
            let copy = Buffer::zeros(device, k.buffer().bytes()).expect("memory");
            group.bench_function(format!("{} copy", device.kind()), |b| {
                b.iter(|| {
                    copy.copy_from(k.buffer()).expect("a copy");
                    device.synchronize().expect("the device");
                })
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
