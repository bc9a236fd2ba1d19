// attention_subgroup.wgsl: attention.wgsl for software drivers with subgroup operations. There a load, of storage or of
// workgroup memory, costs as much as dozens of multiplications and an exchange between lanes as little as one. So there
// is no workgroup memory and no barrier, and a load of different keys by all lanes serves all queries of the subgroup.
// Maths, shapes, tables, grid, numerics: as in attention.wgsl.
// Lanes     A lane owns QUERIES_PER_LANE queries: their q, scores, softmax and output. Lanes of a subgroup load different
//           keys, KEYS_PER_LANE each, and hand them to each other. Queries never mix, so that a row's bits do not depend
//           on its neighbours in the tile.
// Unrolling Scores live in registers only if their loops are unrolled, which drivers promise where a counter alone indexes
//           an array of as many elements: hence arrays of arrays. Loops over chunks and over a lane's queries that load
//           must not be unrolled (every load in the text costs time to compile): flat arrays, counts known at run time.
// Constants LANES, SUBGROUP, QUERIES_PER_LANE, KEYS_PER_LANE, GROUP, HEAD_PARTS, HEAD_CHUNKS, VALUE_CHUNKS (dims / 4),
//           VALUE_PARTS, WRITES_STATES, HAS_SOFT_CAP, HAS_GAP, HAS_SHIFT, HAS_STEPS, HAS_TOKEN_SCALES, HAS_TAIL,
//           HAS_SELECTION, PAIRS_ARE_HALVES, ROPE_FIRST, ROPE_PAIRS; storage q, k, v, out.
// #include "common/dtype.wgsl"
// #include "common/lifetime.wgsl"
// #include "common/steps.wgsl"
// #include "common/work_list.wgsl"

const KEYS: u32 = SUBGROUP * KEYS_PER_LANE;

