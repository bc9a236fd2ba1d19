//! Llama 3, Llama 3.2 Vision, Llama 4.

use crate::kv::{Birth, Death, Lifetime, Lifetimes, Modality};
use crate::layer::{LayerSpec, Llama3Scaling, Norm, Pairing, Rope, Temperature};

impl LayerSpec {
    /// Llama-like: plain RoPE on half-split lanes, causal, no norms.
    pub fn llama(num_q_heads: usize, num_kv_heads: usize, head_dim: usize, theta: f64) -> Self {
        LayerSpec {
            name: "llama".into(),
            rope: Some(Rope::plain(head_dim, theta, Pairing::Half)),
            ..LayerSpec::new(num_q_heads, num_kv_heads, head_dim)
        }
    }

    /// Llama 3.1 8B: 32/8 heads of 128, RoPE theta 5e5 with Llama 3's scaling.
    pub fn llama3() -> Self {
        let scaling =
            Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192.0 };
        LayerSpec {
            name: "llama3".into(),
            rope: Some(Rope::plain(128, 5e5, Pairing::Half).scaled_llama3(&scaling)),
            ..LayerSpec::new(32, 8, 128)
        }
    }

    /// Llama 3.2 Vision 11B, self-attention layer: Llama 3's, which does not see the tokens of images. One view serves both
    /// kinds of layers: an image is a span of it, and positions of text do not count its tokens
    /// ([`crate::kv::KvCache::append_at`]).
    pub fn llama32_vision_self() -> Self {
        LayerSpec {
            name: "llama32_vision.self".into(),
            lifetimes: Lifetimes::causal().with(Modality::Image, Birth::Causal, Death::At(0)),
            ..LayerSpec::llama3()
        }
    }

    /// Llama 3.2 Vision 11B, cross-attention layer: 32/8 heads of 128, no rotation, weighted QK norm, and only the tokens of
    /// images are seen, those of text have no keys. A row that sees no image gives zeros; the published code lets such a
    /// row see all images and then drops most of what it made. An image is seen by all text behind it; where a second
    /// image shall hide the first one, give the rows behind it a gap. Where all images are put in front of all text, a row's
    /// gap hides those that it does not see, and a row without one sees them all, as in the published code.
    pub fn llama32_vision_cross() -> Self {
        let hidden = Lifetime { birth: Birth::Causal, death: Death::At(0) };
        LayerSpec {
            name: "llama32_vision.cross".into(),
            q_norm: Norm::RmsScaled { eps: 1e-5 },
            k_norm: Norm::RmsScaled { eps: 1e-5 },
            lifetimes: Lifetimes::all(hidden).with(Modality::Image, Birth::Causal, Death::Never),
            ..LayerSpec::new(32, 8, 128)
        }
    }

    /// Llama 4 Scout, chunked layer: 40/8 heads of 128, chunks of 8192 counted from slot 0, RoPE theta 5e5 on adjacent
    /// lanes, scaled for 10 M positions, and a weightless norm of q and k after the rotation, which commutes with it.
    pub fn llama4_scout_chunked() -> Self {
        let scaling =
            Llama3Scaling { factor: 16.0, low_freq_factor: 1.0, high_freq_factor: 1.0, original_context: 8192.0 };
        LayerSpec {
            name: "llama4_scout.chunked".into(),
            rope: Some(Rope::plain(128, 5e5, Pairing::Adjacent).scaled_llama3(&scaling)),
            q_norm: Norm::Rms { eps: 1e-5 },
            k_norm: Norm::Rms { eps: 1e-5 },
            ..LayerSpec::llama4_maverick_chunked()
        }
    }

    /// Llama 4 Maverick, chunked layer: as Scout's, without norm and scaling.
    pub fn llama4_maverick_chunked() -> Self {
        LayerSpec {
            name: "llama4_maverick.chunked".into(),
            rope: Some(Rope::plain(128, 5e5, Pairing::Adjacent)),
            lifetimes: Lifetimes::all(Lifetime { birth: Birth::Causal, death: Death::ChunkEnd(8192) }),
            ..LayerSpec::new(40, 8, 128)
        }
    }

    /// Llama 4, full layer: no rotation, no norm, a temperature of the scores that steps up every 8192 positions.
    pub fn llama4_full() -> Self {
        LayerSpec {
            name: "llama4.full".into(),
            q_temperature: Some(Temperature { beta: 0.1, interval: 8192, offset: 1 }),
            ..LayerSpec::new(40, 8, 128)
        }
    }
}
