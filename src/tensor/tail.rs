//! The tail of a vector of codes: its last lanes, stored as values behind the codes of the others.

use std::borrow::Cow;

use super::Tensor;
use crate::{DType, Error, Result};

impl Tensor {
    /// The same codes, but for the last `lanes` lanes of each vector, which are values of type `dtype` in the last
    /// `lanes * dtype.size()` bytes: 640 bytes of e4m3 with a tail of 64 lanes of bf16 are a vector of 512 + 64 lanes.
    /// [Scales](Tensor::with_scales) are those of the codes alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] if these are no [codes](DType::is_code) with neighbouring lanes, have a tail already, are shorter
    /// than that, or if a tail would begin between two elements of its type.
    pub fn with_tail(&self, dtype: DType, lanes: usize) -> Result<Self> {
        const OP: &str = "tensor with_tail";
        dtype.expect_values(OP, "a tail")?;
        let size = dtype.size();
        let ([before @ .., have], [apart @ .., 1]) = (self.shape.as_slice(), self.strides.as_slice()) else {
            let got = format!("strides {:?}", self.strides);
            return Err(Error::invalid(OP, "codes", "a contiguous last dimension", got));
        };
        if !self.dtype.is_code() || self.tail.is_some() {
            let got = if self.tail.is_some() { "a tail".into() } else { self.dtype.to_string() };
            return Err(Error::invalid(OP, "codes", "e4m3 or i8 without a tail", got));
        }
        let Some(codes) = lanes.checked_mul(size).and_then(|bytes| have.checked_sub(bytes)) else {
            return Err(Error::invalid(OP, "lanes", format!("{} at most", have / size), lanes));
        };
        let (first, dims) = (self.offset + codes, || before.iter().zip(apart));
        if !first.is_multiple_of(size) || dims().any(|(&n, stride)| n > 1 && !stride.is_multiple_of(size)) {
            let got = format!("the first at {first}, strides {apart:?}");
            return Err(Error::invalid(OP, "codes", format!("tails that begin at multiples of {size} bytes"), got));
        }
        let with = |last: usize| before.iter().copied().chain([last]).collect::<Vec<_>>();
        let strides: Vec<usize> = dims().map(|(_, stride)| stride / size).chain([1]).collect();
        let tail = Tensor::with_strides(self.buffer.clone(), dtype, first / size, &with(lanes), &strides)?;
        Ok(Tensor { shape: with(codes + lanes), tail: Some(Box::new(tail)), ..self.clone() })
    }

    /// The lanes that are stored behind the codes, as a view of their own.
    pub fn tail(&self) -> Option<&Tensor> {
        self.tail.as_deref()
    }

    /// Lanes in front of the tail.
    pub(crate) fn lanes_before_tail(&self) -> usize {
        let lanes = |t: &Tensor| t.shape.last().copied().unwrap_or(0);
        lanes(self) - self.tail().map_or(0, lanes)
    }

    /// All elements that the view covers, its tail's as so many of its own type: what it shares memory by.
    pub(crate) fn covered(&self) -> Cow<'_, Tensor> {
        let Some(tail) = self.tail() else { return Cow::Borrowed(self) };
        let mut t = Tensor { tail: None, ..self.clone() };
        if let Some(last) = t.shape.last_mut() {
            *last += tail.shape.last().map_or(0, |lanes| lanes * (tail.dtype.size() - 1));
        }
        Cow::Owned(t)
    }

    /// [`Tensor::read_f32`] where there is a tail.
    pub(super) fn read_both(&self, tail: &Tensor) -> Result<Vec<f32>> {
        let codes = self.first_lanes(self.lanes_before_tail())?;
        let (ours, its) = (codes.read_f32()?, tail.read_f32()?);
        let vectors = self.len() / self.shape.last().copied().unwrap_or(1).max(1);
        let (a, b) = (ours.len() / vectors.max(1), its.len() / vectors.max(1));
        let of = |i: usize| ours[i * a..(i + 1) * a].iter().chain(&its[i * b..(i + 1) * b]).copied();
        Ok((0..vectors).flat_map(of).collect())
    }

    /// [`Tensor::write_f32`] where there is a tail.
    pub(super) fn write_both(&self, tail: &Tensor, values: &[f32]) -> Result<()> {
        let lanes = self.lanes_before_tail();
        let vectors = || values.chunks(self.shape.last().copied().unwrap_or(1).max(1));
        let (ours, its): (Vec<&[f32]>, Vec<&[f32]>) = vectors().map(|vector| vector.split_at(lanes)).unzip();
        self.first_lanes(lanes)?.write_f32(&ours.concat())?;
        tail.write_f32(&its.concat())
    }
}
