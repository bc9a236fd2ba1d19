//! Agents that think in parallel over one context: the layer above views and operations. Host side only.
//!
//! The model stays with the caller. A step is: [`Ensemble::step`] appends what every agent says next and hands out a
//! [`Batch`] (rows for `kv_append` and `attention`, and whose next tokens are to be drawn); the caller runs its model on
//! it; [`Ensemble::accept`] takes back the tokens. Everything between is lists: forking, reading each other, joining and
//! giving up move no byte of K or V.
//!
//! - **Modes** ([`Mode`]): isolated, all-to-all live, in rounds; [`Ensemble::publish`] for taking turns. Each loads
//!   the K/V tiles of isolated agents, as long as the rows that see a segment fit one tile of queries.
//! - **Synthesis**: [`Ensemble::join`], [`Ensemble::best`], [`Tally`] for votes, [`mix`] for logits,
//!   [`Ensemble::restart`] from a summary.
//! - **Stopping** ([`Rules`]): end tokens, budgets, group confidence; [`Tally::is_decided`] for votes that cannot change.
//! - **Reasoning** ([`Thinking`]): budgets with a forced close token, [`Ensemble::forget_thoughts`],
//!   [`Ensemble::evict`].
//! - **Drafts**: [`Ensemble::propose`] verifies token trees in the launch of all agents; [`Ensemble::draft_blocks`]
//!   makes the rows of a block drafter; [`rejection`] is the acceptance rule for drafters with noise of their own.
//!
//! A token depends on (seed, stream, step) and on what its agent saw: not on its neighbours, the order of agents,
//! compaction or drafts. `docs/contemplating.md` shows each mode in a few lines.

mod accept;
mod agent;
mod batch;
mod draft;
mod evict;
pub mod mix;
mod reading;
pub mod rejection;
mod stop;
mod synthesis;
mod thinking;
mod vote;

pub use crate::stop::Stopped;
pub use agent::{Agent, AgentId, Insertion, Item, Spawn};
pub use batch::{Batch, Draw, Input};
pub use draft::Tree;
pub use evict::{importance_and_redundancy, keep};
pub use reading::Mode;
pub use stop::{ConfidenceRule, Rules, group_confidence};
pub use thinking::Thinking;
pub use vote::Tally;

use crate::kv::{KvCache, ViewId};
use crate::sampling::SamplingRow;
use crate::{Error, Result};
use batch::Flight;

const OP: &str = "ensemble";

/// The agents, in the order of their rows, and what they have in flight.
///
/// Views are those of the caller's [`KvCache`], which every call that edits them is given; it must be the same each time.
#[derive(Debug, Clone)]
pub struct Ensemble {
    seed: u64,
    mode: Mode,
    rules: Rules,
    agents: Vec<Agent>,
    next_id: u32,
    /// Batches handed out.
    steps: u32,
    /// Views of the last batch alone: what was read, and drafts.
    scratch: Vec<ViewId>,
    flights: Vec<Flight>,
}

impl Ensemble {
    /// No agents yet. `seed` is the key of all noise.
    pub fn new(seed: u64, mode: Mode, rules: Rules) -> Result<Self> {
        mode.validate()?;
        rules.validate()?;
        let (agents, scratch, flights) = Default::default();
        Ok(Ensemble { seed, mode, rules, agents, next_id: 0, steps: 0, scratch, flights })
    }

    /// The key of the noise, for [`SamplingProblem`](crate::sampling::SamplingProblem).
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// All agents that were not forgotten, in the order of their rows.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// An agent by name.
    pub fn agent(&self, id: AgentId) -> Result<&Agent> {
        self.agents.iter().find(|a| a.id == id).ok_or_else(|| unknown(id))
    }

