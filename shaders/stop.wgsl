// stop: which agents have stopped. One launch per step, behind the draw.
//
//   of a row whose slot is alive: ring[draws % window] = confidence; draws += 1; group = mean of the ring once it is full
//     stopped = 1 token = NO_TOKEN, 2 token is an end token, 3 draws = budget, 4 group < threshold; the first that holds
//   of another row: token = NO_TOKEN, numbers NaN
//   with HAS_STEPS, a row that stops at step s ends at s + 1, or for 3 and 4, whose token is fed once more, at s + 2;
//     another row ends at s + 1
//
// Shapes     sampled [rows] of (token, log_prob, entropy, confidence); tables: (slot, budget) per row, then end tokens;
//            state, words: flags [slots] (1 alive), records [slots] of (draws, group, stopped, 0), rings [slots][window].
// Grid       one workgroup of 64 lanes per row, folded to 2-D. Rows have distinct slots.
// Numerics   f32: each lane adds every 64th of the ring, then a fixed tree. Before the ring is full the group is NaN's
//            place holder 0, which the host does not show.
//
// Header     HAS_STEPS.

struct Params {
    rows: u32,
    window: u32,
    end_tokens: u32,
    threshold: f32,
    records: u32, // word of the state
    rings: u32, // word of the state
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tables: array<u32>;
@group(0) @binding(2) var<storage, read_write> sampled: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> steps: array<u32>; // see common/steps.wgsl

const LANES: u32 = 64u;
const NAN: u32 = 0x7fc00000u;
const NO_TOKEN: u32 = 0xffffffffu;

var<workgroup> sums: array<f32, 64>;
var<workgroup> hits: array<u32, 64>;

// Ends a row, unless it has ended before.
fn end(row: u32, after: u32) {
    if HAS_STEPS {
        steps[3u + row] = min(steps[3u + row], steps[0] + after);
    }
}

@compute @workgroup_size(64)
fn stop(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows {
        return;
    }
    let slot = tables[2u * row];
    let drawn = sampled[row];
    let is_alive = state[slot] != 0u;
    let record = params.records + 4u * slot;
    let ring = params.rings + slot * params.window;
    let draws = state[record];
    let place = draws % params.window;

    var sum = 0.0;
    for (var i = lane; i < params.window; i += LANES) {
        var held = state[ring + i];
        if i == place {
            held = drawn.w;
            if is_alive {
                state[ring + i] = held;
            }
        }
        sum += bitcast<f32>(held); // what an earlier agent left is gone before the ring is full
    }
    var hit = 0u;
    for (var i = lane; i < params.end_tokens; i += LANES) {
        hit |= select(0u, 1u, tables[2u * params.rows + i] == drawn.x);
    }
    sums[lane] = sum;
    hits[lane] = hit;
    workgroupBarrier();
    for (var width = LANES / 2u; width > 0u; width /= 2u) {
        if lane < width {
            sums[lane] += sums[lane + width];
            hits[lane] |= hits[lane + width];
        }
        workgroupBarrier();
    }
    if lane != 0u {
        return;
    }
    if !is_alive {
        sampled[row] = vec4<u32>(NO_TOKEN, NAN, NAN, NAN);
        end(row, 1u);
        return;
    }
    let now = draws + 1u;
    let is_full = now >= params.window;
    let mean = sums[0] / f32(params.window);
    var stopped = 0u;
    if drawn.x == NO_TOKEN {
        stopped = 1u;
    } else if hits[0] != 0u {
        stopped = 2u;
    } else if now == tables[2u * row + 1u] {
        stopped = 3u;
    } else if is_full && mean < params.threshold {
        stopped = 4u;
    }
    state[record] = now;
    state[record + 1u] = select(0u, bitcast<u32>(mean), is_full);
    state[record + 2u] = stopped;
    state[slot] = select(0u, 1u, stopped == 0u);
    if stopped != 0u {
        end(row, select(2u, 1u, stopped < 3u));
    }
}
