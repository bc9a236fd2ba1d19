//! Qwen2.5-VL, Qwen3-VL, Qwen3.5.

use super::OWN_SPAN;
use crate::layer::{Gate, LayerSpec, Norm, Pairing, Rope};

impl LayerSpec {
    /// Qwen2.5-VL 7B: 28/4 heads of 128, causal for images too, M-RoPE with contiguous sections 16, 24, 24.
    pub fn qwen25_vl() -> Self {
        LayerSpec {
            name: "qwen25_vl".into(),
            rope: Some(Rope::plain(128, 1e6, Pairing::Half).with_sections(&[16, 24, 24])),
            ..LayerSpec::new(28, 4, 128)
        }
    }

    /// The vision tower of Qwen2.5-VL, window layer: 16 heads of 80 over windows of 8 x 8 patches, each a span of its own;
    /// its full layers differ only in that an image is the span.
    pub fn qwen25_vl_vision_window() -> Self {
        LayerSpec {
            name: "qwen25_vl_vision.window".into(),
            rope: Some(Rope::axial(&[(Rope::HEIGHT, 40), (Rope::WIDTH, 40)], 1e4, Pairing::Half)),
            lifetimes: OWN_SPAN,
            ..LayerSpec::new(16, 16, 80)
        }
    }

    /// Qwen3-VL 30B-A3B: 32/4 heads of 128, weighted QK norm, M-RoPE with interleaved sections 24, 20, 20.
    pub fn qwen3_vl() -> Self {
        LayerSpec {
            name: "qwen3_vl".into(),
            rope: Some(Rope::plain(128, 5e6, Pairing::Half).with_interleaved_sections([24, 20, 20])),
            q_norm: Norm::RmsScaled { eps: 1e-6 },
            k_norm: Norm::RmsScaled { eps: 1e-6 },
            ..LayerSpec::new(32, 4, 128)
        }
    }

    /// Qwen3.5 27B, full layer: 24/4 heads of 256, 64 lanes turn, QK norm by one plus the weight, a gate in one projection
    /// with q ([`LayerSpec::packed_gate_by_head`]). The model's other layers are linear attention, which is out of scope.
    pub fn qwen35_full() -> Self {
        LayerSpec {
            name: "qwen35.full".into(),
            rope: Some(Rope::plain(64, 1e7, Pairing::Half).with_interleaved_sections([11, 11, 10])),
            q_norm: Norm::RmsOnePlus { eps: 1e-6 },
            k_norm: Norm::RmsOnePlus { eps: 1e-6 },
            gate: Gate::Sigmoid,
            ..LayerSpec::new(24, 4, 256)
        }
    }
}
