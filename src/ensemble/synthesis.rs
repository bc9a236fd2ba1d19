//! From many agents to one.

use std::ops::Range;

use super::{Agent, AgentId, Ensemble, OP, Spawn};
use crate::kv::{Join, KvCache, Piece, ViewId};
use crate::{Error, Result};

impl Ensemble {
    /// An agent that sees everything these agents see, what they share once: their thoughts side by side or one behind the
    /// other. No token is run again and no byte moves; its first token comes with the next step.
    ///
    /// What an agent said last is in its view once it was fed: after the step behind its last draw.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no agent, a retired one, or a spawn without a suffix: there is no row to begin from.
    pub fn join(&mut self, cache: &mut KvCache, ids: &[AgentId], how: Join, spawn: &Spawn) -> Result<AgentId> {
        self.check_landed("join")?;
        if spawn.suffix.is_empty() {
            return Err(Error::invalid(OP, "suffix", "1 token or more for a synthesiser to begin with", "none"));
        }
        let views: Vec<ViewId> = ids.iter().map(|&id| self.agent(id)?.live_view()).collect::<Result<_>>()?;
        let joined = cache.join(&views, how)?;
        let next_slot = cache.view(joined)?.next_slot();
        Ok(self.adopt(joined, next_slot, None, &[], spawn))
    }

    /// Best of N: the agent whose tokens it found likeliest in the mean, the first name among equals. Agents that said
    /// nothing are passed over.
    pub fn best(&self) -> Option<AgentId> {
        let better =
            |a: &&Agent, b: &&Agent| a.mean_log_prob().total_cmp(&b.mean_log_prob()).then_with(|| b.id.cmp(&a.id));
        self.agents.iter().filter(|a| a.log_probs.len() > a.forced as usize).max_by(better).map(|a| a.id)
    }

    /// Summary and restart: of its own tokens the agent keeps those at `summary`, placed behind what it was spawned from,
    /// where it goes on. The pages of the others return, as far as nobody else reaches them.
    ///
    /// No key moves: queries are turned instead. An engine that wants the shift gone turns the summary's keys once, with
    /// [`KvCache::rebase`] and [`crate::rebase`]; never in a loop.
    ///
    /// # Errors
    /// [`Error::Invalid`] for slots that are not the agent's own, or not seen.
    pub fn restart(&mut self, cache: &mut KvCache, id: AgentId, summary: Range<i32>) -> Result<()> {
        self.check_landed("restart")?;
        let (first, old) = (self.agent(id)?.first_slot, self.agent(id)?.live_view()?);
        if summary.start < first {
            return Err(Error::invalid(OP, "summary", format!("slots from {first} on"), format!("{summary:?}")));
        }
        cache.view(old)?.check_seen(OP, &summary)?;
        let pieces = [Piece { view: old, slots: 0..first }, Piece { view: old, slots: summary.clone() }];
        let new = cache.compose(&pieces, Join::Sequential)?;
        cache.release(old)?;
        let next_slot = cache.view(new)?.next_slot();
        let agent = self.agent_mut(id)?;
        agent.view = Some(new);
        agent.first_slot = next_slot - (summary.end - summary.start);
        (agent.visible, agent.thought) = (next_slot, None);
        agent.vacant.clear();
        Ok(())
    }
}
