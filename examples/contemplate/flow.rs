//! What happens: one prefill, a fork, many thoughts side by side, a second look, a join, one answer.

use std::time::{Duration, Instant};

use colatent::kv::{Join, Modality, ViewId};
use indicatif::ProgressBar;

use crate::Result;
use crate::engine::{Batch, Engine, PAGE, Tiles};
use crate::input::Inputs;
use crate::model::D_MODEL;

/// What the synthesiser starts its answer with.
const ANSWER: &[u8] = b"Answer: ";
/// The agent that looks at the picture again.
const LOOKER: usize = 0;

/// Everything that was measured.
pub struct Outcome {
    /// Tokens of picture, sound and text.
    pub prompt_tokens: usize,
    /// Time of the prompt.
    pub prefill: Duration,
    /// Time of the thoughts.
    pub thinking: Duration,
    /// Bytes of pages in use when the agents had thought.
    pub kv_bytes: usize,
    /// Bytes of pages that as many separate caches would use.
    pub kv_bytes_unshared: usize,
    /// Tiles of the thoughts.
    pub tiles: Tiles,
    /// Bytes of pages that the fork took from the pool.
    pub fork_bytes: usize,
    /// Bytes of pages that the join took from the pool.
    pub join_bytes: usize,
    /// Tokens of the second look.
    pub crop_tokens: usize,
    /// Tokens the synthesiser sees before its answer.
    pub joined_tokens: usize,
    /// What each agent thought.
    pub thoughts: Vec<Vec<u8>>,
    /// What the synthesiser wrote.
    pub answer: Vec<u8>,
}

/// Pages that a run needs: each view's own tokens in pages of their own, and one more per view for a part-filled one.
pub fn pages_needed(inputs: &Inputs, agents: usize, tokens: usize) -> usize {
    let own = |tokens: usize| tokens.div_ceil(PAGE) + 1;
    let prompt = own(inputs.prompt_tokens());
    prompt + agents * own(tokens) + own(inputs.crop_tokens()) + own(ANSWER.len() + tokens)
}

/// Runs the whole of it.
pub fn contemplate(
    engine: &mut Engine,
    inputs: &Inputs,
    agents: usize,
    tokens: usize,
    progress: &ProgressBar,
) -> Result<Outcome> {
    progress.set_length((1 + 2 * tokens) as u64);
    progress.set_message("compiling");
    engine.warm_up()?;

    // Picture, sound and text enter one stream in one batch.
    progress.set_message("reading the prompt");
    let clock = Clock::start(engine);
    let root = engine.cache.create();
    let mut batch = Batch::default();
    let patches = engine.model.embed_patches(&inputs.patches);
    let frames = engine.model.embed_frames(&inputs.frames);
    let text = engine.model.embed_text(&inputs.text);
    engine.stage(&mut batch, root, Modality::Image, &patches)?;
    engine.stage(&mut batch, root, Modality::Audio, &frames)?;
    engine.stage(&mut batch, root, Modality::Text, &text)?;
    let prompt_tokens = batch.len();
    let hidden = engine.forward(&batch)?;
    let last = hidden[hidden.len() - D_MODEL..].to_vec();
    let prefill = clock.stop(engine);
    progress.inc(1);

    // The prompt's pages are shared from here on; a view is a list of page runs.
    let (views, fork_bytes) = counting_pages(engine, |e| Ok(e.cache.fork_many(root, agents)?))?;

    progress.set_message("thinking");
    engine.reset_counters();
    let clock = Clock::start(engine);
    let (thoughts, crop_tokens) = think(engine, &views, last, inputs, tokens, progress)?;
    let thinking = clock.stop(engine);
    let tiles = engine.tiles;
    let page_bytes = engine.page_bytes();
    let kv_bytes = engine.used_pages().len() * page_bytes;
    let mut kv_bytes_unshared = 0;
    for &view in &views {
        kv_bytes_unshared += engine.cache.view(view)?.len().div_ceil(PAGE) * page_bytes;
    }

    // The synthesiser reads every thought where it lies: no token is run again.
    progress.set_message("answering");
    let (joined, join_bytes) = counting_pages(engine, |e| Ok(e.cache.join(&views, Join::Parallel)?))?;
    let joined_tokens = engine.cache.view(joined)?.len();
    let answer = answer(engine, joined, agents as u32, tokens, progress)?;
    progress.finish_and_clear();

    Ok(Outcome {
        prompt_tokens,
        prefill,
        thinking,
        kv_bytes,
        kv_bytes_unshared,
        tiles,
        fork_bytes,
        join_bytes,
        crop_tokens,
        joined_tokens,
        thoughts,
        answer,
    })
}

