//! Which rows attend, to what memory; and all validation.

use std::ops::Range;

use super::AttentionPlan;
use crate::kv::{Appended, Birth, KvCache, Modality, ViewId};
use crate::layer::{LayerConstants, LayerSpec};
use crate::merge::problem::{expect_positions, validate_outputs};
use crate::{Buffer, Error, Result, Tensor};

pub(crate) const OP: &str = "attention";

/// Consecutive query rows of one view: slots `first_slot .. first_slot + len`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRows {
    /// Whose rows.
    pub view: ViewId,
    /// Slot of the first row.
    pub first_slot: i32,
    /// Number of rows.
    pub len: u32,
    /// Slots of keys that these rows do not see although the lifetimes would let them.
    pub gap: Option<Range<i32>>,
}

impl From<Appended> for QueryRows {
    /// The rows of the tokens just appended.
    fn from(a: Appended) -> Self {
        QueryRows { view: a.view, first_slot: a.first_slot, len: a.len, gap: None }
    }
}

/// Words of a row of a selection: a bit for every slot of the longest view of these rows, in 32-bit words. Refuses
/// selections that are too large for a bit to have a 32-bit number.
pub(crate) fn selection_words(op: &'static str, cache: &KvCache, rows: &[QueryRows]) -> Result<usize> {
    let (mut slots, mut num_rows) = (0, 0);
    for rows in rows {
        slots = slots.max(cache.view(rows.view)?.next_slot());
        num_rows += rows.len as usize;
    }
    let words = (slots as usize).div_ceil(32).max(1);
    if num_rows.saturating_mul(words) >= 1 << 27 {
        let got = format!("{num_rows} rows of {words} words");
        return Err(Error::unsupported(op, got, "fewer than 2^27 words in all"));
    }
    Ok(words)
}

/// One launch: a layer kind, a cache, and the rows of all agents in the order in which they lie in `q` and `out`.
#[derive(Debug, Clone, Copy)]
pub struct AttentionProblem<'a> {
    /// The layer kind.
    pub spec: &'a LayerSpec,
    /// The views.
    pub cache: &'a KvCache,
    /// The rows.
    pub rows: &'a [QueryRows],
}

impl AttentionProblem<'_> {
    /// Rows in all.
    pub(crate) fn num_rows(&self) -> usize {
        self.rows.iter().map(|r| r.len as usize).sum()
    }

    /// Checks the rows of `room` steps, each a slot further on than the one before.
    pub(crate) fn validate(&self, room: u32) -> Result<()> {
        self.spec.validate(OP)?;
        for rows in self.rows {
            let view = self.cache.view(rows.view)?;
            let first_end = i64::from(rows.first_slot) + i64::from(rows.len);
            let end = first_end + i64::from(room - 1);
            if rows.first_slot < 0 || end > i64::from(view.next_slot()) {
                let got = format!("{}..{end}", rows.first_slot);
                return Err(Error::invalid(OP, "rows", format!("slots within 0..{}", view.next_slot()), got));
            }
            if let Some(gap) = &rows.gap
                && gap.start > gap.end
            {
                return Err(Error::invalid(OP, "gap", "an ascending range", format!("{gap:?}")));
            }
            let scales =
                Modality::ALL.iter().any(|&m| matches!(self.spec.lifetimes.get(m).birth, Birth::Affine { .. }));
            if scales && end > 1 << 20 {
                return Err(Error::unsupported(OP, format!("{end} slots with affine births"), "2^20 slots"));
            }
            for entry in view.entries() {
                if entry.shift != [0; 4] && self.spec.rope.as_ref().is_some_and(|r| r.inv_freq.is_empty()) {
                    return Err(Error::invalid(OP, "rope", "lane pairs to shift", "none"));
                }
                if entry.shift != [0; 4] && self.spec.v_rope {
                    let what = format!("v_rope with a position shift of {:?}", entry.shift);
                    return Err(Error::unsupported(
                        OP,
                        what,
                        "views without shifts, since queries turn in place of keys",
                    ));
                }
                for span in self.cache.segment(entry.segment)?.spans() {
                    let seen = span.start < entry.start + entry.len && span.start + span.len > entry.start;
                    let reach = (entry.start + entry.len).min(span.end());
                    // Whether some of its tokens come in a later step.
                    let moves = room > 1 && i64::from(entry.slot_of(reach)) > first_end;
                    if seen && (span.is_split(reach) || moves) && self.spec.lifetimes.get(span.modality).looks_ahead() {
                        let (modality, have) = (span.modality, span.len as usize);
                        return Err(Error::SplitSpan { op: OP, modality, have, more: 0 });
                    }
                }
            }
        }
        Ok(())
    }
}