@compute @workgroup_size(LANES)
fn attention_subgroup(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) num_groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_invocation_id) key_lane: u32,
) {
    // -- which item, share of it and queries are mine
    let workgroup = group.y * num_groups.x + group.x;
    if is_past_the_list(workgroup) {
        return;
    }
    let share = share_of(workgroup);
    let item = share.item;
    let kv_head = share.kv_head;
    let rows = tables[2] + tables[item] * 8u;
    let runs = tables[3] + tables[item + 2u] * 8u;
    let pages = tables[4] + tables[item + 4u];
    // Neighbouring queries are neighbouring lanes', so that few queries make short loops.
    let first = lane / SUBGROUP * SUBGROUP * QUERIES_PER_LANE + lane % SUBGROUP;
    let num_queries = max(tables[item + 1u] * GROUP, first) - first;
    let mine = min((num_queries + SUBGROUP - 1u) / SUBGROUP, QUERIES_PER_LANE);
    // A subgroup without queries has nothing to do; a lane without queries still loads keys for the others.
    let num_runs = select(0u, tables[item + 3u], subgroupAny(mine > 0u) && !have_ended(item));

    // -- load my queries: [chunk][query]
    var row: array<u32, QUERIES_PER_LANE>;
    var query_base: array<u32, QUERIES_PER_LANE>;
    var place: array<u32, QUERIES_PER_LANE>;
    for (var i = 0u; i < mine; i++) {
        let query = first + i * SUBGROUP;
        let head = share.first_head + query % GROUP;
        row[i] = rows + query / GROUP * 8u;
        query_base[i] = params.q_offset + tables[row[i]] * params.q_row_stride + head * params.q_head_stride;
        place[i] = out_place(share, rows, query);
    }
    var queries: array<vec4<f32>, QUERIES_PER_LANE * HEAD_CHUNKS>;
    for (var n = 0u; n < mine * HEAD_CHUNKS; n++) {
        let i = n / HEAD_CHUNKS;
        let c = n % HEAD_CHUNKS;
        var shift = 0u;
        if HAS_SHIFT {
            shift = tables[row[i] + 5u];
        }
        queries[c * QUERIES_PER_LANE + i] = query_chunk(query_base[i], c, shift);
    }

    // -- empty states
    var most: array<f32, QUERIES_PER_LANE>;
    var total: array<f32, QUERIES_PER_LANE>;
    var sums: array<vec4<f32>, QUERIES_PER_LANE * PART_CHUNKS>; // [chunk][query]
    for (var i = 0u; i < QUERIES_PER_LANE; i++) {
        most[i] = NOTHING;
    }

    for (var r = 0u; r < num_runs; r++) {
        let run = runs + r * 8u;
        let run_end = end_of_seen(run);
        // -- which tokens of the run my queries see
        var seen: array<vec2<u32>, QUERIES_PER_LANE>;
        var gap: array<vec2<u32>, QUERIES_PER_LANE>;
        var some_see = vec2<u32>(run_end, 0u);
        for (var i = 0u; i < mine; i++) {
            seen[i] = vec2<u32>(0u, run_end);
            if tables[run + 2u] == 0u {
                seen[i] = min(tokens_seen(row[i], run), vec2<u32>(run_end));
            }
            some_see = vec2<u32>(min(some_see.x, seen[i].x), max(some_see.y, seen[i].y));
            if HAS_GAP {
                gap[i] = tokens_in_gap(row[i]);
            }
        }
        // Steps in which no query of the subgroup sees a key would change nothing.
        let begin = tables[run] + (max(subgroupMin(some_see.x), tables[run]) - tables[run]) / KEYS * KEYS;
        let end = subgroupMax(some_see.y);
        for (var tile = begin; tile < end; tile += KEYS) {
            // -- which of the keys my queries chose: a step of keys that no query of the subgroup did would change nothing
            var choice: array<u32, QUERIES_PER_LANE>;
            if HAS_SELECTION {
                var some = 0u;
                for (var i = 0u; i < mine; i++) {
                    choice[i] = chosen(row[i], tile);
                    some |= choice[i] & ((1u << KEYS) - 1u);
                }
                if !subgroupAny(some != 0u) {
                    continue;
                }
            }

            // -- where my keys lie
            var key_base: array<u32, KEYS_PER_LANE>;
            var value_base: array<u32, KEYS_PER_LANE>;
            var key_scales: array<f32, KEYS_PER_LANE>;
            var value_scales: array<f32, KEYS_PER_LANE>;
            for (var j = 0u; j < KEYS_PER_LANE; j++) {
                let key = min(tile + j * SUBGROUP + key_lane, run_end - 1u);
                let page = tables[pages + key / params.page_size];
                key_base[j] = params.k_offset + page * params.k_page_stride + kv_head * params.k_head_stride
                    + key % params.page_size * params.k_token_stride;
                value_base[j] = params.v_offset + page * params.v_page_stride + kv_head * params.v_head_stride
                    + key % params.page_size * params.v_token_stride + share.first_chunk;
                if HAS_TAIL {
                    key_scales[j] = params.value_scale; // V is in K
                }
                if HAS_TOKEN_SCALES {
                    let place = scale_place(page, kv_head, key % params.page_size);
                    key_scales[j] = scales[params.k_scales + place];
                    value_scales[j] = scales[params.v_scales + place];
                }
            }

            // -- score
            var scores: array<array<array<f32, QUERIES_PER_LANE>, SUBGROUP>, KEYS_PER_LANE>;
            for (var j = 0u; j < KEYS_PER_LANE; j++) {
                for (var l = 0u; l < SUBGROUP; l++) {
                    for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                        scores[j][l][i] = 0.0;
                    }
                }
            }
            for (var c = 0u; c < HEAD_CHUNKS; c++) {
                var x: array<vec4<f32>, QUERIES_PER_LANE>;
                for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                    x[i] = queries[c * QUERIES_PER_LANE + i];
                }
                for (var j = 0u; j < KEYS_PER_LANE; j++) {
                    var chunk = key_chunk(key_base[j], c);
                    if (HAS_TOKEN_SCALES || HAS_TAIL) && !is_tail(c) {
                        chunk *= key_scales[j];
                    }
                    for (var l = 0u; l < SUBGROUP; l++) {
                        let key = subgroupShuffle(chunk, l);
                        for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                            scores[j][l][i] += dot(x[i], key);
                        }
                    }
                }
            }

            // -- mask | softmax
            var shrink: array<f32, QUERIES_PER_LANE>;
            for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                var grown = most[i];
                for (var j = 0u; j < KEYS_PER_LANE; j++) {
                    for (var l = 0u; l < SUBGROUP; l++) {
                        var score = scores[j][l][i] * params.score_scale;
                        if HAS_SOFT_CAP {
                            score = params.cap_scale * capped(score);
                        }
                        let token = tile + j * SUBGROUP + l;
                        var is_seen = token >= seen[i].x && token < seen[i].y;
                        if HAS_GAP {
                            is_seen = is_seen && !(token >= gap[i].x && token < gap[i].y);
                        }
                        if HAS_SELECTION {
                            is_seen = is_seen && ((choice[i] >> (j * SUBGROUP + l)) & 1u) == 1u;
                        }
                        score = select(NOTHING, score, is_seen);
                        scores[j][l][i] = score;
                        grown = max(grown, score);
                    }
                }
                // Exactly 1 when nothing changes, whatever exp2(0) is.
                shrink[i] = select(exp2(most[i] - grown), 1.0, most[i] == grown);
                total[i] *= shrink[i];
                most[i] = grown;
                for (var j = 0u; j < KEYS_PER_LANE; j++) {
                    for (var l = 0u; l < SUBGROUP; l++) {
                        let is_seen = scores[j][l][i] != NOTHING;
                        let weight = exp2(scores[j][l][i] - grown);
                        total[i] += select(0.0, weight, is_seen);
                        scores[j][l][i] = select(UNSEEN, weight, is_seen);
                    }
                }
            }

            // -- accumulate
            for (var c = 0u; c < PART_CHUNKS; c++) {
                var x: array<vec4<f32>, QUERIES_PER_LANE>;
                for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                    x[i] = sums[c * QUERIES_PER_LANE + i] * shrink[i];
                }
                for (var j = 0u; j < KEYS_PER_LANE; j++) {
                    var chunk = unpack_v(v[value_base[j] + c]);
                    if HAS_TOKEN_SCALES {
                        chunk *= value_scales[j];
                    }
                    for (var l = 0u; l < SUBGROUP; l++) {
                        let value = subgroupShuffle(chunk, l);
                        for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                            let weight = scores[j][l][i];
                            x[i] = select(x[i], fma(vec4<f32>(weight), value, x[i]), weight >= 0.0);
                        }
                    }
                }
                for (var i = 0u; i < QUERIES_PER_LANE; i++) {
                    sums[c * QUERIES_PER_LANE + i] = x[i];
                }
            }
        }
    }

    // -- write the partial states, or the rows
    for (var i = 0u; i < mine; i++) {
        if has_ended(tables[row[i]]) {
            total[i] = 0.0; // it sees nothing
        }
        store_lse(share, place[i], most[i], total[i]);
        total[i] = select(params.value_scale / total[i], 0.0, total[i] == 0.0);
    }
    for (var n = 0u; n < mine * PART_CHUNKS; n++) {
        let i = n / PART_CHUNKS;
        let c = n % PART_CHUNKS;
        store_value(place[i] + share.first_chunk + c, sums[c * QUERIES_PER_LANE + i], total[i]);
    }
}
