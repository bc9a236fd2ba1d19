//! The definition of merge, in f64.

use rayon::prelude::*;

use super::{MergeArgs, MergePlan};
use crate::layer::{Gate, LayerConstants, LayerSpec, Norm};
use crate::{Error, Result, Tensor};

pub(super) fn run(plan: &MergePlan, args: &MergeArgs<'_>) -> Result<()> {
    let (heads, dim) = (plan.spec.num_q_heads, plan.spec.head_dim_v);
    let states = args.states.read_f32()?;
    let state_lse = args.state_lse.read_f32()?;
    let mut merged = vec![0f64; plan.rows() * heads * dim];
    let mut lse = vec![0f64; plan.rows() * heads];
    for row in 0..plan.rows() {
        let list = &plan.index[plan.indptr[row] as usize..plan.indptr[row + 1] as usize];
        for head in 0..heads {
            let sink = plan.spec.sinks.then(|| f64::from(args.constants.weights.sinks[head]));
            let lses = || list.iter().map(|&s| f64::from(state_lse[s as usize * heads + head]));
            let most = lses().chain(sink).fold(f64::NEG_INFINITY, f64::max);
            if most == f64::NEG_INFINITY {
                lse[row * heads + head] = most;
                continue;
            }
            let total: f64 = lses().chain(sink).map(|l| (l - most).exp()).sum();
            lse[row * heads + head] = most + total.ln();
            for d in 0..dim {
                // An empty state's output never counts, whatever it holds.
                let weighted = list.iter().zip(lses()).filter(|(_, l)| *l != f64::NEG_INFINITY);
                let sum: f64 = weighted
                    .map(|(&s, l)| (l - most).exp() * f64::from(states[(s as usize * heads + head) * dim + d]))
                    .sum();
                merged[(row * heads + head) * dim + d] = sum / total;
            }
        }
    }
    let positions = plan.positions.as_deref().unwrap_or_default();
    epilogue(&plan.spec, args.constants, merged, lse, positions, args.gate, args.out, args.lse)
}

/// Rotation back, norm, gate, scale, rounding and the store, from merged rows `[rows, heads, dim]` and their lse
/// `[rows, heads]`.
#[allow(clippy::too_many_arguments)] // what an epilogue has to do with
pub(crate) fn epilogue(
    spec: &LayerSpec,
    constants: &LayerConstants,
    mut merged: Vec<f64>,
    lse: Vec<f64>,
    positions: &[[i32; 4]],
    gate: Option<&Tensor>,
    out: &Tensor,
    lse_out: Option<&Tensor>,
) -> Result<()> {
    let dim = spec.head_dim_v;
    let gate = gate.map(Tensor::read_f32).transpose()?;
    let gates = lse.len() * spec.gate.lanes(dim);
    if gate.as_ref().is_some_and(|g| g.len() != gates) {
        return Err(Error::invalid("merge", "gate", gates, "another length"));
    }
    merged.par_chunks_mut(dim).enumerate().for_each(|(i, head)| {
        if let Some(rope) = spec.rope.as_ref().filter(|_| spec.v_rope) {
            let position = positions[i / spec.num_q_heads];
            for (j, inv_freq) in rope.inv_freq.iter().enumerate() {
                let (sin, cos) = (f64::from(position[rope.axis[j] as usize]) * inv_freq).sin_cos();
                let (a, b) = rope.pair(j);
                (head[a], head[b]) = (head[a] * cos + head[b] * sin, head[b] * cos - head[a] * sin);
            }
        }
        let mean_square = head.iter().map(|x| x * x).sum::<f64>() / dim as f64;
        for (d, x) in head.iter_mut().enumerate() {
            let weight = || f64::from(constants.weights.out_norm[d]);
            match spec.out_norm {
                Norm::None | Norm::Layer { .. } | Norm::Clip { .. } => {} // the last two are refused
                Norm::Rms { eps } => *x /= (mean_square + f64::from(eps)).sqrt(),
                Norm::RmsScaled { eps } => *x *= weight() / (mean_square + f64::from(eps)).sqrt(),
                Norm::RmsOnePlus { eps } => *x *= (1.0 + weight()) / (mean_square + f64::from(eps)).sqrt(),
            }
            let gate = |at: usize| f64::from(gate.as_ref().map_or(f32::NAN, |gate| gate[at]));
            let sigmoid = |g: f64| 1.0 / (1.0 + (-g).exp());
            let softplus = |g: f64| g.max(0.0) + (-g.abs()).exp().ln_1p();
            *x *= match spec.gate {
                Gate::None => 1.0,
                Gate::Sigmoid => sigmoid(gate(i * dim + d)),
                Gate::Softplus => softplus(gate(i * dim + d)),
                Gate::HeadSigmoid => sigmoid(gate(i)),
                Gate::HeadSoftplus => softplus(gate(i)),
            };
        }
    });
    let factor = constants.out_factor();
    out.write_f32(&merged.iter().map(|&x| x as f32 * factor).collect::<Vec<_>>())?;
    match lse_out {
        Some(t) => t.write_f32(&lse.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        None => Ok(()),
    }
}
