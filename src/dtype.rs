//! Element types, their conversions, and the one table of tolerances.

use half::{bf16, f16};

use crate::{Error, Result};

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
    /// OCP E4M3 (`e4m3fn`): 448 at most, no infinities, NaN 0x7f. A *code*: it stores K and V under a
    /// [scale](crate::layer::KvScale), or [the output](crate::layer::LayerSpec::out_code).
    E4M3,
    /// Two's complement, -127 to 127. A code, as [`DType::E4M3`]; it has no NaN.
    I8,
}

impl DType {
    /// Every type that stores values as they are.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// Every type that stores values divided by a scale.
    pub const CODES: [DType; 2] = [DType::E4M3, DType::I8];

    /// Whether its elements are codes, which stand for values under a scale: of K and V, and e4m3 of outputs.
    pub const fn is_code(self) -> bool {
        matches!(self, DType::E4M3 | DType::I8)
    }

    /// Refuses codes where values are stored as they are.
    pub(crate) fn expect_values(self, op: &'static str, argument: &str) -> Result<()> {
        if self.is_code() {
            return Err(Error::unsupported(op, format!("{argument} of type {self}"), "f32, f16 and bf16"));
        }
        Ok(())
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::E4M3 | DType::I8 => 1,
        }
    }

    /// The name used in messages, file names and shader stems.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::E4M3 => "e4m3",
            DType::I8 => "i8",
        }
    }

    /// The nearest storable value, ties to even. Codes saturate: infinities too; NaN is 0 in [`DType::I8`].
    pub fn round(self, x: f32) -> f32 {
        match self {
            DType::F32 => x,
            DType::F16 => f16::from_f32(x).to_f32(),
            DType::BF16 => bf16::from_f32(x).to_f32(),
            DType::E4M3 => e4m3_to_f32(e4m3_bits(x)),
            DType::I8 => f32::from(i8_of(x)),
        }
    }

    /// Appends the stored form of `x` (little endian), rounded as [`DType::round`] does.
    pub(crate) fn encode(self, x: f32, out: &mut [u8]) {
        match self {
            DType::F32 => out.copy_from_slice(&x.to_le_bytes()),
            DType::F16 => out.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
            DType::BF16 => out.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
            DType::E4M3 => out[0] = e4m3_bits(x),
            DType::I8 => out[0] = i8_of(x) as u8,
        }
    }

    /// Reads the stored form of one element.
    pub(crate) fn decode(self, bytes: &[u8]) -> f32 {
        match self {
            DType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            DType::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            DType::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            DType::E4M3 => e4m3_to_f32(bytes[0]),
            DType::I8 => f32::from(bytes[0] as i8),
        }
    }

    /// The greatest code.
    pub(crate) const fn most_code(self) -> f32 {
        match self {
            DType::E4M3 => 448.0,
            DType::I8 => 127.0,
            DType::F32 | DType::F16 | DType::BF16 => 1.0,
        }
    }

    /// The scale of a vector of codes, and what its lanes are multiplied by before they are rounded. With `most` the
    /// greatest size of a lane, and 2^-96 at least: `most * (1 / greatest)`, two roundings, and `greatest / most`, towards
    /// zero. Both NaN where a lane is NaN or infinite.
    pub(crate) fn scale_of(self, lanes: &[f32]) -> (f32, f32) {
        if !lanes.iter().all(|x| x.is_finite()) {
            return (f32::NAN, f32::NAN);
        }
        let most = lanes.iter().fold(2f32.powi(-96), |most, x| most.max(x.abs()));
        let greatest = self.most_code();
        // No quotient of two f32 is so near to another f32 that its rounding to f64 would cross it.
        let quotient = f64::from(greatest) / f64::from(most);
        let near = quotient as f32;
        let inverse = if f64::from(near) > quotient { near.next_down() } else { near };
        (most * (1.0 / greatest), inverse)
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
    /// | e4m3 | 1e-5 + 2^-9 (all values below 2^-6 are multiples of it) | 2^-3 | one ulp of e4m3; of codes, before their scale |
    /// | i8 | 1 | 0 | one step; of codes, before their scale |
    pub const fn tolerance(self) -> Tolerance {
        match self {
            DType::F32 => Tolerance { atol: 1e-5, rtol: 1e-5 },
            DType::F16 => Tolerance { atol: 1e-5 + 1.0 / 16384.0, rtol: 1.0 / 1024.0 },
            DType::BF16 => Tolerance { atol: 1e-5 + 1.0 / 2048.0, rtol: 1.0 / 128.0 },
            DType::E4M3 => Tolerance { atol: 1e-5 + 1.0 / 512.0, rtol: 1.0 / 8.0 },
            DType::I8 => Tolerance { atol: 1.0, rtol: 0.0 },
        }
    }

    /// How far, beside the tolerance, an output may be from the reference where a layer kind allows
    /// [rounded weights](crate::layer::LayerSpec::rounded_weights) and V is of this type; before norm, gate and codes.
    ///
    /// A weight is at most 1 when it is rounded, and rounding moves it by `u` of itself at most, or by half of the least
    /// subnormal where that is more; sums of weights are not rounded, and are 1 or more. So an output moves by at most
    ///
    /// ```text
    /// u * magnitude + keys * least * most        magnitude = sum_k w_k |v_k| / sum_k w_k,  most = max_k |v_k|
    /// ```
    ///
    /// over the `keys` that the row sees. The magnitude is the output over values without their signs.
    ///
    /// | type | u, the unit roundoff | least |
    /// |---|---|---|
    /// | bf16 | 2^-8 (8 bits of significand) | 0: the exponents of f32 |
    /// | f16 | 2^-11 (11 bits) | 2^-25, half of 2^-24 |
    /// | others | 0: their weights stay f32 | 0 |
    pub fn rounded_weights_bound(self, magnitude: f32, keys: usize, most: f32) -> f32 {
        let (u, least) = match self {
            DType::BF16 => (1.0 / 256.0, 0.0),
            DType::F16 => (1.0 / 2048.0, 1.0 / 33_554_432.0),
            DType::F32 | DType::E4M3 | DType::I8 => (0.0, 0.0),
        };
        u * magnitude + keys as f32 * least * most
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// To nearest, ties to even; above 448 it is 448. A sign, 4 bits of exponent with a bias of 7, 3 of mantissa.
fn e4m3_bits(x: f32) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    // Multiples of the last place: 2^-9 below 2^-6, where exponents end.
    let size = x.abs().min(448.0);
    let exponent = ((size.to_bits() >> 23) as i32 - 127).max(-6);
    let last = f32::from_bits(((exponent - 3 + 127) as u32) << 23);
    let steps = (size / last).round_ties_even() as i32; // exact but for the rounding: 0 to 16, 8 and more for normal numbers
    // 16 steps are 8 of the next exponent, and a carry makes them so.
    let code = ((exponent + 6) * 8 + steps) as u8;
    if x.is_sign_negative() { code | 0x80 } else { code }
}

fn e4m3_to_f32(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * (exponent as f32 - 7.0).exp2(),
    };
    if bits & 0x80 != 0 { -size } else { size }
}

