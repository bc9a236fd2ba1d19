//! Shrinking a thought while it is thought: score, keep, and write again where something was dropped.
//!
//! The score is R-KV's (arXiv 2505.24133), the use of slots again ThinKV's (arXiv 2510.01290): nothing is compacted, since a
//! key carries its position. A token is dropped in all layers and heads at once, as pages are shared by all layers; scores
//! are the caller's sums over them.

use std::ops::Range;

use super::{AgentId, Ensemble, Mode, OP};
use crate::kv::{Birth, Death, KvCache, Lifetimes, Modality};
use crate::{Error, Result};

/// `lambda * max over neighbours (attention) - (1 - lambda) * mean over keys (cosine)` per token: important and unlike the
/// rest is kept. `attention[i]` is the mean weight that the last queries gave token `i`, `keys` is `[tokens, dim]`, a
/// neighbour is at most `pool / 2` tokens away.
///
/// # Errors
/// [`Error::Invalid`] for keys that are not whole rows, and for a `lambda` outside \[0, 1\].
pub fn importance_and_redundancy(attention: &[f32], keys: &[f32], lambda: f32, pool: usize) -> Result<Vec<f32>> {
    let n = attention.len();
    if n == 0 || !keys.len().is_multiple_of(n) || keys.is_empty() {
        return Err(Error::invalid(OP, "keys", format!("{n} rows of 1 lane or more"), format!("{} lanes", keys.len())));
    }
    if !(0.0..=1.0).contains(&lambda) {
        return Err(Error::invalid(OP, "lambda", "a number in [0, 1]", lambda));
    }
    let unit: Vec<Vec<f64>> = keys
        .chunks(keys.len() / n)
        .map(|key| {
            let length = key.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            key.iter().map(|&x| f64::from(x) / length).collect()
        })
        .collect();
    // The mean cosine to all keys is the product with the mean of their directions.
    let mut mean = vec![0f64; keys.len() / n];
    unit.iter().for_each(|key| mean.iter_mut().zip(key).for_each(|(m, x)| *m += x / n as f64));
    let score = |(i, key): (usize, &Vec<f64>)| {
        let near = attention.get(i.saturating_sub(pool / 2)..(i + pool / 2 + 1).min(n)).unwrap_or_default();
        let important = near.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
        let redundant: f64 = key.iter().zip(&mean).map(|(a, b)| a * b).sum();
        (f64::from(lambda) * important - (1.0 - f64::from(lambda)) * redundant) as f32
    };
    Ok(unit.iter().enumerate().map(score).collect())
}

/// Which tokens stay within `budget`: the last `recent`, then those of the best scores, the earlier of equals. More recent
/// tokens than the budget all stay.
pub fn keep(scores: &[f32], budget: usize, recent: usize) -> Vec<bool> {
    let n = scores.len();
    let old = n.saturating_sub(recent);
    let mut order: Vec<usize> = (0..old).collect();
    let score = |i: usize| scores.get(i).copied().unwrap_or(f32::NEG_INFINITY);
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    let mut kept: Vec<bool> = (0..n).map(|i| i >= old).collect();
    for i in order.into_iter().take(budget.saturating_sub(n - old)) {
        if let Some(keep) = kept.get_mut(i) {
            *keep = true;
        }
    }
    kept
}

impl Ensemble {
    /// Drops those of the agent's own slots that are not kept; its next tokens are written in their places, without a page
    /// more, and stand at the positions that follow. Places that somebody else reaches are dropped and not written again.
    /// Drafts that were proposed are given up, unless all is kept.
    ///
    /// `kinds` are the lifetimes of all layer kinds of the model.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for agents that read each other, and for layer kinds whose text keys die or look ahead: slots
    /// that are used again have no order. [`Error::Invalid`] for slots that are not the agent's own, and if the last is
    /// not kept.
    pub fn evict(
        &mut self,
        cache: &mut KvCache,
        id: AgentId,
        slots: Range<i32>,
        kept: &[bool],
        kinds: &[Lifetimes],
    ) -> Result<()> {
        self.check_landed("evict")?;
        if self.mode != Mode::Isolated {
            return Err(Error::unsupported(OP, "evicting from agents that read each other", "isolated agents"));
        }
        let text = kinds.iter().map(|kind| kind.get(Modality::Text));
        if let Some(other) = text.into_iter().find(|l| l.birth != Birth::Causal || l.death != Death::Never) {
            return Err(Error::unsupported(OP, format!("evicting under {other:?}"), "causal keys that never die"));
        }
        let agent = self.agent(id)?;
        let (view, first) = (agent.live_view()?, agent.first_slot);
        let end = cache.view(view)?.next_slot();
        if slots.start < first || slots.start > slots.end || slots.end > end {
            return Err(Error::invalid(OP, "slots", format!("slots within {first}..{end}"), format!("{slots:?}")));
        }
        if (slots.end - slots.start) as usize != kept.len() || (slots.end == end && kept.last() == Some(&false)) {
            let what = format!("{} marks, the view's last slot kept", slots.end - slots.start);
            return Err(Error::invalid(OP, "kept", what, format!("{kept:?}")));
        }
        let seen: Vec<i32> = cache.view(view)?.pieces(slots.clone()).flat_map(|e| e.slot_base..e.slot_end()).collect();
        let gone = |slot: &i32| kept.get((slot - slots.start) as usize) == Some(&false);
        let mut vacant: Vec<i32> = seen.into_iter().filter(gone).collect();
        if vacant.is_empty() {
            return Ok(());
        }
        for &slot in &vacant {
            cache.drop_range(view, slot..slot + 1)?;
        }
        // The earliest place is written first.
        vacant.reverse();
        let agent = self.agent_mut(id)?;
        agent.vacant.splice(0..0, vacant);
        // Drafts go to the end of a view; the next token may not.
        agent.proposal = None;
        Ok(())
    }
}
