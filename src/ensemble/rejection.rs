//! The acceptance rule of speculative sampling, for drafters that draw with noise of their own.
//!
//! A drafted token `x` of draft probability `q(x)` is accepted with probability `min(1, p(x) / q(x))`; the first that is
//! refused is replaced by a draw from `max(0, p - q)`, renormalised, and if all are accepted one more is drawn from `p`. The
//! tokens are distributed as the target's own (Leviathan, Kalman, Matias, arXiv 2211.17192; Chen et al., arXiv
//! 2302.01318).
//!
//! [`Ensemble::accept`](super::Ensemble::accept) needs none of this: it keeps a draft iff it is what the agent draws there
//! itself, which is lossless for any drafter, and whose tokens are those of no draft at all.

use super::OP;
use crate::{Error, Result};

/// What stays of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Drafted tokens that stay, from the first on.
    pub len: usize,
    /// The token that follows them.
    pub next: u32,
}

/// Verifies a chain of drafted tokens. `target` has a distribution for each and one more, `draft` the one each was drawn
/// from; greedy is a distribution with all mass on one token. `uniforms` are as many independent numbers in \[0, 1) as
/// `target` has rows.
///
/// # Errors
/// [`Error::Invalid`] for other numbers of rows, rows of different lengths, and tokens outside them or of draft
/// probability 0.
pub fn accept(target: &[&[f32]], draft: &[&[f32]], drafted: &[u32], uniforms: &[f32]) -> Result<Accepted> {
    let vocab = target.first().map_or(0, |row| row.len());
    let count = drafted.len();
    if target.len() != count + 1 || draft.len() != count || uniforms.len() != count + 1 || vocab == 0 {
        let got = format!("{} of the target, {} of the draft, {} uniforms", target.len(), draft.len(), uniforms.len());
        return Err(Error::invalid(OP, "target", format!("{} rows, {count} and {}", count + 1, count + 1), got));
    }
    if let Some(row) = target.iter().chain(draft).find(|row| row.len() != vocab) {
        return Err(Error::invalid(OP, "target", format!("rows of {vocab}"), row.len()));
    }
    for (len, (((p, q), &token), &u)) in target.iter().zip(draft).zip(drafted).zip(uniforms).enumerate() {
        let of = |row: &[f32]| row.get(token as usize).copied().map_or(0.0, f64::from);
        if of(q) <= 0.0 {
            return Err(Error::invalid(OP, "drafted", "tokens that the draft may draw", token));
        }
        if f64::from(u) * of(q) >= of(p) {
            let rest: Vec<f64> = p.iter().zip(*q).map(|(p, q)| (f64::from(*p) - f64::from(*q)).max(0.0)).collect();
            // A refusal has probability 0 unless something is left.
            let next = uniforms.last().and_then(|&u| draw(&rest, u)).unwrap_or(token);
            return Ok(Accepted { len, next });
        }
    }
    let last: Vec<f64> = target.last().into_iter().flat_map(|row| row.iter().copied().map(f64::from)).collect();
    let next = uniforms.last().and_then(|&u| draw(&last, u));
    let next = next.ok_or_else(|| Error::invalid(OP, "target", "a distribution", "no mass"))?;
    Ok(Accepted { len: count, next })
}

/// The token at which the mass up to and including it passes `u` of the whole.
fn draw(weights: &[f64], u: f32) -> Option<u32> {
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let passes = |w: &f64| {
        sum += w;
        sum > f64::from(u) * total
    };
    weights.iter().position(passes).map(|i| i as u32)
}
