//! Layer kinds of published models. Dimensions are the published ones; change the fields for a smaller model.

use super::{Gate, LayerSpec, Norm, Pairing, Rope};
use crate::kv::{Birth, Death, Lifetimes, Modality};

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
            q_scale: 5.473_006_5,
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

    /// Llama-like: plain RoPE on half-split lanes, causal, no norms.
    pub fn llama(num_q_heads: usize, num_kv_heads: usize, head_dim: usize, theta: f64) -> Self {
        LayerSpec {
            name: "llama".into(),
            rope: Some(Rope::plain(head_dim, theta, Pairing::Half)),
            ..LayerSpec::new(num_q_heads, num_kv_heads, head_dim)
        }
    }

    /// Gemma 3 27B, window layer: (causal or same image) within a window of 1024.
    pub fn gemma3_window() -> Self {
        let lifetimes = Lifetimes::window(1024).with(Modality::Image, Birth::SpanStart, Death::Window(1024));
        LayerSpec {
            name: "gemma3.window".into(),
            rope: Some(Rope::plain(128, 1e4, Pairing::Half)),
            lifetimes,
            ..LayerSpec::gemma3_full()
        }
    }

    /// Gemma 3 27B, global layer: causal or same image; linear RoPE scaling by 8.
    pub fn gemma3_full() -> Self {
        let mut rope = Rope::plain(128, 1e6, Pairing::Half);
        rope.inv_freq.iter_mut().for_each(|f| *f /= 8.0);
        LayerSpec {
            name: "gemma3.full".into(),
            softmax_scale: 1.0 / 168f32.sqrt(),
            rope: Some(rope),
            q_norm: Norm::RmsOnePlus { eps: 1e-6 },
            k_norm: Norm::RmsOnePlus { eps: 1e-6 },
            lifetimes: Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never),
            ..LayerSpec::new(32, 16, 128)
        }
    }
}
