//! A step of the stop state: many agents, groups of DeepConf's size, end tokens.

use colatent::stop::{StopArgs, StopPlan, StopProblem, StopRow, StopState};
use colatent::{Buffer, Device, Workspace};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Name, agents, window.
const SHAPES: &[(&str, usize, usize)] = &[("64_groups_of_2048", 64, 2048), ("64_groups_of_16", 64, 16)];

fn bench(c: &mut Criterion) {
    let device = Device::detect();
    let mut group = c.benchmark_group("stop");
    group.sample_size(20);
    for &(name, agents, window) in SHAPES {
        let rows: Vec<StopRow> = (0..agents as u32).map(|slot| StopRow { slot, budget: 0 }).collect();
        let state = StopState::new(&device, agents, window).expect("memory");
        let threshold = f32::NEG_INFINITY;
        let problem = StopProblem { rows: &rows, slots: agents, window, threshold, end_tokens: &[1, 2] };
        let plan = StopPlan::new(&device, &problem).expect("a valid problem");
        let sampled = Buffer::zeros(&device, agents * 16).expect("memory");
        let mut workspace = Workspace::new(&device).expect("an empty workspace");
        group.throughput(Throughput::Bytes((agents * window * 4) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                plan.run(&StopArgs { sampled: &sampled, state: &state }, &mut workspace).expect("a run");
                device.synchronize().expect("a device that lives");
            })
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
