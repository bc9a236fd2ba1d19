//! The definition: sort, sum, draw, in f64.

use rayon::prelude::*;

use super::{NO_TOKEN, SamplingArgs, SamplingPlan, SamplingProblem, SamplingRow};
use crate::Result;
use crate::tensor::{Memory, lock_read, lock_write};

pub(super) fn run(plan: &SamplingPlan, args: &SamplingArgs<'_>) -> Result<()> {
    let host = |memory| match memory {
        Memory::Host(m) => Ok(m),
        #[cfg(any(feature = "webgpu", feature = "cuda"))]
        _ => Err(crate::Error::invalid(super::OP, "buffers", "memory of the reference", "memory of another device")),
    };
    let (problem, logits) = (&plan.problem, args.logits);
    let source = host(logits.buffer().memory.clone())?;
    let target = host(args.out.memory.clone())?;
    let size = logits.dtype().size();
    let step = plan.steps.as_ref().map_or(Ok(0), crate::Steps::now)?;
    let ended = plan.steps.as_ref().map_or(Ok(vec![]), crate::Steps::ended)?;
    let sampled: Vec<[u8; 16]> = {
        let bytes = lock_read(&source);
        let draw = |(r, row): (usize, &SamplingRow)| {
            if ended.get(r) == Some(&true) {
                return nothing(row);
            }
            let start = logits.offset() + r * logits.strides()[0];
            let element = |i: usize| logits.dtype().decode(&bytes[(start + i) * size..(start + i + 1) * size]);
            let row = SamplingRow { step: row.step.wrapping_add(step), ..*row };
            sample(problem, &row, &(0..problem.vocab).map(element).collect::<Vec<f32>>())
        };
        problem.rows.par_iter().enumerate().map(draw).collect()
    };
    lock_write(&target)[..sampled.len() * 16].copy_from_slice(sampled.as_flattened());
    Ok(())
}

/// One row of logits to the words token, log_prob, entropy, confidence.
pub(crate) fn sample(problem: &SamplingProblem, row: &SamplingRow, logits: &[f32]) -> [u8; 16] {
    let is_undefined = logits.iter().any(|l| l.is_nan() || *l == f32::INFINITY);
    // Ids of what can be drawn, largest logit first, ids ascending among equals.
    let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i].is_finite()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    // total_cmp puts -0 below 0, which are equal here: restore the order of ids within each run of equals.
    order.chunk_by_mut(|&a, &b| logits[a] == logits[b]).for_each(|run| run.sort_unstable());
    if is_undefined || order.is_empty() {
        return nothing(row);
    }

    let temperature = if row.temperature == 0.0 { 1.0 } else { row.temperature as f64 };
    let transform = |l: f32| {
        let x = l as f64 * problem.output_multiplier as f64;
        problem.soft_cap.map_or(x, |cap| cap as f64 * (x / cap as f64).tanh()) / temperature
    };
    let x: Vec<f64> = logits.iter().map(|&l| transform(l)).collect();
    let peak = x[order[0]];
    let total: f64 = order.iter().map(|&i| (x[i] - peak).exp()).sum();
    let log_p = |i: usize| x[i] - peak - total.ln();
    let entropy: f64 = order.iter().map(|&i| -log_p(i).exp() * log_p(i)).sum();
    let most = &order[..order.len().min(row.confidence as usize)];
    let confidence = most.iter().fold(0.0, |sum, &i| sum - log_p(i)) / most.len().max(1) as f64;

    if row.temperature == 0.0 {
        return words(order[0] as u32, log_p(order[0]), entropy, confidence);
    }
    let mut kept = order.clone();
    if row.top_k > 0 && (row.top_k as usize) < kept.len() {
        let least = logits[kept[row.top_k as usize - 1]];
        kept.retain(|&i| logits[i] >= least);
    }
    if row.top_p < 1.0 {
        let mass: f64 = kept.iter().map(|&i| log_p(i).exp()).sum();
        let mut larger = 0.0;
        let mut survivors = Vec::new();
        for run in kept.chunk_by(|&a, &b| logits[a] == logits[b]) {
            if larger / mass < row.top_p as f64 {
                survivors.extend_from_slice(run);
            }
            larger += run.iter().map(|&i| log_p(i).exp()).sum::<f64>();
        }
        kept = survivors;
    }
    if row.min_p > 0.0 {
        kept.retain(|&i| (x[i] - peak).exp() >= row.min_p as f64);
    }
    kept.sort_unstable();
    let mut best = (f64::NEG_INFINITY, order[0]);
    for &i in &kept {
        let score = x[i] - peak + gumbel(problem.seed, row, i);
        if score > best.0 {
            best = (score, i);
        }
    }
    words(best.1 as u32, log_p(best.1), entropy, confidence)
}

/// What a row without a distribution says, or one that has ended.
pub(crate) fn nothing(row: &SamplingRow) -> [u8; 16] {
    words(NO_TOKEN, f64::NAN, f64::NAN, if row.confidence == 0 { 0.0 } else { f64::NAN })
}

fn words(token: u32, log_prob: f64, entropy: f64, confidence: f64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&token.to_le_bytes());
    out[4..8].copy_from_slice(&(log_prob as f32).to_le_bytes());
    out[8..12].copy_from_slice(&(entropy as f32).to_le_bytes());
    out[12..].copy_from_slice(&(confidence as f32).to_le_bytes());
    out
}

fn gumbel(seed: u64, row: &SamplingRow, token: usize) -> f64 {
    let counter = [token as u64 / 4, row.agent as u64, row.step as u64, 0];
    let word = philox(counter, [seed & 0xffff_ffff, seed >> 32])[token % 4];
    let u = ((word >> 8) as f64 + 0.5) / 16_777_216.0;
    -(-u.ln()).ln()
}

/// Philox4x32-10; every u64 holds one 32-bit word.
fn philox(mut c: [u64; 4], mut k: [u64; 2]) -> [u64; 4] {
    const LOW: u64 = 0xffff_ffff;
    for _ in 0..10 {
        let (a, b) = (0xd251_1f53 * c[0], 0xcd9e_8d57 * c[2]);
        c = [(b >> 32) ^ c[1] ^ k[0], b & LOW, (a >> 32) ^ c[3] ^ k[1], a & LOW];
        k = [(k[0] + 0x9e37_79b9) & LOW, (k[1] + 0xbb67_ae85) & LOW];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the authors' distribution (Random123, `kat_vectors`).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        let ones = 0xffff_ffff;
        assert_eq!(philox([ones; 4], [ones; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        assert_eq!(philox(pi, [0xa4093822, 0x299f31d0]), [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }
}
