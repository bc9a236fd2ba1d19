// sampling.wgsl: one token per row of logits, with its log-probability and the entropy of its row.
//
//   x = l * output_multiplier; x = cap * tanh(x / cap) if SOFT_CAP; x /= temperature;  z = x - max x
//   log_prob = z[token] - ln sum e^z;  entropy = ln sum e^z - (sum z e^z) / (sum e^z), both before truncation
//   confidence = ln sum e^z - mean of the `confidence` largest z, all finite ones if there are fewer
//   kept     = {i : fewer than top_k logits are larger}
//              and {i : mass of the larger among them < top_p of their mass} and {i : z_i >= ln min_p}
//   token    = argmax over kept of z_i + gumbel(seed, agent, step, i), lowest i on ties; greedy rows: argmax l
//
// Shapes   logits [rows, vocab], any offset and row stride in elements, unit element stride; sampled [rows] of
//          (token, log_prob, entropy, confidence); rows [rows].
// Grid     one workgroup of 256 lanes per row, folded to two dimensions. A lane takes every 256th quad (4 tokens).
// Passes   1 for the largest logit, ROUNDS per truncation that is on and for the confidence, 1 for sums and draw. No token is ever sorted:
//          a radix select walks the keys of the logits 8 bits at a time.
// Numerics f32. Comparisons of logits use their stored value, so rounding of the transform neither makes nor breaks a
//          tie. Sums of e^z for log_prob and entropy are f32, lane by lane, then a fixed tree. Masses for top_p are
//          64-bit integers in units of 2^-31 of the largest, so that atomics give one sum in any order.
//          Error of z: 2^-22 relative, plus with SOFT_CAP 3e-7 cap / temperature absolute; of the noise: 2^-21 of it.
//          No arithmetic on infinities: -inf is recognised by its bits and left out. z is clamped at -512, where e^z
//          is 0 in f32 and no noise (at most 17.4) can win.
// Limits   vocab and every element index below 2^31; 8.2 KiB of workgroup memory; no subgroups.
// A row with NaN or +inf, or with no finite logit, has no distribution: token 0xffffffff, log_prob and entropy NaN.
//
// Header: const ROUNDS (bytes of the key that can differ for this dtype), const SOFT_CAP, const HAS_STEPS, alias logits_chunk.

// #include "common/dtype.wgsl"
// #include "common/random.wgsl"
// #include "common/draw.wgsl"
// #include "common/best.wgsl"
// #include "common/steps.wgsl"

struct SamplingParams {
    rows: u32,
    vocab: u32,
    logits_offset: u32, // elements
    logits_row_stride: u32, // elements
    seed_low: u32,
    seed_high: u32,
    cap_scale: f32, // output_multiplier / cap
    cap_limit: f32, // |l| beyond which tanh is 1
}

@group(0) @binding(0) var<uniform> params: SamplingParams;
@group(0) @binding(1) var<storage, read> rows: array<SamplingRow>;
@group(0) @binding(2) var<storage, read> logits: array<logits_chunk>;
@group(0) @binding(3) var<storage, read_write> sampled: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> steps: array<u32>; // added to the rows' own

const LANES: u32 = 256u;
alias Best = vec2<u32>;

var<workgroup> weight_low: array<atomic<u32>, 256>;
var<workgroup> weight_high: array<atomic<u32>, 256>;
var<workgroup> pairs: array<Best, LANES>;
var<workgroup> sums: array<vec4<f32>, 256>;
var<workgroup> chosen: vec3<u32>; // bin, weight above it (low, high)
var<workgroup> undefined_lanes: atomic<u32>;

// Bits of tokens 4 quad .. 4 quad + 3, -inf past the vocabulary. A row may start inside a chunk.
fn load_bits(start: u32, quad: u32) -> vec4<u32> {
    let first = start + 4u * quad;
    let last = start + params.vocab - 1u;
    let low = bitcast<vec4<u32>>(unpack_logits(logits[first / 4u]));
    var bits = low;
    let skew = first % 4u;
    if skew != 0u {
        // Clamped: the chunk after the row's last element may not exist.
        let high = bitcast<vec4<u32>>(unpack_logits(logits[min(first / 4u + 1u, last / 4u)]));
        if skew == 1u {
            bits = vec4<u32>(low.yzw, high.x);
        } else if skew == 2u {
            bits = vec4<u32>(low.zw, high.xy);
        } else {
            bits = vec4<u32>(low.w, high.xyz);
        }
    }
    let token = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<u32>(NEGATIVE_INFINITY), bits, token < vec4<u32>(params.vocab));
}

