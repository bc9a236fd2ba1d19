//! Frequencies for contexts longer than a model was first trained on: linear, Llama 3's and YaRN.
//!
//! With `w = 2 pi / inv_freq` the wavelength of a lane pair in positions and `L` the context of the first training.

use super::{Pairing, Rope};
use std::f64::consts::TAU;

/// Llama 3.1's scaling: long waves stretched by `factor`, short ones kept, a ramp between.
///
/// `s = (L / w - low) / (high - low)`; `inv_freq / factor` where `w > L / low`, `inv_freq` where `w < L / high`, else
/// `(1 - s) inv_freq / factor + s inv_freq` (`apply_scaling` of the Llama 3.1 reference code,
/// `_compute_llama3_parameters` in `transformers` 5.23).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// How much longer the context became.
    pub factor: f64,
    /// Waves longer than `original_context / low_freq_factor` are stretched.
    pub low_freq_factor: f64,
    /// Waves shorter than `original_context / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// Context of the first training, in positions.
    pub original_context: f64,
}

/// YaRN (arXiv 2309.00071): a ramp over pair indices between pairs that turn `beta_fast` times within the original
/// context (kept) and pairs that turn `beta_slow` times (stretched by `factor`), and a factor on cos and sin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// How much longer the context became.
    pub factor: f64,
    /// Context of the first training, in positions.
    pub original_context: f64,
    /// Turns within the original context from which on a pair is kept.
    pub beta_fast: f64,
    /// Turns within the original context up to which a pair is stretched.
    pub beta_slow: f64,
    /// Whether the ends of the ramp are whole pair indices. gpt-oss leaves them as they are.
    pub truncate: bool,
    /// Multiplies cos and sin.
    pub attention_factor: f64,
}

impl Yarn {
    /// The paper's choices: `beta_fast` 32, `beta_slow` 1, an attention factor of `0.1 ln(factor) + 1`.
    pub fn new(factor: f64, original_context: f64) -> Self {
        let attention_factor = Yarn::mscale(factor, 1.0);
        Yarn { factor, original_context, beta_fast: 32.0, beta_slow: 1.0, truncate: true, attention_factor }
    }

    /// `0.1 weight ln(factor) + 1`, and 1 for factors up to 1 (section 3.4 of the paper; `yarn_get_mscale` of DeepSeek
    /// V3, whose softmax scale is multiplied by the square of it with `mscale_all_dim` as the weight).
    pub fn mscale(factor: f64, weight: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
    }

    /// The factor on cos and sin of models that say how much of it the softmax scale carries (DeepSeek V2 and V3):
    /// `mscale(factor, mscale) / mscale(factor, mscale_all_dim)`.
    pub fn with_mscale(self, mscale: f64, mscale_all_dim: f64) -> Self {
        let attention_factor = Yarn::mscale(self.factor, mscale) / Yarn::mscale(self.factor, mscale_all_dim);
        Yarn { attention_factor, ..self }
    }

    /// The pair index, not a whole number, that turns `turns` times within the original context:
    /// `inv_freq[j] L = 2 pi turns` solved for `j`.
    fn index(&self, turns: f64, lanes: usize, theta: f64) -> f64 {
        lanes as f64 * (self.original_context / (turns * TAU)).ln() / (2.0 * theta.ln())
    }
}

impl Rope {
    /// Linear scaling: positions divided by `factor` (arXiv 2306.15595), here by way of the frequencies.
    pub fn scaled_linear(mut self, factor: f64) -> Self {
        self.inv_freq.iter_mut().for_each(|f| *f /= factor);
        self
    }

    /// Llama 3.1's scaling of the frequencies.
    pub fn scaled_llama3(mut self, scaling: &Llama3Scaling) -> Self {
        let Llama3Scaling { factor, low_freq_factor: low, high_freq_factor: high, original_context } = *scaling;
        for f in &mut self.inv_freq {
            let turns = original_context * *f / TAU; // L / w
            // Llama 4 Scout has a ramp without width: `low` and `high` are the same.
            let kept = ((turns - low) / (high - low).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
            *f *= (1.0 - kept) / factor + kept;
        }
        self
    }

    /// Plain RoPE over the first `lanes` lanes with YaRN's frequencies and attention factor.
    pub fn yarn(lanes: usize, theta: f64, pairing: Pairing, yarn: &Yarn) -> Self {
        let (mut low, mut high) = (yarn.index(yarn.beta_fast, lanes, theta), yarn.index(yarn.beta_slow, lanes, theta));
        if yarn.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(lanes as f64 - 1.0));
        // A ramp without width would divide by zero; the published code widens it by the same number.
        let width = if high == low { 0.001 } else { high - low };
        let mut rope = Rope::plain(lanes, theta, pairing);
        for (j, f) in rope.inv_freq.iter_mut().enumerate() {
            let stretched = ((j as f64 - low) / width).clamp(0.0, 1.0);
            *f *= stretched / yarn.factor + 1.0 - stretched;
        }
        Rope { mscale: yarn.attention_factor as f32, ..rope }
    }
}

