//! What happens: one prefill, a fork, many thoughts side by side, a second look, one answer.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use colatent::ensemble::{AgentId, Batch, Ensemble, Input, Insertion, Item, Mode, Rules, Spawn, Thinking, Tree};
use colatent::kv::{Join, Modality, ViewId};
use colatent::sampling::SamplingRow;

use crate::Result;
use crate::engine::{Engine, PAGE, Tiles};
use crate::input::Inputs;
use crate::live::Live;
use crate::model::D_MODEL;
use crate::plot::History;
use crate::synthesis::{self, ANSWER, Synthesis};

/// The agent that looks at the picture again.
const LOOKER: usize = 0;
/// Closes a thought.
const CLOSE: u32 = b'\n' as u32;

/// `--mode`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Together {
    /// Each agent sees the prompt and itself
    Isolated,
    /// Each agent reads all others while they think
    Collaborate,
}

impl std::fmt::Display for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Together::Isolated { "isolated" } else { "collaborate" })
    }
}

/// What is asked for.
pub struct Task {
    /// Agents that think.
    pub agents: usize,
    /// Tokens of each agent, and of the answer.
    pub tokens: usize,
    /// What agents see of each other.
    pub mode: Together,
    /// How thoughts become one answer.
    pub synthesis: Synthesis,
    /// Tokens of a thought before it is closed.
    pub budget: Option<u32>,
    /// Tokens that an agent drafts per step.
    pub draft: usize,
}

/// Everything that was measured.
pub struct Outcome {
    /// Tokens of picture, sound and text.
    pub prompt_tokens: usize,
    /// Time of the prompt.
    pub prefill: Duration,
    /// Time of the thoughts.
    pub thinking: Duration,
    /// Steps that all agents took together.
    pub steps: usize,
    /// Drafted tokens that agents would have said anyway.
    pub drafts_kept: usize,
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
    /// Bytes of pages that forgotten thoughts gave back.
    pub forgotten_bytes: usize,
    /// Tokens of the second look.
    pub crop_tokens: usize,
    /// Tokens the synthesiser sees before its answer.
    pub joined_tokens: usize,
    /// What each agent thought.
    pub thoughts: Vec<Vec<u8>>,
    /// What the synthesis decided, in words.
    pub verdict: String,
    /// The answer.
    pub answer: Vec<u8>,
    /// What happened when, for the plot.
    pub history: History,
}

/// Pages that a run needs: each view's own tokens in pages of their own, and one more per view for a part-filled one.
pub fn pages_needed(inputs: &Inputs, task: &Task) -> usize {
    let own = |tokens: usize| tokens.div_ceil(PAGE) + 1;
    let prompt = own(inputs.prompt_tokens());
    let answers = if task.synthesis == Synthesis::Mix { task.agents } else { 1 };
    let agent = own(task.tokens + task.draft) + usize::from(task.budget.is_some());
    prompt + task.agents * agent + own(inputs.crop_tokens()) + answers * own(ANSWER.len() + task.tokens)
}

