//! Proves the layer above views and operations: agents that are spawned, read each other, draft, stop, forget, and become
//! one. Book-keeping is held against a memory of what was fed where; tokens against other ways to the same context, on
//! every device.
//!
//! Planted and seen red (parts that failed): others seen up to the step itself, a reading that is not moved back to its
//! query (reading); a token composed twice (reading, and `kv`); one stream for all (life, drafts); a beam at its own step
//! (life); a failed step that is not undone (life); drafts drawn at the step of the first, losing drafts not cut off, the
//! view before a branch not given up (drafts, the long life); residuals of the target alone (drafts: chi-square); a place
//! written again that others see (thinking, the long life, and `kv`); an answer in its thought's segment, a window half
//! kept (thinking); a stop at the threshold, a vote called decided when the lead is what is still out (stopping, synthesis);
//! votes summed in the order of casting, the weights of a mixture forgotten (synthesis); pages counted once per entry, or
//! those of an author as its reader's (the long life).
#![allow(missing_docs)]

mod harness;

#[path = "ensemble/drafts.rs"]
mod drafts;
#[path = "ensemble/life.rs"]
mod life;
#[path = "ensemble/mind.rs"]
mod mind;
#[path = "ensemble/reading.rs"]
mod reading;
#[path = "ensemble/stopping.rs"]
mod stopping;
#[path = "ensemble/synthesis.rs"]
mod synthesis;
#[path = "ensemble/thinking.rs"]
mod thinking;

use colatent::ensemble::{AgentId, Ensemble, Mode, Rules, Spawn};
use colatent::kv::{KvCache, ViewId};
use colatent::sampling::SamplingRow;

/// Agents with a suffix token each: 500, 501, ...
fn spawns(n: usize) -> Vec<Spawn> {
    (0..n as u32).map(|i| Spawn { suffix: vec![500 + i], ..Spawn::default() }).collect()
}

fn ensemble(mode: Mode) -> Ensemble {
    Ensemble::new(7, mode, Rules::default()).unwrap()
}

/// A prompt, and agents over it, in a memory.
fn scene(mode: Mode, prompt: usize, agents: usize) -> (mind::Memory, KvCache, Ensemble, ViewId, Vec<AgentId>) {
    let (mut memory, mut cache) = (mind::Memory::default(), KvCache::new(4, 400).unwrap());
    let root = memory.prompt(&mut cache, prompt);
    let mut e = ensemble(mode);
    let ids = e.spawn(&mut cache, root, &spawns(agents)).unwrap();
    (memory, cache, e, root, ids)
}

fn step(memory: &mut mind::Memory, cache: &mut KvCache, e: &mut Ensemble) -> colatent::ensemble::Batch {
    let batch = e.step(cache).unwrap();
    let drawn = memory.draw(&batch);
    e.accept(cache, &drawn).unwrap();
    batch
}

fn warm(temperature: f32) -> SamplingRow {
    SamplingRow { temperature, ..SamplingRow::default() }
}
