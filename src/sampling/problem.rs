//! What is to be sampled, and its validation.

use super::OP;
use crate::{DType, Error, Result};

/// How one row is sampled. The default draws from the whole softmax at temperature 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingRow {
    /// Divides the logits. 0 is greedy.
    pub temperature: f32,
    /// Keeps logits that are at least the `top_k`-th largest. 0 is off.
    pub top_k: u32,
    /// Keeps the tokens whose strictly larger ones have less mass than this, in (0, 1]. 1 is off.
    pub top_p: f32,
    /// Keeps the tokens with at least this share of the largest probability, in \[0, 1\]. 0 is off.
    pub min_p: f32,
    /// Who draws: agents with one seed draw independently of each other.
    pub agent: u32,
    /// Which of the agent's draws this is.
    pub step: u32,
    /// How many of the most probable tokens the reported confidence speaks of (20 in DeepConf). 0 is off.
    pub confidence: u32,
}

impl Default for SamplingRow {
    fn default() -> Self {
        SamplingRow { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, agent: 0, step: 0, confidence: 0 }
    }
}

/// A batch of rows over one vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingProblem {
    /// How the logits are stored.
    pub logits_dtype: DType,
    /// One entry per row of the logits. None is allowed: then there is nothing to do.
    pub rows: Vec<SamplingRow>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Multiplies the logits. 1 for most models. Positive.
    pub output_multiplier: f32,
    /// Bounds the logits to +-cap by `cap * tanh(x / cap)`: 30 in Gemma 2, 20 in Muse.
    pub soft_cap: Option<f32>,
    /// Key of the noise.
    pub seed: u64,
}

impl SamplingProblem {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the number; [`Error::Unsupported`] for a vocabulary of 2^31 tokens and more.
    pub fn validate(&self) -> Result<()> {
        let refuse = |argument, expected: &str, got: String| Err(Error::invalid(OP, argument, expected, got));
        self.logits_dtype.expect_values(OP, "logits")?;
        if self.vocab == 0 {
            return refuse("vocab", "at least 1", "0".into());
        }
        if self.vocab >= 1 << 31 || self.rows.len() >= 1 << 31 {
            let what = format!("{} rows of {} tokens", self.rows.len(), self.vocab);
            return Err(Error::unsupported(OP, what, "less than 2^31 of each"));
        }
        if !(self.output_multiplier > 0.0 && self.output_multiplier.is_finite()) {
            return refuse("output_multiplier", "a positive finite number", self.output_multiplier.to_string());
        }
        if let Some(cap) = self.soft_cap.filter(|c| !(*c > 0.0 && c.is_finite())) {
            return refuse("soft_cap", "a positive finite number", cap.to_string());
        }
        for (i, row) in self.rows.iter().enumerate() {
            if !(row.temperature >= 0.0 && row.temperature.is_finite()) {
                return refuse(
                    "temperature",
                    "0 or a positive finite number",
                    format!("{} in row {i}", row.temperature),
                );
            }
            if !(row.top_p > 0.0 && row.top_p <= 1.0) {
                return refuse("top_p", "a number in (0, 1]", format!("{} in row {i}", row.top_p));
            }
            if !(row.min_p >= 0.0 && row.min_p <= 1.0) {
                return refuse("min_p", "a number in [0, 1]", format!("{} in row {i}", row.min_p));
            }
        }
        Ok(())
    }
}