fn value(bits: vec4<u32>) -> vec4<f32> {
    return value_of(bits, params.cap_scale, params.cap_limit);
}

// z of the four tokens; of those that are not finite, some number.
fn z_of(bits: vec4<u32>, keys: vec4<u32>, row: SamplingRow, peak: f32) -> vec4<f32> {
    return z_of_value(value(select(vec4<u32>(0u), bits, keys != vec4<u32>(0u))), row, peak);
}

fn add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn less64(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// ceil(a * share / 2^32)
fn share64(a: vec2<u32>, share: u32) -> vec2<u32> {
    let low = multiply_wide(a.x, share);
    let whole = add64(multiply_wide(a.y, share), vec2<u32>(low.y, 0u));
    return add64(whole, vec2<u32>(select(0u, 1u, low.x != 0u), 0u));
}

// The lowest key t such that the weight of all keys above t is less than what is needed, among keys >= lowest:
// weight 1 each and `count` needed, or, for a count of 0, e^z and top_p of the total. 0 if all together weigh less.
// Uniform control flow.
fn threshold(lane: u32, start: u32, row: SamplingRow, peak: f32, lowest: u32, count: u32) -> u32 {
    let by_mass = count == 0u;
    var prefix = 0u;
    var known = 0u; // the bits of prefix that are settled
    var above = vec2<u32>(0u);
    var need = vec2<u32>(count, 0u);
    let quads = (params.vocab + 3u) / 4u;
    for (var round = 0u; round < ROUNDS; round += 1u) {
        let shift = 24u - 8u * round;
        workgroupBarrier(); // `pairs` and `chosen` may still be read
        atomicStore(&weight_low[lane], 0u);
        atomicStore(&weight_high[lane], 0u);
        workgroupBarrier();
        for (var quad = lane; quad < quads; quad += LANES) {
            let bits = load_bits(start, quad);
            let keys = keys_of(bits);
            let counted = (keys >= vec4<u32>(lowest)) & ((keys & vec4<u32>(known)) == vec4<u32>(prefix));
            if any(counted) {
                var weights = vec4<u32>(1u);
                if by_mass {
                    weights = vec4<u32>(exp2(z_of(bits, keys, row, peak) * LOG2_E) * 2147483648.0 + 0.5);
                }
                for (var c = 0u; c < 4u; c += 1u) {
                    if counted[c] {
                        let bin = (keys[c] >> shift) & 255u;
                        let before = atomicAdd(&weight_low[bin], weights[c]);
                        if before + weights[c] < before {
                            atomicAdd(&weight_high[bin], 1u);
                        }
                    }
                }
            }
        }
        workgroupBarrier();
        // pairs[i] = weight of bins i and above
        pairs[lane] = vec2<u32>(atomicLoad(&weight_low[lane]), atomicLoad(&weight_high[lane]));
        if lane == 0u {
            chosen = vec3<u32>(0u);
        }
        workgroupBarrier();
        for (var reach = 1u; reach < LANES; reach *= 2u) {
            var more = vec2<u32>(0u);
            if lane + reach < LANES {
                more = pairs[lane + reach];
            }
            workgroupBarrier();
            pairs[lane] = add64(pairs[lane], more);
            workgroupBarrier();
        }
        if by_mass && round == 0u {
            need = share64(pairs[0], row.top_p);
        }
        var exclusive = above;
        if lane + 1u < LANES {
            exclusive = add64(above, pairs[lane + 1u]);
        }
        if less64(exclusive, need) && !less64(add64(above, pairs[lane]), need) { // at most one lane
            chosen = vec3<u32>(lane, exclusive);
        }
        workgroupBarrier();
        prefix |= chosen.x << shift;
        above = chosen.yz;
        known |= 255u << shift;
    }
    return prefix;
}

@compute @workgroup_size(256)
fn sampling(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= params.rows {
        return;
    }
    let row = rows[index];
    if has_ended(index) {
        if lane == 0u {
            sampled[index] = nothing_drawn(row);
        }
        return;
    }
    let start = params.logits_offset + index * params.logits_row_stride;
    let quads = (params.vocab + 3u) / 4u;

    // Pass 1: the largest logit and its lowest id; is there NaN or +inf.
    if lane == 0u {
        atomicStore(&undefined_lanes, 0u);
    }
    var top_key = 0u;
    var top_id = NO_TOKEN;
    var undefined = false;
    for (var quad = lane; quad < quads; quad += LANES) {
        let bits = load_bits(start, quad);
        let keys = keys_of(bits);
        undefined = undefined || any((keys == vec4<u32>(0u)) & (bits != vec4<u32>(NEGATIVE_INFINITY)));
        for (var c = 0u; c < 4u; c += 1u) {
            if keys[c] > top_key {
                top_key = keys[c];
                top_id = 4u * quad + c;
            }
        }
    }
    let top = reduce_best(lane, vec2<u32>(top_key, top_id)); // its barriers also order the store above
    if undefined {
        atomicAdd(&undefined_lanes, 1u);
    }
    let peak = value(vec4<u32>(select(bits_of_key(top.x), 0u, top.x == 0u))).x;

    // Thresholds. Keys of 0 are never kept.
    var lowest = 1u;
    if row.top_k != 0u {
        lowest = max(lowest, threshold(lane, start, row, peak, lowest, row.top_k));
    }
    if row.top_p != 0u {
        lowest = max(lowest, threshold(lane, start, row, peak, lowest, 0u));
    }

    // The key of the last of the most probable tokens; 0 if there are fewer.
    var last_key = 0u;
    if row.confidence != 0u {
        last_key = threshold(lane, start, row, peak, 1u, row.confidence);
        // What no round settles are zeros in a logit of 16 bits, and so ones in the key of a negative one.
        if last_key != 0u && last_key < 0x80000000u {
            last_key |= (1u << (32u - 8u * ROUNDS)) - 1u;
        }
    }

    // Last pass: sums over all tokens, draw over the kept ones. Ids of a lane ascend, so > keeps the lowest.
    var exp_sum = vec4<f32>(0.0);
    var exp_z_sum = vec4<f32>(0.0);
    var most_sum = vec4<f32>(0.0); // of z above last_key
    var most_count = vec4<f32>(0.0);
    var best = -1e30;
    var best_id = NO_TOKEN;
    for (var quad = lane; quad < quads; quad += LANES) {
        let bits = load_bits(start, quad);
        let keys = keys_of(bits);
        let z = z_of(bits, keys, row, peak);
        let e = select(vec4<f32>(0.0), exp2(z * LOG2_E), keys != vec4<u32>(0u));
        exp_sum += e;
        exp_z_sum += e * z;
        let is_most = keys > vec4<u32>(last_key);
        most_sum += select(vec4<f32>(0.0), z, is_most);
        most_count += select(vec4<f32>(0.0), vec4<f32>(1.0), is_most);
        if row.greedy == 0u {
            let kept = (keys >= vec4<u32>(lowest)) & (z >= vec4<f32>(row.min_z));
            let able = kept & (z + GUMBEL_MOST > vec4<f32>(best)); // spares the noise of those that cannot win
            if any(able) {
                let counter = vec4<u32>(quad, row.agent, row.step + step_now(), 0u);
                let words = philox4x32(counter, vec2<u32>(params.seed_low, params.seed_high));
                for (var c = 0u; c < 4u; c += 1u) {
                    if able[c] {
                        let score = z[c] + gumbel(words[c]);
                        if score > best {
                            best = score;
                            best_id = 4u * quad + c;
                        }
                    }
                }
            }
        }
    }
    let ones = vec4<f32>(1.0);
    sums[lane] = vec4<f32>(dot(exp_sum, ones), dot(exp_z_sum, ones), dot(most_sum, ones), dot(most_count, ones));
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            sums[lane] += sums[lane + width];
        }
        workgroupBarrier();
    }
    let drawn = reduce_best(lane, vec2<u32>(keys_of(vec4<u32>(bitcast<u32>(best))).x, best_id));

    if lane == 0u {
        let token = select(drawn.y, top.y, row.greedy != 0u);
        if token == NO_TOKEN || atomicLoad(&undefined_lanes) != 0u {
            sampled[index] = nothing_drawn(row);
        } else {
            let bits = load_bits(start, token / 4u);
            let z = z_of(bits, keys_of(bits), row, peak)[token % 4u];
            let log_sum = natural_log(sums[0].x);
            let log_prob = min(z - log_sum, 0.0);
            let entropy = max(log_sum - sums[0].y / sums[0].x, 0.0);
            var confidence = 0.0;
            if row.confidence != 0u {
                var count = sums[0].w;
                var sum = sums[0].z;
                if last_key != 0u { // of those at the last place as many as there are places
                    let last_z = z_of(vec4<u32>(bits_of_key(last_key)), vec4<u32>(last_key), row, peak).x;
                    sum += (f32(row.confidence) - count) * last_z;
                    count = f32(row.confidence);
                }
                confidence = log_sum - sum / count;
            }
            sampled[index] =
                vec4<u32>(token, bitcast<u32>(log_prob), bitcast<u32>(entropy), bitcast<u32>(confidence));
        }
    }
}
