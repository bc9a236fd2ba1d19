//! Knowing when to stop: the rules.
//!
//! Confidence and groups are those of DeepConf (arXiv 2508.15260); the sampler defines the confidence of a draw.

use super::OP;
use crate::{Error, Result};

/// When agents stop, beside their own budgets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Stops agents that are not sure of themselves.
    pub confidence: Option<ConfidenceRule>,
}

/// Stops an agent once the mean confidence of its last `window` draws is below `threshold`. Never before the window is
/// full. Its draws ask the sampler for the confidence; on the device, [`crate::stop`] follows the same rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfidenceRule {
    /// Likeliest tokens that the confidence speaks of: 1 or more, 20 in DeepConf.
    pub top_k: u32,
    /// Draws of a group: 1 or more.
    pub window: u32,
    /// Nats; finite.
    pub threshold: f32,
}

impl Rules {
    pub(super) fn validate(&self) -> Result<()> {
        let Some(rule) = self.confidence else { return Ok(()) };
        if rule.window == 0 || rule.top_k == 0 {
            let got = format!("{} draws, {} tokens", rule.window, rule.top_k);
            return Err(Error::invalid(OP, "window", "1 draw and 1 token or more", got));
        }
        if !rule.threshold.is_finite() {
            return Err(Error::invalid(OP, "threshold", "a finite number", rule.threshold));
        }
        Ok(())
    }
}

/// Mean of the last `window` confidences; `None` before there are so many, and for a window of 0.
pub fn group_confidence(confidences: &[f32], window: usize) -> Option<f32> {
    let last = confidences.get(confidences.len().checked_sub(window)?..)?;
    (window > 0).then(|| (last.iter().copied().map(f64::from).sum::<f64>() / window as f64) as f32)
}
