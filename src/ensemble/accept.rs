//! Taking back what was drawn: tokens, stops, and which drafts stay.

use super::batch::Flight;
use super::{Agent, AgentId, Ensemble, Item, OP, Rules, Stopped};
use crate::kv::KvCache;
use crate::sampling::{NO_TOKEN, Sampled, SamplingRow};
use crate::{Error, Result};

impl Ensemble {
    /// How agents without anything to be fed draw their first token: rows for
    /// [`SamplingProblem`](crate::sampling::SamplingProblem).
    pub fn sampling_rows(&self, ids: &[AgentId]) -> Result<Vec<SamplingRow>> {
        ids.iter().map(|&id| Ok(self.agent(id)?.sampling)).collect()
    }

    /// Takes a first token for each agent, drawn from the last row of what it was spawned from.
    pub fn begin(&mut self, ids: &[AgentId], drawn: &[Sampled]) -> Result<()> {
        self.check_landed("begin")?;
        if ids.len() != drawn.len() {
            return Err(Error::invalid(OP, "drawn", format!("{} tokens", ids.len()), drawn.len()));
        }
        for &id in ids {
            if !self.agent(id)?.pending.is_empty() {
                return Err(Error::invalid(OP, "ids", "agents without anything to be fed", format!("{id:?}")));
            }
        }
        let rules = self.rules.clone();
        for (&id, drawn) in ids.iter().zip(drawn) {
            say(self.agent_mut(id)?, &rules, drawn);
        }
        Ok(())
    }

    /// Takes the tokens of the batch in flight, one per [`Draw`](super::Draw). Of an agent's drafts those stay that are what
    /// it drew; the others leave its view. What was drawn for agents that have stopped meanwhile is passed over.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of tokens; nothing is taken then.
    pub fn accept(&mut self, cache: &mut KvCache, drawn: &[Sampled]) -> Result<()> {
        let expected: usize = self.flights.iter().map(|f| f.nodes.len()).sum();
        if drawn.len() != expected {
            return Err(Error::invalid(OP, "drawn", format!("{expected} tokens"), drawn.len()));
        }
        let mut rest = drawn;
        for flight in std::mem::take(&mut self.flights) {
            let (own, others) = rest.split_at(flight.nodes.len());
            rest = others;
            self.land(cache, &flight, own)?;
        }
        Ok(())
    }

    fn land(&mut self, cache: &mut KvCache, flight: &Flight, drawn: &[Sampled]) -> Result<()> {
        let Some(i) = self.agents.iter().position(|a| a.id == flight.agent && a.view.is_some()) else { return Ok(()) };
        // A draft is right iff it is what the agent draws there: with noise that belongs to the step, its tokens are
        // those it would have said one by one.
        let mut at = 0;
        // Said in the step before, the close token has been fed by now.
        let is_closed = self.agents.get_mut(i).is_some_and(|a| std::mem::take(&mut a.is_closing));
        if let (Some(agent), rules) = (self.agents.get_mut(i), &self.rules) {
            while let (true, Some(drawn)) = (agent.is_alive(), drawn.get(at)) {
                let Some(token) = say(agent, rules, drawn) else { break };
                let Some(child) = flight.tree.child(at.checked_sub(1), token) else { break };
                at = child + 1;
            }
        }
        if flight.nodes.len() > 1
            && let (Some(&(view, slot)), Some(agent)) = (flight.nodes.get(at), self.agents.get_mut(i))
        {
            cache.truncate(view, slot + 1)?;
            if let Some(old) = agent.view.replace(view).filter(|old| *old != view) {
                self.scratch.retain(|v| *v != view);
                self.scratch.push(old);
            }
        }
        if is_closed {
            self.begin_segment(cache, flight.agent)?;
        }
        Ok(())
    }
}

/// The agent says what was drawn, or what is forced on it. The token if it may go on to a draft behind it.
fn say(agent: &mut Agent, rules: &Rules, drawn: &Sampled) -> Option<u32> {
    agent.sampling.step += 1;
    if drawn.token == NO_TOKEN {
        agent.stopped = Some(Stopped::NoDistribution);
        return None;
    }
    let said = agent.tokens.len() as u64;
    let thinking = agent.thinking.filter(|_| !agent.is_answering);
    let forced = thinking.filter(|t| said >= u64::from(t.budget) && drawn.token != t.close).map(|t| t.close);
    let token = forced.unwrap_or(drawn.token);
    agent.tokens.push(token);
    agent.log_probs.push(if forced.is_some() { 0.0 } else { drawn.log_prob });
    agent.forced += u32::from(forced.is_some());
    if agent.sampling.confidence > 0 {
        agent.confidences.push(drawn.confidence);
    }
    if thinking.is_some_and(|t| t.close == token) {
        (agent.is_answering, agent.is_closing) = (true, true);
    } else if rules.end_tokens.contains(&token) {
        agent.stopped = Some(Stopped::EndToken);
        return None;
    }
    agent.pending = vec![Item::Token(token)];
    let unsure =
        |r: &super::ConfidenceRule| agent.group_confidence(r.window as usize).is_some_and(|mean| mean < r.threshold);
    if said + 1 >= u64::from(agent.max_tokens) {
        agent.stopped = Some(Stopped::Budget);
    } else if rules.confidence.as_ref().is_some_and(unsure) {
        agent.stopped = Some(Stopped::Confidence);
    }
    (agent.is_alive() && !agent.is_closing).then_some(token)
}
