#![allow(missing_docs)]
mod harness;
use colatent::Device;
use colatent::kv::*;
use harness::*;
use std::time::Instant;
fn main() {
    let device = Device::webgpu().unwrap();
    for (n, prompt, own) in [
        (1usize, 480usize, 0usize),
        (1, 48, 0),
        (1, 2048, 0),
        (16, 2048, 0),
        (16, 2048, 32),
        (16, 0, 32),
        (16, 0, 480),
        (2, 0, 32),
        (16, 480, 0),
    ] {
        let mut s = Scene::new("decode_1");
        let mut cache = KvCache::new(16, 4096).unwrap();
        let root = cache.create();
        if prompt > 0 {
            cache.append(root, Modality::Text, prompt).unwrap();
        }
        s.rows = (0..n)
            .map(|_| {
                let v = if prompt > 0 { cache.fork(root).unwrap() } else { cache.create() };
                if own > 0 {
                    let a = cache.append(v, Modality::Text, own).unwrap();
                    colatent::attention::QueryRows {
                        view: v,
                        first_slot: a.first_slot + own as i32 - 1,
                        len: 1,
                        gap: None,
                    }
                } else {
                    colatent::attention::QueryRows { view: v, first_slot: prompt as i32 - 1, len: 1, gap: None }
                }
            })
            .collect();
        s.cache = cache;
        let mut r = Ready::new(&device, &s);
        r.run();
        let mut t: Vec<f64> = (0..15)
            .map(|_| {
                let t = Instant::now();
                r.run();
                t.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        t.sort_by(|a, b| a.total_cmp(b));
        println!(
            "n={n} prompt={prompt} own={own}: median {:.2} ms min {:.2}  {:?}",
            t[7],
            t[0],
            s.plan(&device).stats()
        );
    }
}
