//! What is to be projected and drawn, and the memory of a run.

use super::{LmHeadPlan, OP, SLICE};
use crate::sampling::{SamplingOutput, SamplingProblem, SamplingRow};
use crate::{Buffer, DType, Error, Result, Tensor};

/// A batch of rows over one vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct LmHeadProblem {
    /// How the hidden states are stored.
    pub hidden_dtype: DType,
    /// How the weight is stored.
    pub weight_dtype: DType,
    /// How each row of the hidden states is drawn. Top-p is refused; top-k, and confidence, go up to 256.
    pub rows: Vec<SamplingRow>,
    /// Elements of a hidden state.
    pub width: usize,
    /// Tokens of the vocabulary: rows of the weight.
    pub vocab: usize,
    /// Multiplies the logits. 1 for most models. Positive.
    pub output_multiplier: f32,
    /// Bounds the logits to +-cap by `cap * tanh(x / cap)`.
    pub soft_cap: Option<f32>,
    /// Key of the noise.
    pub seed: u64,
}

/// What one run reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct LmHeadArgs<'a> {
    /// `[rows, width]`, after the last norm. Any offset and row stride; on WebGPU and CUDA multiples of 4 elements.
    pub hidden: &'a Tensor,
    /// `[vocab, width]`, likewise.
    pub weight: &'a Tensor,
    /// Written: [`SamplingOutput`](crate::sampling::SamplingOutput), 16 bytes per row; what follows stays as it was.
    pub out: &'a Buffer,
}

impl LmHeadProblem {
    /// The draw over the logits that are never stored.
    pub(super) fn draw(&self) -> SamplingProblem {
        SamplingProblem {
            logits_dtype: DType::F32,
            rows: self.rows.clone(),
            vocab: self.vocab,
            output_multiplier: self.output_multiplier,
            soft_cap: self.soft_cap,
            seed: self.seed,
        }
    }

    /// Checks everything that does not depend on a device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that make no sense; [`Error::Unsupported`] for a top-p, for a top-k or a confidence
    /// above 256, and for sizes beyond 32 bits.
    pub fn validate(&self) -> Result<()> {
        self.draw().validate().map_err(|error| match error {
            Error::Invalid { argument, expected, got, .. } => Error::Invalid { op: OP, argument, expected, got },
            Error::Unsupported { what, supported, .. } => Error::Unsupported { op: OP, what, supported },
            other => other,
        })?;
        self.hidden_dtype.expect_values(OP, "hidden")?;
        self.weight_dtype.expect_values(OP, "weight")?;
        if self.width == 0 || self.width >= 1 << 31 {
            return Err(Error::invalid(OP, "width", "1 to 2^31 - 1 elements", self.width));
        }
        for (i, row) in self.rows.iter().enumerate() {
            let is_cut = row.temperature > 0.0;
            if is_cut && row.top_p < 1.0 {
                let supported = "top_k and min_p; `sampling` over stored logits does top_p";
                return Err(Error::unsupported(OP, format!("top_p {} in row {i}", row.top_p), supported));
            }
            let top_k = if is_cut && (row.top_k as usize) < self.vocab { row.top_k } else { 0 };
            for (name, k) in [("top_k", top_k), ("confidence", row.confidence)] {
                if k as usize > SLICE {
                    return Err(Error::unsupported(OP, format!("{name} {k} in row {i}"), format!("at most {SLICE}")));
                }
            }
        }
        Ok(())
    }
}

impl LmHeadArgs<'_> {
    /// Checks shapes, types and overlaps.
    pub(super) fn validate(&self, plan: &LmHeadPlan) -> Result<()> {
        let p = &plan.problem;
        self.hidden.expect(OP, "hidden", p.hidden_dtype, &[p.rows.len(), p.width])?;
        self.weight.expect(OP, "weight", p.weight_dtype, &[p.vocab, p.width])?;
        self.out.expect_bytes(OP, "out", SamplingOutput::bytes(p.rows.len()))?;
        if self.out.is_same(self.hidden.buffer()) || self.out.is_same(self.weight.buffer()) {
            return Err(Error::invalid(OP, "out", "a buffer of its own", "one that is read"));
        }
        Ok(())
    }
}
