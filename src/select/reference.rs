//! The definition: scores in f64, sorted.

use super::plan::Work;
use super::problem::SelectProblem;
use super::{OP, SelectArgs, SelectPlan};
use crate::{Error, Result, Tensor};

/// What each row sees: slot of the view, page, slot of the page.
#[derive(Clone)]
pub(super) struct Snapshot {
    rows: Vec<Vec<(i32, usize, usize)>>,
}

impl Snapshot {
    pub(super) fn new(problem: &SelectProblem<'_>) -> Result<Self> {
        let (cache, size) = (problem.cache, problem.cache.page_size());
        let mut all = Vec::new();
        for rows in problem.rows {
            for q in rows.first_slot..rows.first_slot + rows.len as i32 {
                let mut seen = Vec::new();
                for entry in cache.view(rows.view)?.entries() {
                    let segment = cache.segment(entry.segment)?;
                    for span in segment.spans() {
                        let last = (span.start + span.len).min(entry.start + entry.len);
                        let (start, end) = (entry.slot_of(span.start), entry.slot_of(last));
                        for token in span.start.max(entry.start)..last {
                            let slot = entry.slot_of(token);
                            let (birth, death) = problem.spec.lifetimes.get(span.modality).of(slot, start, end);
                            let is_hidden = rows.gap.as_ref().is_some_and(|gap| gap.contains(&slot));
                            if birth <= q && q < death && !is_hidden {
                                let page = segment.pages()[token as usize / size];
                                seen.push((slot, page as usize, token as usize % size));
                            }
                        }
                    }
                }
                all.push(seen);
            }
        }
        Ok(Snapshot { rows: all })
    }
}

fn vector(t: &Tensor, bytes: &[u8], index: [usize; 2], lanes: usize) -> Vec<f64> {
    let n = t.dtype().size();
    let start = t.offset() + index[0] * t.strides()[0] + index[1] * t.strides()[1];
    (start..start + lanes).map(|e| f64::from(t.dtype().decode(&bytes[e * n..(e + 1) * n]))).collect()
}

pub(super) fn run(plan: &SelectPlan, args: &SelectArgs<'_>) -> Result<()> {
    let Work::Tokens(snapshot) = &plan.work else {
        return Err(Error::invalid(OP, "plan", "one made for the reference", "one made for another device"));
    };
    let spec = &plan.spec;
    let (q, k, weights) = (args.q.buffer().read()?, args.k.buffer().read()?, args.weights.read_f32()?);
    let mut words = vec![0u32; plan.num_rows * plan.words];
    for (row, seen) in snapshot.rows.iter().enumerate() {
        let queries: Vec<Vec<f64>> = (0..spec.heads).map(|h| vector(args.q, &q, [row, h], spec.dim)).collect();
        let score = |page: usize, slot: usize| -> f64 {
            let key = vector(args.k, &k, [page, slot], spec.dim);
            let relu = |query: &[f64]| query.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>().max(0.0);
            queries.iter().enumerate().map(|(h, query)| f64::from(weights[row * spec.heads + h]) * relu(query)).sum()
        };
        // Units by number: sum and count of the scores of their keys.
        let mut units = std::collections::BTreeMap::<i32, (f64, f64)>::new();
        for &(slot, page, place) in seen {
            let unit = units.entry(slot / spec.block as i32).or_default();
            *unit = (unit.0 + score(page, place), unit.1 + 1.0);
        }
        let mut ranked: Vec<(f64, i32)> = units.into_iter().map(|(unit, (sum, n))| (sum / n, unit)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut chosen: Vec<i32> = ranked.into_iter().take(spec.count).map(|(_, unit)| unit).collect();
        chosen.sort_unstable();
        for &(slot, ..) in seen {
            if chosen.binary_search(&(slot / spec.block as i32)).is_ok() {
                words[row * plan.words + slot as usize / 32] |= 1 << (slot % 32);
            }
        }
    }
    args.selection.write(0, bytemuck::cast_slice(&words))
}
