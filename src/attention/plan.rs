//! What a launch will do: pure host arithmetic, the same for every layer of a kind.

use super::problem::{AttentionProblem, OP, selection_words};
use super::reference::Snapshot;
use super::tile::Tile;
use super::worklist::WorkList;
use crate::backend::next_plan_id;
use crate::kv::Lifetimes;
use crate::layer::LayerSpec;
use crate::merge::problem::validate_positions;
use crate::{Device, Result, Steps};

/// A validated launch. Build it once per step and layer kind, or once [for many steps](AttentionPlan::over); run it for
/// every layer of the kind.
#[derive(Clone)]
pub struct AttentionPlan {
    pub(crate) device: Device,
    pub(crate) id: u64,
    pub(crate) spec: LayerSpec,
    pub(crate) num_rows: usize,
    pub(crate) num_pages: usize,
    pub(crate) page_size: usize,
    pub(crate) selection_words: usize,
    pub(crate) tile: Tile,
    pub(crate) work: Work,
    /// The counter that the rows move with.
    pub(crate) steps: Option<Steps>,
    /// Of the rows of all steps, where outputs are turned back.
    pub(crate) positions: Option<Vec<[i32; 4]>>,
}

/// What the device needs: the definition walks views, a kernel walks a work list.
#[derive(Clone)]
pub(crate) enum Work {
    Views(Snapshot),
    List(WorkList),
}

/// What a plan will load and launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys of a tile.
    pub tile_keys: usize,
    /// Query vectors of a tile: rows times heads of a group, or of a part of it.
    pub tile_queries: usize,
    /// K/V tiles loaded, over all KV heads, parts of their query heads and parts of the value.
    pub tiles_loaded: u64,
    /// K/V tiles that would be loaded if every view had its own copy of everything it sees.
    pub tiles_unshared: u64,
    /// Work items; each is launched once per KV head, part of its query heads and part of the value.
    pub items: usize,
    /// Partial states that the merge reads, per head.
    pub partials: usize,
}

impl AttentionPlan {
    /// Validates the problem and lays out the work.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for stale views or rows, [`crate::Error::SplitSpan`] where a span that must be seen as
    /// a whole was appended in parts, [`crate::Error::Unsupported`] for layers that no kernel serves.
    pub fn new(device: &Device, problem: &AttentionProblem<'_>) -> Result<Self> {
        AttentionPlan::with(device, problem, None)
    }

    /// A plan for all steps that the counter has room for: at step `s` every row stands `s` slots further on than the
    /// problem says. The cache holds the tokens of all steps already ([`KvCache::append_steps`](crate::kv::KvCache::append_steps));
    /// a row sees those that are born by its slot. Bits are those of a plan of each step.
    ///
    /// # Errors
    /// As [`AttentionPlan::new`], for the rows of every step; [`crate::Error::SplitSpan`] where a row would see tokens of
    /// later steps; [`crate::Error::Invalid`] for a counter of another device.
    pub fn over(device: &Device, problem: &AttentionProblem<'_>, steps: &Steps) -> Result<Self> {
        steps.validate(OP, device, problem.num_rows())?;
        AttentionPlan::with(device, problem, Some(steps.clone()))
    }

    fn with(device: &Device, problem: &AttentionProblem<'_>, steps: Option<Steps>) -> Result<Self> {
        let room = steps.as_ref().map_or(1, Steps::room);
        problem.validate(room)?;
        let spec = problem.spec;
        let selection_words = match spec.indexer {
            Some(_) => selection_words(OP, problem.cache, problem.rows)?,
            None => 0,
        };
        let tile = Tile::new(device, spec);
        let work = match device {
            Device::Reference => Work::Views(Snapshot::new(problem)?),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Work::List(WorkList::new(problem, &tile, room)?),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(_) => Work::List(WorkList::new(problem, &tile, room)?),
        };
        Ok(AttentionPlan {
            device: device.clone(),
            id: next_plan_id(),
            spec: spec.clone(),
            num_rows: problem.num_rows(),
            num_pages: problem.cache.num_pages(),
            page_size: problem.cache.page_size(),
            selection_words,
            tile,
            work,
            steps,
            positions: None,
        })
    }

    /// The plan with the rows' positions, by which outputs of a layer kind with [`LayerSpec::v_rope`] are turned back: those
    /// that `kv_append` was given. A plan [over](AttentionPlan::over) steps takes those of all rows of the first step, then
    /// of the second, and so on.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for another number of positions than rows, or a layer that turns no values.
    pub fn with_positions(self, positions: &[[i32; 4]]) -> Result<Self> {
        let room = self.steps.as_ref().map_or(1, Steps::room) as usize;
        validate_positions(OP, &self.spec, self.num_rows * room, positions)?;
        Ok(AttentionPlan { id: next_plan_id(), positions: Some(positions.to_vec()), ..self })
    }

    /// Query rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Words of a row of the selection: a bit for every slot of the longest view, as of a [`crate::select::SelectPlan`] of
    /// the same rows. 0 for layer kinds without an indexer.
    pub fn selection_words(&self) -> usize {
        self.selection_words
    }

    /// What the launch loads: with a selection, at most. The reference loads no tiles.
    pub fn stats(&self) -> Stats {
        match &self.work {
            Work::Views(_) => Stats::default(),
            Work::List(list) => Stats {
                tile_keys: self.tile.keys,
                tile_queries: self.tile.queries,
                ..list.stats(self.tile.shares(&self.spec))
            },
        }
    }

    /// The lifetimes the plan was made for.
    pub fn lifetimes(&self) -> &Lifetimes {
        &self.spec.lifetimes
    }
}

impl std::fmt::Display for AttentionPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{OP} on {}: {} rows, layer {}", self.device, self.num_rows, self.spec.name)?;
        if let Some(steps) = &self.steps {
            write!(f, ", {} steps", steps.room())?;
        }
        match &self.work {
            Work::Views(_) => write!(f, ", by definition"),
            #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
            Work::List(list) => {
                let (s, t) = (self.stats(), &self.tile);
                write!(
                    f,
                    ", {} items of up to {} queries x {} keys per tile ({} lanes, chosen for {}), {} tiles ({} unshared), {} partial states",
                    s.items, t.queries, t.keys, t.lanes, t.reason, s.tiles_loaded, s.tiles_unshared, s.partials
                )?;
                match &self.device {
                    #[cfg(feature = "cuda")]
                    Device::Cuda(_) => write!(f, "; 1 launch, {}", super::cuda::describe(self, list)),
                    _ => Ok(()),
                }
            }
        }
    }
}