/// Runs the whole of it.
pub fn contemplate(engine: &mut Engine, inputs: &Inputs, task: &Task, live: &mut Live) -> Result<Outcome> {
    live.say("compiling");
    engine.warm_up()?;

    // Picture, sound and text enter one stream in one batch.
    live.say("reading the prompt");
    let clock = Clock::start(engine);
    let root = engine.cache.create();
    let mut batch = Batch::default();
    let parts = [
        (Modality::Image, engine.model.embed_patches(&inputs.patches)),
        (Modality::Audio, engine.model.embed_frames(&inputs.frames)),
        (Modality::Text, engine.model.embed_text(&inputs.text)),
    ];
    for (modality, hidden) in &parts {
        engine.stage(&mut batch, root, *modality, hidden)?;
    }
    let mut history = History::new(parts.iter().map(|(m, h)| (*m, h.len() / D_MODEL)).collect());
    let hidden = engine.forward(&batch, parts.map(|p| p.1).concat())?;
    let last = hidden[hidden.len() - D_MODEL..].to_vec();
    let prefill = clock.stop(engine);

    // The prompt's pages are shared from here on; a view is a list of page runs.
    let mode = match task.mode {
        Together::Isolated => Mode::Isolated,
        Together::Collaborate => Mode::Live { positions: Join::Sequential, every: 1 },
    };
    history.is_collaborating = task.mode == Together::Collaborate;
    let mut ensemble = Ensemble::new(engine.seed, mode, Rules::default())?;
    let spawn = Spawn {
        sampling: sampling(),
        max_tokens: task.tokens as u32,
        thinking: task.budget.map(|budget| Thinking { budget, close: CLOSE }),
        ..Spawn::default()
    };
    let spawns = vec![spawn; task.agents];
    let (ids, fork_bytes) = counting_pages(engine, |e| Ok(ensemble.spawn(&mut e.cache, root, &spawns)?))?;

    live.say("thinking");
    engine.reset_counters();
    let clock = Clock::start(engine);
    let thought = think(engine, &mut ensemble, &ids, last, inputs, task, live, &mut history)?;
    let thinking = clock.stop(engine);
    let (tiles, page_bytes) = (engine.tiles, engine.page_bytes());
    let kv_bytes = engine.used_pages().len() * page_bytes;
    let mut kv_bytes_unshared = 0;
    for view in views(&ensemble) {
        kv_bytes_unshared += engine.cache.view(view)?.len().div_ceil(PAGE) * page_bytes;
    }
    let mut thoughts = Vec::new();
    for agent in ensemble.agents() {
        thoughts.push(agent.tokens.iter().map(|&t| t as u8).collect());
    }
    history.pages = engine.cache.used_pages();

    live.say("answering");
    let before = engine.used_pages().len();
    for &id in ids.iter().filter(|_| task.budget.is_some()) {
        if ensemble.agent(id)?.thought.is_some() {
            ensemble.forget_thoughts(&mut engine.cache, id)?;
        }
    }
    let forgotten_bytes = (before - engine.used_pages().len()) * page_bytes;
    let answered = synthesis::answer(engine, &mut ensemble, &ids, task, live, &mut history)?;
    live.clear();

    Ok(Outcome {
        prompt_tokens: inputs.prompt_tokens(),
        prefill,
        thinking,
        steps: thought.steps,
        drafts_kept: thought.drafts_kept,
        kv_bytes,
        kv_bytes_unshared,
        tiles,
        fork_bytes,
        join_bytes: answered.join_bytes,
        forgotten_bytes,
        crop_tokens: thought.crop_tokens,
        joined_tokens: answered.joined_tokens,
        thoughts,
        verdict: answered.verdict,
        answer: answered.answer,
        history,
    })
}

/// How this model is sampled.
pub fn sampling() -> SamplingRow {
    SamplingRow { temperature: 0.8, top_k: 64, top_p: 0.95, confidence: 8, ..SamplingRow::default() }
}

/// What the thoughts took.
struct Thought {
    steps: usize,
    drafts_kept: usize,
    crop_tokens: usize,
}

