//! How kernels walk through the lanes that turn.

use super::{Pairing, Rope};

/// Lanes of a chunk.
const CHUNK: usize = 4;

/// Values of the kernels' `ROTATION`, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    None,
    Half,
    Adjacent,
    HalfLanes,
    AdjacentLanes,
}

impl Rotation {
    pub const ALL: [Rotation; 5] =
        [Rotation::None, Rotation::Half, Rotation::Adjacent, Rotation::HalfLanes, Rotation::AdjacentLanes];

    /// By chunks where chunks hold whole pairs (adjacent) or meet their partners lane by lane (half), else by lanes.
    pub fn of(rope: Option<&Rope>) -> Self {
        let Some(rope) = rope else { return Rotation::None };
        let is_aligned = rope.first_lane.is_multiple_of(CHUNK);
        match rope.pairing {
            Pairing::Half if is_aligned && rope.inv_freq.len().is_multiple_of(CHUNK) => Rotation::Half,
            Pairing::Half => Rotation::HalfLanes,
            Pairing::Adjacent if is_aligned && rope.lanes().is_multiple_of(CHUNK) => Rotation::Adjacent,
            Pairing::Adjacent => Rotation::AdjacentLanes,
        }
    }
}
