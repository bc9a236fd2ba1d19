// lm_head_combine: one draw per row of what lm_head.wgsl left of its slices.
//
//   M = largest of the slices; s = slice's largest - M in x; sum e^z = sum over slices of e^s * theirs;
//   sum z e^z = sum of e^s * (theirs + s * their sum e^z); token = greatest of best + s, lowest id on ties
//   lowest key = the top_k-th largest of all listed keys; confidence = ln sum e^z - mean of the largest z
//
// Shapes   as in lm_head.wgsl; sampled [rows] of (token, log_prob, entropy, confidence).
// Grid     one workgroup of 256 lanes per row, folded to 2-D.
// Method   the k-th largest of the listed keys by halving: 32 rounds, a bit each, over a few thousand keys. The lists hold
//          the largest of each slice, so the k-th largest of the lists is that of the row.
// Numerics as sampling.wgsl; z has one more rounding, s + theirs.
//
// Header: SOFT_CAP, HAS_STEPS.

// #include "common/random.wgsl"
// #include "common/draw.wgsl"
// #include "common/best.wgsl"
// #include "common/lm_head_params.wgsl"
// #include "common/steps.wgsl"

@group(0) @binding(0) var<uniform> params: LmHeadParams;
@group(0) @binding(1) var<storage, read> rows: array<SamplingRow>;
@group(0) @binding(2) var<storage, read_write> partials: array<u32>;
@group(0) @binding(3) var<storage, read_write> sampled: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> steps: array<u32>;

const LANES: u32 = 256u;
alias Best = vec3<u32>;

var<workgroup> pairs: array<Best, LANES>;
var<workgroup> sums: array<vec4<f32>, 256>;
var<workgroup> counts: array<u32, 256>;

fn value(bits: u32) -> f32 {
    return value_of(vec4<u32>(bits), params.cap_scale, params.cap_limit).x;
}

// Sums over all lanes. Uniform control flow.
fn reduce_sums(lane: u32, own: vec4<f32>) -> vec4<f32> {
    workgroupBarrier(); // `sums` may still be read
    sums[lane] = own;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            sums[lane] += sums[lane + width];
        }
        workgroupBarrier();
    }
    return sums[0];
}

// Of the k largest keys of each slice, how many are at least `key`. Uniform control flow.
fn count_from(lane: u32, first: u32, key: u32, k: u32) -> u32 {
    var count = 0u;
    for (var i = lane; i < params.slices * k; i += LANES) {
        let listed = partials[first + i / k * params.stride + 8u + i % k];
        count += select(0u, 1u, listed >= key);
    }
    workgroupBarrier(); // `counts` may still be read
    counts[lane] = count;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            counts[lane] += counts[lane + width];
        }
        workgroupBarrier();
    }
    return counts[0];
}

// The k-th largest listed key; 0 if there are fewer finite ones. Uniform control flow.
fn key_of_rank(lane: u32, first: u32, k: u32) -> u32 {
    var key = 0u;
    for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if count_from(lane, first, key | bit, k) >= k {
            key |= bit;
        }
    }
    return key;
}

@compute @workgroup_size(256)
fn lm_head_combine(
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
    let first = index * params.slices * params.stride;
    var top = vec3<u32>(0u, NO_TOKEN, 0u);
    var undefined = 0.0;
    for (var slice = lane; slice < params.slices; slice += LANES) {
        let record = first + slice * params.stride;
        if partials[record] > top.x { // ids of a lane ascend
            top = vec3<u32>(partials[record], partials[record + 1u], 0u);
        }
        undefined += f32(partials[record + 7u]);
    }
    top = reduce_best(lane, top);
    let peak_bits = select(bits_of_key(top.x), 0u, top.x == 0u);
    let peak = value(peak_bits);

    var own = vec4<f32>(0.0, 0.0, undefined, 0.0);
    var best = vec3<u32>(0u, NO_TOKEN, 0u);
    for (var slice = lane; slice < params.slices; slice += LANES) {
        let record = first + slice * params.stride;
        let key = partials[record];
        if key != 0u {
            let s = z_of_value(vec4<f32>(value(bits_of_key(key))), row, peak).x;
            let e = exp2(s * LOG2_E);
            let exp_sum = bitcast<f32>(partials[record + 2u]);
            own.x += e * exp_sum;
            own.y += e * (bitcast<f32>(partials[record + 3u]) + s * exp_sum);
            let score = keys_of(vec4<u32>(bitcast<u32>(bitcast<f32>(partials[record + 4u]) + s))).x;
            let id = partials[record + 5u];
            if id != NO_TOKEN && score > best.x {
                best = vec3<u32>(score, id, partials[record + 6u]);
            }
        }
    }
    best = reduce_best(lane, best);
    let total = reduce_sums(lane, own);

    // Uniform: a row's numbers and the params are the same for all lanes.
    var last_key = 0u;
    if row.confidence != 0u {
        last_key = key_of_rank(lane, first, row.confidence);
    }
    var most = vec4<f32>(0.0);
    if row.confidence != 0u {
        // How long the lists are is the launch's business and must not show in the order of the sum.
        for (var i = lane; i < params.slices * row.confidence; i += LANES) {
            let key = partials[first + i / row.confidence * params.stride + 8u + i % row.confidence];
            if key > last_key {
                let z = z_of_value(vec4<f32>(value(bits_of_key(key))), row, peak).x;
                most += vec4<f32>(z, 1.0, 0.0, 0.0);
            }
        }
    }
    most = reduce_sums(lane, most);
    if params.second == 0u {
        var lowest = 1u;
        if row.top_k != 0u {
            lowest = max(lowest, key_of_rank(lane, first, row.top_k));
        }
        if lane == 0u {
            let thresholds = params.rows * params.slices * params.stride + 2u * index;
            partials[thresholds] = lowest;
            partials[thresholds + 1u] = peak_bits;
        }
    }
    if lane != 0u {
        return;
    }
    let token = select(best.y, top.y, row.greedy != 0u);
    if token == NO_TOKEN || total.z != 0.0 {
        sampled[index] = nothing_drawn(row);
        return;
    }
    let bits = select(best.z, peak_bits, row.greedy != 0u);
    let z = z_of_value(vec4<f32>(value(bits)), row, peak).x;
    let log_sum = natural_log(total.x);
    let log_prob = min(z - log_sum, 0.0);
    let entropy = max(log_sum - total.y / total.x, 0.0);
    var confidence = 0.0;
    if row.confidence != 0u {
        if last_key != 0u { // of those at the last place as many as there are places
            let places = f32(row.confidence);
            most.x += (places - most.y) * z_of_value(vec4<f32>(value(bits_of_key(last_key))), row, peak).x;
            most.y = places;
        }
        confidence = log_sum - most.x / most.y;
    }
    sampled[index] = vec4<u32>(token, bitcast<u32>(log_prob), bitcast<u32>(entropy), bitcast<u32>(confidence));
}
