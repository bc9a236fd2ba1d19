//! Element types, their conversions, and the one table of tolerances.

use half::{bf16, f16};

/// How an element is stored. Arithmetic is always f32 on a device and f64 in the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of binary32.
    BF16,
}

impl DType {
    /// Every storage type.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// The name used in messages, file names and shader stems.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
        }
    }

    /// The nearest storable value, ties to even.
    pub fn round(self, x: f32) -> f32 {
        match self {
            DType::F32 => x,
            DType::F16 => f16::from_f32(x).to_f32(),
            DType::BF16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// Appends the stored form of `x` (little endian), rounding to nearest, ties to even.
    pub(crate) fn encode(self, x: f32, out: &mut [u8]) {
        match self {
            DType::F32 => out.copy_from_slice(&x.to_le_bytes()),
            DType::F16 => out.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
            DType::BF16 => out.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
        }
    }

    /// Reads the stored form of one element.
    pub(crate) fn decode(self, bytes: &[u8]) -> f32 {
        match self {
            DType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            DType::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            DType::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        }
    }

    /// How far a device may be from the reference in an output stored as this type.
    ///
    /// The reference rounds at the same points as the kernels, so storage costs one rounding of the output
    /// (half an ulp) that may fall on either side of a tie: one ulp relative. Added to it is the f32 arithmetic
    /// of the kernels: sums of a few thousand terms of order one, each rounded at 2^-24, plus `exp2` at 2^-21
    /// relative; measured at 1e-7 to 4e-7 on shapes of the tests, allowed 1e-5 (25 times the worst seen).
    ///
    /// | type | atol | rtol | from |
    /// |---|---|---|---|
    /// | f32 | 1e-5 | 1e-5 | f32 arithmetic as above |
    /// | f16 | 1e-5 + 2^-14 (values below 2^-4 have smaller ulps) | 2^-10 | one ulp of f16 |
    /// | bf16 | 1e-5 + 2^-11 | 2^-7 | one ulp of bf16 |
    pub const fn tolerance(self) -> Tolerance {
        match self {
            DType::F32 => Tolerance { atol: 1e-5, rtol: 1e-5 },
            DType::F16 => Tolerance { atol: 1e-5 + 1.0 / 16384.0, rtol: 1.0 / 1024.0 },
            DType::BF16 => Tolerance { atol: 1e-5 + 1.0 / 2048.0, rtol: 1.0 / 128.0 },
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// `|got - want| <= atol + rtol * |want|`, per element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Absolute part.
    pub atol: f32,
    /// Relative part.
    pub rtol: f32,
}

impl Tolerance {
    /// Whether `got` is close enough to `want`; NaN and infinities must match exactly.
    pub fn accepts(&self, got: f32, want: f32) -> bool {
        if !want.is_finite() || !got.is_finite() {
            return (got.is_nan() && want.is_nan()) || got == want;
        }
        (got - want).abs() <= self.atol + self.rtol * want.abs()
    }
}
