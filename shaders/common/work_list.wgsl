// work_list.wgsl: what the attention kernels share: params, bindings, queries turned back, what a row sees.
// Tables    header [num_items, items, item_rows, runs, pages, shifts, rules, -, merge header x 4];
//           item     [rows_begin, num_rows, runs_begin, num_runs, pages_begin, first state, 0, 0];
//           item row [row, slot, slot of token 0, first token seen, end of tokens seen, shift + 1 or 0, gap begin, gap end];
//           run      [first token, end token, full, span start, span end, rule, first token
//           that any row sees, end of what the first step sees]; rule [birth kind, 3 operands, death
//           kind, operand, 0, 0]. A run lies in one span; its tiles of keys start at multiples of the tile from the span.
// Steps     with HAS_STEPS rows stand as many slots further on as the counter says, and runs go as many tokens further;
//           a tile is full only if it is in every step of the plan's room. A row that has ended sees nothing; an item of
//           such rows is one without runs.
// Selection with HAS_SELECTION a row sees, of the keys of its mask, those whose bits are set: [row, selection_words], bit
//           s % 32 of word s / 32 for slot s of its view.
// Output    with WRITES_STATES partial states: [state, num_q_heads] of value and (lse, -, -, -), f32, which merge.wgsl puts
//           together. Without, where every row has one state that needs no epilogue, the rows [row, num_q_heads, value dim].
// Constants GROUP, HEAD_PARTS, VALUE_CHUNKS, VALUE_PARTS, WRITES_STATES, HAS_SHIFT, HAS_STEPS, HAS_TOKEN_SCALES, HAS_TAIL,
//           HAS_SELECTION, PAIRS_ARE_HALVES, ROPE_FIRST, ROPE_PAIRS; storage q, k, v, out. Needs dtype.wgsl, lifetime.wgsl and steps.wgsl.

struct AttentionParams {
    num_q_heads: u32,
    num_kv_heads: u32,
    q_offset: u32,
    q_row_stride: u32,
    q_head_stride: u32,
    k_offset: u32,
    k_page_stride: u32,
    k_head_stride: u32,
    k_token_stride: u32,
    v_offset: u32,
    v_page_stride: u32,
    v_head_stride: u32,
    v_token_stride: u32,
    score_scale: f32,
    cap_scale: f32,
    page_size: u32,
    // Multiplies outputs: the scale of all codes of V, or 1.
    value_scale: f32,
    // Where the scales of tokens lie: elements.
    k_scales: u32,
    v_scales: u32,
    scale_page_stride: u32,
    scale_head_stride: u32,
    scale_token_stride: u32,
    selection_words: u32, // of a row
    selection_size: u32, // words of all rows
    out_offset: u32,
    out_row_stride: u32,
    out_head_stride: u32,
    out_factor: f32, // multiplies what is stored: 1 over the scale of codes, or 1
}

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> q: array<q_chunk>;
@group(0) @binding(2) var<storage, read> k: array<k_chunk>;
@group(0) @binding(3) var<storage, read> v: array<v_chunk>;
@group(0) @binding(4) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<out_chunk>;
@group(0) @binding(6) var<storage, read> steps: array<u32>;
@group(0) @binding(7) var<storage, read> scales: array<f32>;
@group(0) @binding(8) var<storage, read> selection: array<u32>;

// What a workgroup has of an item. An item is launched once per KV head, part of its query heads (GROUP of them) and part
// of the value (PART_CHUNKS chunks). Parts of the value have the same scores, each computed again; the first of them
// writes what they share.
struct Share {
    // Word of the item in the tables.
    item: u32,
    kv_head: u32,
    first_head: u32,
    first_chunk: u32,
}

const PART_CHUNKS: u32 = VALUE_CHUNKS / VALUE_PARTS;

// The share of the workgroup at `place` of the grid.
fn share_of(place: u32) -> Share {
    let shares = params.num_kv_heads * HEAD_PARTS * VALUE_PARTS;
    let head_part = place % shares / VALUE_PARTS;
    return Share(
        tables[1] + place / shares * 8u,
        head_part / HEAD_PARTS,
        head_part * GROUP,
        place % VALUE_PARTS * PART_CHUNKS,
    );
}

// Whether the grid is larger than the list there.
fn is_past_the_list(place: u32) -> bool {
    return place / (params.num_kv_heads * HEAD_PARTS * VALUE_PARTS) >= tables[0];
}

// Where the scale of a token lies among those of K, and of V.
fn scale_place(page: u32, kv_head: u32, slot: u32) -> u32 {
    return page * params.scale_page_stride + kv_head * params.scale_head_stride + slot * params.scale_token_stride;
}

// Whether chunk `c` of a key is of its tail: behind the value, as bf16 without a scale.
fn is_tail(c: u32) -> bool {
    return HAS_TAIL && c >= VALUE_CHUNKS;
}

// Chunk `c` of the key that begins at `base`, codes without their scale. A chunk of a tail has the room of two of codes.
fn key_chunk(base: u32, c: u32) -> vec4<f32> {
    if is_tail(c) {
        let at = base + 2u * c - VALUE_CHUNKS;
        return unpack_bf16_chunk(vec2<u32>(word_k(k[at]), word_k(k[at + 1u])));
    }
    return unpack_k(k[base + c]);
}

const LN_2: f32 = 0.6931471805599453;
// Below every score.
const NOTHING: f32 = -1e30;
// A weight that says "not seen": weights of seen keys are never negative.
const UNSEEN: f32 = -1.0;

