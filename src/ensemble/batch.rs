//! A step: what every agent is fed, as rows of one batch.

use super::{AgentId, Ensemble, Insertion, Item, OP, Tree};
use crate::attention::QueryRows;
use crate::kv::{Appended, KvCache, Modality, ViewId};
use crate::sampling::SamplingRow;
use crate::{Error, Result};

/// Rows of a block of drafts: up to so many, a row in a block has the bits of the row alone (`attention`), so that drafts
/// cannot change a token by a rounding.
const MOST_ROWS: u32 = 16;

/// What a row of the batch is, for the caller to embed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A token.
    Token(u32),
    /// Row `index` of the span `tag`, as given to [`Ensemble::insert`].
    Inserted {
        /// The caller's name for the span.
        tag: u32,
        /// Which of its rows.
        index: u32,
    },
    /// A place of a [draft block](Ensemble::draft_blocks) that is to be filled.
    Mask,
}

/// A token that is to be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// For whom.
    pub agent: AgentId,
    /// The row of the batch whose logits it is drawn from.
    pub row: u32,
    /// How.
    pub sampling: SamplingRow,
}

/// The rows of one step, in the order of the agents: what `kv_append`, `attention` and `sampling` are told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Per row, what it is.
    pub inputs: Vec<Input>,
    /// Per row, the place of its K and V.
    pub places: Vec<u32>,
    /// Per row, its position on each axis.
    pub positions: Vec<[i32; 4]>,
    /// The rows as attention sees them.
    pub rows: Vec<QueryRows>,
    /// Per entry of `rows`, whose they are.
    pub agents: Vec<AgentId>,
    /// Tokens to be drawn, in the order in which [`Ensemble::accept`] takes them.
    pub draws: Vec<Draw>,
}

impl Batch {
    /// Rows for [`SamplingProblem`](crate::sampling::SamplingProblem), one per draw.
    pub fn sampling_rows(&self) -> Vec<SamplingRow> {
        self.draws.iter().map(|d| d.sampling).collect()
    }

    fn push(&mut self, cache: &KvCache, agent: AgentId, fed: (Appended, &[[i32; 4]]), rows: QueryRows) -> Result<()> {
        let (appended, offsets) = fed;
        cache.write_places(&appended, &mut self.places)?;
        let first = appended.first_position;
        self.positions.extend(offsets.iter().map(|o| o.map(|x| first.saturating_add(x))));
        match self.rows.last_mut() {
            Some(last)
                if rows.len == 1
                    && last.len < MOST_ROWS
                    && last.view == rows.view
                    && last.first_slot + last.len as i32 == rows.first_slot =>
            {
                last.len += 1;
            }
            _ => {
                self.rows.push(rows);
                self.agents.push(agent);
            }
        }
        Ok(())
    }
}

/// What an agent has in the batch: where the rows lie whose tokens are drawn.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub agent: AgentId,
    /// View and slot of the row of each draw: what the agent is fed, then the nodes of its tree.
    pub nodes: Vec<(ViewId, i32)>,
    pub tree: Tree,
}

/// How to take back what was appended, when a later agent finds no room.
enum Undo {
    Cut(ViewId, i32, i32),
    Empty(ViewId, i32, i32),
}

