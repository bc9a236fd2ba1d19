// lm_head: the last projection and what a draw needs of its logits, slice by slice of the vocabulary. No logit is stored.
// lm_head_combine.wgsl makes the draw of what this leaves.
//
//   l[row, t] = sum over d of hidden[row, d] * weight[t, d]           then sampling.wgsl's x, z and noise
//   per (row, slice of 256 tokens): the largest logit and its lowest id; sum e^z and sum z e^z, z = x - the slice's largest;
//     the kept token of the greatest z + gumbel, lowest id on ties; the `list` largest keys
//   kept: all in the first round; in the second key >= lowest[row] and x - max x of the row >= ln min_p
//
// Shapes   hidden [rows, width], weight [vocab, width]: any offset and row stride in chunks of 4 elements, unit stride along
//          width; rows [rows]; partials, words: [rows][slices][stride] records, then [rows] of (lowest key, largest logit).
//          A record: largest key (0: no finite logit), its id, sum e^z, sum z e^z, best score, its id, its logit, 1 if a
//          logit is NaN or +inf, then the largest keys in order, 0 where there are fewer.
// Grid     one workgroup of 64 lanes per (slice, ROWS rows), rows fastest, folded to 2-D. A lane has 4 neighbouring tokens,
//          which is one Philox counter, of every row.
// Tiling   the simple one: a chunk of each of the lane's 4 weight rows meets a chunk of each of ROWS hidden rows, in
//          registers. The rank of a key is counted against the others of the slice: no sort, no atomics.
// Numerics f32, the products of a row and token added in the order of width, so no bit depends on other rows.
// Limits   width a multiple of 4; 2.8 KiB of workgroup memory.
//
// Header: ROWS, SOFT_CAP, HAS_STEPS; storage of hidden and weight.

// #include "common/dtype.wgsl"
// #include "common/random.wgsl"
// #include "common/draw.wgsl"
// #include "common/best.wgsl"
// #include "common/lm_head_params.wgsl"
// #include "common/steps.wgsl"

@group(0) @binding(0) var<uniform> params: LmHeadParams;
@group(0) @binding(1) var<storage, read> rows: array<SamplingRow>;
@group(0) @binding(2) var<storage, read> hidden: array<hidden_chunk>;
@group(0) @binding(3) var<storage, read> weight: array<weight_chunk>;
@group(0) @binding(4) var<storage, read_write> partials: array<u32>;
@group(0) @binding(5) var<storage, read> steps: array<u32>; // added to the rows' own

const LANES: u32 = 64u;
alias Best = vec2<u32>;

var<workgroup> pairs: array<Best, LANES>;
var<workgroup> sums: array<vec3<f32>, 64>;
var<workgroup> slice_keys: array<vec4<u32>, 64>;

fn value(bits: vec4<u32>) -> vec4<f32> {
    return value_of(bits, params.cap_scale, params.cap_limit);
}

