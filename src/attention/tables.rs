//! The work list as one buffer of words, the same for every device.

use super::AttentionPlan;
use super::worklist::{WorkList, rule_words};

/// Words of the table header; see `shaders/attention.wgsl`.
const HEADER_WORDS: usize = 12;

/// First word of the counters, where the launch also merges: of items that were taken, then of arrivals, one per row and
/// part of the query heads.
#[cfg(feature = "cuda")]
pub(crate) const COUNTERS: usize = HEADER_WORDS;

/// First word of the merge's header: the last four of ours.
pub(crate) const MERGE_HEADER: usize = HEADER_WORDS - 4;

/// All tables behind the header and `num_counters` zeros, the rows' positions behind the merge's lists. Every word but these
/// and the merge header's numbers is what `shaders/attention.wgsl` names.
pub(crate) fn words(plan: &AttentionPlan, list: &WorkList, num_counters: usize) -> Vec<u32> {
    let (spec, num_rows) = (&plan.spec, plan.num_rows);
    let mut words = vec![0; HEADER_WORDS + num_counters];
    let rules = words.len();
    words.extend(rule_words(spec));
    let item_rows = words.len();
    words.extend(list.item_rows.as_flattened());
    let runs = words.len();
    words.extend(list.runs.as_flattened());
    let pages = words.len();
    words.extend(&list.pages);
    let shifts = words.len();
    if let Some(rope) = &spec.rope {
        for shift in &list.shifts {
            for (inv_freq, &axis) in rope.inv_freq.iter().zip(&rope.axis) {
                let (sin, cos) = (f64::from(shift[axis as usize]) * inv_freq).sin_cos();
                words.extend([(cos as f32).to_bits(), (sin as f32).to_bits()]);
            }
        }
    }
    let indptr = words.len();
    words.extend(&list.indptr);
    let index = words.len();
    words.extend(&list.index);
    words.extend(plan.positions.iter().flatten().flatten().map(|&p| p as u32));
    let items = words.len();
    words.extend(list.items.as_flattened());
    let header = [list.items.len(), items, item_rows, runs, pages, shifts, rules, 0, num_rows, indptr, index, 0];
    for (word, value) in words.iter_mut().zip(header) {
        *word = value as u32;
    }
    words
}
