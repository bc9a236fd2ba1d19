//! Collaboration: what an agent sees of the others, as recipes over views.

use std::ops::Range;

use super::{AgentId, Batch, Ensemble, OP};
use crate::kv::{Join, KvCache, Piece, ViewId};
use crate::{Error, Result};

/// What agents see of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nothing but what is [published](Ensemble::publish).
    Isolated,
    /// Everything the others were fed before the last round began, in their order, before what is one's own (Hogwild!, arXiv
    /// 2504.06261; Group Think, arXiv 2505.11107). Windows and chunks count what is seen.
    Live {
        /// Where the others' tokens stand: where they were thought, or one behind the other with one's own behind them.
        positions: Join,
        /// Steps of a round: 1 for all that was fed before this step, more for agents that meet now and then.
        every: u32,
    },
}

impl Mode {
    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Mode::Live { every: 0, .. } => Err(Error::invalid(OP, "every", "1 step or more", 0)),
            _ => Ok(()),
        }
    }
}

impl Ensemble {
    /// A round begins: what was fed so far is seen by the others until the next one.
    pub(super) fn mark_visible(&mut self, cache: &KvCache) -> Result<()> {
        let Mode::Live { every, .. } = self.mode else { return Ok(()) };
        if self.steps.is_multiple_of(every) {
            for agent in &mut self.agents {
                let Some(view) = agent.view else { continue };
                agent.visible = cache.view(view)?.next_slot();
            }
        }
        Ok(())
    }

    /// Rows of agents that read each other attend from a view of everything that they see. What they write lies in their
    /// own views all the same, so each stays one segment.
    pub(super) fn read_each_other(&mut self, cache: &mut KvCache, batch: &mut Batch) -> Result<()> {
        let Mode::Live { positions, .. } = self.mode else { return Ok(()) };
        let mut readings: Vec<(ViewId, ViewId)> = Vec::new();
        for (rows, &id) in batch.rows.iter_mut().zip(&batch.agents) {
            let view = rows.view;
            let known = readings.iter().find(|(written, _)| *written == view);
            let reading = match known {
                Some((_, reading)) => *reading,
                None => {
                    let reading = cache.compose(&self.pieces(cache, id, view)?, positions)?;
                    self.scratch.push(reading);
                    if positions == Join::Sequential {
                        // Queries stand where the agent writes: it is the others that move.
                        let by = cache.view(view)?.next_position() - cache.view(reading)?.next_position();
                        cache.shift(reading, by)?;
                    }
                    readings.push((view, reading));
                    reading
                }
            };
            // What is written last is read last, so rows are counted from the end.
            rows.first_slot += cache.view(reading)?.next_slot() - cache.view(view)?.next_slot();
            rows.view = reading;
        }
        Ok(())
    }

    /// What agent `id`, which writes in `view`, reads: what it was spawned from, the others, itself.
    fn pieces(&self, cache: &KvCache, id: AgentId, view: ViewId) -> Result<Vec<Piece>> {
        let (first, end) = (self.agent(id)?.first_slot, cache.view(view)?.next_slot());
        let mut pieces = vec![Piece { view, slots: 0..first }];
        for other in self.agents.iter().filter(|a| a.id != id) {
            let Some(theirs) = other.view else { continue };
            pieces.push(Piece { view: theirs, slots: other.first_slot..other.visible.max(other.first_slot) });
        }
        pieces.push(Piece { view, slots: first..end });
        Ok(pieces)
    }

    /// Taking turns: slots of one agent's view (a note, a crop, a tool's result) are read by others from their next step on,
    /// at the positions that follow there. What they were computed from is not seen: to a reader they are as exact as a
    /// quotation. A reader's next token opens a segment.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where everything is visible anyway; [`Error::Invalid`] for slots that the agent does not see,
    /// and for agents that were retired or read themselves.
    pub fn publish(&mut self, cache: &mut KvCache, from: AgentId, slots: Range<i32>, to: &[AgentId]) -> Result<()> {
        self.check_landed("publish")?;
        if self.mode != Mode::Isolated {
            return Err(Error::unsupported(OP, "publishing to agents that see everything", "isolated agents"));
        }
        let source = self.agent(from)?.live_view()?;
        let readers: Vec<ViewId> = to.iter().map(|&id| self.agent(id)?.live_view()).collect::<Result<_>>()?;
        if to.contains(&from) {
            return Err(Error::invalid(OP, "to", "other agents than `from`", format!("{from:?}")));
        }
        let view = cache.view(source)?;
        view.check_seen(OP, &slots)?;
        let first_position = view.position_at(slots.start);
        for reader in readers {
            let at = cache.view(reader)?.next_position();
            let appended = cache.share(source, slots.clone(), reader, [at - first_position; 4])?;
            cache.set_next_position(reader, at.saturating_add(appended.len as i32))?;
        }
        Ok(())
    }
}
