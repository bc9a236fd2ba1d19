// select.wgsl: per query row, scores of an indexer over the keys that the row sees, and a bit for each chosen one.
//
//   score = sum over heads of weight * max(0, dot(q, k));  a unit is `block` slots, its score the mean over its seen keys
//   chosen = the `count` units of the greatest scores; of equal ones those of the lowest slots
//
// Shapes    q [row, head, 4 CHUNKS], k [page, page_size, 4 CHUNKS]: views with strides, in chunks of 4 elements;
//           weights [row, head] f32; scores [row, 32 words] scratch; selection [row, words], bit s % 32 of word s / 32.
// Tables    header [indptr, runs, pages, -]; indptr [rows + 1]; run [first token, tokens, slot of the first, first page].
// Grid      one workgroup per row, folded to two dimensions. A lane takes every LANES-th key of a run.
// Passes    1 for the scores, as keys that ascend with them (0: not seen); 4 for the least key that is chosen, 8 bits at a
//           time; 1 over the units for where equal ones end, a stretch of them per lane; 1 for the bits.
// Numerics  f32: chunks in order, then heads in order. Equal means equal as f32; a NaN is below every number.
// Constants LANES, CHUNKS; storage q, k.
// #include "common/dtype.wgsl"

struct SelectParams {
    rows: u32,
    heads: u32,
    words: u32,
    count: u32,
    block: u32,
    page_size: u32,
    q_offset: u32,
    q_row_stride: u32,
    q_head_stride: u32,
    k_offset: u32,
    k_page_stride: u32,
    k_token_stride: u32,
    weights_offset: u32,
    weights_row_stride: u32,
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: SelectParams;
@group(0) @binding(1) var<storage, read> q: array<q_chunk>;
@group(0) @binding(2) var<storage, read> k: array<k_chunk>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read_write> scores: array<u32>;
@group(0) @binding(6) var<storage, read_write> selection: array<u32>;

var<workgroup> bins: array<atomic<u32>, 256>;
// Units of the least chosen key in each lane's stretch.
var<workgroup> equal: array<u32, LANES>;
// The least chosen key so far, how many of those that share its known bits are chosen, whether all units are.
var<workgroup> least: u32;
var<workgroup> wanted: u32;
var<workgroup> is_all: u32;
// The unit in front of which units of the least key are chosen.
var<workgroup> cut: u32;

// A key that ascends with the score, above 0.
fn key_of(score: f32) -> u32 {
    var bits = bitcast<u32>(score);
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 1u;
    }
    bits = select(bits, 0u, magnitude == 0u); // -0 is 0
    return select(bits | 0x80000000u, ~bits, bits >> 31u == 1u);
}

fn score_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >> 31u == 1u));
}

// The key of a unit of the row whose scores begin at `base`; 0 if none of it is seen.
fn unit_key(base: u32, unit: u32) -> u32 {
    if params.block == 1u {
        return scores[base + unit];
    }
    var sum = 0.0;
    var seen = 0u;
    for (var slot = unit * params.block; slot < min((unit + 1u) * params.block, params.words * 32u); slot++) {
        let key = scores[base + slot];
        if key != 0u {
            sum += score_of(key);
            seen++;
        }
    }
    if seen == 0u {
        return 0u;
    }
    return key_of(sum / f32(seen));
}

@compute @workgroup_size(LANES)
fn select_keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * num_groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let slots = params.words * 32u;
    let units = (slots + params.block - 1u) / params.block;
    let base = row * slots;

    // -- scores
    for (var slot = lane; slot < slots; slot += LANES) {
        scores[base + slot] = 0u;
    }
    storageBarrier();
    let query = params.q_offset + row * params.q_row_stride;
    for (var r = tables[tables[0] + row]; r < tables[tables[0] + row + 1u]; r++) {
        let run = tables[1] + r * 4u;
        for (var i = lane; i < tables[run + 1u]; i += LANES) {
            let token = tables[run] + i;
            let page = tables[tables[2] + tables[run + 3u] + token / params.page_size];
            let key = params.k_offset + page * params.k_page_stride + token % params.page_size * params.k_token_stride;
            var score = 0.0;
            for (var h = 0u; h < params.heads; h++) {
                var product = 0.0;
                for (var c = 0u; c < CHUNKS; c++) {
                    product += dot(unpack_q(q[query + h * params.q_head_stride + c]), unpack_k(k[key + c]));
                }
                score += weights[params.weights_offset + row * params.weights_row_stride + h] * max(product, 0.0);
            }
            scores[base + tables[run + 2u] + i] = key_of(score);
        }
    }
    storageBarrier();

    // -- the least key that is chosen, from its highest byte on
    if lane == 0u {
        least = 0u;
        wanted = params.count;
        is_all = 0u;
        cut = 0u;
    }
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        let known = select(~((0x100u << shift) - 1u), 0u, round == 0u);
        for (var bin = lane; bin < 256u; bin += LANES) {
            atomicStore(&bins[bin], 0u);
        }
        workgroupBarrier();
        for (var unit = lane; unit < units; unit += LANES) {
            let key = unit_key(base, unit);
            if key != 0u && (key & known) == least {
                atomicAdd(&bins[key >> shift & 255u], 1u);
            }
        }
        workgroupBarrier();
        if lane == 0u && is_all == 0u {
            var bin = 256u;
            var above = 0u;
            while bin > 0u && above < wanted {
                bin--;
                above += atomicLoad(&bins[bin]);
            }
            if above < wanted {
                is_all = 1u;
            } else {
                wanted -= above - atomicLoad(&bins[bin]);
                least |= bin << shift;
            }
        }
        workgroupBarrier();
    }

    // -- where units of the least key end
    let stretch = (units + LANES - 1u) / LANES;
    var mine = 0u;
    for (var unit = lane * stretch; unit < min((lane + 1u) * stretch, units); unit++) {
        mine += select(0u, 1u, unit_key(base, unit) == least);
    }
    equal[lane] = mine;
    workgroupBarrier();
    var before = 0u;
    for (var l = 0u; l < lane; l++) {
        before += equal[l];
    }
    if is_all == 0u && before < wanted && before + mine >= wanted {
        var unit = lane * stretch;
        while before < wanted {
            before += select(0u, 1u, unit_key(base, unit) == least);
            unit++;
        }
        cut = unit;
    }
    workgroupBarrier();

    // -- bits
    for (var word = lane; word < params.words; word += LANES) {
        var bits = 0u;
        for (var bit = 0u; bit < 32u; bit++) {
            let slot = word * 32u + bit;
            if scores[base + slot] != 0u {
                let unit = slot / params.block;
                let key = unit_key(base, unit);
                if is_all == 1u || key > least || (key == least && unit < cut) {
                    bits |= 1u << bit;
                }
            }
        }
        selection[row * params.words + word] = bits;
    }
}
