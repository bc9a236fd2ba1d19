// state.cuh: one warp merges the attention states of one (row, head) and finishes the head: rotation, norm, gate, scale
// of codes, rounding, store.
//
//   m = max lse_i    w_i = exp(lse_i - m)    x = sum w_i out_i / sum w_i    lse = m + ln(sum w_i)
//
// Lanes own chunks of values: lane l chunks l, l + 32 and so on. The lse of 32 states are loaded at once, one per lane, and
// their weights handed round by shuffles, so that each is computed once; outputs are read once, BATCH states in flight.
// Total weight and values are summed in the order of the list. An empty state is known by its lse and takes no part:
// its output is not even read and may hold anything. After dtype.cuh, warp.cuh, lse.cuh, vector.cuh, norm.cuh, gate.cuh.
// Constants ROTATION: how outputs turn back by the row's position, by chunks or not at all; storage gate, out.

// #include "common/rope.cuh"
// #include "common/rotate.cuh"

// Field for field the params of a merge on the host. The offsets are 0: pointers begin at the first element.
struct MergeParams {
    u32 num_q_heads;
    u32 state_offset;
    u32 state_row_stride; // chunks
    u32 state_head_stride;
    u32 state_lse_offset;
    u32 state_lse_row_stride; // elements
    u32 state_lse_head_stride;
    u32 gate_offset;
    u32 gate_row_stride; // chunks; elements for a gate per head
    u32 gate_head_stride;
    u32 out_offset;
    u32 out_row_stride; // chunks
    u32 out_head_stride;
    u32 lse_offset;
    u32 lse_row_stride; // elements
    u32 lse_head_stride;
    u32 norm;
    f32 norm_eps;
    u32 norm_base;
    u32 sinks_base;
    u32 has_sinks;
    u32 gate;
    u32 has_lse;
    u32 header;
    // First word of the rotation in `constants`, first lane and number of the lane pairs that turn.
    u32 rope_table;
    u32 first_lane;
    u32 pairs;
    f32 out_factor; // multiplies what is stored: 1 over the scale of codes, or 1
};

// What a merge reads and writes besides its lists.
struct MergeMemory {
    const f32* states; // [state, head, value]
    const f32* state_lse; // [state, head]
    const f32* constants;
    const gate_t* gate; // [row, head, value or 1], or null
    out_t* out; // [row, head, value]
    f32* lse; // [row, head], or null
};

// An lse of this and below, down to -inf, is that of an empty state. A NaN is not among them.
constexpr f32 EMPTY = -0x1p97f;

// One lane's state of the list.
struct ListedState {
    u32 entry;
    f32 lse; // NOTHING for an empty state and past the end of the list
};

DEVICE ListedState listed_state(const MergeParams& params, const MergeMemory& memory, const u32* list, u32 count, u32 i,
                                u32 head) {
    if (i >= count) {
        return ListedState{0, NOTHING};
    }
    const u32 entry = list[i];
    const u64 place = u64(entry) * params.state_lse_row_stride + u64(head) * params.state_lse_head_stride;
    const f32 lse = memory.state_lse[place];
    return ListedState{entry, lse <= EMPTY ? NOTHING : lse};
}

// The gates of a chunk of (row, head), whose first gate is at chunk, or for a gate per head at element, `place`.
DEVICE f32x4 gates_of(const MergeParams& params, const MergeMemory& memory, u64 place, u32 chunk) {
    if (params.gate >= GATE_OF_HEAD) {
        return splat(gate_factor(params.gate, to_f32(memory.gate[place])));
    }
    const f32x4 g = load_chunk(memory.gate, place + chunk);
    return f32x4{gate_factor(params.gate, g.x), gate_factor(params.gate, g.y), gate_factor(params.gate, g.z),
                 gate_factor(params.gate, g.w)};
}

// The row's position in the tables of a merge, behind the lists: of all steps, a step's rows side by side.
DEVICE const u32* position_of(const u32* tables, const u32* header, u32 row, u32 step) {
    const u32* positions = tables + header[2] + tables[header[1] + header[0]];
    return positions + 4 * (u64(step) * header[0] + row);
}

// (cos, sin) of lane pair `pair` by the row's position, backwards.
DEVICE CosSin turn_back(const MergeParams& params, const f32* constants, const u32* position, u32 pair) {
    const u32* word = reinterpret_cast<const u32*>(constants) + params.rope_table + 3 * pair;
    const CosSin t = rope_cos_sin(i32(position[word[2]]), word[0], word[1]);
    return CosSin{t.cos, -t.sin};
}

// Undoes the rotation by the row's position. Lane l has the chunks l + 32 n of the head; whole warps.
template <u32 OWN>
DEVICE void turn_head(const MergeParams& params, const f32* constants, const u32* position, u32 lane, f32x4 (&values)[OWN]) {
    const auto at = [&](u32 pair) { return turn_back(params, constants, position, pair); };
    f32x4 turned[OWN];
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        const u32 chunk = lane + 32 * n;
        const u32 i = chunk - params.first_lane / 4; // wraps below the first lane: past the end, too
        turned[n] = values[n];
        if (ROTATION == ROTATE_ADJACENT) {
            if (i < params.pairs / 2) {
                const CosSin a = at(2 * i), b = at(2 * i + 1);
                turned[n] = turned_adjacent(values[n], a.cos, a.sin, b.cos, b.sin);
            }
        } else {
            const u32 distance = params.pairs / 4;
            const bool turns = i < 2 * distance, is_second = i >= distance;
            const u32 with = !turns ? chunk : is_second ? chunk - distance : chunk + distance;
            f32x4 partner = splat(0.0f);
#pragma unroll
            for (u32 m = 0; m < OWN; m++) { // registers are named when compiled: every lane shows each of its chunks
                const f32x4 shown = {shuffle(values[m].x, with), shuffle(values[m].y, with), shuffle(values[m].z, with),
                                     shuffle(values[m].w, with)};
                partner = with / 32 == m ? shown : partner;
            }
            if (turns) {
                const u32 pair = 4 * (is_second ? i - distance : i);
                const CosSin t0 = at(pair), t1 = at(pair + 1), t2 = at(pair + 2), t3 = at(pair + 3);
                turned[n] = turned_half(values[n], partner, f32x4{t0.cos, t1.cos, t2.cos, t3.cos},
                                        f32x4{t0.sin, t1.sin, t2.sin, t3.sin}, is_second);
            }
        }
    }
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        values[n] = turned[n];
    }
}

