//! kv_append on every device: named shapes, time per call with the wait for the device, bytes moved as throughput.

use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, Norm};
use colatent::{DType, Device, Tensor, Workspace};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Name, rows, query heads, KV heads, head dim.
const SHAPES: &[(&str, usize, usize, usize, usize)] =
    &[("decode_64", 64, 32, 8, 128), ("prefill_512", 512, 32, 8, 128)];

const PAGE_SIZE: usize = 16;

fn bench(c: &mut Criterion) {
    let mut devices = vec![Device::reference()];
    #[cfg(feature = "webgpu")]
    devices.extend(Device::webgpu());
    for &(name, rows, heads, kv_heads, dim) in SHAPES {
        let spec = LayerSpec {
            q_norm: Norm::Rms { eps: 1e-5 },
            k_norm: Norm::Rms { eps: 1e-5 },
            dtype: DType::F16,
            kv_dtype: DType::F16,
            ..LayerSpec::llama(heads, kv_heads, dim, 5e5)
        };
        let layout = spec.packed();
        let pages = rows.div_ceil(PAGE_SIZE);
        let places: Vec<u32> = (0..rows as u32).collect();
        let positions: Vec<[i32; 4]> = (0..rows as i32).map(|p| [p, 0, 0, 0]).collect();
        let mut group = c.benchmark_group(format!("kv_append/{name}"));
        group.sample_size(20).throughput(Throughput::Bytes((2 * rows * layout.width * spec.dtype.size()) as u64));
        for device in &devices {
            let problem = KvAppendProblem {
                spec: &spec,
                layout,
                page_size: PAGE_SIZE,
                num_pages: pages,
                places: &places,
                positions: &positions,
            };
            let plan = KvAppendPlan::new(device, &problem).expect("a valid problem");
            let constants = LayerConstants::new(device, &spec, Default::default()).expect("no weights are needed");
            let tensor = |dtype, shape: &[usize]| Tensor::zeros(device, dtype, shape).expect("memory");
            let values: Vec<f32> = (0..rows * layout.width).map(|i| (i % 97) as f32 / 48.0 - 1.0).collect();
            let packed = tensor(spec.dtype, &[rows, layout.width]);
            packed.write_f32(&values).expect("as many values as elements");
            let q = tensor(spec.dtype, &[rows, heads, dim]);
            let k = tensor(spec.kv_dtype, &[pages, kv_heads, PAGE_SIZE, dim]);
            let v = tensor(spec.kv_dtype, &[pages, kv_heads, PAGE_SIZE, dim]);
            let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
            let mut workspace = Workspace::new(device).expect("memory");
            group.bench_function(device.kind(), |b| {
                b.iter(|| {
                    plan.run(&args, &mut workspace).expect("a run");
                    device.synchronize().expect("the device");
                })
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
