//! burn's attention beside ours: one process, one adapter, the scenes of the benchmarks, the same numbers in, run in turn.
//!
//! burn has several ways to the same output; each is run in turn with ours, and the best counts. Every way is first
//! compared with ours.

#[path = "../../../harness/mod.rs"]
mod harness;
mod ways;

use std::time::Instant;

use burn::tensor::{Device, DeviceKind};
use harness::{Ready, Scene};
use ways::Inputs;

const SCENES: [&str; 5] = ["prefill_text_256", "prefill_text_512", "decode_1", "agents_16", "agents_64"];
const ROUNDS: usize = 15;
/// burn picks kernels while it warms up.
const WARM_UPS: usize = 3;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

fn main() {
    let ours = colatent::Device::webgpu().expect("a WebGPU adapter");
    let theirs = Device::wgpu(DeviceKind::DefaultDevice);
    println!(
        "colatent on {ours}; burn 0.22.1 on its default wgpu adapter; f32, heads 8/2, d 64; medians of {ROUNDS}\n"
    );
    println!("| scene | colatent, ms | burn's best, ms | burn / colatent, in turn | its way | its other ways, ms |");
    println!("|---|---|---|---|---|---|");
    for name in SCENES {
        let scene = Scene::new(name);
        let mut ready = Ready::new(&ours, &scene);
        ready.run();
        let inputs = Inputs::new(&scene, &ready);
        let ways = ways::of(&inputs, &theirs);
        for way in &ways {
            inputs.check(way, name);
            (0..WARM_UPS).for_each(|_| drop(way.run(&theirs)));
        }
        // In pairs, so that neither finds the caches full of what a third left there.
        let mut by_way: Vec<(f64, f64, f64, &str)> = ways
            .iter()
            .map(|way| {
                let pairs: Vec<(f64, f64)> =
                    (0..ROUNDS).map(|_| (seconds(|| ready.run()), seconds(|| drop(way.run(&theirs))))).collect();
                let [us, them, ratio] = [|p: &(f64, f64)| p.0, |p: &(f64, f64)| p.1, |p: &(f64, f64)| p.1 / p.0]
                    .map(|of| median(pairs.iter().map(of).collect()));
                (them, us, ratio, way.name)
            })
            .collect();
        by_way.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (best, us, ratio, way) = by_way[0];
        let others: Vec<String> = by_way[1..].iter().map(|way| format!("{} {:.1}", way.3, way.0 * 1e3)).collect();
        println!("| {name} | {:.1} | {:.1} | {ratio:.2} | {} | {} |", us * 1e3, best * 1e3, way, others.join(", "));
    }
}
