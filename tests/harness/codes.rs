//! What codes stand for and which is the nearest, from their definition, by search among all.

use colatent::DType::{self, E4M3, I8};

/// The value of a code, from its bits.
pub fn value(dtype: DType, code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = match (dtype, exponent) {
        (I8, _) => return f64::from(code as i8),
        (_, 0) => mantissa / 512.0,
        _ => (8.0 + mantissa) / 8.0 * 2f64.powi(exponent - 7),
    };
    if code >= 0x80 { -size } else { size }
}

/// The nearest code, of two the even one; with the sign of 0.
pub fn nearest(dtype: DType, x: f32) -> u8 {
    if x.is_nan() {
        return if dtype == I8 { 0 } else { 0x7f };
    }
    let codes = (0..=255u8).filter(|c| if dtype == I8 { *c != 0x80 } else { c & 0x7f != 0x7f });
    let codes = codes.filter(|c| dtype == I8 || (c & 0x80 != 0) == x.is_sign_negative());
    let far = |c: u8| (value(dtype, c) - f64::from(x.clamp(-1e6, 1e6))).abs();
    codes.min_by(|&a, &b| far(a).total_cmp(&far(b)).then((a & 1).cmp(&(b & 1)))).unwrap()
}

/// Values read from an output of e4m3 codes are those of the codes nearest to `values` over the scale, bit for bit.
pub fn expect_codes(what: &str, got: &[f32], values: &[f32], scale: f32) {
    assert_eq!(got.len(), values.len(), "{what}");
    for (i, (got, x)) in got.iter().zip(values).enumerate() {
        let want = value(E4M3, nearest(E4M3, x * (1.0 / scale))) as f32;
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: {x} at {i}: {got}, not {want}");
    }
}
