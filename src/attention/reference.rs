//! The definition of attention: two-pass softmax in f64 over the tokens of each view.

use rayon::prelude::*;

use super::plan::Work;
use super::problem::{AttentionProblem, OP};
use super::{AttentionArgs, AttentionPlan};
use crate::kv::{Entry, Segment};
use crate::layer::LayerSpec;
use crate::merge::reference::epilogue;
use crate::{Error, Result, Steps, Tensor};

/// The views and rows as they were when the plan was made.
#[derive(Clone)]
pub(crate) struct Snapshot {
    page_size: usize,
    views: Vec<Vec<(Entry, Segment)>>,
    rows: Vec<Row>,
}

#[derive(Clone)]
struct Row {
    view: usize,
    slot: i32,
    gap: std::ops::Range<i32>,
}

impl Snapshot {
    pub(crate) fn new(problem: &AttentionProblem<'_>) -> Result<Self> {
        let mut snapshot = Snapshot { page_size: problem.cache.page_size(), views: Vec::new(), rows: Vec::new() };
        for rows in problem.rows {
            let mut view = Vec::new();
            for entry in problem.cache.view(rows.view)?.entries() {
                view.push((*entry, problem.cache.segment(entry.segment)?.clone()));
            }
            let gap = rows.gap.clone().unwrap_or(0..0);
            for i in 0..rows.len as i32 {
                let slot = rows.first_slot + i;
                snapshot.rows.push(Row { view: snapshot.views.len(), slot, gap: gap.clone() });
            }
            snapshot.views.push(view);
        }
        Ok(snapshot)
    }

    /// Tokens a row sees at a step, of those with chosen slots: page, slot in the page, and the entry's position shift.
    fn visible(
        &self,
        spec: &LayerSpec,
        row: &Row,
        step: u32,
        is_chosen: impl Fn(i32) -> bool,
    ) -> Vec<(usize, usize, [i32; 4])> {
        let mut seen = Vec::new();
        let now = row.slot + step as i32;
        for (entry, segment) in &self.views[row.view] {
            for span in segment.spans() {
                let lifetime = spec.lifetimes.get(span.modality);
                // A span ends where the view stops seeing it: how far a parent goes on is not the child's business.
                let last = (span.start + span.len).min(entry.start + entry.len);
                let (start, end) = (entry.slot_of(span.start), entry.slot_of(last));
                for token in span.start.max(entry.start)..last {
                    let slot = entry.slot_of(token);
                    let (birth, death) = lifetime.of(slot, start, end);
                    if birth <= now && now < death && !row.gap.contains(&slot) && is_chosen(slot) {
                        let page = segment.pages()[token as usize / self.page_size];
                        seen.push((page as usize, token as usize % self.page_size, entry.shift));
                    }
                }
            }
        }
        seen
    }
}

/// Reads single elements of a tensor whose bytes were copied out once.
struct Reader<'a> {
    tensor: &'a Tensor,
    bytes: Vec<u8>,
    /// What all elements are multiplied by.
    factor: f64,
    /// And the elements of each vector.
    scales: Option<Box<Reader<'a>>>,
    /// Lanes behind the codes.
    tail: Option<Box<Reader<'a>>>,
}

impl<'a> Reader<'a> {
    fn new(tensor: &'a Tensor, factor: f32) -> Result<Self> {
        let plain = |t: Option<&'a Tensor>| t.map(|t| Reader::new(t, 1.0).map(Box::new)).transpose();
        let (scales, tail) = (plain(tensor.scales())?, plain(tensor.tail())?);
        Ok(Reader { tensor, bytes: tensor.buffer().read()?, factor: f64::from(factor), scales, tail })
    }
    fn vector(&self, index: [usize; 3], len: usize) -> Vec<f64> {
        let start: usize =
            self.tensor.offset() + index.iter().zip(self.tensor.strides()).map(|(i, s)| i * s).sum::<usize>();
        let n = self.tensor.dtype().size();
        let scale = self.factor * self.scales.as_ref().map_or(1.0, |scales| scales.vector(index, 1)[0]);
        let value = |e: usize| f64::from(self.tensor.dtype().decode(&self.bytes[e * n..(e + 1) * n]));
        let (before, behind) = match &self.tail {
            Some(tail) => (self.tensor.lanes_before_tail(), tail.vector(index, len - self.tensor.lanes_before_tail())),
            None => (len, vec![]),
        };
        (start..start + before).map(|e| value(e) * scale).chain(behind).collect()
    }
}

