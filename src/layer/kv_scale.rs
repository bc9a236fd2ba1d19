//! What codes of K and V are multiplied by.

use super::LayerSpec;
use crate::{DType, Error, Result, Tensor};

/// How K and V are scaled where they are stored as [codes](DType::is_code).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KvScale {
    /// Not at all: what is stored are the values.
    None,
    /// One number for all of K and one for all of V, for [`DType::E4M3`]. What is stored is `round(x * (1 / scale))`.
    Tensor {
        /// The scale of K.
        k: f32,
        /// The scale of V; that of K where V is in K.
        v: f32,
    },
    /// A number per token and KV head, which `kv_append` measures and stores [beside the codes](Tensor::with_scales).
    Token,
}

/// Every kind of codes: what offline compilation covers.
pub(crate) const CODES: [(DType, KvScale); 3] =
    [(DType::E4M3, KvScale::Tensor { k: 1.0, v: 1.0 }), (DType::E4M3, KvScale::Token), (DType::I8, KvScale::Token)];

impl KvScale {
    /// The kernels' `KV_SCALE`.
    pub(crate) fn code(self) -> usize {
        match self {
            KvScale::None => 0,
            KvScale::Tensor { .. } => 1,
            KvScale::Token => 2,
        }
    }

    /// What all of K and all of V are multiplied by when they are read.
    pub(crate) fn factors(self) -> [f32; 2] {
        match self {
            KvScale::Tensor { k, v } => [k, v],
            KvScale::None | KvScale::Token => [1.0; 2],
        }
    }

    pub(super) fn validate(self, op: &'static str, spec: &LayerSpec) -> Result<()> {
        let dtype = spec.kv_dtype;
        let refuse = |expected: &str| Err(Error::invalid(op, "kv_scale", expected, format!("{self:?} for {dtype}")));
        match (self, dtype.is_code()) {
            (KvScale::None, false) => return Ok(()),
            (KvScale::None, true) => return refuse("a scale for codes"),
            (_, false) => return refuse("none for values that are stored as they are"),
            (KvScale::Tensor { k, v }, true) => {
                // Their reciprocals are normal numbers too.
                if ![k, v].iter().all(|s| (1e-30..=1e30).contains(s)) || (spec.v_in_k && k != v) {
                    return refuse("numbers from 1e-30 to 1e30, the same where V is in K");
                }
                if dtype == DType::I8 {
                    return Err(Error::unsupported(op, "i8 with one scale for all tokens", "a scale per token"));
                }
            }
            (KvScale::Token, true) => {}
        }
        let (d, dv) = (spec.head_dim, spec.head_dim_v);
        if d % 16 != 0 || dv % if dv > 256 { 32 } else { 16 } != 0 {
            let what = format!("head dims {d} and {dv} of {dtype}");
            return Err(Error::unsupported(op, what, "multiples of 16, of v above 256 multiples of 32"));
        }
        Ok(())
    }
}

impl LayerSpec {
    /// Checks a tensor of pages of K or V: type, shape, scales where each token has one, and a tail where K has one.
    pub(crate) fn expect_pages(
        &self,
        op: &'static str,
        argument: &'static str,
        tensor: &Tensor,
        shape: &[usize],
    ) -> Result<()> {
        tensor.expect(op, argument, self.kv_dtype, shape)?;
        let has = tensor.scales().is_some();
        if has != (self.kv_scale == KvScale::Token) {
            let say = |has| if has { "codes with scales" } else { "no scales beside it" };
            return Err(Error::invalid(op, argument, say(!has), say(has)));
        }
        // V has no lanes behind itself.
        let lanes = shape.last().map_or(0, |lanes| lanes.saturating_sub(self.head_dim_v));
        let expected = self.tail_dtype.filter(|_| lanes > 0).map(|dtype| (dtype, lanes));
        let got = tensor.tail().map(|tail| (tail.dtype(), tail.shape().last().copied().unwrap_or(0)));
        if got != expected {
            let say = |tail: Option<(DType, usize)>| {
                tail.map_or("no tail".into(), |(dtype, lanes)| format!("a tail of {lanes} lanes in {dtype}"))
            };
            return Err(Error::invalid(op, argument, say(expected), say(got)));
        }
        Ok(())
    }
}

/// Where the scales of K and V lie, in elements: offsets, and the strides of page, head and slot that both have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScalePlaces {
    pub offsets: [u32; 2],
    pub strides: [u32; 3],
}

impl ScalePlaces {
    /// Zeros where tokens have none.
    pub fn of(op: &'static str, k: &Tensor, v: &Tensor) -> Result<Self> {
        let (Some(k), Some(v)) = (k.scales(), v.scales()) else { return Ok(ScalePlaces::default()) };
        let strides = |t: &Tensor| [0, 1, 2].map(|i| if t.shape()[i] > 1 { t.strides()[i] } else { 0 });
        if strides(k) != strides(v) {
            let got = format!("{:?} and {:?}", k.strides(), v.strides());
            return Err(Error::invalid(op, "scales", "the same strides for K and V", got));
        }
        let last = |t: &Tensor| {
            t.offset() + t.shape().iter().zip(strides(t)).map(|(&n, s)| n.saturating_sub(1) * s).sum::<usize>()
        };
        if last(k).max(last(v)) > u32::MAX as usize {
            return Err(Error::unsupported(op, "scales beyond 2^32 elements", "fewer"));
        }
        Ok(ScalePlaces { offsets: [k.offset() as u32, v.offset() as u32], strides: strides(k).map(|s| s as u32) })
    }

    /// The one buffer that a shader binds for the scales of both.
    #[cfg(feature = "webgpu")]
    pub fn buffer<'a>(op: &'static str, k: &'a Tensor, v: &'a Tensor) -> Result<Option<&'a crate::Buffer>> {
        let (Some(k), Some(v)) = (k.scales(), v.scales()) else { return Ok(None) };
        if !k.buffer().is_same(v.buffer()) {
            return Err(Error::unsupported(op, "scales of K and V in two buffers on WebGPU", "one buffer for both"));
        }
        Ok(Some(k.buffer()))
    }

    /// The addresses of the scales of K and V.
    #[cfg(feature = "cuda")]
    pub fn addresses(
        gpu: &std::sync::Arc<crate::backend::cuda::Gpu>,
        op: &'static str,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<[u64; 2]> {
        let address = |t: &Tensor| match t.scales() {
            Some(s) => Ok(s.buffer().block(gpu, op, "scales")?.address() + s.offset() as u64 * 4),
            None => Ok(0),
        };
        Ok([address(k)?, address(v)?])
    }
}
