//! A second definition, apart from the reference: support by sorting, noise from a second Philox.

use colatent::Tolerance;
use colatent::sampling::{NO_TOKEN, Sampled, SamplingProblem, SamplingRow};

/// Scores (nats) and masses closer than this are not decided by f32: see the numerics in shaders/sampling.wgsl.
pub const CLOSE: f64 = 1e-4;

/// f32 sums of up to 4099 terms, exp2 at 2^-21, and ln of the sum: 2e-5 is ten times the worst seen (2e-6).
const TOLERANCE: Tolerance = Tolerance { atol: 2e-5, rtol: 2e-5 };

/// The second oracle: for one row everything that decides the draw, and how close it was.
pub struct Oracle {
    pub log_p: Vec<f64>,
    pub entropy: f64,
    pub confidence: f64,
    /// Tokens that are certainly kept, and that may be kept within `CLOSE` of a threshold.
    pub sure: Vec<bool>,
    pub maybe: Vec<bool>,
    /// x + g of every token, `-inf` for those that are not even maybe kept.
    pub score: Vec<f64>,
    pub greedy: bool,
}

fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    let wide = |a: u32, b: u32| ((a as u128 * b as u128) as u32, ((a as u128 * b as u128) >> 32) as u32);
    for _ in 0..10 {
        let ((l0, h0), (l1, h1)) = (wide(c[0], 0xd251_1f53), wide(c[2], 0xcd9e_8d57));
        c = [h1 ^ c[1] ^ k[0], l1, h0 ^ c[3] ^ k[1], l0];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

impl Oracle {
    pub fn new(problem: &SamplingProblem, row: &SamplingRow, logits: &[f32]) -> Self {
        let greedy = row.temperature == 0.0;
        let t = if greedy { 1.0 } else { row.temperature as f64 };
        let x: Vec<f64> = logits
            .iter()
            .map(|&l| {
                let x = l as f64 * problem.output_multiplier as f64;
                problem.soft_cap.map_or(x, |c| c as f64 * (x / c as f64).tanh()) / t
            })
            .collect();
        let live = |i: usize| logits[i] > f32::NEG_INFINITY;
        let peak = (0..x.len()).filter(|&i| live(i)).map(|i| x[i]).fold(f64::NEG_INFINITY, f64::max);
        let p: Vec<f64> = (0..x.len()).map(|i| if live(i) { (x[i] - peak).exp() } else { 0.0 }).collect();
        let total: f64 = p.iter().sum();
        let log_p: Vec<f64> = x.iter().map(|x| x - peak - total.ln()).collect();
        let entropy = (0..x.len()).filter(|&i| p[i] > 0.0).map(|i| -p[i] / total * log_p[i]).sum();

        let mut most: Vec<f64> = (0..x.len()).filter(|&i| live(i)).map(|i| -log_p[i]).collect();
        most.sort_by(f64::total_cmp);
        most.truncate(row.confidence as usize);
        let confidence = most.iter().fold(0.0, |sum, x| sum + x) / most.len().max(1) as f64;

        let mut sorted: Vec<f32> = logits.iter().copied().filter(|l| l.is_finite()).collect();
        sorted.sort_by(|a, b| b.partial_cmp(a).unwrap());
        let k = if row.top_k == 0 || greedy { sorted.len() } else { (row.top_k as usize).min(sorted.len()) };
        let top_k = |i: usize| k > 0 && live(i) && logits[i] >= sorted[k - 1];
        let mut by_mass: Vec<usize> = (0..x.len()).filter(|&i| top_k(i)).collect();
        by_mass.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap());
        let mass: f64 = by_mass.iter().map(|&i| p[i]).sum();
        let (mut sure, mut maybe) = (vec![false; x.len()], vec![false; x.len()]);
        let (mut larger, mut at) = (0.0, 0.0);
        for (n, &i) in by_mass.iter().enumerate() {
            if n > 0 && logits[i] < logits[by_mass[n - 1]] {
                larger += at;
                at = 0.0;
            }
            at += p[i];
            // How far inside the thresholds, in mass and in nats.
            let nucleus = if greedy || row.top_p == 1.0 { 1.0 } else { row.top_p as f64 - larger / mass };
            let floor = if greedy || row.min_p == 0.0 { 1.0 } else { x[i] - peak - (row.min_p as f64).ln() };
            // The largest logit itself is inside exactly: its gap and the mass above it are 0 on every device.
            let inside = if logits[i] == sorted[0] { CLOSE } else { nucleus.min(floor) };
            sure[i] = inside >= CLOSE;
            maybe[i] = inside > -CLOSE;
        }
        let gumbel = |i: usize| {
            let counter = [i as u32 / 4, row.agent, row.step, 0];
            let word = philox(counter, [problem.seed as u32, (problem.seed >> 32) as u32])[i % 4];
            let u = ((word >> 8) as f64 + 0.5) * 2f64.powi(-24);
            -(-u.ln()).ln()
        };
        let draw =
            |i: usize| if maybe[i] { x[i] - peak + if greedy { 0.0 } else { gumbel(i) } } else { f64::NEG_INFINITY };
        let score = (0..x.len()).map(draw).collect();
        Oracle { log_p, entropy, confidence, sure, maybe, score, greedy }
    }

    /// Checks one draw. `Ok(true)` if f32 could not decide between tokens.
    pub fn check(&self, logits: &[f32], got: Sampled) -> Result<bool, String> {
        let Some(best) = (0..self.score.len()).filter(|&i| self.maybe[i]).max_by(|&a, &b| {
            // Greedy is exact: by stored logit, then by id.
            let by_score = self.score[a].partial_cmp(&self.score[b]).unwrap();
            let by_logit = logits[a].partial_cmp(&logits[b]).unwrap();
            if self.greedy { by_logit.then(b.cmp(&a)) } else { by_score.then(b.cmp(&a)) }
        }) else {
            let undefined = got.token == NO_TOKEN && got.log_prob.is_nan() && got.entropy.is_nan();
            return if undefined { Ok(false) } else { Err(format!("nothing to draw, got {got:?}")) };
        };
        let token = got.token as usize;
        if token >= logits.len() {
            return Err(format!("token {token} of {}", logits.len()));
        }
        let second = (0..self.score.len()).filter(|&i| i != best).map(|i| self.score[i]);
        let margin = self.score[best] - second.fold(f64::NEG_INFINITY, f64::max);
        let ambiguous = !self.greedy && (!self.sure[best] || margin < CLOSE);
        let is_candidate = self.maybe[token] && self.score[token] > self.score[best] - CLOSE;
        // If the best may have been cut off, any other that may be kept can follow it.
        let allowed = if !ambiguous { token == best } else { is_candidate || (!self.sure[best] && self.maybe[token]) };
        if !allowed {
            return Err(format!("token {token}, want {best} (margin {margin:e})"));
        }
        let numbers = [
            ("log_prob", got.log_prob, self.log_p[token]),
            ("entropy", got.entropy, self.entropy),
            ("confidence", got.confidence, self.confidence),
        ];
        for (what, got, want) in numbers {
            if !TOLERANCE.accepts(got, want as f32) {
                return Err(format!("{what} {got}, want {want} (token {token})"));
            }
        }
        Ok(ambiguous)
    }
}
