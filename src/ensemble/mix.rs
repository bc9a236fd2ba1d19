//! Mixing what several agents would say next into one distribution: one token is drawn and given to all of them
//! (ThinkMerge, arXiv 2512.02874).
//!
//! Averaging logits is linear, so mixing the hidden states and projecting once is the same, and `K` times less to project,
//! write and scan: `sum w (W h) = W (sum w h)`. It is not where something else than the projection comes between (a
//! soft cap, penalties or masks of one agent) nor for an average of probabilities; then logits are mixed.

use super::OP;
use crate::{Error, Result};

/// `sum_k w_k row_k / sum_k w_k`: of hidden states before the projection, or of logits. Rows of weight 0 are not read.
///
/// # Errors
/// [`Error::Invalid`] for no row, rows of different lengths, or weights that are negative, not finite or all 0.
pub fn linear(rows: &[&[f32]], weights: &[f32]) -> Result<Vec<f32>> {
    let (len, weights) = validate(rows, weights)?;
    let mut mixed = vec![0f64; len];
    for (row, weight) in rows.iter().zip(&weights).filter(|(_, w)| **w > 0.0) {
        mixed.iter_mut().zip(*row).for_each(|(sum, &x)| *sum += weight * f64::from(x));
    }
    Ok(mixed.into_iter().map(|x| x as f32).collect())
}

/// `ln sum_k w_k softmax(row_k) / sum_k w_k`: logits of the mixture of the agents' distributions. What a row has a soft cap,
/// a temperature or penalties for must be applied before.
///
/// # Errors
/// As [`linear`].
pub fn probabilities(logits: &[&[f32]], weights: &[f32]) -> Result<Vec<f32>> {
    let (len, weights) = validate(logits, weights)?;
    let mut mixed = vec![0f64; len];
    for (row, weight) in logits.iter().zip(&weights).filter(|(_, w)| **w > 0.0) {
        let most = row.iter().copied().map(f64::from).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|&l| (f64::from(l) - most).exp()).sum();
        mixed.iter_mut().zip(*row).for_each(|(p, &l)| *p += weight * (f64::from(l) - most).exp() / total);
    }
    Ok(mixed.into_iter().map(|p| p.ln() as f32).collect())
}

/// The length of the rows, and weights that add up to 1.
fn validate(rows: &[&[f32]], weights: &[f32]) -> Result<(usize, Vec<f64>)> {
    let Some(len) = rows.first().map(|r| r.len()) else {
        return Err(Error::invalid(OP, "rows", "1 row or more", "none"));
    };
    if let Some(other) = rows.iter().find(|r| r.len() != len) {
        return Err(Error::invalid(OP, "rows", format!("rows of {len}"), other.len()));
    }
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let fit = weights.len() == rows.len() && weights.iter().all(|w| *w >= 0.0) && total > 0.0 && total.is_finite();
    if !fit {
        let what = format!("{} finite weights of 0 or more, not all 0", rows.len());
        return Err(Error::invalid(OP, "weights", what, format!("{weights:?}")));
    }
    Ok((len, weights.iter().map(|&w| f64::from(w) / total).collect()))
}