// What the slice's logits of one row leave. `logits` are those of tokens 4 quad ..; uniform control flow.
fn finish(lane: u32, index: u32, slice: u32, quad: u32, logits: vec4<f32>) {
    let row = rows[index];
    let record = (index * params.slices + slice) * params.stride;
    let token = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    let inside = token < vec4<u32>(params.vocab);
    let bits = select(vec4<u32>(NEGATIVE_INFINITY), bitcast<vec4<u32>>(logits), inside);
    let keys = keys_of(bits);
    let undefined = any((keys == vec4<u32>(0u)) & (bits != vec4<u32>(NEGATIVE_INFINITY)));

    var top_key = 0u;
    var top_id = NO_TOKEN;
    for (var c = 0u; c < 4u; c += 1u) {
        if keys[c] > top_key {
            top_key = keys[c];
            top_id = token[c];
        }
    }
    let top = reduce_best(lane, vec2<u32>(top_key, top_id));
    let values = value(select(vec4<u32>(0u), bits, keys != vec4<u32>(0u)));
    let peak = value(vec4<u32>(select(bits_of_key(top.x), 0u, top.x == 0u))).x;
    let z = z_of_value(values, row, peak);
    let e = select(vec4<f32>(0.0), exp2(z * LOG2_E), keys != vec4<u32>(0u));

    var kept = keys != vec4<u32>(0u);
    if params.second != 0u {
        let thresholds = params.rows * params.slices * params.stride + 2u * index;
        let row_peak = value(vec4<u32>(partials[thresholds + 1u])).x;
        let row_z = z_of_value(values, row, row_peak);
        kept = kept & (keys >= vec4<u32>(partials[thresholds])) & (row_z >= vec4<f32>(row.min_z));
    }
    var best = -1e30;
    var best_id = NO_TOKEN;
    if row.greedy == 0u && any(kept) {
        let counter = vec4<u32>(quad, row.agent, row.step + step_now(), 0u);
        let words = philox4x32(counter, vec2<u32>(params.seed_low, params.seed_high));
        for (var c = 0u; c < 4u; c += 1u) {
            let score = z[c] + gumbel(words[c]);
            if kept[c] && score > best {
                best = score;
                best_id = token[c];
            }
        }
    }
    let drawn = reduce_best(lane, vec2<u32>(keys_of(vec4<u32>(bitcast<u32>(best))).x, best_id));
    if best_id == drawn.y && best_id != NO_TOKEN {
        partials[record + 6u] = bits[best_id % 4u];
    }

    sums[lane] = vec3<f32>(dot(e, vec4<f32>(1.0)), dot(e, z), select(0.0, 1.0, undefined));
    slice_keys[lane] = keys;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            sums[lane] += sums[lane + width];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        partials[record] = top.x;
        partials[record + 1u] = top.y;
        partials[record + 2u] = bitcast<u32>(sums[0].x);
        partials[record + 3u] = bitcast<u32>(sums[0].y);
        partials[record + 4u] = bits_of_key(drawn.x);
        partials[record + 5u] = drawn.y;
        partials[record + 7u] = u32(sums[0].z);
    }
    if params.list != 0u {
        // Rank: keys that are larger, and equal ones before. Ranks are distinct, so each place gets one key.
        var rank = vec4<u32>(0u);
        for (var i = 0u; i < LANES; i += 1u) {
            let others = slice_keys[i];
            for (var c = 0u; c < 4u; c += 1u) {
                let before = vec4<u32>(4u * i + c) < vec4<u32>(4u * lane) + vec4<u32>(0u, 1u, 2u, 3u);
                let other = vec4<u32>(others[c]);
                rank += select(vec4<u32>(0u), vec4<u32>(1u), (other > keys) | ((other == keys) & before));
            }
        }
        for (var c = 0u; c < 4u; c += 1u) {
            if rank[c] < params.list {
                partials[record + 8u + rank[c]] = keys[c];
            }
        }
    }
}

@compute @workgroup_size(64)
fn lm_head(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let item = group.y * groups.x + group.x;
    let row_groups = (params.rows + ROWS - 1u) / ROWS;
    if item >= params.slices * row_groups {
        return;
    }
    let slice = item / row_groups;
    let first_row = item % row_groups * ROWS;
    let num_rows = min(params.rows - first_row, ROWS);
    var ended = 0u;
    while ended < num_rows && has_ended(first_row + ended) {
        ended++;
    }
    if ended == num_rows {
        return; // lm_head_combine.wgsl does not look at their records
    }
    let quad = slice * LANES + lane;
    let token = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.vocab - 1u));
    let first = vec4<u32>(params.weight_base) + token * params.weight_row;
    var logits: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r += 1u) {
        logits[r] = vec4<f32>(0.0);
    }
    for (var c = 0u; c < params.width; c += 1u) {
        let w0 = unpack_weight(weight[first.x + c]);
        let w1 = unpack_weight(weight[first.y + c]);
        let w2 = unpack_weight(weight[first.z + c]);
        let w3 = unpack_weight(weight[first.w + c]);
        for (var r = 0u; r < ROWS; r += 1u) {
            let row = min(first_row + r, params.rows - 1u);
            let h = unpack_hidden(hidden[params.hidden_base + row * params.hidden_row + c]);
            logits[r] += vec4<f32>(dot(w0, h), dot(w1, h), dot(w2, h), dot(w3, h));
        }
    }
    for (var r = 0u; r < ROWS; r += 1u) {
        if r < num_rows {
            finish(lane, first_row + r, slice, quad, logits[r]);
        }
    }
}
