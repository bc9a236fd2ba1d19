// rotate.cuh: a chunk of a head after the rotation, for each way in which pairs lie. After prelude.cuh, dtype.cuh and
// vector.cuh. Lanes (a, b) of pair j become (a cos - b sin, b cos + a sin); lanes outside the pairs pass.

// Values of ROTATION. In the first two a chunk of 4 lanes holds whole pairs or meets its partner chunk lane by lane;
// the last two serve first lanes and pair counts that split chunks, one lane at a time.
constexpr u32 ROTATE_NONE = 0;
constexpr u32 ROTATE_HALF = 1;
constexpr u32 ROTATE_ADJACENT = 2;
constexpr u32 ROTATE_HALF_LANES = 3;
constexpr u32 ROTATE_ADJACENT_LANES = 4;
// Whether a chunk needs lanes of other chunks, which meet it in shared memory.
constexpr bool MEETS_IN_SHARED = ROTATION != ROTATE_NONE && ROTATION != ROTATE_ADJACENT;

// What turns: pairs from lane `first_lane` on, with a cosine and a sine each (in shared memory, 16-byte aligned).
struct Turns {
    const f32* cos;
    const f32* sin;
    u32 first_lane;
    u32 pairs;
};

// One lane after the rotation, for pairs that lie anyhow. `head` is the whole head in shared memory.
DEVICE f32 rotated_lane(const Turns& turns, const f32* head, u32 lane) {
    const f32 x = head[lane];
    const u32 i = lane - turns.first_lane; // wraps below the first lane: past the end, too
    if (i >= 2 * turns.pairs) {
        return x;
    }
    const bool is_half = ROTATION == ROTATE_HALF_LANES;
    const u32 distance = is_half ? turns.pairs : 1;
    const bool is_second = is_half ? i >= turns.pairs : (i & 1) != 0;
    const u32 pair = !is_half ? i / 2 : is_second ? i - turns.pairs : i;
    const f32 partner = head[is_second ? lane - distance : lane + distance];
    return x * turns.cos[pair] + (is_second ? partner : -partner) * turns.sin[pair];
}

// Chunks that meet their partners lane by lane: the first of a pair becomes a cos - b sin, the second b cos + a sin.
DEVICE f32x4 turned_half(f32x4 x, f32x4 partner, f32x4 cos, f32x4 sin, bool is_second) {
    return fma(partner, sin * (is_second ? 1.0f : -1.0f), x * cos);
}

// A chunk of two whole pairs.
DEVICE f32x4 turned_adjacent(f32x4 x, f32 c0, f32 s0, f32 c1, f32 s1) {
    return fma(f32x4{x.y, x.x, x.w, x.z}, f32x4{-s0, s0, -s1, s1}, x * f32x4{c0, c0, c1, c1});
}

// The chunk `x` of the head after the rotation. `head` is the whole head in shared memory where MEETS_IN_SHARED.
DEVICE f32x4 rotated(const Turns& turns, const f32x4* head, u32 chunk, f32x4 x) {
    if (ROTATION == ROTATE_HALF) {
        const u32 i = chunk - turns.first_lane / 4; // wraps below the first lane: past the end, too
        const u32 distance = turns.pairs / 4;
        if (i >= 2 * distance) {
            return x;
        }
        const bool is_second = i >= distance;
        const u32 pair = is_second ? i - distance : i;
        const f32x4 partner = head[is_second ? chunk - distance : chunk + distance];
        return turned_half(x, partner, load_chunk(turns.cos, pair), load_chunk(turns.sin, pair), is_second);
    } else if (ROTATION == ROTATE_ADJACENT) {
        const u32 i = chunk - turns.first_lane / 4;
        if (i >= turns.pairs / 2) {
            return x;
        }
        return turned_adjacent(x, turns.cos[2 * i], turns.sin[2 * i], turns.cos[2 * i + 1], turns.sin[2 * i + 1]);
    } else {
        const f32* lanes = reinterpret_cast<const f32*>(head);
        const u32 lane = 4 * chunk;
        return f32x4{rotated_lane(turns, lanes, lane), rotated_lane(turns, lanes, lane + 1),
                     rotated_lane(turns, lanes, lane + 2), rotated_lane(turns, lanes, lane + 3)};
    }
}
