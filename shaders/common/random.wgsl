// random.wgsl: counter-based noise. Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)
// turns (counter, key) into four words without a state, so a draw does not depend on who draws it or when.
// The logarithms are written out because WGSL's `log` may be off by 2^-21 near 1, where a Gumbel draw needs the
// relative error of its argument; below it is a few ulp everywhere.

// (low, high) words of the 64-bit product. WGSL has no 64-bit integers: 16-bit halves.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let ll = al * bl;
    let middle = ah * bl + (ll >> 16u); // at most (2^16-1)^2 + 2^16 - 1: no overflow
    let cross = al * bh + (middle & 0xffffu);
    return vec2<u32>(a * b, ah * bh + (middle >> 16u) + (cross >> 16u));
}

fn philox4x32(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round += 1u) {
        let p0 = multiply_wide(0xd2511f53u, c.x);
        let p1 = multiply_wide(0xcd9e8d57u, c.z);
        c = vec4<u32>(p1.y ^ c.y ^ k.x, p1.x, p0.y ^ c.w ^ k.y, p0.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// 2 atanh(s) for |s| <= 0.172: the first dropped term is below 2^-29 relative.
fn twice_atanh(s: f32) -> f32 {
    let t = s * s;
    return 2.0 * s * (1.0 + t * (0.33333333 + t * (0.2 + t * (0.14285714 + t * 0.11111111))));
}

// ln x for normal x > 0.
fn natural_log(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var exponent = f32(i32(bits >> 23u) - 127);
    var m = bitcast<f32>((bits & 0x7fffffu) | 0x3f800000u); // 1 <= m < 2
    if m > 1.41421356 { // centre on 1, so that exponent and fraction never cancel
        m *= 0.5;
        exponent += 1.0;
    }
    return exponent * 0.69314718 + twice_atanh((m - 1.0) / (m + 1.0));
}

// The largest gumbel() can return is -ln(-ln(1 - 2^-25)) = 17.3287.
const GUMBEL_MOST: f32 = 17.5;

// -ln(-ln u) with u = ((word >> 8) + 0.5) 2^-24, which f32 cannot hold next to 1: there -ln u comes from 1 - u.
fn gumbel(word: u32) -> f32 {
    let n = word >> 8u;
    var exponential: f32;
    if n < 0xc00000u {
        exponential = -natural_log(f32(2u * n + 1u) * 2.98023224e-8);
    } else {
        let v = f32(2u * (0xffffffu - n) + 1u) * 2.98023224e-8; // 1 - u < 1/4, exact
        exponential = twice_atanh(v / (2.0 - v));
    }
    return -natural_log(exponential);
}