impl Ensemble {
    /// Appends what every agent is fed next and hands out the rows. An agent that has stopped is fed its last token, so
    /// that others may read it, and draws none; end tokens are not fed.
    ///
    /// # Errors
    /// [`Error::PoolFull`] with nothing changed; [`Error::Invalid`] while a batch is in flight, and for an alive agent
    /// without anything to be fed, whose first token [`Ensemble::begin`] takes.
    pub fn step(&mut self, cache: &mut KvCache) -> Result<Batch> {
        self.check_landed("step")?;
        if let Some(idle) = self.alive().find(|a| a.pending.is_empty()) {
            return Err(Error::invalid(OP, "agents", "agents that `begin` gave a token", format!("{:?}", idle.id)));
        }
        self.release_scratch(cache)?;
        self.mark_visible(cache)?;
        let (mut batch, mut flights, mut undo) = (Batch::default(), Vec::new(), Vec::new());
        let fed = (0..self.agents.len()).try_for_each(|i| self.feed(cache, i, &mut batch, &mut flights, &mut undo));
        if let Err(error) = fed.and_then(|()| self.read_each_other(cache, &mut batch)) {
            self.release_scratch(cache)?;
            undo.into_iter().rev().try_for_each(|step| step.take_back(cache))?;
            return Err(error);
        }
        for agent in &mut self.agents {
            if matches!(agent.pending[..], [Item::Token(_)]) {
                agent.vacant.pop();
            }
            agent.pending.clear();
            agent.proposal = None;
        }
        self.flights = flights;
        self.steps += 1;
        Ok(batch)
    }

    fn feed(
        &mut self,
        cache: &mut KvCache,
        i: usize,
        batch: &mut Batch,
        flights: &mut Vec<Flight>,
        undo: &mut Vec<Undo>,
    ) -> Result<()> {
        let Some(agent) = self.agents.get(i) else { return Ok(()) };
        let (Some(view), false) = (agent.view, agent.pending.is_empty()) else { return Ok(()) };
        let (slot, position) = (cache.view(view)?.next_slot(), cache.view(view)?.next_position());
        let mut last = (view, slot);
        // A place that somebody else has come to reach is not written again; the token goes to the end instead.
        let refilled = match (&agent.pending[..], agent.vacant.last()) {
            ([Item::Token(token)], Some(&vacant)) => cache.refill(view, vacant).ok().map(|appended| (*token, appended)),
            _ => None,
        };
        if let Some((token, appended)) = refilled {
            undo.push(Undo::Empty(view, appended.first_slot, position));
            batch.inputs.push(Input::Token(token));
            let rows = QueryRows { view, first_slot: slot - 1, len: 1, gap: None };
            batch.push(cache, agent.id, (appended, &[[0; 4]]), rows)?;
        } else {
            undo.push(Undo::Cut(view, slot, position));
            for (appended, offsets) in append_items(cache, view, &agent.pending, batch)? {
                last = (view, appended.first_slot + appended.len as i32 - 1);
                batch.push(cache, agent.id, (appended, &offsets), appended.into())?;
            }
        }
        if agent.stopped.is_some() {
            return Ok(());
        }
        let mut draw = |row: usize, depth: u32| {
            let sampling = SamplingRow { step: agent.sampling.step + depth, ..agent.sampling };
            batch.draws.push(Draw { agent: agent.id, row: row as u32, sampling });
        };
        draw(batch.inputs.len() - 1, 0);
        let mut nodes = vec![last];
        let tree = agent.proposal.clone().unwrap_or_default();
        let first_row = batch.inputs.len();
        for (n, token) in tree.tokens().iter().enumerate() {
            draw(first_row + n, tree.depth(n));
            batch.inputs.push(Input::Token(*token));
        }
        for n in 0..tree.tokens().len() {
            let (above, slot) = tree.parent(n).map_or(last, |p| nodes.get(p + 1).copied().unwrap_or(last));
            let view = if cache.view(above)?.next_slot() == slot + 1 {
                above
            } else {
                let branch = cache.fork_at(above, slot + 1)?;
                self.scratch.push(branch);
                branch
            };
            let appended = cache.append(view, Modality::Text, 1)?;
            nodes.push((view, appended.first_slot));
            batch.push(cache, agent.id, (appended, &[[0; 4]]), appended.into())?;
        }
        flights.push(Flight { agent: agent.id, nodes, tree });
        Ok(())
    }

