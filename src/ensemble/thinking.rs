//! The reasoning phase: a budget, a forced close token, and forgetting.

use super::{AgentId, Ensemble, OP};
use crate::kv::KvCache;
use crate::{Error, Result};

/// A reasoning phase. After `budget` tokens the next one is forced to be `close`; an agent may say it earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinking {
    /// Tokens of a thought.
    pub budget: u32,
    /// The token that closes it.
    pub close: u32,
}

impl Ensemble {
    /// Drops an agent's closed thought from its view; pages that nobody else reaches return at once, since the answer began
    /// a segment of its own. The answer keeps its slots and positions.
    ///
    /// # Errors
    /// [`Error::Invalid`] while the thought is not closed, or its batch is in flight.
    pub fn forget_thoughts(&mut self, cache: &mut KvCache, id: AgentId) -> Result<()> {
        self.check_landed("agent")?;
        let agent = self.agent(id)?;
        let view = agent.live_view()?;
        let Some(thought) = agent.thought.clone() else {
            return Err(Error::invalid(OP, "agent", "one whose thought is closed", format!("{id:?}")));
        };
        cache.drop_range(view, thought)?;
        self.agent_mut(id)?.thought = None;
        Ok(())
    }

    /// Lets what follows begin a segment of its own: a fork in the agent's place cannot write on in its parent's.
    pub(super) fn begin_segment(&mut self, cache: &mut KvCache, id: AgentId) -> Result<()> {
        let old = self.agent(id)?.live_view()?;
        let new = cache.fork(old)?;
        cache.release(old)?;
        let slots = cache.view(new)?.next_slot();
        let agent = self.agent_mut(id)?;
        agent.view = Some(new);
        agent.thought = Some(agent.first_slot..slots);
        Ok(())
    }
}