// Merges the `count` states of `list` into (row, head). Called by whole warps; `thread` is the thread's number; `position`, a row's
// position, is used with ROTATION only.
template <u32 HEAD_CHUNKS>
DEVICE void merge_head(const MergeParams& params, const MergeMemory& memory, const u32* list, u32 count, u32 row,
                       u32 head, u32 thread, const u32* position) {
    constexpr u32 OWN = (HEAD_CHUNKS + 31) / 32; // chunks of a lane
    constexpr u32 BATCH = OWN == 1 ? 8 : 4; // states in flight; 16 have spilled
    const u32 lane = thread % 32;

    // -- largest lse
    const f32 sink = params.has_sinks != 0 ? memory.constants[params.sinks_base + head] : NOTHING;
    const ListedState first = listed_state(params, memory, list, count, lane, head);
    f32 most = fmaxf(first.lse, fmaxf(sink, NOTHING));
    for (u32 base = 32; base < count; base += 32) {
        most = fmaxf(most, listed_state(params, memory, list, count, base + lane, head).lse);
    }
    most = warp_max(most);

    // -- weighted sum and total weight
    f32 total = sink <= EMPTY ? 0.0f : exp2_approx((sink - most) * LOG2_E);
    f32x4 values[OWN];
    for (u32 n = 0; n < OWN; n++) {
        values[n] = splat(0.0f);
    }
    ListedState state = first;
    for (u32 base = 0; base < count; base += 32) {
        if (base > 0) {
            state = listed_state(params, memory, list, count, base + lane, head);
        }
        const bool is_empty = state.lse == NOTHING;
        const u32 pending = ballot(!is_empty);
        const f32 weight = is_empty ? 0.0f : exp2_approx((state.lse - most) * LOG2_E);
        for (u32 from = 0; from < 32 && pending >> from != 0; from += BATCH) {
            f32x4 loaded[BATCH][OWN];
#pragma unroll
            for (u32 j = 0; j < BATCH; j++) {
                const bool is_pending = (pending >> (from + j) & 1) != 0;
                const u32 entry = is_pending ? shuffle(state.entry, from + j) : 0;
                const u64 place = u64(entry) * params.state_row_stride + u64(head) * params.state_head_stride;
#pragma unroll
                for (u32 n = 0; n < OWN; n++) {
                    const u32 chunk = lane + 32 * n;
                    const bool is_own = is_pending && chunk < HEAD_CHUNKS;
                    loaded[j][n] = is_own ? load_chunk(memory.states, place + chunk) : splat(0.0f);
                }
            }
#pragma unroll
            for (u32 j = 0; j < BATCH; j++) {
                if ((pending >> (from + j) & 1) != 0) {
                    const f32 w = shuffle(weight, from + j);
                    total += w;
#pragma unroll
                    for (u32 n = 0; n < OWN; n++) {
                        values[n] = fma(splat(w), loaded[j][n], values[n]);
                    }
                }
            }
        }
    }
    const f32 inverse = total == 0.0f ? 0.0f : 1.0f / total;

    // -- rotation and norm
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        values[n] = values[n] * inverse;
    }
    if (ROTATION != ROTATE_NONE) {
        turn_head(params, memory.constants, position, lane, values);
    }
    f32 squares = 0.0f;
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        squares += sum(values[n] * values[n]);
    }
    f32 factor = 1.0f;
    if (params.norm != NORM_NONE) {
        factor = norm_factor(params.norm, warp_sum(squares), 4 * HEAD_CHUNKS, params.norm_eps);
    }

    // -- write out and lse
    const u64 out = u64(row) * params.out_row_stride + u64(head) * params.out_head_stride;
    const u64 gate = u64(row) * params.gate_row_stride + u64(head) * params.gate_head_stride;
#pragma unroll
    for (u32 n = 0; n < OWN; n++) {
        const u32 chunk = lane + 32 * n;
        if (chunk < HEAD_CHUNKS) {
            f32x4 x = values[n] * factor;
            if (norm_is_weighted(params.norm)) {
                x = x * norm_weight(params.norm, load_chunk(memory.constants + params.norm_base, chunk));
            }
            if (params.gate != GATE_NONE) {
                x = x * gates_of(params, memory, gate, chunk);
            }
            store_chunk(memory.out, out + chunk, x * params.out_factor);
        }
    }
    if (params.has_lse != 0 && lane == 0) {
        const u64 place = u64(row) * params.lse_row_stride + u64(head) * params.lse_head_stride;
        memory.lse[place] = total == 0.0f ? __uint_as_float(0xff800000u) : most + log2f(total) * LN_2;
    }
}