/// `R(-shift) q`: turns back by `shift` positions, without the attention factor, which is in q already.
fn shifted(spec: &LayerSpec, q: &[f64], shift: [i32; 4]) -> Vec<f64> {
    let mut out = q.to_vec();
    if let Some(rope) = &spec.rope {
        for (j, inv_freq) in rope.inv_freq.iter().enumerate() {
            let (sin, cos) = (f64::from(shift[rope.axis[j] as usize]) * inv_freq).sin_cos();
            let (a, b) = rope.pair(j);
            out[a] = q[a] * cos + q[b] * sin;
            out[b] = q[b] * cos - q[a] * sin;
        }
    }
    out
}

pub(super) fn run(plan: &AttentionPlan, args: &AttentionArgs<'_>) -> Result<()> {
    let Work::Views(snapshot) = &plan.work else {
        return Err(Error::invalid(OP, "plan", "one made for the reference", "one made for another device"));
    };
    let spec = &plan.spec;
    let step = plan.steps.as_ref().map_or(Ok(0), Steps::now)?;
    let ended = plan.steps.as_ref().map_or(Ok(vec![]), Steps::ended)?;
    let (heads, group, dim, dim_v) = (spec.num_q_heads, spec.group(), spec.head_dim, spec.head_dim_v);
    let factors = spec.kv_scale.factors();
    let (q, k, v) = (Reader::new(args.q, 1.0)?, Reader::new(args.k, factors[0])?, Reader::new(args.v, factors[1])?);
    let selection = args.selection.map(|buffer| buffer.read()).transpose()?;
    let is_chosen = |row: usize, slot: i32| {
        let bits = selection.as_ref().map(|bytes| &bytes[row * plan.selection_words * 4..]);
        bits.is_none_or(|bits| bits[slot as usize / 8] >> (slot % 8) & 1 == 1)
    };
    let mut out = vec![0f64; plan.num_rows * heads * dim_v];
    let mut lse = vec![f64::NEG_INFINITY; plan.num_rows * heads];
    let per_row = out.par_chunks_mut(heads * dim_v).zip(lse.par_chunks_mut(heads)).zip(&snapshot.rows).enumerate();
    per_row.for_each(|(r, ((out, lse), row))| {
        let has_ended = ended.get(r).copied().unwrap_or(false);
        let seen = snapshot.visible(spec, row, step, |slot| !has_ended && is_chosen(r, slot));
        for head in 0..heads {
            let query = q.vector([r, head, 0], dim);
            let mut turned: Vec<([i32; 4], Vec<f64>)> = Vec::new();
            let scores: Vec<f64> = seen
                .iter()
                .map(|&(page, slot, shift)| {
                    if turned.last().is_none_or(|(s, _)| *s != shift) {
                        turned.push((shift, shifted(spec, &query, shift)));
                    }
                    let query = &turned[turned.len() - 1].1;
                    let key = k.vector([page, head / group, slot], dim);
                    let s = query.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>() * f64::from(spec.softmax_scale);
                    spec.soft_cap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh())
                })
                .collect();
            let sink = spec.sinks.then(|| f64::from(args.constants.weights.sinks[head]));
            // `max` would drop a NaN score; a sum keeps it.
            let most = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            if most == f64::NEG_INFINITY && scores.is_empty() {
                continue;
            }
            let total: f64 = scores.iter().copied().chain(sink).map(|s| (s - most).exp()).sum();
            lse[head] = most + total.ln();
            let out = &mut out[head * dim_v..(head + 1) * dim_v];
            for (&(page, slot, _), s) in seen.iter().zip(&scores) {
                let weight = (s - most).exp() / total;
                for (o, x) in out.iter_mut().zip(v.vector([page, head / group, slot], dim_v)) {
                    *o += weight * x;
                }
            }
        }
    });
    let positions = plan.positions.as_deref().unwrap_or_default();
    let positions = positions.get(step as usize * plan.num_rows..).unwrap_or_default();
    epilogue(spec, args.constants, out, lse, positions, args.gate, args.out, args.lse)
}
