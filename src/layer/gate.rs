//! [`Gate`]: what multiplies the output of a head at the end.

/// What multiplies the attention output before the output projection: a function of a gate, with a gate per element of a
/// head or one per head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    None,
    /// `sigmoid(gate)`, a gate per element.
    Sigmoid,
    /// `softplus(gate) = ln(1 + exp(gate))`, a gate per element.
    Softplus,
    /// `sigmoid(gate)`, a gate per head.
    HeadSigmoid,
    /// `softplus(gate)`, a gate per head.
    HeadSoftplus,
}

impl Gate {
    /// Whether a head has one gate for all its lanes.
    pub fn is_of_head(&self) -> bool {
        matches!(self, Gate::HeadSigmoid | Gate::HeadSoftplus)
    }
    /// Gates of a head whose output has `head_dim_v` lanes.
    pub fn lanes(&self, head_dim_v: usize) -> usize {
        match self {
            Gate::None => 0,
            Gate::Sigmoid | Gate::Softplus => head_dim_v,
            Gate::HeadSigmoid | Gate::HeadSoftplus => 1,
        }
    }
    /// Number used by the kernels (`common/gate`).
    pub(crate) fn code(&self) -> u32 {
        match self {
            Gate::None => 0,
            Gate::Sigmoid => 1,
            Gate::Softplus => 2,
            Gate::HeadSigmoid => 3,
            Gate::HeadSoftplus => 4,
        }
    }
}