/// Every agent thinks `tokens` bytes; all of them take a step in one batch. Returns the thoughts and the number of
/// tokens of the second look.
fn think(
    engine: &mut Engine,
    views: &[ViewId],
    prompt: Vec<f32>,
    inputs: &Inputs,
    tokens: usize,
    progress: &ProgressBar,
) -> Result<(Vec<Vec<u8>>, usize)> {
    let ids: Vec<u32> = (0..views.len() as u32).collect();
    let marks: Vec<Vec<f32>> = (0..views.len()).map(|a| engine.model.agent_mark(a)).collect();
    let crop = engine.model.embed_patches(&inputs.crop);
    let mut thoughts = vec![Vec::new(); views.len()];
    // All go on from the prompt's last token.
    let mut last = prompt.repeat(views.len());
    // Whether an agent's last span is its own thought, which then grows.
    let mut thinking = vec![false; views.len()];
    for step in 0..tokens {
        let sampled = engine.sample(&last, &ids, step as u32)?;
        let mut batch = Batch::default();
        let mut last_rows = Vec::new();
        for (agent, &view) in views.iter().enumerate() {
            let byte = sampled[agent].token as u8;
            thoughts[agent].push(byte);
            let mut token = engine.model.embed_text(&[byte]);
            token.iter_mut().zip(&marks[agent]).for_each(|(t, m)| *t += m);
            if thinking[agent] {
                engine.stage_more(&mut batch, view, &token)?;
            } else {
                engine.stage(&mut batch, view, Modality::Text, &token)?;
            }
            thinking[agent] = true;
            if agent == LOOKER && step == tokens / 2 {
                // The others decode one token each in the same launch.
                engine.stage(&mut batch, view, Modality::Image, &crop)?;
                thinking[agent] = false;
            }
            last_rows.push(batch.len() - 1);
        }
        let hidden = engine.forward(&batch)?;
        last = last_rows.iter().flat_map(|&row| &hidden[row * D_MODEL..][..D_MODEL]).copied().collect();
        progress.inc(1);
    }
    Ok((thoughts, crop.len() / D_MODEL))
}

/// Writes `tokens` bytes after [`ANSWER`].
fn answer(engine: &mut Engine, view: ViewId, id: u32, tokens: usize, progress: &ProgressBar) -> Result<Vec<u8>> {
    let mut batch = Batch::default();
    let start = engine.model.embed_text(ANSWER);
    engine.stage(&mut batch, view, Modality::Text, &start)?;
    let mut written = Vec::new();
    for step in 0..tokens {
        let hidden = engine.forward(&batch)?;
        let last = &hidden[hidden.len() - D_MODEL..];
        let byte = engine.sample(last, &[id], step as u32)?[0].token as u8;
        written.push(byte);
        batch = Batch::default();
        if written.len() < tokens {
            let token = engine.model.embed_text(&[byte]);
            engine.stage_more(&mut batch, view, &token)?;
        }
        progress.inc(1);
    }
    Ok(written)
}

/// Runs `change` and counts the bytes of pages that are in use afterwards and were not before.
fn counting_pages<T>(engine: &mut Engine, change: impl FnOnce(&mut Engine) -> Result<T>) -> Result<(T, usize)> {
    let before = engine.used_pages();
    let result = change(engine)?;
    let new = engine.used_pages().difference(&before).count();
    Ok((result, new * engine.page_bytes()))
}

/// Wall clock without what `--verify` spends.
struct Clock {
    start: Instant,
    verified: Duration,
}

impl Clock {
    fn start(engine: &Engine) -> Self {
        Clock { start: Instant::now(), verified: verified(engine) }
    }
    fn stop(self, engine: &Engine) -> Duration {
        self.start.elapsed().saturating_sub(verified(engine) - self.verified)
    }
}

fn verified(engine: &Engine) -> Duration {
    engine.verifier.as_ref().map_or(Duration::ZERO, |v| v.spent)
}
