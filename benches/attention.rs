//! Attention on the WebGPU device by named scene, the wait included; the host's planning; and a copy on the same device
//! for the bandwidth.

mod harness;

use colatent::attention::QueryRows;
use colatent::kv::{Appended, KvCache, Modality};
use colatent::{Buffer, Device, Steps};
use criterion::{Criterion, Throughput, criterion_group};
use harness::{Ready, Scene};

fn launches(c: &mut Criterion) {
    let Ok(device) = Device::webgpu() else {
        eprintln!("SKIPPED: no WebGPU adapter");
        return;
    };
    let mut group = c.benchmark_group("attention");
    group.sample_size(15);
    for name in Scene::NAMES {
        let scene = Scene::new(name);
        let mut ready = Ready::new(&device, &scene);
        eprintln!("{name}: {}", scene.plan(&device));
        group.throughput(Throughput::Elements(scene.flops()));
        group.bench_function(name, |b| b.iter(|| ready.run()));
    }
    group.finish();

    let bytes = 1 << 24;
    let (from, to) = (Buffer::zeros(&device, bytes).expect("memory"), Buffer::zeros(&device, bytes).expect("memory"));
    let mut group = c.benchmark_group("copy");
    group.sample_size(15).throughput(Throughput::Bytes(2 * bytes as u64));
    group.bench_function("16_MiB", |b| {
        b.iter(|| {
            to.copy_from(&from).expect("two buffers of one device");
            device.synchronize().expect("the device");
        })
    });
}

fn plans(c: &mut Criterion) {
    let Ok(device) = Device::webgpu() else { return };
    let mut group = c.benchmark_group("plan");
    for (name, agents, prompt, room) in [
        ("agents_16_over_2k", 16, 2048, 1),
        ("agents_64_over_32k", 64, 32768, 1),
        // The host's part of all of them: what is repeated costs a launch.
        ("agents_64_over_32k_256_steps", 64, 32768, 256),
    ] {
        let mut scene = Scene::new("decode_1");
        let mut cache = KvCache::new(harness::PAGE_SIZE, 8192).expect("a pool");
        let root = cache.create();
        cache.append(root, Modality::Text, prompt).expect("room");
        let views = cache.fork_many(root, agents).expect("children");
        let appended = cache.append_steps(&views, Modality::Text, room as usize).expect("room");
        scene.rows = appended.into_iter().map(|a| QueryRows::from(Appended { len: 1, ..a })).collect();
        scene.cache = cache;
        let steps = Steps::new(&device, room).expect("a counter");
        group.bench_function(name, |b| match room {
            1 => b.iter(|| scene.plan(&device)),
            _ => b.iter(|| scene.plan_over(&device, &steps)),
        });
    }
}

/// Ratios of scenes that are run in turn, so that a machine that slows down slows both; and the same per K/V tile that the
/// plans load, which is 1 where skipping costs nothing.
fn ratios() {
    let Ok(device) = Device::webgpu() else { return };
    for (slow, fast) in [
        ("agents_16_unshared", "agents_16"),
        ("agents_64_unshared", "agents_64"),
        ("prefill_text_1024", "prefill_window_1024_of_128"),
        ("prefill_text_2048", "prefill_window_2048_of_256"),
        ("prefill_text_512", "prefill_mixed_512"),
    ] {
        let scenes = [slow, fast].map(Scene::new);
        let [slow_tiles, fast_tiles] = scenes.each_ref().map(|s| s.plan(&device).stats().tiles_loaded as f64);
        let mut pair = scenes.each_ref().map(|scene| Ready::new(&device, scene));
        pair.iter_mut().for_each(Ready::run); // compiles
        let mut time = |i: usize| {
            let start = std::time::Instant::now();
            pair[i].run();
            start.elapsed().as_secs_f64()
        };
        let mut ratios: Vec<f64> = (0..15).map(|_| time(0) / time(1)).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{slow} / {fast}: median {:.2}, quartiles {:.2} and {:.2}; per tile {:.2}",
            ratios[7],
            ratios[3],
            ratios[11],
            ratios[7] * fast_tiles / slow_tiles
        );
    }
}

criterion_group!(benches, launches, plans);

fn main() {
    benches();
    ratios();
    criterion::Criterion::default().configure_from_args().final_summary();
}
