//! GLM-4.1V, GLM-4.5V.

use crate::layer::{LayerSpec, Pairing, Rope};

impl LayerSpec {
    /// GLM-4.1V 9B: 32/2 heads of 128, causal for images too, 64 lanes turn in contiguous sections 8, 12, 12 of adjacent
    /// pairs.
    pub fn glm41v() -> Self {
        LayerSpec {
            name: "glm41v".into(),
            rope: Some(Rope::plain(64, 1e4, Pairing::Adjacent).with_sections(&[8, 12, 12])),
            ..LayerSpec::new(32, 2, 128)
        }
    }

    /// GLM-4.5V: as GLM-4.1V with 96/8 heads, but half-split pairs.
    pub fn glm45v() -> Self {
        LayerSpec {
            name: "glm45v".into(),
            rope: Some(Rope::plain(64, 1e4, Pairing::Half).with_sections(&[8, 12, 12])),
            ..LayerSpec::new(96, 8, 128)
        }
    }
}
