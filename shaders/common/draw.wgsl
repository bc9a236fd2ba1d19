// draw.wgsl: how a row of logits is drawn from: keys that keep their order, the transform, and what the plan says of a
// row. Constant SOFT_CAP. A draw is the argmax of z + gumbel, z = x - max x; see sampling.wgsl for x.

struct SamplingRow {
    gap_scale: f32, // from differences of value() to z
    gap_limit: f32, // difference at which z is -512
    top_k: u32, // 0: off
    top_p: u32, // in units of 2^-32, 0: off
    min_z: f32, // ln min_p
    agent: u32,
    step: u32,
    greedy: u32,
    confidence: u32, // tokens that it speaks of, 0: off
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

const LOG2_E: f32 = 1.44269504;
const NEGATIVE_INFINITY: u32 = 0xff800000u;
const NAN: u32 = 0x7fc00000u;
const NO_TOKEN: u32 = 0xffffffffu;

// What a row without a distribution says, or one that has ended.
fn nothing_drawn(row: SamplingRow) -> vec4<u32> {
    return vec4<u32>(NO_TOKEN, NAN, NAN, select(NAN, 0u, row.confidence == 0u));
}

// Order-preserving: larger float, larger key; -0 is 0; 0 for what is not finite (finite keys start at 0x00800000).
fn keys_of(bits: vec4<u32>) -> vec4<u32> {
    let b = select(bits, vec4<u32>(0u), bits == vec4<u32>(0x80000000u));
    let key = select(b | vec4<u32>(0x80000000u), ~b, b >= vec4<u32>(0x80000000u));
    let finite = (b & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x7f800000u);
    return select(vec4<u32>(0u), key, finite);
}

// tanh to 2 ulp below 0.625 (Cephes' polynomial), then 3e-7 absolute; WGSL's own may be off by 1e-5.
fn tanh4(y: vec4<f32>) -> vec4<f32> {
    let t = y * y;
    let near = y + y * t * (-0.333332819 + t * (0.133314422 + t * (-0.0537397155 + t * (0.0206390888 - t * 0.00570498873))));
    let far = 1.0 - 2.0 / (exp2(2.0 * LOG2_E * abs(y)) + 1.0);
    return select(sign(y) * far, near, abs(y) < vec4<f32>(0.625));
}

// The bits of the logit with this key.
fn bits_of_key(key: u32) -> u32 {
    return select(~key, key ^ 0x80000000u, key >= 0x80000000u);
}

// A monotone image of finite logits whose differences are z / gap_scale; halved, so that no difference overflows.
// cap_scale = output_multiplier / cap; beyond |l| = cap_limit tanh is 1.
fn value_of(bits: vec4<u32>, cap_scale: f32, cap_limit: f32) -> vec4<f32> {
    let l = bitcast<vec4<f32>>(bits);
    if SOFT_CAP {
        return tanh4(clamp(l, vec4<f32>(-cap_limit), vec4<f32>(cap_limit)) * cap_scale);
    }
    return 0.5 * l;
}

// z of what has this value_of(), the largest of the row having `peak`.
fn z_of_value(value: vec4<f32>, row: SamplingRow, peak: f32) -> vec4<f32> {
    let gap = clamp(vec4<f32>(peak) - value, vec4<f32>(0.0), vec4<f32>(row.gap_limit));
    return -gap * row.gap_scale;
}
