//! One rotary descriptor for every scheme: `angle[j] = position[axis[j]] * inv_freq[j]` (RoPE: arXiv 2104.09864).

/// Which two lanes of the head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Lanes `j` and `j + n/2`.
    Half,
    /// Lanes `2j` and `2j + 1`.
    Adjacent,
}

/// Rotation of `2 * inv_freq.len()` lanes starting at `first_lane`. A layer without it (NoPE) has no `Rope`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// First rotated lane of the head.
    pub first_lane: usize,
    /// Which lanes turn together.
    pub pairing: Pairing,
    /// Radians per position, one per lane pair; zeros are allowed.
    pub inv_freq: Vec<f64>,
    /// Which of the four position axes drives the pair.
    pub axis: Vec<u8>,
    /// Multiplies cos and sin (YaRN, LongRoPE); 1 otherwise. Never applied again by a position shift.
    pub mscale: f32,
}

impl Rope {
    /// Plain RoPE over the first `lanes` lanes: `inv_freq[j] = theta^(-2j / lanes)`, one axis.
    pub fn plain(lanes: usize, theta: f64, pairing: Pairing) -> Self {
        let inv_freq: Vec<f64> = (0..lanes / 2).map(|j| theta.powf(-2.0 * j as f64 / lanes as f64)).collect();
        Rope { first_lane: 0, pairing, axis: vec![0; inv_freq.len()], inv_freq, mscale: 1.0 }
    }

    /// Number of rotated lanes.
    pub fn lanes(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// The lanes of pair `j`.
    pub fn pair(&self, j: usize) -> (usize, usize) {
        match self.pairing {
            Pairing::Half => (self.first_lane + j, self.first_lane + j + self.inv_freq.len()),
            Pairing::Adjacent => (self.first_lane + 2 * j, self.first_lane + 2 * j + 1),
        }
    }
}
