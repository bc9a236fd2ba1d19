//! Gemma 2, 3 and 4, and PaliGemma. Windows count the query's own slot.

use crate::kv::{Birth, Death, Lifetimes, Modality};
use crate::layer::{LayerSpec, Norm, Pairing, Rope};

impl LayerSpec {
    /// Gemma 2 2B, window layer: window 4096.
    pub fn gemma2_window() -> Self {
        LayerSpec { name: "gemma2.window".into(), lifetimes: Lifetimes::window(4096), ..LayerSpec::gemma2_full() }
    }

    /// Gemma 2 2B, global layer: 8/4 heads of 256, scores capped at 50.
    pub fn gemma2_full() -> Self {
        LayerSpec {
            name: "gemma2.full".into(),
            soft_cap: Some(50.0),
            rope: Some(Rope::plain(256, 1e4, Pairing::Half)),
            ..LayerSpec::new(8, 4, 256)
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
        LayerSpec {
            name: "gemma3.full".into(),
            softmax_scale: 1.0 / 168f32.sqrt(),
            rope: Some(Rope::plain(128, 1e6, Pairing::Half).scaled_linear(8.0)),
            q_norm: Norm::RmsOnePlus { eps: 1e-6 },
            k_norm: Norm::RmsOnePlus { eps: 1e-6 },
            lifetimes: Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never),
            ..LayerSpec::new(32, 16, 128)
        }
    }

    /// Gemma 3n E4B, window layer: as its full layer, theta 1e4 and a window of 512.
    pub fn gemma3n_window() -> Self {
        LayerSpec {
            name: "gemma3n.window".into(),
            rope: Some(Rope::plain(256, 1e4, Pairing::Half)),
            lifetimes: Lifetimes::window(512),
            ..LayerSpec::gemma3n_full()
        }
    }

    /// Gemma 3n E4B, full layer: 8/2 heads of 256, causal for images too, scale 1, weighted QK norm, weightless norm of v.
    /// The last 15 layers have no K and V of their own: they read those of the last layer of their kind before them
    /// ([`LayerSpec::packed_q`]).
    pub fn gemma3n_full() -> Self {
        LayerSpec {
            name: "gemma3n.full".into(),
            softmax_scale: 1.0,
            rope: Some(Rope::plain(256, 1e6, Pairing::Half)),
            q_norm: Norm::RmsScaled { eps: 1e-6 },
            k_norm: Norm::RmsScaled { eps: 1e-6 },
            v_norm: Norm::Rms { eps: 1e-6 },
            ..LayerSpec::new(8, 2, 256)
        }
    }

    /// Gemma 4 31B, window layer: 32/16 heads of 256, (causal or same image) within a window of 1024, scale 1, weighted
    /// QK norm, weightless norm of v. An image may be longer than the window.
    pub fn gemma4_window() -> Self {
        LayerSpec {
            name: "gemma4.window".into(),
            softmax_scale: 1.0,
            rope: Some(Rope::plain(256, 1e4, Pairing::Half)),
            q_norm: Norm::RmsScaled { eps: 1e-6 },
            k_norm: Norm::RmsScaled { eps: 1e-6 },
            v_norm: Norm::Rms { eps: 1e-6 },
            lifetimes: Lifetimes::window(1024).with(Modality::Image, Birth::SpanStart, Death::Window(1024)),
            ..LayerSpec::new(32, 16, 256)
        }
    }

    /// Gemma 4 31B, global layer: 32/4 heads of 512, causal for images too, proportional RoPE on 128 of the lanes, K and V
    /// from one projection ([`LayerSpec::packed_shared_kv`]).
    pub fn gemma4_full() -> Self {
        LayerSpec {
            name: "gemma4.full".into(),
            num_kv_heads: 4,
            head_dim: 512,
            head_dim_v: 512,
            rope: Some(Rope::proportional(512, 128, 1e6)),
            lifetimes: Lifetimes::causal(),
            ..LayerSpec::gemma4_window()
        }
    }

    /// PaliGemma 3B: 8/1 heads of 256, prefix-LM. Append the images and the prompt as one span of [`Modality::Image`]:
    /// the prefix sees itself as a whole, what follows is causal.
    pub fn paligemma() -> Self {
        LayerSpec {
            name: "paligemma".into(),
            rope: Some(Rope::plain(256, 1e4, Pairing::Half)),
            lifetimes: Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never),
            ..LayerSpec::new(8, 1, 256)
        }
    }

    /// PaliGemma 2 3B, full layer: Gemma 2's with 8/4 heads of 256, and a prefix as in [`LayerSpec::paligemma`].
    pub fn paligemma2_full() -> Self {
        LayerSpec { name: "paligemma2.full".into(), num_kv_heads: 4, soft_cap: Some(50.0), ..LayerSpec::paligemma() }
    }

    /// PaliGemma 2 3B, window layer: as the full layer, window 4096 for what follows the prefix; the prefix sees itself as a
    /// whole here too.
    pub fn paligemma2_window() -> Self {
        LayerSpec {
            name: "paligemma2.window".into(),
            lifetimes: Lifetimes::window(4096).with(Modality::Image, Birth::SpanStart, Death::WindowOrSpan(4096)),
            ..LayerSpec::paligemma2_full()
        }
    }
}
