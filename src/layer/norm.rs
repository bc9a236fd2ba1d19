//! [`Norm`]: what brings the lanes of one head to a common size.

/// A norm over the lanes of one head, in f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// None.
    None,
    /// `x / sqrt(mean(x^2) + eps)` (arXiv 1910.07467), without weights.
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
    /// RMS norm times a weight per lane.
    RmsScaled {
        /// Added to the mean square.
        eps: f32,
    },
    /// RMS norm times one plus a weight per lane (Gemma).
    RmsOnePlus {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` (arXiv 1607.06450). Of q, k and v only.
    Layer {
        /// Added to the variance, the mean of `(x - mean(x))^2`.
        eps: f32,
        /// Whether there is a bias per weight.
        bias: bool,
        /// Whether every head has weights and biases of its own (Chameleon); otherwise all heads share those of `lanes`.
        by_head: bool,
    },
    /// `x * min(1, most / |x|)` with the Euclidean length of the head: vectors longer than `most` are shortened to it, others
    /// pass as they are. Of q, k and v only.
    Clip {
        /// The greatest length.
        most: f32,
    },
}

impl Norm {
    /// Whether the norm has a weight per lane.
    pub fn is_weighted(&self) -> bool {
        matches!(self, Norm::RmsScaled { .. } | Norm::RmsOnePlus { .. } | Norm::Layer { .. })
    }
    /// Whether the norm has a bias per weight.
    pub fn is_biased(&self) -> bool {
        matches!(self, Norm::Layer { bias: true, .. })
    }
    /// Whether the norm takes the mean off.
    pub(crate) fn is_centered(&self) -> bool {
        matches!(self, Norm::Layer { .. })
    }
    /// Whether every head has weights of its own.
    pub(crate) fn is_by_head(&self) -> bool {
        matches!(self, Norm::Layer { by_head: true, .. })
    }
    /// Weights for `heads` heads of `lanes`, where there are any.
    pub(crate) fn room(&self, heads: usize, lanes: usize) -> usize {
        if self.is_by_head() { heads * lanes } else { lanes }
    }
    /// Number used by the kernels (`common/norm`).
    pub(crate) fn code(&self) -> u32 {
        match self {
            Norm::None => 0,
            Norm::Rms { .. } => 1,
            Norm::Clip { .. } => 2,
            Norm::RmsScaled { .. } => 3,
            Norm::RmsOnePlus { .. } => 4,
            Norm::Layer { bias: false, .. } => 5,
            Norm::Layer { bias: true, .. } => 6,
        }
    }
    /// The number of the norm: its epsilon or greatest length, 0 without a norm.
    pub(crate) fn eps(&self) -> f32 {
        match *self {
            Norm::None => 0.0,
            Norm::Rms { eps } | Norm::RmsScaled { eps } | Norm::RmsOnePlus { eps } | Norm::Layer { eps, .. } => eps,
            Norm::Clip { most } => most,
        }
    }
}
