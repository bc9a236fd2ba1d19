//! An agent: its view, its noise, and what it said.

use super::{OP, Stopped, Thinking, group_confidence};
use crate::kv::{KvCache, Modality, ViewId};
use crate::sampling::SamplingRow;
use crate::{Error, Result};

/// Names an agent of an ensemble. A name is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(pub u32);

/// How an agent begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Spawn {
    /// Tokens that it reads first. Without any, its first token is drawn from the last row of what it was spawned from:
    /// see [`Ensemble::begin`](super::Ensemble::begin).
    pub suffix: Vec<u32>,
    /// Its own seed, under that of the ensemble: agents of one stream draw alike. Its name's number if absent.
    pub stream: Option<u32>,
    /// How it draws. `agent` and `step` are filled in.
    pub sampling: SamplingRow,
    /// Tokens after which it stops.
    pub max_tokens: u32,
    /// A reasoning phase before the answer.
    pub thinking: Option<Thinking>,
}

impl Default for Spawn {
    fn default() -> Self {
        let sampling = SamplingRow::default();
        Spawn { suffix: Vec::new(), stream: None, sampling, max_tokens: u32::MAX, thinking: None }
    }
}

/// Rows of the caller's own in the middle of a thought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insertion {
    /// What they are.
    pub modality: Modality,
    /// Their positions, counted from where the agent stands. Text goes on behind the greatest.
    pub offsets: Vec<[i32; 4]>,
    /// The caller's name for them: comes back in [`Input::Inserted`](super::Input::Inserted).
    pub tag: u32,
}

impl Insertion {
    /// `len` tokens at positions that count on.
    pub fn line(modality: Modality, len: u32, tag: u32) -> Insertion {
        Insertion { modality, offsets: (0..len as i32).map(|i| [i; 4]).collect(), tag }
    }
}

/// What an agent is fed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A token that it said or was told.
    Token(u32),
    /// Rows of the caller's.
    Inserted(Insertion),
}

/// One agent, as data.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    /// The agent it was spawned from, or goes on from.
    pub parent: Option<AgentId>,
    /// What it wrote and what it was spawned from; `None` once it is retired. What it reads may be more: see
    /// [`Mode`](super::Mode).
    pub view: Option<ViewId>,
    /// Where its own tokens begin in its view.
    pub first_slot: i32,
    /// How it draws; `agent` is its stream and `step` its next draw.
    pub sampling: SamplingRow,
    /// What it said, forced tokens included.
    pub tokens: Vec<u32>,
    /// Natural logarithm of the probability of each; 0 for a forced one.
    pub log_probs: Vec<f32>,
    /// Tokens that were forced on it.
    pub forced: u32,
    /// The sampler's confidence at each draw, where it was measured.
    pub confidences: Vec<f32>,
    /// Why it stopped; `None` while it is alive.
    pub stopped: Option<Stopped>,
    /// What it is fed next.
    pub pending: Vec<Item>,
    /// Slots of its thought, once it is closed.
    pub thought: Option<std::ops::Range<i32>>,
    pub(super) max_tokens: u32,
    pub(super) thinking: Option<Thinking>,
    /// Whether the close token of its thought was said.
    pub(super) is_answering: bool,
    /// Whether it was said and not yet seen to be fed.
    pub(super) is_closing: bool,
    /// One past the last slot that others see.
    pub(super) visible: i32,
    /// Dropped slots to be written again, last first.
    pub(super) vacant: Vec<i32>,
    /// Drafts to be verified with the next step.
    pub(super) proposal: Option<super::Tree>,
}

impl Agent {
    pub(super) fn new(
        id: AgentId,
        view: ViewId,
        first_slot: i32,
        parent: Option<AgentId>,
        inherited: &[Item],
        spawn: &Spawn,
    ) -> Agent {
        let suffix = spawn.suffix.iter().map(|&t| Item::Token(t));
        Agent {
            id,
            parent,
            view: Some(view),
            first_slot,
            sampling: SamplingRow { agent: spawn.stream.unwrap_or(id.0), step: 0, ..spawn.sampling },
            tokens: Vec::new(),
            log_probs: Vec::new(),
            forced: 0,
            confidences: Vec::new(),
            stopped: None,
            pending: inherited.iter().cloned().chain(suffix).collect(),
            thought: None,
            max_tokens: spawn.max_tokens,
            thinking: spawn.thinking,
            is_answering: false,
            is_closing: false,
            visible: first_slot,
            vacant: Vec::new(),
            proposal: None,
        }
    }

    /// Whether it still thinks.
    pub fn is_alive(&self) -> bool {
        self.stopped.is_none()
    }

    /// Whether it is past its reasoning phase, or has none.
    pub fn is_answering(&self) -> bool {
        self.thinking.is_none() || self.is_answering
    }

    /// Mean log-probability of the tokens it drew; `-inf` before the first.
    pub fn mean_log_prob(&self) -> f64 {
        let drawn = self.log_probs.len() - self.forced as usize;
        let sum: f64 = self.log_probs.iter().copied().map(f64::from).sum();
        if drawn == 0 { f64::NEG_INFINITY } else { sum / drawn as f64 }
    }

    /// Mean confidence of its last `window` draws, once there are so many.
    pub fn group_confidence(&self, window: usize) -> Option<f32> {
        group_confidence(&self.confidences, window)
    }

    /// Pages that its view reaches and no other: what retiring it gives back. 0 once it is retired.
    pub fn own_pages(&self, cache: &KvCache) -> Result<usize> {
        let Some(view) = self.view else { return Ok(0) };
        let mut reached: Vec<u32> = Vec::new();
        for entry in cache.view(view)?.entries() {
            let pages = entry.end().div_ceil(cache.page_size() as u32) as usize;
            reached.extend(cache.segment(entry.segment)?.pages().iter().take(pages));
        }
        reached.sort_unstable();
        let is_own = |refs: &&[u32]| refs.first().is_some_and(|&page| cache.page_refs(page) == refs.len());
        Ok(reached.chunk_by(|a, b| a == b).filter(is_own).count())
    }

    pub(super) fn live_view(&self) -> Result<ViewId> {
        self.view.ok_or_else(|| Error::invalid(OP, "agent", "one that was not retired", format!("{:?}", self.id)))
    }
}
