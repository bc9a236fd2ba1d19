//! One rotary descriptor for every scheme: `angle[j] = position[axis[j]] * inv_freq[j]` (RoPE: arXiv 2104.09864).
//!
//! Constructors of the descriptor and of its axes; frequency scaling for long contexts is in `rope_scaling.rs`.

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

/// The position axes by their usual names. One axis alone, as text has it, is `TIME`.
impl Rope {
    /// Axis 0: text, and the frame of a picture or clip.
    pub const TIME: u8 = 0;
    /// Axis 1: the row of a patch.
    pub const HEIGHT: u8 = 1;
    /// Axis 2: the column of a patch.
    pub const WIDTH: u8 = 2;

    /// Plain RoPE over the first `lanes` lanes: `inv_freq[j] = theta^(-2j / lanes)`, one axis (arXiv 2104.09864).
    ///
    /// Partial rotary layers (a quarter of the lanes in Qwen3.5, half in GLM) are this with fewer lanes than the head
    /// has: the exponent runs over the rotated lanes. Where it runs over the head instead, see [`Rope::proportional`].
    pub fn plain(lanes: usize, theta: f64, pairing: Pairing) -> Self {
        let inv_freq: Vec<f64> = (0..lanes / 2).map(|j| theta.powf(-2.0 * j as f64 / lanes as f64)).collect();
        Rope { first_lane: 0, pairing, axis: vec![Rope::TIME; inv_freq.len()], inv_freq, mscale: 1.0 }
    }

    /// Proportional RoPE: pairs lie across the whole head (lanes `j` and `j + head_dim / 2`), of which only the first
    /// `lanes / 2` turn: `inv_freq[j] = theta^(-2j / head_dim)`, then zeros. Gemma 4's global layers
    /// (`_compute_proportional_rope_parameters` in `transformers` 5.23).
    pub fn proportional(head_dim: usize, lanes: usize, theta: f64) -> Self {
        let mut rope = Rope::plain(head_dim, theta, Pairing::Half);
        rope.inv_freq.iter_mut().skip(lanes / 2).for_each(|f| *f = 0.0);
        rope
    }

    /// Axial RoPE: each axis has lane pairs of its own, with exponents over its own lanes:
    /// `inv_freq[j] = theta^(-2j / lanes)` for every `(axis, lanes)` in turn.
    ///
    /// Vision towers pair halves over two equal blocks, so that the head reads `[h, w, h, w]` (Muse, Qwen2.5-VL:
    /// `compute_axial_rope_parameters` in `transformers` 5.23); joint image-text layers of the FLUX kind pair adjacent
    /// lanes over three blocks (16, 56, 56).
    pub fn axial(blocks: &[(u8, usize)], theta: f64, pairing: Pairing) -> Self {
        let block =
            |&(axis, lanes): &(u8, usize)| Rope { axis: vec![axis; lanes / 2], ..Rope::plain(lanes, theta, pairing) };
        let blocks: Vec<Rope> = blocks.iter().map(block).collect();
        Rope {
            first_lane: 0,
            pairing,
            inv_freq: blocks.iter().flat_map(|b| b.inv_freq.clone()).collect(),
            axis: blocks.iter().flat_map(|b| b.axis.clone()).collect(),
            mscale: 1.0,
        }
    }

    /// The same rotation on lanes that start at `first_lane`: multi-head latent attention turns the last lanes of the
    /// head.
    pub fn at_lane(self, first_lane: usize) -> Self {
        Rope { first_lane, ..self }
    }

    /// M-RoPE with contiguous sections: the first `sections[0]` pairs turn by axis 0, the next `sections[1]` by axis 1,
    /// and so on (Qwen2-VL, arXiv 2409.12191). The sections of a layer sum up to its pairs.
    pub fn with_sections(self, sections: &[usize]) -> Self {
        let axis = sections.iter().zip(0u8..).flat_map(|(&pairs, axis)| std::iter::repeat_n(axis, pairs));
        Rope { axis: axis.collect(), ..self }
    }

