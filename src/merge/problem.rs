//! What is to be merged, and all validation.

use super::MergePlan;
use crate::layer::{Gate, LayerConstants, LayerSpec};
use crate::{DType, Error, Result, Tensor};

pub(crate) const OP: &str = "merge";

/// Which states go into which row.
#[derive(Debug, Clone, Copy)]
pub struct MergeProblem<'a> {
    /// Heads, value dim, sinks, output norm, gate and storage of the output.
    pub spec: &'a LayerSpec,
    /// Row `r` merges the states `index[indptr[r] .. indptr[r + 1]]`, in that order. `rows + 1` numbers, ascending.
    pub indptr: &'a [u32],
    /// State numbers.
    pub index: &'a [u32],
    /// How many states there are.
    pub num_states: usize,
}

impl MergeProblem<'_> {
    pub(crate) fn validate(&self) -> Result<()> {
        self.spec.validate(OP)?;
        let starts_at_zero = self.indptr.first() == Some(&0);
        if !starts_at_zero || self.indptr.windows(2).any(|w| w[0] > w[1]) {
            return Err(Error::invalid(OP, "indptr", "ascending numbers from 0", format!("{:?}", self.indptr)));
        }
        let last = self.indptr.last().map_or(0, |&n| n as usize);
        if last != self.index.len() {
            return Err(Error::invalid(OP, "index", format!("{last} state numbers"), self.index.len()));
        }
        if let Some(s) = self.index.iter().find(|&&s| s as usize >= self.num_states) {
            return Err(Error::invalid(OP, "index", format!("states below {}", self.num_states), s));
        }
        Ok(())
    }
}

/// The memory of one call.
#[derive(Debug, Clone, Copy)]
pub struct MergeArgs<'a> {
    /// Partial outputs `[states, num_q_heads, head_dim_v]`, f32.
    pub states: &'a Tensor,
    /// Their natural-log sums `[states, num_q_heads]`, f32; `-inf` marks an empty state.
    pub state_lse: &'a Tensor,
    /// Output norm weights and sinks.
    pub constants: &'a LayerConstants,
    /// Gates `[rows, num_q_heads, head_dim_v]` of the layer's dtype, iff the layer has a gate; `[rows, num_q_heads, 1]` for
    /// one per head.
    pub gate: Option<&'a Tensor>,
    /// Output `[rows, num_q_heads, head_dim_v]` of the layer's [output type](LayerSpec::out_dtype).
    pub out: &'a Tensor,
    /// Natural-log sums of the merged rows `[rows, num_q_heads]`, f32; sinks included.
    pub lse: Option<&'a Tensor>,
}

impl MergeArgs<'_> {
    pub(crate) fn validate(&self, plan: &MergePlan) -> Result<()> {
        let (rows, heads, dim) = (plan.rows(), plan.spec.num_q_heads, plan.spec.head_dim_v);
        self.states.expect(OP, "states", DType::F32, &[plan.num_states, heads, dim])?;
        self.state_lse.expect(OP, "state_lse", DType::F32, &[plan.num_states, heads])?;
        self.constants.validate(OP, &plan.spec)?;
        expect_positions(OP, &plan.spec, plan.positions.is_some())?;
        validate_outputs(OP, &plan.spec, rows, self.gate, self.out, self.lse)
    }
}

/// Checks the positions by which the outputs of `rows` rows, those of all steps, are turned back.
pub(crate) fn validate_positions(
    op: &'static str,
    spec: &LayerSpec,
    rows: usize,
    positions: &[[i32; 4]],
) -> Result<()> {
    if !spec.v_rope {
        return Err(Error::invalid(op, "positions", "none, the layer turns no values", positions.len()));
    }
    if positions.len() != rows {
        return Err(Error::invalid(op, "positions", format!("{rows} rows"), positions.len()));
    }
    Ok(())
}

/// Checks that a plan has the positions that it needs.
pub(crate) fn expect_positions(op: &'static str, spec: &LayerSpec, has_positions: bool) -> Result<()> {
    if spec.v_rope && !has_positions {
        let expected = "those of the rows (`with_positions`), by which outputs are turned back";
        return Err(Error::invalid(op, "positions", expected, "none"));
    }
    Ok(())
}

/// Checks the arguments of the epilogue, which [`crate::attention`] has too.
pub(crate) fn validate_outputs(
    op: &'static str,
    spec: &LayerSpec,
    rows: usize,
    gate: Option<&Tensor>,
    out: &Tensor,
    lse: Option<&Tensor>,
) -> Result<()> {
    let shape = [rows, spec.num_q_heads, spec.head_dim_v];
    match (spec.gate, gate) {
        (Gate::None, Some(_)) => return Err(Error::invalid(op, "gate", "none, the layer has no gate", "a tensor")),
        (Gate::None, None) => {}
        (_, None) => return Err(Error::invalid(op, "gate", "a tensor, the layer has a gate", "none")),
        (kind, Some(gate)) => {
            gate.expect(op, "gate", spec.dtype, &[rows, spec.num_q_heads, kind.lanes(spec.head_dim_v)])?
        }
    }
    out.expect(op, "out", spec.out_dtype(), &shape)?;
    if out.scales().is_some() {
        let expected = "no scales beside it: codes of the output have that of the layer";
        return Err(Error::invalid(op, "out", expected, "codes with scales"));
    }
    match lse {
        Some(lse) => lse.expect(op, "lse", DType::F32, &shape[..2]),
        None => Ok(()),
    }
}
