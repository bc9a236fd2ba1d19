// rotate.wgsl: the chunks of a head after the rotation, for each way in which pairs lie. Lanes (a, b) of pair j become
// (a cos - b sin, b cos + a sin); lanes outside the pairs pass.
// Constants ROTATION. Needs of its kernel: `params.first_lane` and `params.pairs`; a struct Head;
//           unturned(head, chunk), the lanes before the rotation; turn(head, pair), its (cos, sin); store(head, chunk, lanes).

// Values of ROTATION. In the first two a chunk of 4 lanes holds whole pairs or meets its partner chunk lane by lane;
// the last two serve first lanes and pair counts that split chunks, one lane at a time.
const ROTATE_NONE = 0u;
const ROTATE_HALF = 1u;
const ROTATE_ADJACENT = 2u;
const ROTATE_HALF_LANES = 3u;
const ROTATE_ADJACENT_LANES = 4u;

fn lane_of(head: Head, lane: u32) -> f32 {
    let x = unturned(head, lane / 4u);
    let low = select(x.x, x.y, (lane & 1u) == 1u);
    let high = select(x.z, x.w, (lane & 1u) == 1u);
    return select(low, high, (lane & 2u) == 2u);
}

// One lane after the rotation, for pairs that lie anyhow.
fn rotated_lane(head: Head, lane: u32) -> f32 {
    let x = lane_of(head, lane);
    let i = lane - params.first_lane; // wraps below the first lane: past the end, too
    if i >= 2u * params.pairs {
        return x;
    }
    var pair = i / 2u;
    var is_second = (i & 1u) == 1u;
    var distance = 1u;
    if ROTATION == ROTATE_HALF_LANES {
        is_second = i >= params.pairs;
        pair = select(i, i - params.pairs, is_second);
        distance = params.pairs;
    }
    let partner = lane_of(head, select(lane + distance, lane - distance, is_second));
    let t = turn(head, pair);
    return x * t.x + select(-partner, partner, is_second) * t.y;
}

fn rotate(head: Head, chunk: u32) {
    if ROTATION == ROTATE_HALF {
        let i = chunk - params.first_lane / 4u; // wraps below the first lane: past the end, too
        let distance = params.pairs / 4u;
        if i >= 2u * distance {
            store(head, chunk, unturned(head, chunk));
        } else if i < distance { // the second half is written with the first
            let a = unturned(head, chunk);
            let b = unturned(head, chunk + distance);
            let t0 = turn(head, 4u * i);
            let t1 = turn(head, 4u * i + 1u);
            let t2 = turn(head, 4u * i + 2u);
            let t3 = turn(head, 4u * i + 3u);
            let c = vec4<f32>(t0.x, t1.x, t2.x, t3.x);
            let s = vec4<f32>(t0.y, t1.y, t2.y, t3.y);
            store(head, chunk, a * c - b * s);
            store(head, chunk + distance, b * c + a * s);
        }
    } else if ROTATION == ROTATE_ADJACENT {
        let x = unturned(head, chunk);
        let i = chunk - params.first_lane / 4u;
        if i >= params.pairs / 2u {
            store(head, chunk, x);
        } else {
            let t0 = turn(head, 2u * i);
            let t1 = turn(head, 2u * i + 1u);
            let c = vec4<f32>(t0.x, t0.x, t1.x, t1.x);
            let s = vec4<f32>(-t0.y, t0.y, -t1.y, t1.y);
            store(head, chunk, x * c + x.yxwz * s);
        }
    } else {
        let lane = 4u * chunk;
        let low = vec2<f32>(rotated_lane(head, lane), rotated_lane(head, lane + 1u));
        let high = vec2<f32>(rotated_lane(head, lane + 2u), rotated_lane(head, lane + 3u));
        store(head, chunk, vec4<f32>(low, high));
    }
}