    /// M-RoPE with interleaved sections `[t, h, w]`: pair `j` turns by the height if `j % 3 = 1` and `j < 3 h`, by the
    /// width if `j % 3 = 2` and `j < 3 w`, else by the time (Qwen3-VL, `recomposition_frequencies` in `transformers`
    /// 5.23). Interleaved are the axes, not the lanes: the pairing stays what it is.
    pub fn with_interleaved_sections(self, [_, h, w]: [usize; 3]) -> Self {
        let axis = |j: usize| match j % 3 {
            1 if j < 3 * h => Rope::HEIGHT,
            2 if j < 3 * w => Rope::WIDTH,
            _ => Rope::TIME,
        };
        Rope { axis: (0..self.inv_freq.len()).map(axis).collect(), ..self }
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

#[cfg(test)]
mod tests {
    //! Planted and seen red: the exponent of proportional RoPE over the rotated lanes; interleaved sections that give
    //! pair 31 of [11, 11, 10] to the time.
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-14 * b.abs()
    }

    #[test]
    fn plain_and_partial_frequencies_run_over_the_rotated_lanes() {
        let rope = Rope::plain(64, 1e7, Pairing::Half); // Qwen3.5: 64 of 256 lanes
        assert_eq!((rope.lanes(), rope.inv_freq.len()), (64, 32));
        assert!(close(rope.inv_freq[0], 1.0) && close(rope.inv_freq[16], 1e7f64.powf(-0.5)));
        assert!(close(rope.inv_freq[31], 1e7f64.powf(-62.0 / 64.0)));
        assert_eq!((rope.pair(0), rope.pair(31)), ((0, 32), (31, 63)));
    }

    #[test]
    fn proportional_frequencies_run_over_the_head_and_end_in_zeros() {
        let rope = Rope::proportional(512, 128, 1e6); // Gemma 4, global layers
        assert_eq!((rope.lanes(), rope.pair(3)), (512, (3, 259)));
        assert!(close(rope.inv_freq[63], 1e6f64.powf(-126.0 / 512.0)));
        assert!(rope.inv_freq[64..].iter().all(|&f| f == 0.0) && rope.inv_freq.len() == 256);
    }

    #[test]
    fn axial_blocks_have_exponents_of_their_own() {
        let rope = Rope::axial(&[(Rope::HEIGHT, 48), (Rope::WIDTH, 48)], 1e4, Pairing::Half); // 96 lanes
        assert_eq!((rope.lanes(), rope.pair(24)), (96, (24, 72)));
        assert!(close(rope.inv_freq[23], 1e4f64.powf(-46.0 / 48.0)) && close(rope.inv_freq[24], 1.0));
        assert_eq!((rope.axis[23], rope.axis[24]), (Rope::HEIGHT, Rope::WIDTH));
        let flux = Rope::axial(&[(0, 16), (1, 56), (2, 56)], 1e4, Pairing::Adjacent);
        assert_eq!((flux.lanes(), flux.pair(8), flux.axis[8]), (128, (16, 17), 1));
        assert!(close(flux.inv_freq[9], 1e4f64.powf(-2.0 / 56.0)));
    }

    #[test]
    fn contiguous_sections_follow_each_other() {
        let rope = Rope::plain(128, 1e6, Pairing::Half).with_sections(&[16, 24, 24]);
        let count = |axis: u8| rope.axis.iter().filter(|&&a| a == axis).count();
        assert_eq!([count(0), count(1), count(2)], [16, 24, 24]);
        assert_eq!([rope.axis[15], rope.axis[16], rope.axis[39], rope.axis[40]], [0, 1, 1, 2]);
    }

    #[test]
    fn interleaved_sections_take_turns_until_they_are_used_up() {
        let rope = Rope::plain(128, 5e6, Pairing::Half).with_interleaved_sections([24, 20, 20]);
        let count = |axis: u8| rope.axis.iter().filter(|&&a| a == axis).count();
        assert_eq!([count(0), count(1), count(2)], [24, 20, 20]);
        assert_eq!(rope.axis[..7], [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(rope.axis[57..], [0, 1, 2, 0, 0, 0, 0]);
        // Of [11, 11, 10] the last pair is the height's: 31 = 1 mod 3, and 31 < 33.
        let rope = Rope::plain(64, 1e7, Pairing::Half).with_interleaved_sections([11, 11, 10]);
        assert_eq!(rope.axis[27..], [0, 1, 2, 0, 1]);
    }

    #[test]
    fn a_first_lane_moves_the_pairs() {
        let rope = Rope::plain(64, 1e4, Pairing::Adjacent).at_lane(128); // MLA: the last 64 of 192 lanes
        assert_eq!((rope.pair(0), rope.pair(31)), ((128, 129), (190, 191)));
    }
}
