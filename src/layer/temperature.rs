//! A temperature of the scores that grows with the query's position.

use crate::{Error, Result};

/// Multiplies q by `1 + beta ln(1 + floor((p + offset) / interval))`, where `p` is the query's position on axis 0; by 1
/// where that quotient is negative.
///
/// Attention over very long contexts flattens; this sharpens it step by step (arXiv 2501.19399). Llama 4's layers
/// without rotation count positions from 1 (`offset` 1, `floor_scale` is the interval, `attn_scale` is beta); the
/// Mistral models that took it over count from 0 (`llama_4_scaling_beta`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// Weight of the logarithm.
    pub beta: f32,
    /// Positions from one step to the next, at least 1.
    pub interval: u32,
    /// Added to the position.
    pub offset: u32,
}

impl Temperature {
    /// The factor at a position.
    pub fn at(&self, position: i32) -> f64 {
        let steps = (i64::from(position) + i64::from(self.offset)).div_euclid(i64::from(self.interval.max(1)));
        1.0 + f64::from(self.beta) * (steps.max(0) as f64).ln_1p()
    }

    pub(super) fn validate(&self, op: &'static str) -> Result<()> {
        if !self.beta.is_finite() || self.interval == 0 {
            let expected = "a finite beta and an interval of 1 or more";
            return Err(Error::invalid(op, "q_temperature", expected, format!("{self:?}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Planted and seen red: `ln` instead of `ln(1 + ..)`, steps counted from position 0 whatever the offset.
    use super::*;

    #[test]
    fn steps_are_where_the_models_put_them() {
        let llama4 = Temperature { beta: 0.1, interval: 8192, offset: 1 };
        assert_eq!([llama4.at(-5), llama4.at(0), llama4.at(8190)], [1.0; 3]);
        assert!((llama4.at(8191) - (1.0 + 0.1 * 2f64.ln())).abs() < 1e-8); // beta is 0.1 in f32
        assert!((llama4.at(999_999) - (1.0 + 0.1 * 123f64.ln())).abs() < 1e-7); // 1e6 / 8192 = 122.07
        let mistral = Temperature { offset: 0, ..llama4 };
        assert_eq!((mistral.at(8191), mistral.at(8192)), (1.0, llama4.at(8191)));
    }

    #[test]
    fn what_makes_no_temperature_is_refused() {
        for bad in
            [Temperature { beta: f32::NAN, interval: 1, offset: 0 }, Temperature { beta: 0.1, interval: 0, offset: 0 }]
        {
            assert!(matches!(bad.validate("test"), Err(Error::Invalid { .. })));
        }
    }
}