#[cfg(test)]
mod tests {
    //! Planted and seen red: Llama 3's ramp the other way round; YaRN's ramp over lanes instead of pairs.
    use super::*;

    #[test]
    fn linear_scaling_divides() {
        let rope = Rope::plain(128, 1e6, Pairing::Half);
        let scaled = rope.clone().scaled_linear(8.0); // Gemma 3, global layers
        assert!(rope.inv_freq.iter().zip(&scaled.inv_freq).all(|(a, b)| a / 8.0 == *b));
    }

    #[test]
    fn llama3_keeps_short_waves_and_stretches_long_ones() {
        let scaling =
            Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
        let plain = Rope::plain(128, 5e5, Pairing::Half); // Llama 3.1
        let scaled = plain.clone().scaled_llama3(&scaling);
        for (j, (a, b)) in plain.inv_freq.iter().zip(&scaled.inv_freq).enumerate() {
            let wave = TAU / a;
            let s = (8192.0 / wave - 1.0) / 3.0;
            let want = if wave > 8192.0 {
                a / 8.0
            } else if wave < 2048.0 {
                *a
            } else {
                (1.0 - s) * a / 8.0 + s * a
            };
            assert!((b - want).abs() <= 1e-15 * want, "pair {j}");
        }
        // By hand: pair 28 has a wave of 1956 positions, pairs 29 to 34 lie on the ramp, pair 35 has one of 8219.
        let changed = |j: usize| scaled.inv_freq[j] / plain.inv_freq[j];
        assert_eq!((changed(28), changed(35)), (1.0, 0.125));
        assert!((29..35).all(|j| changed(j) > 0.125 && changed(j) < 1.0 && changed(j) < changed(j - 1)));
    }

    #[test]
    fn yarn_ramps_between_two_pair_indices() {
        // gpt-oss: 64 lanes, theta 1.5e5, factor 32, context 4096, ends of the ramp not rounded.
        let yarn = Yarn { truncate: false, ..Yarn::new(32.0, 4096.0) };
        let plain = Rope::plain(64, 1.5e5, Pairing::Half);
        let rope = Rope::yarn(64, 1.5e5, Pairing::Half, &yarn);
        // low = 64 ln(4096 / (32 * 2 pi)) / (2 ln 1.5e5) = 8.092779, high = 64 ln(4096 / 2 pi) / (2 ln 1.5e5) = 17.398025
        let kept = |j: usize| (rope.inv_freq[j] / plain.inv_freq[j] - 1.0 / 32.0) / (1.0 - 1.0 / 32.0);
        assert!((0..=8).all(|j| kept(j) == 1.0) && (18..32).all(|j| kept(j).abs() < 1e-15));
        assert!((kept(9) - (1.0 - (9.0 - 8.092779) / (17.398025 - 8.092779))).abs() < 1e-6);
        assert!((kept(17) - (17.398025 - 17.0) / (17.398025 - 8.092779)).abs() < 1e-6);
        assert_eq!(rope.mscale, (0.1 * 32f64.ln() + 1.0) as f32); // 1.3465736
    }

    #[test]
    fn yarn_rounds_the_ends_and_splits_the_factor_as_deepseek_does() {
        // DeepSeek V3: 64 lanes, theta 1e4, factor 40, context 4096, mscale 1, mscale_all_dim 1.
        let yarn = Yarn::new(40.0, 4096.0).with_mscale(1.0, 1.0);
        let plain = Rope::plain(64, 1e4, Pairing::Adjacent);
        let rope = Rope::yarn(64, 1e4, Pairing::Adjacent, &yarn);
        // low = floor(10.47) = 10, high = ceil(22.51) = 23
        let kept = |j: usize| (rope.inv_freq[j] / plain.inv_freq[j] - 1.0 / 40.0) / (1.0 - 1.0 / 40.0);
        assert!((0..=10).all(|j| kept(j) == 1.0) && (23..32).all(|j| kept(j).abs() < 1e-15));
        assert!((kept(11) - 12.0 / 13.0).abs() < 1e-12 && (kept(22) - 1.0 / 13.0).abs() < 1e-12);
        assert_eq!((yarn.attention_factor, rope.mscale), (1.0, 1.0));
        assert!((Yarn::mscale(40.0, 1.0) - 1.368_887_945_411_394).abs() < 1e-12);
    }
}
