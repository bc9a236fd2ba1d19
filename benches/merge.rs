//! Merging partial states on the WebGPU device, the wait included.

use colatent::layer::{LayerConstants, LayerSpec};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Device, Tensor, Workspace};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn bench(c: &mut Criterion) {
    let Ok(device) = Device::webgpu() else {
        eprintln!("SKIPPED: no WebGPU adapter");
        return;
    };
    let mut group = c.benchmark_group("merge");
    group.sample_size(15);
    for (name, rows, states) in [("64_rows_of_5", 64, 5), ("512_rows_of_1", 512, 1), ("1024_rows_of_1", 1024, 1)] {
        let spec = LayerSpec::new(8, 2, 64);
        let indptr: Vec<u32> = (0..=rows).map(|r| r * states).collect();
        let index: Vec<u32> = (0..rows * states).collect();
        let problem = MergeProblem { spec: &spec, indptr: &indptr, index: &index, num_states: index.len() };
        let plan = MergePlan::new(&device, &problem).expect("a valid problem");
        let tensor = |shape: &[usize]| Tensor::zeros(&device, DType::F32, shape).expect("memory");
        let args = MergeArgs {
            states: &tensor(&[index.len(), 8, 64]),
            state_lse: &tensor(&[index.len(), 8]),
            constants: &LayerConstants::new(&device, &spec, Default::default()).expect("no weights are needed"),
            gate: None,
            out: &tensor(&[rows as usize, 8, 64]),
            lse: None,
        };
        let mut workspace = Workspace::new(&device).expect("memory");
        group.throughput(Throughput::Bytes((index.len() + rows as usize) as u64 * 8 * 64 * 4));
        group.bench_function(name, |b| {
            b.iter(|| {
                plan.run(&args, &mut workspace).expect("a run");
                device.synchronize().expect("the device");
            })
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
