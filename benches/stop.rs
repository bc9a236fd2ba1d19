//! A step of the stop state: many agents, groups of DeepConf's size, end tokens; and attention behind it, over a counter at
//! which some of the agents have ended.

use colatent::stop::{StopArgs, StopPlan, StopProblem, StopRow, StopState};
use colatent::{Buffer, Device, Steps, Workspace};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harness::{Ready, Scene};

mod harness;

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

/// `ended` of the agents have ended: at one prompt, which all load together, and at prompts of their own.
fn attention(c: &mut Criterion) {
    let Ok(device) = Device::webgpu() else {
        eprintln!("SKIPPED: no WebGPU adapter");
        return;
    };
    let mut group = c.benchmark_group("attention_behind_a_stop");
    group.sample_size(15);
    for (name, ended) in
        ["agents_16", "agents_16_unshared"].into_iter().flat_map(|name| [0, 8, 15, 16].map(|ended| (name, ended)))
    {
        let scene = Scene::new(name);
        let agents = scene.rows.len();
        let steps = Steps::of_rows(&device, 1, agents).expect("a counter");
        let rows: Vec<StopRow> = (0..agents as u32).map(|slot| StopRow { slot, budget: 0 }).collect();
        let threshold = f32::NEG_INFINITY;
        let problem = StopProblem { rows: &rows, slots: agents, window: 1, threshold, end_tokens: &[1] };
        let plan = StopPlan::over(&device, &problem, &steps).expect("a valid problem");
        let state = StopState::new(&device, agents, 1).expect("memory");
        let sampled = Buffer::zeros(&device, agents * 16).expect("memory");
        (0..ended).for_each(|r| sampled.write(16 * r, &1u32.to_le_bytes()).expect("a row"));
        let mut workspace = Workspace::new(&device).expect("an empty workspace");
        plan.run(&StopArgs { sampled: &sampled, state: &state }, &mut workspace).expect("a run");
        steps.advance().expect("a step");
        let mut ready = Ready::with(&device, &scene, scene.plan_over(&device, &steps));
        group.bench_function(format!("{name}/{ended}_ended"), |b| b.iter(|| ready.run()));
    }
    group.finish();
}

criterion_group!(benches, bench, attention);
criterion_main!(benches);