fn i8_of(x: f32) -> i8 {
    x.round_ties_even().clamp(-127.0, 127.0) as i8 // a NaN becomes 0
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest of all values of the type; of two, the one whose code is even.
    fn nearest(dtype: DType, x: f32) -> f32 {
        let all = (0..=255u8).filter(|&b| dtype != DType::I8 || b != 0x80).map(|b| (b, dtype.decode(&[b])));
        let far = |v: f32| (f64::from(v) - f64::from(x.clamp(-500.0, 500.0))).abs();
        let finite = all.filter(|(_, v)| !v.is_nan());
        finite
            .min_by(|a, b| far(a.1).total_cmp(&far(b.1)).then((a.0 & 1).cmp(&(b.0 & 1))))
            .map_or(f32::NAN, |best| best.1)
    }

    #[test]
    fn codes_are_the_nearest() {
        for dtype in DType::CODES {
            for bits in 0..=255u8 {
                let x = dtype.decode(&[bits]);
                let mut back = [0];
                dtype.encode(x, &mut back);
                let kept = if x.is_nan() { 0x7f } else { bits };
                assert!(
                    back[0] == kept || bits == 0x80 && dtype == DType::I8,
                    "{dtype} {bits:#x}: {x} to {:#x}",
                    back[0]
                );
            }
            // Both sides of every tie, ties, and what lies beyond.
            let values: Vec<f32> = (0..=255u8).map(|b| dtype.decode(&[b])).filter(|x| !x.is_nan()).collect();
            for (i, &a) in values.iter().enumerate() {
                let middle = (a + values[(i + 1) % values.len()]) / 2.0;
                for x in [a, middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits().max(1) - 1)]
                {
                    assert_eq!(dtype.round(x), nearest(dtype, x), "{dtype} {x}");
                }
            }
            for x in [449.0, 464.0, 480.0, 1e30, f32::INFINITY, 1e-30, 0.0009765625, 0.00097657] {
                assert_eq!(dtype.round(x), nearest(dtype, x), "{dtype} {x}");
                assert_eq!(dtype.round(-x), -nearest(dtype, x), "{dtype} {x}");
            }
        }
        assert!(DType::E4M3.round(f32::NAN).is_nan());
        assert_eq!(DType::I8.round(f32::NAN), 0.0);
    }
}
