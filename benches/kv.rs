//! What the book-keeping of a step costs on the host: forks, joins, and room for one token per agent.
#![allow(missing_docs)]

use std::hint::black_box;

use colatent::kv::{Join, KvCache, Modality, ViewId};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const PAGE: usize = 64;
const AGENTS: usize = 64;
const PREFIX: usize = 32 * 1024;
const PAGES: usize = 8 * 1024;

/// A cache with one view of 32k tokens: a text, an image, a question.
fn prefix() -> (KvCache, ViewId) {
    let mut cache = KvCache::new(PAGE, PAGES).expect("a cache");
    let view = cache.create();
    let spans = [(Modality::Text, PREFIX - 1280), (Modality::Image, 1024), (Modality::Text, 256)];
    for (modality, len) in spans {
        cache.append(view, modality, len).expect("room");
    }
    (cache, view)
}

/// 64 agents over the prefix, each with `own` tokens of its own.
fn agents(own: usize) -> (KvCache, Vec<ViewId>) {
    let (mut cache, view) = prefix();
    let agents = cache.fork_many(view, AGENTS).expect("a live view");
    for &agent in &agents {
        cache.append(agent, Modality::Text, own).expect("room");
    }
    (cache, agents)
}

fn fork(c: &mut Criterion) {
    let mut group = c.benchmark_group("fork");
    for (name, n) in [("1", 1), ("64_children", AGENTS)] {
        let (mut cache, view) = prefix();
        // Releasing the children is set-up of the next round, not part of what is measured; their places are reused, as
        // they are in a running system.
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    let start = std::time::Instant::now();
                    let children = black_box(cache.fork_many(black_box(view), n));
                    spent += start.elapsed();
                    for child in children.expect("a live view") {
                        cache.release(child).expect("a live view");
                    }
                }
                spent
            });
        });
    }
    group.finish();
}

fn join(c: &mut Criterion) {
    let (mut cache, agents) = agents(2 * 1024);
    c.bench_function("join/64x2k", |b| {
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                let start = std::time::Instant::now();
                let joined = black_box(cache.join(black_box(&agents), Join::Sequential));
                spent += start.elapsed();
                cache.release(joined.expect("live views")).expect("a live view");
            }
            spent
        });
    });
}

fn append(c: &mut Criterion) {
    let (cache, agents) = agents(100);
    let mut places = Vec::with_capacity(AGENTS);
    c.bench_function("append/64_agents_1_token", |b| {
        b.iter_batched_ref(
            || cache.clone(),
            |cache| {
                places.clear();
                for &agent in &agents {
                    let appended = cache.append(agent, Modality::Text, 1).expect("room");
                    cache.write_places(&appended, &mut places).expect("what was appended");
                }
                black_box(&places);
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, fork, join, append);
criterion_main!(benches);