/// Every agent thinks until it stops; all of them take a step in one batch, and the last tokens are fed at the end.
#[allow(clippy::too_many_arguments)] // one call site, every argument a different thing
fn think(
    engine: &mut Engine,
    ensemble: &mut Ensemble,
    ids: &[AgentId],
    prompt: Vec<f32>,
    inputs: &Inputs,
    task: &Task,
    live: &mut Live,
    history: &mut History,
) -> Result<Thought> {
    let crop = engine.model.embed_patches(&inputs.crop);
    let patches = (crop.len() / D_MODEL) as u32;
    // All go on from the prompt's last token.
    let rows = ensemble.sampling_rows(ids)?;
    let first = engine.sample(&prompt.repeat(ids.len()), &rows)?;
    ensemble.begin(ids, &first)?;
    let (mut steps, mut drafts_kept, mut has_looked) = (0, 0, false);
    loop {
        let looker = ids.get(LOOKER).copied().ok_or("there is an agent")?;
        if !has_looked && ensemble.agent(looker)?.tokens.len() > task.tokens / 2 {
            // The others decode a token each in the same launch.
            ensemble.insert(looker, Insertion::line(Modality::Image, patches, 0))?;
            has_looked = true;
        }
        for &id in ids.iter().filter(|_| task.draft > 0) {
            if let Some(tree) = lookup(ensemble, id, task.draft) {
                // An agent that closes its thought, or looks, drafts nothing.
                ensemble.propose(id, tree).ok();
            }
        }
        let before: usize = ensemble.agents().iter().map(|a| a.tokens.len()).sum();
        let batch = ensemble.step(&mut engine.cache)?;
        if batch.inputs.is_empty() {
            return Ok(Thought { steps, drafts_kept, crop_tokens: crop.len() / D_MODEL });
        }
        let hidden = engine.forward(&batch, embed(engine, &batch, &crop))?;
        let last = drawn_rows(&batch, &hidden);
        let drawn = engine.sample(&last, &batch.sampling_rows())?;
        ensemble.accept(&mut engine.cache, &drawn)?;
        let after: usize = ensemble.agents().iter().map(|a| a.tokens.len()).sum();
        let speakers = batch.draws.chunk_by(|a, b| a.agent == b.agent).count();
        drafts_kept += (after - before).saturating_sub(speakers);
        steps += 1;
        history.record(&batch, ensemble);
        live.show(ensemble);
    }
}

/// The rows of the stream from which tokens are drawn.
pub fn drawn_rows(batch: &Batch, hidden: &[f32]) -> Vec<f32> {
    batch.draws.iter().flat_map(|d| &hidden[d.row as usize * D_MODEL..][..D_MODEL]).copied().collect()
}

/// The batch in the latent space: bytes carry the mark of their agent, patches do not.
pub fn embed(engine: &Engine, batch: &Batch, crop: &[f32]) -> Vec<f32> {
    let mut hidden = Vec::new();
    let owners = batch.rows.iter().zip(&batch.agents).flat_map(|(r, a)| std::iter::repeat_n(a.0, r.len as usize));
    for (input, agent) in batch.inputs.iter().zip(owners) {
        match input {
            Input::Token(byte) => {
                let token = engine.model.embed_text(&[*byte as u8]);
                let mark = engine.model.agent_mark(agent as usize);
                hidden.extend(token.iter().zip(&mark).map(|(t, m)| t + m));
            }
            Input::Inserted { index, .. } => hidden.extend_from_slice(&crop[*index as usize * D_MODEL..][..D_MODEL]),
            Input::Mask => hidden.extend([0.0; D_MODEL]),
        }
    }
    hidden
}

/// What followed the agent's last token when it said it before: a draft that costs nothing (prompt lookup).
fn lookup(ensemble: &Ensemble, id: AgentId, len: usize) -> Option<Tree> {
    let agent = ensemble.agent(id).ok()?;
    let (Some(Item::Token(last)), true) = (agent.pending.last(), agent.is_alive()) else { return None };
    let said = &agent.tokens[..agent.tokens.len().saturating_sub(1)];
    let at = said.iter().rposition(|t| t == last)?;
    let next: Vec<u32> = agent.tokens[at + 1..].iter().copied().take(len).collect();
    (!next.is_empty()).then(|| Tree::chain(next))
}

fn views(ensemble: &Ensemble) -> Vec<ViewId> {
    ensemble.agents().iter().filter_map(|a| a.view).collect()
}

/// Runs `change` and counts the bytes of pages that are in use afterwards and were not before.
pub fn counting_pages<T>(engine: &mut Engine, change: impl FnOnce(&mut Engine) -> Result<T>) -> Result<(T, usize)> {
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
