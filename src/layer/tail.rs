//! The tail of a latent row: the lanes behind V, stored as values where V is codes.

use super::{KvScale, LayerSpec};
use crate::{DType, Error, Result, Tensor};

impl LayerSpec {
    /// A layer kind with [V in K](LayerSpec::v_in_k) whose latent is stored as codes under `kv_scale`, and the lanes behind
    /// it, where the layer rotates, as bf16 in the same row: as DeepSeek V3.2 is served, but for the scales, of which that
    /// has one for every 128 lanes. A row of 512 + 64 lanes in e4m3 is 640 bytes.
    ///
    /// An indexer's keys are no latents: [`SelectSpec::k_dtype`](crate::select::SelectSpec::k_dtype) says how they are stored.
    pub fn with_coded_latent(self, kv_dtype: DType, kv_scale: KvScale) -> LayerSpec {
        LayerSpec { kv_dtype, kv_scale, tail_dtype: Some(DType::BF16), ..self }
    }

    /// Lanes of a key's tail; 0 without one.
    pub fn tail_lanes(&self) -> usize {
        if self.tail_dtype.is_some() { self.head_dim.saturating_sub(self.head_dim_v) } else { 0 }
    }

    /// Elements of `kv_dtype` that a key takes in its page: its lanes, but for a tail, which takes so many of its own type.
    pub fn key_elements(&self) -> usize {
        let more = |dtype: DType| (dtype.size() / self.kv_dtype.size()).saturating_sub(1);
        self.head_dim + self.tail_lanes() * self.tail_dtype.map_or(0, more)
    }

    /// Pages of K `[.., key_elements]` in `kv_dtype` as what operations take, `[.., head_dim]`: with their
    /// [tail](Tensor::with_tail), if the layer kind has one.
    ///
    /// # Errors
    /// As [`Tensor::with_tail`].
    pub fn key_pages(&self, pages: &Tensor) -> Result<Tensor> {
        match self.tail_dtype {
            Some(dtype) => pages.with_tail(dtype, self.tail_lanes()),
            None => Ok(pages.clone()),
        }
    }

    /// The lanes of K that turn, as a layer kind: those of the tail, if there is one.
    pub(crate) fn turning_keys(&self) -> LayerSpec {
        let Some(dtype) = self.tail_dtype else { return self.clone() };
        let (lanes, first) = (self.tail_lanes(), self.head_dim_v);
        LayerSpec {
            head_dim: lanes,
            kv_dtype: dtype,
            kv_scale: KvScale::None,
            tail_dtype: None,
            rope: self.rope.clone().map(|rope| {
                let lane = rope.first_lane.saturating_sub(first);
                rope.at_lane(lane)
            }),
            ..self.clone()
        }
    }

    pub(super) fn validate_tail(&self, op: &'static str) -> Result<()> {
        let Some(dtype) = self.tail_dtype else { return Ok(()) };
        let has_place = self.v_in_k && !self.v_rope && self.head_dim_v < self.head_dim;
        if !has_place || !self.kv_dtype.is_code() {
            let got = format!("V of {} lanes of {} in {}", self.head_dim_v, self.head_dim, self.kv_dtype);
            return Err(Error::invalid(
                op,
                "tail_dtype",
                "lanes of K behind V, which is in K as codes and stands",
                got,
            ));
        }
        if dtype != DType::BF16 {
            return Err(Error::unsupported(op, format!("a tail of {dtype}"), "bf16"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Pairing, Rope};

    #[test]
    fn a_row_is_512_codes_and_64_values() {
        let latent = LayerSpec::deepseek_v32_absorbed();
        assert_eq!((latent.tail_lanes(), latent.key_elements()), (0, 576));
        let coded = latent.with_coded_latent(DType::E4M3, KvScale::Token);
        assert_eq!(coded.validate("test"), Ok(()));
        assert_eq!((coded.tail_lanes(), coded.key_elements()), (64, 640));
        let turning = coded.turning_keys();
        assert_eq!((turning.head_dim, turning.rope.map(|rope| rope.first_lane)), (64, Some(0)));
    }

    #[test]
    fn a_tail_is_behind_a_latent_of_codes() {
        let latent = LayerSpec { head_dim_v: 32, v_in_k: true, ..LayerSpec::new(2, 1, 48) };
        let one = KvScale::Tensor { k: 1.0, v: 1.0 };
        let coded = latent.clone().with_coded_latent(DType::E4M3, one);
        assert_eq!(coded.validate("test"), Ok(()));
        assert_eq!(latent.clone().with_coded_latent(DType::I8, KvScale::Token).validate("test"), Ok(()));
        for bad in [
            LayerSpec { v_in_k: false, ..coded.clone() },
            LayerSpec { head_dim_v: 48, ..coded.clone() },
            LayerSpec { rope: Some(Rope::plain(16, 1e4, Pairing::Half)), v_rope: true, ..coded.clone() },
            latent.with_coded_latent(DType::BF16, KvScale::None),
        ] {
            assert!(matches!(bad.validate("test"), Err(Error::Invalid { argument: "tail_dtype", .. })), "{bad:?}");
        }
        let f16 = LayerSpec { tail_dtype: Some(DType::F16), ..coded };
        assert!(matches!(f16.validate("test"), Err(Error::Unsupported { .. })));
    }
}