// tanh without overflow: beyond 15 it is 1 to f32.
fn capped(x: f32) -> f32 {
    return 1.0 - 2.0 / (exp2(clamp(x, -15.0, 15.0) * 2.8853900817779268) + 1.0);
}

// Lane `lane` of q turned back by the entry's position shift: R(-shift) q.
fn shifted_lane(base: u32, lane: u32, x: f32, shift: u32) -> f32 {
    let r = lane - ROPE_FIRST;
    if lane < ROPE_FIRST || r >= 2u * ROPE_PAIRS {
        return x;
    }
    var pair = r / 2u;
    var is_second = (r & 1u) == 1u;
    var other = ROPE_FIRST + (r ^ 1u);
    if PAIRS_ARE_HALVES {
        is_second = r >= ROPE_PAIRS;
        pair = select(r, r - ROPE_PAIRS, is_second);
        other = select(lane + ROPE_PAIRS, lane - ROPE_PAIRS, is_second);
    }
    let turn = tables[5] + ((shift - 1u) * ROPE_PAIRS + pair) * 2u;
    let cosine = bitcast<f32>(tables[turn]);
    let sine = bitcast<f32>(tables[turn + 1u]);
    let y = unpack_q(q[base + other / 4u])[other % 4u];
    return fma(x, cosine, select(y, -y, is_second) * sine);
}

fn query_chunk(base: u32, c: u32, shift: u32) -> vec4<f32> {
    let x = unpack_q(q[base + c]);
    if HAS_SHIFT {
        if shift != 0u {
            let d = c * 4u;
            return vec4<f32>(
                shifted_lane(base, d, x.x, shift),
                shifted_lane(base, d + 1u, x.y, shift),
                shifted_lane(base, d + 2u, x.z, shift),
                shifted_lane(base, d + 3u, x.w, shift),
            );
        }
    }
    return x;
}

// Whether all rows of the item at word `item` have ended: nobody sees its keys.
fn have_ended(item: u32) -> bool {
    var ended = 0u;
    if HAS_STEPS {
        while ended < tables[item + 1u] && has_ended(tables[tables[2] + (tables[item] + ended) * 8u]) {
            ended++;
        }
        return ended == tables[item + 1u];
    }
    return false;
}

// One past the last token of a run that may be seen at this step: the bound of the first step, and a token a step.
fn end_of_seen(run: u32) -> u32 {
    if HAS_STEPS {
        return min(tables[run + 1u], tables[run + 7u] + step_now());
    }
    return tables[run + 1u];
}

// Tokens [x, y) of a partial run that the row at `row` sees, its gap left aside.
fn tokens_seen(row: u32, run: u32) -> vec2<u32> {
    let slot = bitcast<i32>(tables[row + 1u] + step_now());
    let base = bitcast<i32>(tables[row + 2u]);
    let span = vec2<i32>(base + i32(tables[run + 3u]), base + i32(min(tables[run + 4u], tables[row + 4u])));
    let slots = max(seen_slots(tables[6] + tables[run + 5u] * 8u, slot, span) - vec2<i32>(base), vec2<i32>(0));
    return vec2<u32>(max(u32(slots.x), tables[row + 3u]), min(u32(slots.y), tables[row + 4u]));
}

// Tokens [x, y) of the segment that lie in the gap of the row at `row`.
fn tokens_in_gap(row: u32) -> vec2<u32> {
    let slots = vec2<i32>(bitcast<i32>(tables[row + 6u]), bitcast<i32>(tables[row + 7u]));
    return vec2<u32>(max(slots - vec2<i32>(bitcast<i32>(tables[row + 2u])), vec2<i32>(0)));
}

// Where the output of query `query` of an item goes: the chunk of its head in the partial state, or in the row itself.
fn out_place(share: Share, rows: u32, query: u32) -> u32 {
    var i = tables[share.item + 5u] + query / GROUP;
    if !WRITES_STATES {
        i = tables[rows + query / GROUP * 8u];
    }
    return params.out_offset + i * params.out_row_stride + (share.first_head + query % GROUP) * params.out_head_stride;
}

// Chunk of the output at `at`; a scale of 0 says that there is nothing, whatever the sum is.
fn store_value(at: u32, sum: vec4<f32>, scale: f32) {
    out[at] = pack_out(select(sum * scale, vec4<f32>(0.0), scale == 0.0) * params.out_factor);
}

// A state's lse has a chunk of its own behind the value, so that all stores are whole chunks. Parts of the value share it.
fn store_lse(share: Share, place: u32, most: f32, total: f32) {
    if WRITES_STATES && share.first_chunk == 0u {
        let lse = select((most + log2(total)) * LN_2, NOTHING, total == 0.0);
        out[place + VALUE_CHUNKS] = pack_out(vec4<f32>(lse, 0.0, 0.0, 0.0));
    }
}

// A word of the selection; what lies outside is 0.
fn selection_word(word: u32) -> u32 {
    if word < params.selection_size {
        return selection[word];
    }
    return 0u;
}

// What the row at `row` chose of 32 tokens from `token` on, a bit each. Bits are counted modulo 2^32 from the first row on;
// those of tokens that the row's view does not see mean nothing.
fn chosen(row: u32, token: u32) -> u32 {
    let bit = tables[row] * params.selection_words * 32u + tables[row + 2u] + token;
    let shift = bit % 32u;
    let high = selection_word(bit / 32u + 1u) << ((32u - shift) % 32u);
    return (selection_word(bit / 32u) >> shift) | select(high, 0u, shift == 0u);
}
