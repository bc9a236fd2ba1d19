//! Encoders that are no part of a decoder's family: ModernBERT, SigLIP.

use super::OWN_SPAN;
use crate::kv::{Birth, Death, Lifetime, Lifetimes};
use crate::layer::{LayerSpec, Pairing, Rope};

impl LayerSpec {
    /// ModernBERT base, window layer: 12 heads of 64, 64 keys on each side and the query's own. A document is a view.
    pub fn modernbert_window() -> Self {
        LayerSpec {
            name: "modernbert.window".into(),
            rope: Some(Rope::plain(64, 1e4, Pairing::Half)),
            lifetimes: LayerSpec::both_sides(64),
            ..LayerSpec::modernbert_full()
        }
    }

    /// ModernBERT base, full layer: theta 1.6e5, a document sees itself.
    pub fn modernbert_full() -> Self {
        LayerSpec {
            name: "modernbert.full".into(),
            rope: Some(Rope::plain(64, 1.6e5, Pairing::Half)),
            lifetimes: OWN_SPAN,
            ..LayerSpec::new(12, 12, 64)
        }
    }

    /// SigLIP-So400m, the vision tower of Gemma 3: 16 heads of 72, learned positions, an image sees itself.
    pub fn siglip() -> Self {
        LayerSpec { name: "siglip".into(), lifetimes: OWN_SPAN, ..LayerSpec::new(16, 16, 72) }
    }

    /// A window that looks both ways: `|q - k| <= side`.
    pub(in crate::layer) fn both_sides(side: i32) -> Lifetimes {
        let birth = Birth::Affine { num: 1, den: 1, off: -side };
        Lifetimes::all(Lifetime { birth, death: Death::Window(side.saturating_add(1)) })
    }
}
