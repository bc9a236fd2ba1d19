//! gpt-oss, Mistral, MiMo, MiniMax, BAGEL, FLUX.

use super::OWN_SPAN;
use crate::kv::{Birth, Death, Lifetimes, Modality};
use crate::layer::{LayerSpec, Norm, Pairing, Rope, Temperature, Yarn};

impl LayerSpec {
    /// gpt-oss, window layer: as the full layer, window 128.
    pub fn gpt_oss_window() -> Self {
        LayerSpec { name: "gpt_oss.window".into(), lifetimes: Lifetimes::window(128), ..LayerSpec::gpt_oss_full() }
    }

    /// gpt-oss, full layer: 64/8 heads of 64, a sink per head, YaRN by 32 without rounded ends.
    pub fn gpt_oss_full() -> Self {
        let yarn = Yarn { truncate: false, ..Yarn::new(32.0, 4096.0) };
        LayerSpec {
            name: "gpt_oss.full".into(),
            sinks: true,
            rope: Some(Rope::yarn(64, 1.5e5, Pairing::Half, &yarn)),
            ..LayerSpec::new(64, 8, 64)
        }
    }

    /// Mistral 7B v0.1: 32/8 heads of 128, window 4096 on every layer.
    pub fn mistral_window() -> Self {
        LayerSpec {
            name: "mistral.window".into(),
            lifetimes: Lifetimes::window(4096),
            ..LayerSpec::llama(32, 8, 128, 1e4)
        }
    }

    /// Ministral 3 8B: 32/8 heads of 128, YaRN by 16, a temperature that steps up every 16384 positions.
    pub fn ministral3() -> Self {
        let yarn = Yarn::new(16.0, 16384.0).with_mscale(1.0, 1.0);
        LayerSpec {
            name: "ministral3".into(),
            q_temperature: Some(Temperature { beta: 0.1, interval: 16384, offset: 0 }),
            rope: Some(Rope::yarn(128, 1e6, Pairing::Half, &yarn)),
            ..LayerSpec::new(32, 8, 128)
        }
    }

    /// MiMo-V2-Flash, window layer: 64/8 heads of 192/128, a sink per head, 64 lanes turn. Its window of 128 does not count
    /// the query's own slot: 129 here.
    pub fn mimo_v2_window() -> Self {
        LayerSpec {
            name: "mimo_v2.window".into(),
            num_kv_heads: 8,
            sinks: true,
            rope: Some(Rope::plain(64, 1e4, Pairing::Half)),
            lifetimes: Lifetimes::window(129),
            ..LayerSpec::mimo_v2_full()
        }
    }

    /// MiMo-V2-Flash, full layer: 64/4 heads of 192/128, 64 lanes turn, v times 0.707, no sinks.
    pub fn mimo_v2_full() -> Self {
        LayerSpec {
            name: "mimo_v2.full".into(),
            head_dim_v: 128,
            v_scale: 0.707,
            rope: Some(Rope::plain(64, 5e6, Pairing::Half)),
            ..LayerSpec::new(64, 4, 192)
        }
    }

    /// MiniMax M1, softmax layer: 64/8 heads of 128, 64 lanes turn, theta 1e7. Its other layers are linear attention.
    pub fn minimax_m1() -> Self {
        LayerSpec {
            name: "minimax_m1".into(),
            rope: Some(Rope::plain(64, 1e7, Pairing::Half)),
            ..LayerSpec::new(64, 8, 128)
        }
    }

    /// BAGEL 7B: 28/4 heads of 128. Clean images see themselves and are seen by what follows; noise spans see themselves
    /// and what came before, and nothing outside sees them (`data/data_utils.py` of ByteDance-Seed/Bagel).
    pub fn bagel() -> Self {
        let lifetimes = Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never).with(
            Modality::Noise,
            Birth::SpanStart,
            Death::SpanEnd,
        );
        LayerSpec {
            name: "bagel".into(),
            rope: Some(Rope::plain(128, 1e6, Pairing::Half)),
            q_norm: Norm::RmsScaled { eps: 1e-6 },
            k_norm: Norm::RmsScaled { eps: 1e-6 },
            lifetimes,
            ..LayerSpec::new(28, 4, 128)
        }
    }

    /// Joint image-text attention of the FLUX kind: 24 heads of 128, everything sees everything, three axes with exponents
    /// of their own on adjacent lanes. Append text and image as one span.
    pub fn flux_joint() -> Self {
        LayerSpec {
            name: "flux.joint".into(),
            rope: Some(Rope::axial(&[(Rope::TIME, 16), (Rope::HEIGHT, 56), (Rope::WIDTH, 56)], 1e4, Pairing::Adjacent)),
            q_norm: Norm::RmsScaled { eps: 1e-6 },
            k_norm: Norm::RmsScaled { eps: 1e-6 },
            lifetimes: OWN_SPAN,
            ..LayerSpec::new(24, 24, 128)
        }
    }
}
