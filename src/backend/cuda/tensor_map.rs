//! Tensor maps: what a bulk copy is told of a tensor, in 128 bytes that are made on the host and go to a kernel by value.

use super::{Gpu, Runtime};

/// As `cuda/common/bulk.cuh` has it. No map is all zeros.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct TensorMap([u64; 16]);

/// Boxes of a tensor of 16-bit elements: as many of dimension 0, which is contiguous, as fill a row of an atom of
/// shared memory, by some of dimension 1, in the turned order in which matrix products take them.
#[derive(Clone, Copy)]
pub(crate) struct Boxes {
    pub address: u64,
    /// Elements.
    pub dims: [usize; 4],
    /// Of dimensions 1 to 3, in bytes; of no meaning where there is one element.
    pub strides: [u64; 3],
    /// Elements of a box in dimensions 0 and 1.
    pub size: [usize; 2],
}

impl Boxes {
    /// A stride that nobody multiplies by more than 0 still has to be one.
    fn any_strides(&self) -> [u64; 3] {
        std::array::from_fn(|i| if self.dims[i + 1] > 1 { self.strides[i] } else { 16 })
    }
}

impl Gpu {
    /// The map of a tensor, or none where there can be none: the driver refuses the strides, or is too old.
    pub(crate) fn tensor_map(&self, boxes: &Boxes) -> Option<TensorMap> {
        match &self.runtime {
            Runtime::Driver(driver) => driver.encode_tiled(boxes.address, boxes.dims, boxes.any_strides(), boxes.size),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => simulated(boxes),
        }
        .map(TensorMap)
    }
}

/// `SimTensorMap` of `cuda/sim/shim.h`.
#[cfg(feature = "cuda-sim")]
fn simulated(boxes: &Boxes) -> Option<[u64; 16]> {
    const IS_MAP: u64 = 0x7061_6D54;
    let strides = boxes.any_strides();
    if strides.iter().any(|s| !s.is_multiple_of(16)) {
        return None;
    }
    let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
    let [d0, d1, d2, d3] = boxes.dims;
    let swizzle = 2 * boxes.size[0] as u64;
    let mut words = [0; 16];
    words[0] = boxes.address;
    words[1..4].copy_from_slice(&strides);
    words[4..8].copy_from_slice(&[
        pair(d0, d1),
        pair(d2, d3),
        pair(boxes.size[0], boxes.size[1]),
        swizzle | IS_MAP << 32,
    ]);
    Some(words)
}