    /// Rows of a block drafter (a masked block that is filled at once, as DFlash does): for every alive agent its next
    /// token and `len - 1` masks, one span of [`Modality::Draft`] in a scratch view that the next [`Ensemble::step`] gives
    /// up. The drafter's layer kind says that drafts see each other ([`Birth::SpanStart`](crate::kv::Birth)). A block sees
    /// its agent's own view. The draws are greedy, one per mask; what comes of them goes to [`Ensemble::propose`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a `len` below 2, and for agents that are fed anything but one token; [`Error::PoolFull`].
    pub fn draft_blocks(&mut self, cache: &mut KvCache, len: u32) -> Result<Batch> {
        self.check_landed("draft_blocks")?;
        if len < 2 {
            return Err(Error::invalid(OP, "len", "a token and 1 mask or more", len));
        }
        self.release_scratch(cache)?;
        let mut batch = Batch::default();
        let blocks = (0..self.agents.len()).try_for_each(|i| self.draft_block(cache, i, len, &mut batch));
        if let Err(error) = blocks {
            self.release_scratch(cache)?;
            return Err(error);
        }
        Ok(batch)
    }

    fn draft_block(&mut self, cache: &mut KvCache, i: usize, len: u32, batch: &mut Batch) -> Result<()> {
        let Some(agent) = self.agents.get(i).filter(|a| a.is_alive()) else { return Ok(()) };
        let ([Item::Token(token)], Some(view)) = (&agent.pending[..], agent.view) else {
            return Err(Error::invalid(OP, "agents", "agents that are fed one token", format!("{:?}", agent.id)));
        };
        let block = cache.fork(view)?;
        self.scratch.push(block);
        let appended = cache.append(block, Modality::Draft, len as usize)?;
        batch.inputs.push(Input::Token(*token));
        for mask in 1..len {
            let sampling = SamplingRow { temperature: 0.0, step: agent.sampling.step + mask - 1, ..agent.sampling };
            batch.draws.push(Draw { agent: agent.id, row: batch.inputs.len() as u32, sampling });
            batch.inputs.push(Input::Mask);
        }
        let offsets: Vec<[i32; 4]> = (0..len as i32).map(|i| [i; 4]).collect();
        batch.push(cache, agent.id, (appended, &offsets), appended.into())
    }
}

/// What was appended, and the positions of it counted from where it begins.
type Fed = (Appended, Vec<[i32; 4]>);

fn append_items(cache: &mut KvCache, view: ViewId, items: &[Item], batch: &mut Batch) -> Result<Vec<Fed>> {
    let mut fed = Vec::new();
    let is_token = |item: &Item| matches!(item, Item::Token(_));
    for run in items.chunk_by(|a, b| is_token(a) && is_token(b)) {
        match run {
            [Item::Inserted(Insertion { modality, offsets, tag })] => {
                let next = 1 + offsets.iter().flatten().copied().max().unwrap_or(0);
                let next = cache.view(view)?.next_position().saturating_add(next);
                fed.push((cache.append_at(view, *modality, offsets.len(), next)?, offsets.clone()));
                batch.inputs.extend((0..offsets.len() as u32).map(|index| Input::Inserted { tag: *tag, index }));
            }
            tokens => {
                let offsets = (0..tokens.len() as i32).map(|i| [i; 4]).collect();
                fed.push((cache.append(view, Modality::Text, tokens.len())?, offsets));
                batch.inputs.extend(tokens.iter().filter_map(|item| match item {
                    Item::Token(token) => Some(Input::Token(*token)),
                    Item::Inserted(_) => None,
                }));
            }
        }
    }
    Ok(fed)
}

impl Undo {
    fn take_back(self, cache: &mut KvCache) -> Result<()> {
        match self {
            Undo::Cut(view, slot, position) => {
                cache.truncate(view, slot)?;
                cache.set_next_position(view, position)
            }
            Undo::Empty(view, slot, position) => {
                cache.drop_range(view, slot..slot + 1)?;
                cache.set_next_position(view, position)
            }
        }
    }
}
