//! What an ensemble's book-keeping costs on the host per step: 64 agents over 32k tokens.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use colatent::ensemble::{AgentId, Ensemble, Mode, Rules, Spawn, Tally};
use colatent::kv::{Join, KvCache, Modality, ViewId};
use colatent::sampling::Sampled;
use criterion::{Criterion, criterion_group, criterion_main};

const AGENTS: usize = 64;

fn prefix() -> (KvCache, ViewId) {
    let mut cache = KvCache::new(64, 16 * 1024).expect("a cache");
    let view = cache.create();
    cache.append(view, Modality::Text, 32 * 1024).expect("room");
    (cache, view)
}

fn spawns() -> Vec<Spawn> {
    (0..AGENTS as u32).map(|i| Spawn { suffix: vec![i], ..Spawn::default() }).collect()
}

fn thinking(mode: Mode, steps: usize) -> (KvCache, Ensemble, Vec<AgentId>) {
    let (mut cache, view) = prefix();
    let mut ensemble = Ensemble::new(1, mode, Rules::default()).expect("a mode");
    let ids = ensemble.spawn(&mut cache, view, &spawns()).expect("a view");
    (0..steps).for_each(|_| step(&mut cache, &mut ensemble));
    (cache, ensemble, ids)
}

fn step(cache: &mut KvCache, ensemble: &mut Ensemble) {
    let batch = ensemble.step(cache).expect("room");
    let drawn = vec![Sampled { token: 1, log_prob: -1.0, ..Sampled::default() }; batch.draws.len()];
    ensemble.accept(cache, &drawn).expect("a token each");
}

fn timed(rounds: u64, mut round: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| round()).sum()
}

fn bench(c: &mut Criterion) {
    let (mut cache, view) = prefix();
    let all = spawns();
    c.bench_function("spawn/64", |b| {
        b.iter_custom(|rounds| {
            timed(rounds, || {
                let mut ensemble = Ensemble::new(1, Mode::Isolated, Rules::default()).expect("a mode");
                let start = Instant::now();
                let ids = black_box(ensemble.spawn(&mut cache, view, &all).expect("a view"));
                let spent = start.elapsed();
                ids.into_iter().for_each(|id| ensemble.retire(&mut cache, id).expect("an agent"));
                spent
            })
        });
    });
    for (name, mode) in
        [("step/64_isolated", Mode::Isolated), ("step/64_live", Mode::Live { positions: Join::Sequential, every: 1 })]
    {
        let (mut cache, mut ensemble, _) = thinking(mode, 8);
        let mut left = cache.free_pages() as u64;
        c.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                timed(rounds, || {
                    // A step of all takes a page each now and then: begin anew before the pool is empty.
                    if left < 2 * AGENTS as u64 {
                        (cache, ensemble, _) = thinking(mode, 8);
                    }
                    let start = Instant::now();
                    step(&mut cache, &mut ensemble);
                    let spent = start.elapsed();
                    left = cache.free_pages() as u64;
                    spent
                })
            });
        });
    }
    let (mut cache, mut ensemble, ids) = thinking(Mode::Isolated, 100);
    let spawn = Spawn { suffix: vec![1], ..Spawn::default() };
    c.bench_function("join/64", |b| {
        b.iter_custom(|rounds| {
            timed(rounds, || {
                let start = Instant::now();
                let one = ensemble.join(&mut cache, &ids, Join::Sequential, &spawn).expect("agents");
                let spent = start.elapsed();
                ensemble.retire(&mut cache, one).expect("an agent");
                ensemble.compact();
                spent
            })
        });
    });
    c.bench_function("vote/64", |b| {
        b.iter(|| {
            let mut tally = Tally::default();
            for (i, &id) in ids.iter().enumerate() {
                tally.cast(id, (i % 7) as u64, 1.0).expect("one vote each");
            }
            black_box(tally.is_decided(black_box(3.0)))
        });
    });
    c.bench_function("compact/64_half_gone", |b| {
        b.iter_custom(|rounds| {
            timed(rounds, || {
                let (mut cache, mut ensemble) = (cache.clone(), ensemble.clone());
                let gone: Vec<AgentId> = ids.iter().copied().step_by(2).collect();
                let start = Instant::now();
                gone.iter().for_each(|&id| ensemble.retire(&mut cache, id).expect("an agent"));
                ensemble.compact();
                let spent = start.elapsed();
                black_box((&cache, &ensemble));
                spent
            })
        });
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
