//! Muse Spark, Muse Glimmer, the Glimmer drafter and the vision tower.

use super::OWN_SPAN;
use crate::kv::{Birth, Death, Lifetimes, Modality};
use crate::layer::{Gate, LayerSpec, Norm, Pairing, Rope};

impl LayerSpec {
    /// Muse Spark, window layer: 128/16 heads of 64, window 2048, RoPE theta 5e5 on adjacent lanes (the native
    /// checkpoint's pairing; converted ones use [`Pairing::Half`]), weightless QK norm, per-head output norm, gate.
    pub fn muse_spark_window() -> Self {
        LayerSpec {
            name: "muse_spark.window".into(),
            rope: Some(Rope::plain(64, 5e5, Pairing::Adjacent)),
            lifetimes: Lifetimes::window(2048),
            ..LayerSpec::muse_spark_full()
        }
    }

    /// Muse Spark, full layer: as the window layer, without rotation and window.
    pub fn muse_spark_full() -> Self {
        LayerSpec {
            name: "muse_spark.full".into(),
            q_scale: 5.473_006_486_387_5_f64 as f32,
            q_norm: Norm::Rms { eps: 1e-5 },
            k_norm: Norm::Rms { eps: 1e-5 },
            out_norm: Norm::Rms { eps: 1e-5 },
            gate: Gate::Sigmoid,
            ..LayerSpec::new(128, 16, 64)
        }
    }

    /// Muse Glimmer, window layer: 32/2 heads of 128, window 2048, RoPE theta 5e5, weightless QK norm, gate.
    pub fn muse_glimmer_window() -> Self {
        LayerSpec {
            name: "muse_glimmer.window".into(),
            rope: Some(Rope::plain(128, 5e5, Pairing::Half)),
            lifetimes: Lifetimes::window(2048),
            ..LayerSpec::muse_glimmer_full()
        }
    }

    /// Muse Glimmer, full layer: no rotation, no window.
    pub fn muse_glimmer_full() -> Self {
        LayerSpec {
            name: "muse_glimmer.full".into(),
            q_scale: 3.87,
            q_norm: Norm::Rms { eps: 1e-5 },
            k_norm: Norm::Rms { eps: 1e-5 },
            gate: Gate::Sigmoid,
            ..LayerSpec::new(32, 2, 128)
        }
    }

    /// The block drafter of Muse Glimmer: 32/8 heads of 128. A block of drafts, 16 in the published model, sees itself as
    /// a whole, and of the context what lies at most 2048 tokens back: a window of 2049, since this model's window does
    /// not count the query's own slot.
    pub fn muse_glimmer_drafter() -> Self {
        let lifetimes = Lifetimes::window(2049).with(Modality::Draft, Birth::SpanStart, Death::SpanEnd);
        LayerSpec {
            name: "muse_glimmer.drafter".into(),
            rope: Some(Rope::plain(128, 5e5, Pairing::Half)),
            q_norm: Norm::RmsScaled { eps: 1e-5 },
            k_norm: Norm::RmsScaled { eps: 1e-5 },
            lifetimes,
            ..LayerSpec::new(32, 8, 128)
        }
    }

    /// The vision tower of Muse, window layer: 16 heads of 96 over windows of 32 x 32 patches. Patches lie in the order of
    /// windows; append each window as a span of its own. Positions count from 1.
    pub fn muse_vision_window() -> Self {
        LayerSpec { name: "muse_vision.window".into(), ..LayerSpec::muse_vision_full() }
    }

    /// The vision tower of Muse, full layer: as the window layer, but with an image as the span. The first half of the
    /// lane pairs turns by the column, the second by the row.
    pub fn muse_vision_full() -> Self {
        LayerSpec {
            name: "muse_vision.full".into(),
            rope: Some(Rope::axial(&[(Rope::WIDTH, 48), (Rope::HEIGHT, 48)], 1e4, Pairing::Half)),
            lifetimes: OWN_SPAN,
            ..LayerSpec::new(16, 16, 96)
        }
    }
}
