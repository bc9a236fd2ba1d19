// attention.wgsl: attention of a work list: one pass over paged K/V with online softmax gives partial states, or rows.
// Maths     s = score_scale * dot(q, k) (base 2; with a cap: cap * tanh), per tile of keys: S = Q K^T, m' = max(m, S),
//           P = exp2(S - m'), O = O * exp2(m - m') + P V, l = l * exp2(m - m') + sum P; then O / l and ln sum.
// Shapes    q [row, num_q_heads, head dim]; k, v [page, num_kv_heads, page_size, dim]; tables and output: see
//           common/work_list.wgsl.
// Grid      one workgroup per (item, KV head, part of its heads, part of the value), folded to two dimensions. A tile is
//           (rows x heads of the part) x keys.
// Lanes     lane = (query group, key group). Scores: QUERIES_PER_LANE x KEYS_PER_LANE in registers. Values: the key
//           group owns every 8th chunk of the output. Softmax: a query is one lane's. Queries never mix, so that a
//           row's bits do not depend on its neighbours in the tile.
// Numerics  f32 throughout, finite sentinels. Values of unseen keys are left out by selection and may hold anything.
// Constants LANES, KEY_GROUPS, QUERIES_PER_LANE, KEYS_PER_LANE, GROUP, HEAD_PARTS, HEAD_CHUNKS, VALUE_CHUNKS (dims
//           / 4), VALUE_PARTS, WRITES_STATES, HAS_SOFT_CAP, HAS_GAP, HAS_SHIFT, HAS_STEPS, HAS_TOKEN_SCALES,
//           HAS_TAIL, HAS_SELECTION, PAIRS_ARE_HALVES, ROPE_FIRST, ROPE_PAIRS; storage q, k, v, out.
// #include "common/dtype.wgsl"
// #include "common/lifetime.wgsl"
// #include "common/steps.wgsl"
// #include "common/work_list.wgsl"

const QUERIES: u32 = LANES / KEY_GROUPS * QUERIES_PER_LANE;
const KEYS: u32 = KEY_GROUPS * KEYS_PER_LANE;
// One key more than a tile has, so that neighbouring queries lie in different banks.
const KEY_STRIDE: u32 = KEYS + 1u;
// Output chunks of a lane; the last may lie beyond the part of the value and is not written.
const LANE_CHUNKS: u32 = (PART_CHUNKS + KEY_GROUPS - 1u) / KEY_GROUPS;

// Scores, then weights, of the tile: [query][key].
var<workgroup> weights: array<f32, QUERIES * KEY_STRIDE>;
// Tokens [x, y) of a partial run that each query sees; with HAS_SELECTION a bit for each key of the tile that it sees and
// chose.
var<workgroup> seen: array<vec2<u32>, QUERIES>;
// With HAS_SELECTION, the number of the last tile of which some query chose a key.
var<workgroup> last_chosen: atomic<u32>;
// Greatest score of each key group: the maximum of the tile without another look at its scores.
var<workgroup> group_most: array<f32, QUERIES * KEY_GROUPS>;
// First chunk of each key's part of its value.
var<workgroup> value_base: array<u32, KEYS>;
// The scale of each key's value, where tokens have one.
var<workgroup> value_scales: array<f32, KEYS>;
// Per query: the greatest score so far, the sum of weights so far, and by what the outputs shrink when the maximum
// grows (at the end, 1 / sum).
var<workgroup> most: array<f32, QUERIES>;
var<workgroup> total: array<f32, QUERIES>;
var<workgroup> rescale: array<f32, QUERIES>;

fn bits_below(n: u32) -> u32 {
    return select((1u << (n % 32u)) - 1u, 0xffffffffu, n >= 32u);
}

// A bit for each of 64 tokens from `first` on that lies within [tokens.x, tokens.y) and that the row at `row` chose.
fn chosen_within(row: u32, first: u32, tokens: vec2<u32>) -> vec2<u32> {
    let ends = max(tokens, vec2<u32>(first)) - first;
    let upper = max(ends, vec2<u32>(32u)) - 32u;
    return vec2<u32>(
        chosen(row, first) & bits_below(ends.y) & ~bits_below(ends.x),
        chosen(row, first + 32u) & bits_below(upper.y) & ~bits_below(upper.x),
    );
}

