// stop.cu: which agents have stopped. One launch per step, behind the draw.
//
//   of a row whose slot is alive: ring[draws % window] = confidence; draws += 1; group = mean of the ring once it is full
//     stopped = 1 token = NO_TOKEN, 2 token is an end token, 3 draws = budget, 4 group < threshold; the first that holds
//   of another row: token = NO_TOKEN, numbers NaN
//   with HAS_STEPS, a row that stops at step s ends at s + 1, or for 3 and 4, whose token is fed once more, at s + 2;
//     another row ends at s + 1
//
// Shapes     sampled [rows] of (token, log_prob, entropy, confidence); tables: (slot, budget) per row, then end tokens;
//            state, words: flags [slots] (1 alive), records [slots] of (draws, group, stopped, 0), rings [slots][window].
// Grid       one warp per row. Rows have distinct slots.
// Numerics   f32: each lane adds every 32nd of the ring, then a fixed tree. Before the ring is full the group is 0, which
//            the host does not show.
//
// Header     THREADS: 32, HAS_STEPS.

// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/steps.cuh"

struct Params {
    u32 rows;
    u32 window;
    u32 end_tokens;
    f32 threshold;
    u32 records; // word of the state
    u32 rings; // word of the state
    u32 pad_0;
    u32 pad_1;
};

struct StopArgs {
    Params params;
    const u32* tables;
    u32x4* sampled;
    u32* state;
    u32* steps; // see steps.cuh
};

constexpr u32 NAN = 0x7fc00000u;
constexpr u32 NO_TOKEN = 0xffffffffu;

// Ends a row, unless it has ended before.
DEVICE void end(u32* steps, u32 row, u32 after) {
    if (HAS_STEPS) {
        steps[3 + row] = min(steps[3 + row], steps[0] + after);
    }
}

KERNEL(stop, StopArgs, THREADS, 1) {
    const Params& params = args.params;
    const u32 row = blockIdx.x;
    const u32 lane = threadIdx.x;
    const u32 slot = args.tables[2 * u64(row)];
    const u32x4 drawn = args.sampled[row];
    const bool is_alive = args.state[slot] != 0;
    u32* record = args.state + params.records + 4 * u64(slot);
    u32* ring = args.state + params.rings + u64(slot) * params.window;
    const u32 draws = record[0];
    const u32 place = draws % params.window;

    f32 sum = 0.0f;
    for (u32 i = lane; i < params.window; i += THREADS) { // what an earlier agent left is gone before the ring is full
        const u32 held = i == place ? drawn.w : ring[i];
        if (i == place && is_alive) {
            ring[i] = held;
        }
        sum += __uint_as_float(held);
    }
    bool is_end = false;
    for (u32 i = lane; i < params.end_tokens; i += THREADS) {
        is_end |= args.tables[2 * u64(params.rows) + i] == drawn.x;
    }
    sum = warp_sum(sum);
    is_end = warp_any(is_end);
    __syncwarp(); // all lanes have read what lane 0 writes
    if (lane != 0) {
        return;
    }
    if (!is_alive) {
        args.sampled[row] = u32x4{NO_TOKEN, NAN, NAN, NAN};
        end(args.steps, row, 1);
        return;
    }
    const u32 now = draws + 1;
    const bool is_full = now >= params.window;
    const f32 mean = sum / f32(params.window);
    u32 stopped = 0;
    if (drawn.x == NO_TOKEN) {
        stopped = 1;
    } else if (is_end) {
        stopped = 2;
    } else if (now == args.tables[2 * u64(row) + 1]) {
        stopped = 3;
    } else if (is_full && mean < params.threshold) {
        stopped = 4;
    }
    record[0] = now;
    record[1] = is_full ? __float_as_uint(mean) : 0;
    record[2] = stopped;
    args.state[slot] = stopped == 0 ? 1 : 0;
    if (stopped != 0) {
        end(args.steps, row, stopped < 3 ? 1 : 2);
    }
}