/// The memory of one call: one layer's pages and the rows.
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// Queries `[rows, num_q_heads, head_dim]` of the layer's dtype, normed and rotated.
    pub q: &'a Tensor,
    /// Keys `[pages, num_kv_heads, page_size, head_dim]` of the layer's KV dtype, [with
    /// scales](Tensor::with_scales) where tokens have them, and with its [tail](LayerSpec::key_pages) where there is one.
    /// An engine's page layout is a [permuted](Tensor::permute) view.
    pub k: &'a Tensor,
    /// Values `[pages, num_kv_heads, page_size, head_dim_v]` of the layer's KV dtype, as the keys; where V is in K, a
    /// [view](Tensor::first_lanes) of it.
    pub v: &'a Tensor,
    /// The layer's constants.
    pub constants: &'a LayerConstants,
    /// The keys that each row chose, iff the layer has an [indexer](LayerSpec::indexer): `rows * plan.selection_words()`
    /// words of 32 bits, bit `s % 32` of word `s / 32` of a row for slot `s` of its view, as [`crate::select`] writes them.
    pub selection: Option<&'a Buffer>,
    /// Gates `[rows, num_q_heads, head_dim_v]` of the layer's dtype, iff the layer has a gate; `[rows, num_q_heads, 1]` for
    /// one per head.
    pub gate: Option<&'a Tensor>,
    /// Output `[rows, num_q_heads, head_dim_v]` of the layer's [output type](LayerSpec::out_dtype). On CUDA it lies
    /// apart from what is read, or, if it is of their type, exactly in the place of `q` or `gate`.
    pub out: &'a Tensor,
    /// Natural-log sums `[rows, num_q_heads]`, f32, sinks included.
    pub lse: Option<&'a Tensor>,
}

impl AttentionArgs<'_> {
    pub(crate) fn validate(&self, plan: &AttentionPlan) -> Result<()> {
        let spec = &plan.spec;
        let rows = plan.num_rows;
        self.q.expect(OP, "q", spec.dtype, &[rows, spec.num_q_heads, spec.head_dim])?;
        let pages = self.k.shape().first().copied().unwrap_or(0);
        if pages < plan.num_pages {
            return Err(Error::invalid(OP, "k", format!("{} pages or more", plan.num_pages), pages));
        }
        let (heads, size) = (spec.num_kv_heads, plan.page_size);
        spec.expect_pages(OP, "k", self.k, &[pages, heads, size, spec.head_dim])?;
        spec.expect_pages(OP, "v", self.v, &[pages, heads, size, spec.head_dim_v])?;
        if spec.v_in_k {
            self.v.expect_first_lanes(OP, "v", self.k)?;
        }
        self.validate_selection(plan)?;
        self.constants.validate(OP, spec)?;
        expect_positions(OP, spec, plan.positions.is_some())?;
        validate_outputs(OP, spec, rows, self.gate, self.out, self.lse)
    }

    fn validate_selection(&self, plan: &AttentionPlan) -> Result<()> {
        let bytes = plan.num_rows * plan.selection_words * 4;
        let wrong = |expected: String, got: String| Err(Error::invalid(OP, "selection", expected, got));
        match (&plan.spec.indexer, self.selection) {
            (None, None) => Ok(()),
            (None, Some(_)) => wrong("none, as the layer kind has no indexer".into(), "one".into()),
            (Some(_), None) => wrong(format!("{bytes} bytes, as the layer kind has an indexer"), "none".into()),
            (Some(_), Some(selection)) if selection.bytes() < bytes => {
                wrong(format!("{bytes} bytes or more"), format!("{} bytes", selection.bytes()))
            }
            (Some(_), Some(selection)) => {
                let written = [("out", Some(self.out)), ("lse", self.lse)];
                match written.iter().find(|(_, t)| t.is_some_and(|t| t.buffer().is_same(selection))) {
                    Some((name, _)) => wrong(format!("another buffer than {name}"), "the same".into()),
                    None => Ok(()),
                }
            }
        }
    }
}