    /// Agents that still think.
    pub fn alive(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|a| a.is_alive())
    }

    /// Children of a view, one per `Spawn`: they see what it sees.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a stale view.
    pub fn spawn(&mut self, cache: &mut KvCache, view: ViewId, spawns: &[Spawn]) -> Result<Vec<AgentId>> {
        let views = cache.fork_many(view, spawns.len())?;
        let next_slot = cache.view(view)?.next_slot();
        Ok(views.into_iter().zip(spawns).map(|(view, spawn)| self.adopt(view, next_slot, None, &[], spawn)).collect())
    }

    /// Children of an agent: they go on from what it said, the token that it was about to be fed included.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an agent that was retired, or while its batch is in flight.
    pub fn spawn_from(&mut self, cache: &mut KvCache, parent: AgentId, spawns: &[Spawn]) -> Result<Vec<AgentId>> {
        self.check_landed("spawns")?;
        let (view, pending) = (self.agent(parent)?.live_view()?, self.agent(parent)?.pending.clone());
        let views = cache.fork_many(view, spawns.len())?;
        let next_slot = cache.view(view)?.next_slot();
        let adopt = |(view, spawn)| self.adopt(view, next_slot, Some(parent), &pending, spawn);
        Ok(views.into_iter().zip(spawns).map(adopt).collect())
    }

    fn adopt(
        &mut self,
        view: ViewId,
        first_slot: i32,
        parent: Option<AgentId>,
        inherited: &[Item],
        spawn: &Spawn,
    ) -> AgentId {
        let id = AgentId(self.next_id);
        self.next_id += 1;
        let mut agent = Agent::new(id, view, first_slot, parent, inherited, spawn);
        if let Some(rule) = self.rules.confidence {
            agent.sampling.confidence = rule.top_k;
        }
        self.agents.push(agent);
        id
    }

    /// Puts a span of the caller's rows (a crop, a tool's result) behind what the agent is about to be fed.
    pub fn insert(&mut self, id: AgentId, span: Insertion) -> Result<()> {
        if span.offsets.is_empty() {
            return Err(Error::invalid(OP, "span", "1 token or more", "none"));
        }
        self.agent_mut(id)?.pending.push(Item::Inserted(span));
        Ok(())
    }

    /// Gives an agent's view up: its pages return, as far as nobody else reaches them. What it said stays as data.
    pub fn retire(&mut self, cache: &mut KvCache, id: AgentId) -> Result<()> {
        let view = self.agent(id)?.live_view()?;
        cache.release(view)?;
        let agent = self.agent_mut(id)?;
        agent.view = None;
        agent.stopped.get_or_insert(Stopped::Retired);
        agent.pending.clear();
        Ok(())
    }

    /// Stops an agent, whose view stays readable: `why` is for instance [`Stopped::Decided`]. What has stopped stays so.
    pub fn stop(&mut self, id: AgentId, why: Stopped) -> Result<()> {
        self.agent_mut(id)?.stopped.get_or_insert(why);
        Ok(())
    }

    /// Forgets retired agents. The others keep names, order and noise; no KV moves.
    pub fn compact(&mut self) {
        self.agents.retain(|a| a.view.is_some());
    }

    /// Puts the agents of a list to the front, in its order: the order of rows, which no token depends on.
    pub fn reorder(&mut self, order: &[AgentId]) {
        let place = |a: &Agent| order.iter().position(|id| *id == a.id).unwrap_or(order.len());
        self.agents.sort_by_key(place);
    }

    /// A step of beam search: agent `child` of each pair goes on where `parent` stands, and keeps its own name and noise.
    /// To be called between [`Ensemble::step`] and [`Ensemble::accept`], which then takes the token of each beam that has a
    /// draw in the batch; one that had stopped before has none, and [`Ensemble::begin`] takes its token. All pairs read the
    /// state before the call; old views are given up.
    ///
    /// # Errors
    /// [`Error::Invalid`] for retired agents, an agent that is twice a child, and agents with drafts in flight.
    pub fn reparent(&mut self, cache: &mut KvCache, pairs: &[(AgentId, AgentId)]) -> Result<()> {
        let mut parents = Vec::new();
        for (i, &(child, parent)) in pairs.iter().enumerate() {
            self.agent(child)?.live_view()?;
            self.agent(parent)?.live_view()?;
            if pairs.iter().take(i).any(|p| p.0 == child) {
                return Err(Error::invalid(OP, "pairs", "a child once", format!("{child:?} twice")));
            }
            if self.flights.iter().any(|f| f.nodes.len() > 1 && (f.agent == child || f.agent == parent)) {
                return Err(Error::invalid(OP, "pairs", "agents without drafts in flight", format!("{child:?}")));
            }
            parents.push(self.agent(parent)?.clone());
        }
        for (&(child, _), parent) in pairs.iter().zip(parents) {
            let view = cache.fork(parent.live_view()?)?;
            if let Some(flight) = self.flights.iter_mut().find(|f| f.agent == child) {
                flight.nodes = vec![(view, cache.view(view)?.next_slot() - 1)];
            }
            let child = self.agent_mut(child)?;
            let sampling = SamplingRow { step: parent.sampling.step, ..child.sampling };
            let old = child.view;
            *child = Agent { id: child.id, sampling, view: Some(view), parent: Some(parent.id), ..parent };
            // Rows in flight name it.
            self.scratch.extend(old);
        }
        if self.flights.is_empty() {
            self.release_scratch(cache)?;
        }
        Ok(())
    }

    fn agent_mut(&mut self, id: AgentId) -> Result<&mut Agent> {
        self.agents.iter_mut().find(|a| a.id == id).ok_or_else(|| unknown(id))
    }

    /// Refuses what would pull the ground from under a batch in flight.
    fn check_landed(&self, argument: &'static str) -> Result<()> {
        if self.flights.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(OP, argument, "no batch in flight: `accept` takes its tokens", self.flights.len()))
    }

    fn release_scratch(&mut self, cache: &mut KvCache) -> Result<()> {
        self.scratch.drain(..).try_for_each(|view| cache.release(view))
    }
}

fn unknown(id: AgentId) -> Error {
    Error::invalid(OP, "agent", "an agent of this ensemble", format!("{id:?}"))
}
