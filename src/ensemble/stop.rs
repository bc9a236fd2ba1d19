//! Knowing when to stop: what a draw tells, the rules, and why an agent stopped.
//!
//! Confidence and groups are those of DeepConf (arXiv 2508.15260).

use super::OP;
use crate::sampling::Sampled;
use crate::{Error, Result};

/// What was drawn for one [`Draw`](super::Draw).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token, or [`NO_TOKEN`](crate::sampling::NO_TOKEN).
    pub token: u32,
    /// Natural logarithm of its probability.
    pub log_prob: f32,
    /// The sampler's [`confidence`], if it was measured.
    pub confidence: Option<f32>,
}

impl From<Sampled> for Drawn {
    fn from(sampled: Sampled) -> Self {
        Drawn { token: sampled.token, log_prob: sampled.log_prob, confidence: None }
    }
}

/// When agents stop, beside their own budgets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Stops agents that are not sure of themselves.
    pub confidence: Option<ConfidenceRule>,
}

/// Stops an agent once the mean confidence of its last `window` draws is below `threshold`. Never before the window is
/// full.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfidenceRule {
    /// Draws of a group: 1 or more.
    pub window: u32,
    /// Nats; finite.
    pub threshold: f32,
}

/// Why an agent stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It said an end token.
    EndToken,
    /// It said as many tokens as it may.
    Budget,
    /// Its group confidence fell below the threshold.
    Confidence,
    /// The vote can no longer change.
    Decided,
    /// Its logits had no distribution.
    NoDistribution,
    /// Its view was given up.
    Retired,
}

impl Rules {
    pub(super) fn validate(&self) -> Result<()> {
        let Some(rule) = self.confidence else { return Ok(()) };
        if rule.window == 0 {
            return Err(Error::invalid(OP, "window", "1 draw or more", 0));
        }
        if !rule.threshold.is_finite() {
            return Err(Error::invalid(OP, "threshold", "a finite number", rule.threshold));
        }
        Ok(())
    }
}

/// Confidence of a row of logits: `-(1/k) sum ln p_i` over its `k` largest probabilities, in nats: high where the mass is on
/// few tokens. Over those of positive probability where they are fewer; NaN where there is no distribution. 0 is 1.
pub fn confidence(logits: &[f32], k: usize) -> f32 {
    let mut sorted: Vec<f64> = logits.iter().map(|&l| f64::from(l)).filter(|l| *l != f64::NEG_INFINITY).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let Some(&most) = sorted.first().filter(|_| sorted.iter().all(|l| l.is_finite())) else { return f32::NAN };
    let lse = most + sorted.iter().map(|l| (l - most).exp()).sum::<f64>().ln();
    let k = k.clamp(1, sorted.len());
    (sorted.iter().take(k).map(|l| lse - l).sum::<f64>() / k as f64) as f32
}

/// Mean of the last `window` confidences; `None` before there are so many, and for a window of 0.
pub fn group_confidence(confidences: &[f32], window: usize) -> Option<f32> {
    let last = confidences.get(confidences.len().checked_sub(window)?..)?;
    (window > 0).then(|| (last.iter().copied().map(f64::from).sum::<f64>() / window as f64) as f32)
}
