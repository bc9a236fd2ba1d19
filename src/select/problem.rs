//! Which rows choose among which keys, and all validation.

use super::{OP, SelectPlan};
use crate::attention::QueryRows;
use crate::attention::problem::selection_words;
use crate::kv::{Birth, KvCache, Lifetimes, Modality};
use crate::layer::{Indexer, LayerSpec};
use crate::{Buffer, DType, Error, Result, Tensor};

/// An indexer: what its queries and keys are like, and how much it chooses.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectSpec {
    /// Index heads of q; they share one key per token.
    pub heads: usize,
    /// Lanes of q and k: a multiple of 4.
    pub dim: usize,
    /// Units that a row chooses: `index_topk`.
    pub count: usize,
    /// Slots of a unit: 1 chooses tokens, more chooses blocks by the mean of their scores.
    pub block: usize,
    /// Among which keys a row chooses.
    pub lifetimes: Lifetimes,
    /// Storage of q.
    pub dtype: DType,
    /// Storage of k.
    pub k_dtype: DType,
}

impl SelectSpec {
    /// The indexer of a layer kind, which chooses among the keys that the layer's lifetimes let a row see; `None` for
    /// kinds that see all keys. Index queries and keys are stored like those of the layer.
    pub fn of(layer: &LayerSpec) -> Option<SelectSpec> {
        let Indexer { heads, dim, count, block } = layer.indexer?;
        let (dtype, k_dtype) = (layer.dtype, layer.kv_dtype);
        Some(SelectSpec { heads, dim, count, block, lifetimes: layer.lifetimes, dtype, k_dtype })
    }
}

/// One launch: an indexer, a cache whose pages hold its keys, and the rows in the order in which they lie in `q`.
#[derive(Debug, Clone, Copy)]
pub struct SelectProblem<'a> {
    /// The indexer.
    pub spec: &'a SelectSpec,
    /// The views.
    pub cache: &'a KvCache,
    /// The rows.
    pub rows: &'a [QueryRows],
}

impl SelectProblem<'_> {
    pub(super) fn num_rows(&self) -> usize {
        self.rows.iter().map(|r| r.len as usize).sum()
    }

    /// Words of a row: a bit for every slot of the longest view.
    pub(super) fn words(&self) -> Result<usize> {
        selection_words(OP, self.cache, self.rows)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let s = self.spec;
        Indexer { heads: s.heads, dim: s.dim, count: s.count, block: s.block }.validate(OP)?;
        if s.dim == 0 || !s.dim.is_multiple_of(4) || s.dim > 256 {
            return Err(Error::unsupported(OP, format!("dim {}", s.dim), "multiples of 4 from 4 to 256"));
        }
        s.dtype.expect_values(OP, "index queries")?;
        s.k_dtype.expect_values(OP, "index keys")?;
        for modality in Modality::ALL {
            let lifetime = s.lifetimes.get(modality);
            if !lifetime.is_valid() {
                let expected = "windows and chunks of 1 slot or more, slots from 0, num up to 1024, den from 1 to 1024";
                return Err(Error::invalid(OP, "lifetimes", expected, format!("{modality}: {lifetime:?}")));
            }
            if matches!(lifetime.birth, Birth::Affine { .. }) {
                return Err(Error::unsupported(OP, "affine births", "the other births"));
            }
        }
        for rows in self.rows {
            let view = self.cache.view(rows.view)?;
            let end = i64::from(rows.first_slot) + i64::from(rows.len);
            if rows.first_slot < 0 || end > i64::from(view.next_slot()) {
                let got = format!("{}..{end}", rows.first_slot);
                return Err(Error::invalid(OP, "rows", format!("slots within 0..{}", view.next_slot()), got));
            }
            if view.entries().iter().any(|entry| entry.shift != [0; 4]) {
                return Err(Error::unsupported(OP, "entries with a position shift", "views without"));
            }
        }
        self.words().map(|_| ())
    }
}

/// The memory of one call.
#[derive(Debug, Clone, Copy)]
pub struct SelectArgs<'a> {
    /// Index queries `[rows, heads, dim]`, normed and rotated as the model has it.
    pub q: &'a Tensor,
    /// Index keys `[pages, page_size, dim]`, one per token.
    pub k: &'a Tensor,
    /// Weights of the heads `[rows, heads]`, f32, scales included.
    pub weights: &'a Tensor,
    /// Written: `rows * plan.words()` words, a bit per slot.
    pub selection: &'a Buffer,
}

impl SelectArgs<'_> {
    pub(super) fn validate(&self, plan: &SelectPlan) -> Result<()> {
        let (spec, rows) = (&plan.spec, plan.num_rows);
        self.q.expect(OP, "q", spec.dtype, &[rows, spec.heads, spec.dim])?;
        let pages = self.k.shape().first().copied().unwrap_or(0);
        if pages < plan.num_pages {
            return Err(Error::invalid(OP, "k", format!("{} pages or more", plan.num_pages), pages));
        }
        self.k.expect(OP, "k", spec.k_dtype, &[pages, plan.page_size, spec.dim])?;
        self.weights.expect(OP, "weights", DType::F32, &[rows, spec.heads])?;
        let bytes = rows * plan.words * 4;
        if self.selection.bytes() < bytes {
            let got = format!("{} bytes", self.selection.bytes());
            return Err(Error::invalid(OP, "selection", format!("{bytes} bytes or more"), got));
        }
        for (name, t) in [("q", self.q), ("k", self.k), ("weights", self.weights)] {
            if t.buffer().is_same(self.selection) {
                return Err(Error::invalid(OP, "selection", format!("another buffer than {name}"), "the same"));
            }
        }
        Ok(())
    }
}