@compute @workgroup_size(LANES)
fn attention(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // -- which item and share of it are mine
    let place = group.y * num_groups.x + group.x;
    if is_past_the_list(place) {
        return;
    }
    let share = share_of(place);
    let item = share.item;
    let kv_head = share.kv_head;
    let rows = tables[2] + tables[item] * 8u;
    let num_queries = tables[item + 1u] * GROUP;
    let runs = tables[3] + tables[item + 2u] * 8u;
    let num_runs = select(tables[item + 3u], 0u, have_ended(item));
    let pages = tables[4] + tables[item + 4u];
    let query_group = lane / KEY_GROUPS;
    let key_group = lane % KEY_GROUPS;
    let is_busy = query_group * QUERIES_PER_LANE < num_queries;

    // -- where my queries lie
    var query_base: array<u32, QUERIES_PER_LANE>;
    var query_shift: array<u32, QUERIES_PER_LANE>;
    var sums: array<vec4<f32>, QUERIES_PER_LANE * LANE_CHUNKS>;
    for (var i = 0u; i < QUERIES_PER_LANE; i++) {
        let query = min(query_group * QUERIES_PER_LANE + i, num_queries - 1u);
        let row = rows + query / GROUP * 8u;
        query_base[i] = params.q_offset + tables[row] * params.q_row_stride
            + (share.first_head + query % GROUP) * params.q_head_stride;
        query_shift[i] = tables[row + 5u];
        for (var c = 0u; c < LANE_CHUNKS; c++) {
            sums[i * LANE_CHUNKS + c] = vec4<f32>(0.0);
        }
    }

    // -- empty softmax states
    for (var query = lane; query < QUERIES; query += LANES) {
        most[query] = NOTHING;
        total[query] = 0.0;
    }

    var number = 0u;
    for (var r = 0u; r < num_runs; r++) {
        let run = runs + r * 8u;
        let run_end = end_of_seen(run);
        let is_full = tables[run + 2u] != 0u;
        // -- which tokens of the run the queries see
        if !is_full {
            for (var query = lane; query < num_queries; query += LANES) {
                seen[query] = tokens_seen(rows + query / GROUP * 8u, run);
            }
        }
        workgroupBarrier();
        for (var tile = tables[run]; tile < run_end; tile += KEYS) {
            let num_keys = min(KEYS, run_end - tile);

            // -- which keys of the tile the queries chose: a tile of which none did any would change nothing
            number++;
            if HAS_SELECTION {
                for (var query = lane; query < num_queries; query += LANES) {
                    let row = rows + query / GROUP * 8u;
                    var tokens = vec2<u32>(tile, run_end);
                    if !is_full {
                        tokens = min(tokens_seen(row, run), vec2<u32>(run_end));
                    }
                    seen[query] = chosen_within(row, tile, tokens);
                    if any(seen[query] != vec2<u32>(0u)) {
                        atomicStore(&last_chosen, number);
                    }
                }
                workgroupBarrier();
            }
            let is_wanted = !HAS_SELECTION || atomicLoad(&last_chosen) == number;

            // -- load | score | mask
            if is_busy && is_wanted {
                var key_base: array<u32, KEYS_PER_LANE>;
                var key_scales: array<f32, KEYS_PER_LANE>;
                for (var j = 0u; j < KEYS_PER_LANE; j++) {
                    let key = tile + min(j * KEY_GROUPS + key_group, num_keys - 1u);
                    let page = tables[pages + key / params.page_size];
                    key_base[j] = params.k_offset + page * params.k_page_stride + kv_head * params.k_head_stride
                        + key % params.page_size * params.k_token_stride;
                    if query_group == 0u {
                        value_base[j * KEY_GROUPS + key_group] = params.v_offset + page * params.v_page_stride
                            + kv_head * params.v_head_stride + key % params.page_size * params.v_token_stride
                            + share.first_chunk;
                    }
                    if HAS_TAIL {
                        key_scales[j] = params.value_scale; // V is in K
                    }
                    if HAS_TOKEN_SCALES {
                        let place = scale_place(page, kv_head, key % params.page_size);
                        key_scales[j] = scales[params.k_scales + place];
                        if query_group == 0u {
                            value_scales[j * KEY_GROUPS + key_group] = scales[params.v_scales + place];
                        }
                    }
                }
                var scores: array<f32, QUERIES_PER_LANE * KEYS_PER_LANE>;
                for (var i = 0u; i < QUERIES_PER_LANE * KEYS_PER_LANE; i++) {
                    scores[i] = 0.0;
                }
                for (var c = 0u; c < HEAD_CHUNKS; c++) {
                    var queries: array<vec4<f32>, QUERIES_PER_LANE>;
                    for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                        queries[i] = query_chunk(query_base[i], c, query_shift[i]);
                    }
                    for (var j = 0u; j < KEYS_PER_LANE; j++) {
                        var key = key_chunk(key_base[j], c);
                        if HAS_TAIL && !is_tail(c) {
                            key *= key_scales[j];
                        }
                        for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                            scores[i * KEYS_PER_LANE + j] += dot(queries[i], key);
                        }
                    }
                }
                for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                    let query = query_group * QUERIES_PER_LANE + i;
                    var tokens = vec2<u32>(0u, 0xffffffffu);
                    if HAS_SELECTION || !is_full {
                        tokens = seen[query];
                    }
                    var gap = vec2<u32>(0u, 0u);
                    if HAS_GAP {
                        gap = tokens_in_gap(rows + min(query, num_queries - 1u) / GROUP * 8u);
                    }
                    var greatest = NOTHING;
                    for (var j = 0u; j < KEYS_PER_LANE; j++) {
                        var score = scores[i * KEYS_PER_LANE + j] * params.score_scale;
                        if HAS_TOKEN_SCALES && !HAS_TAIL {
                            score *= key_scales[j];
                        }
                        if HAS_SOFT_CAP {
                            score = params.cap_scale * capped(score);
                        }
                        let token = tile + j * KEY_GROUPS + key_group;
                        var is_seen = token >= tokens.x && token < tokens.y && token < run_end;
                        if HAS_SELECTION {
                            let bit = j * KEY_GROUPS + key_group;
                            is_seen = ((tokens[bit / 32u] >> (bit % 32u)) & 1u) == 1u;
                        }
                        if HAS_GAP {
                            is_seen = is_seen && !(token >= gap.x && token < gap.y);
                        }
                        score = select(NOTHING, score, is_seen);
                        weights[query * KEY_STRIDE + j * KEY_GROUPS + key_group] = score;
                        greatest = max(greatest, score);
                    }
                    group_most[query * KEY_GROUPS + key_group] = greatest;
                }
            }
            workgroupBarrier();

            // -- softmax
            for (var query = lane; is_wanted && query < num_queries; query += LANES) {
                var grown = most[query];
                for (var g = 0u; g < KEY_GROUPS; g++) {
                    grown = max(grown, group_most[query * KEY_GROUPS + g]);
                }
                // Exactly 1 when nothing changes, whatever exp2(0) is.
                let shrink = select(exp2(most[query] - grown), 1.0, most[query] == grown);
                var sum = total[query] * shrink;
                for (var key = query * KEY_STRIDE; key < query * KEY_STRIDE + num_keys; key++) {
                    let score = weights[key];
                    let is_seen = score != NOTHING;
                    let weight = exp2(score - grown);
                    sum += select(0.0, weight, is_seen);
                    weights[key] = select(UNSEEN, weight, is_seen);
                }
                most[query] = grown;
                total[query] = sum;
                rescale[query] = shrink;
            }
            workgroupBarrier();

            // -- accumulate
            if is_busy && is_wanted {
                for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                    let shrink = rescale[query_group * QUERIES_PER_LANE + i];
                    for (var c = 0u; c < LANE_CHUNKS; c++) {
                        sums[i * LANE_CHUNKS + c] *= shrink;
                    }
                }
                for (var j = max(tables[run + 6u], tile) - tile; j < num_keys; j++) {
                    var weight: array<f32, QUERIES_PER_LANE>;
                    for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                        weight[i] = weights[(query_group * QUERIES_PER_LANE + i) * KEY_STRIDE + j];
                    }
                    for (var c = 0u; c < LANE_CHUNKS; c++) {
                        let chunk = min(c * KEY_GROUPS + key_group, PART_CHUNKS - 1u);
                        var value = unpack_v(v[value_base[j] + chunk]);
                        if HAS_TOKEN_SCALES {
                            value *= value_scales[j];
                        }
                        for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                            let old = sums[i * LANE_CHUNKS + c];
                            sums[i * LANE_CHUNKS + c] = select(old, fma(vec4<f32>(weight[i]), value, old), weight[i] >= 0.0);
                        }
                    }
                }
            }
            workgroupBarrier();
        }
    }

    // -- write the partial state, or the rows
    for (var query = lane; query < num_queries; query += LANES) {
        if has_ended(tables[rows + query / GROUP * 8u]) {
            total[query] = 0.0; // it sees nothing
        }
        rescale[query] = select(params.value_scale / total[query], 0.0, total[query] == 0.0);
        store_lse(share, out_place(share, rows, query), most[query], total[query]);
    }
    workgroupBarrier();
    if is_busy {
        for (var i = 0u; i < QUERIES_PER_LANE; i++) {
            let query = query_group * QUERIES_PER_LANE + i;
            if query < num_queries {
                let place = out_place(share, rows, query) + share.first_chunk;
                for (var c = 0u; c < LANE_CHUNKS; c++) {
                    let chunk = c * KEY_GROUPS + key_group;
                    if chunk < PART_CHUNKS {
                        store_value(place + chunk, sums[i * LANE_CHUNKS + c], rescale[query]);
                    }
                }
            }
        }
    }
}
