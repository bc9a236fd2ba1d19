// attention_sm90.cu: attention of a work list on Hopper: matrix products of warpgroups, fed by a warpgroup
// that only loads. What it computes is what attention.cu computes.
// Maths     as attention.cu: per tile of keys S = Q K^T, m' = max(m, S), P = exp2(S - m'), O = O * exp2(m - m') + P V.
// Shapes    q [row, num_q_heads, head dim]; k, v [page, num_kv_heads, page_size, dim], q, k, v of one 16-bit type;
//           partials, lse, outputs and arrivals as attention.cu.
// Tables    as attention.cu.
// Grid      one workgroup of 3 warpgroups per multiprocessor, which takes (item, KV head) pairs one after the other. A tile
//           is 128 queries (rows x heads of the group) x KEYS keys. More rows are more tiles of the same shape.
// Roles     warpgroups 0 and 1 consume: 64 queries each, over all keys; the second leaves where no item has more than 64.
//           Warpgroup 2 produces: it looks keys up in the page table and copies them, in boxes of whole tiles or parts of
//           them where pages are that large, 16 bytes at a time from pages of any size and strides. A thread has the scores
//           and outputs of fragment.cuh; queries never mix, so that a row's bits do not depend on its neighbours in the tile.
// Pipeline  a ring of STAGES tiles of keys and of values. A consumer issues the scores of the next tile before the
//           outputs of this one, and does the softmax of the next while the outputs are summed:
//             scores(t + 1) | outputs(t) |              rescale by t + 1, weights(t + 1) -> registers
//                            softmax(t + 1) ............|
//           The producer goes on to the next item meanwhile (schedule.cuh).
// Numerics  as attention.cu, of which it differs in the order of sums: f32 sums, finite sentinels, turned queries in two
//           16-bit parts, weights in WEIGHT_PARTS; NaN and infinities of V have the item done again at the end, with
//           care and without overlap.
// Limits    head dims (64, 64), (96, 96), (128, 128), (256, 256), (192, 128); K and V lie on 16 bytes, q on chunks.
//           sm_90a; at most 227 KiB of shared memory, one workgroup per multiprocessor.
// Constants KEYS, BOX, STAGES, GROUP, HEAD_PARTS, HEAD_DIM, VALUE_DIM, VALUE_PARTS = 1, QUERY_PARTS, WEIGHT_PARTS,
//           SHARED_BYTES, WRITES_STATES, HAS_SOFT_CAP, HAS_GAP, HAS_SHIFT, HAS_STEPS, PAIRS_ARE_HALVES, ROPE_FIRST,
//           ROPE_PAIRS, ROTATION = 0; storage q, k, v, gate, out.
// #include "common/prelude.cuh"
// #include "common/warp.cuh"
// #include "common/async.cuh"
// #include "common/mbarrier.cuh"
// #include "common/bulk.cuh"
// #include "common/wgmma.cuh"
// #include "common/panel.cuh"
// #include "common/dtype.cuh"
// #include "common/lifetime.cuh"
// #include "common/lse.cuh"
// #include "common/vector.cuh"
// #include "common/norm.cuh"
// #include "common/gate.cuh"
// #include "common/state.cuh"
// #include "common/steps.cuh"
// #include "common/attention_args.cuh"
// #include "common/share.cuh"
// #include "common/fragment.cuh"
// #include "common/item.cuh"
// #include "common/cursor.cuh"
// #include "common/query.cuh"
// #include "common/sight.cuh"
// #include "common/unbounded.cuh"
// #include "common/softmax.cuh"
// #include "common/partial.cuh"
// #include "common/arrival.cuh"
// #include "common/ring.cuh"
// #include "common/schedule.cuh"

constexpr u32 CONSUMERS = 2;
constexpr u32 THREADS = (CONSUMERS + 1) * WARPGROUP;
// Queries of a consumer: the rows of one product.
constexpr u32 CONSUMER_QUERIES = 64;
// Registers of a thread: what 3 warpgroups have at the start is shared out again.
constexpr u32 PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;

typedef Panels<CONSUMER_QUERIES, HEAD_DIM> QueryPanels;
constexpr u32 KEY_STEPS = KEYS / 16;

struct Shared {
    u8 queries[CONSUMERS][QUERY_PARTS][QueryPanels::BYTES];
    Ring ring;
    // Items lie here and not in registers, which are scarce.
    Schedule schedule;
    // Consumers meet: an even number of times in every turn, so that phases are known.
    Mbarrier met;
    // Of the rows of an item: whether all their states are there.
    u32 is_last[CONSUMERS * CONSUMER_QUERIES];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "the host asks for what the kernel uses");
static_assert(QueryPanels::BYTES % 1024 == 0 && KeyPanels::BYTES % 1024 == 0 && ValuePanels::BYTES % 1024 == 0, "atoms");

// What a consumer's thread carries from tile to tile.
struct State {
    f32 out[VALUE_TILES][4];
    f32 most[2], total[2];
    Cursor cursor;
    // Tiles before this one, over all turns.
    u32 tile;
};

// The same for all lanes, which the compiler does not know without the shuffle. Computed where it is needed: registers are
// scarce.
DEVICE u32 warpgroup_of_tile() {
    return shuffle(thread_of_tile() / WARPGROUP, 0);
}

// All consumers, whose stores of before are seen by all.
DEVICE void meet(Shared& shared, u32 phase) {
    __syncwarp();
    release(shared.met);
    mbarrier_wait(shared.met, phase);
}

// Puts the consumer's queries into shared memory, zeros behind the last.
DEVICE void load_queries(Shared& shared, const Item& item, const AttentionArgs& args) {
    constexpr u32 CHUNKS = HEAD_DIM / 4;
    const u32 consumer = warpgroup_of_tile();
    // As many loads on their way at once as registers allow, which none but a copy of the item lets the compiler see.
    constexpr u32 STEPS = CONSUMER_QUERIES * CHUNKS / WARPGROUP, AT_ONCE = STEPS % 8 == 0 ? 8 : 4;
    static_assert(CONSUMER_QUERIES * CHUNKS % WARPGROUP == 0 && STEPS % AT_ONCE == 0, "whole steps");
    const u32 rows = item.rows, share = item.share, num_queries = item.num_queries;
#pragma unroll 1
    for (u32 first = thread_of_tile() % WARPGROUP; first < CONSUMER_QUERIES * CHUNKS; first += AT_ONCE * WARPGROUP) {
        f32x4 chunks[AT_ONCE];
#pragma unroll
        for (u32 n = 0; n < AT_ONCE; n++) {
            const u32 i = first + n * WARPGROUP;
            const u32 query = min(consumer * CONSUMER_QUERIES + i / CHUNKS, num_queries - 1);
            chunks[n] = query_chunk(args, rows, query, i % CHUNKS, share);
        }
#pragma unroll
        for (u32 n = 0; n < AT_ONCE; n++) {
            const u32 i = first + n * WARPGROUP, own = i / CHUNKS, chunk = i % CHUNKS;
            const bool is_query = consumer * CONSUMER_QUERIES + own < num_queries;
            const f32x4 x = is_query ? chunks[n] : f32x4{0.0f, 0.0f, 0.0f, 0.0f};
            const u32 place = QueryPanels::place(own, chunk / 2) + chunk % 2 * 8;
            const u32x2 word = {pack<q_t>(x.x, x.y), pack<q_t>(x.z, x.w)};
            *reinterpret_cast<u32x2*>(shared.queries[consumer][0] + place) = word;
            if constexpr (QUERY_PARTS == 2) {
                *reinterpret_cast<u32x2*>(shared.queries[consumer][1] + place) =
                    u32x2{pack_rest<q_t>(word.x, x.x, x.y), pack_rest<q_t>(word.y, x.z, x.w)};
            }
        }
    }
    fence_proxy_async();
    meet(shared, 0);
}

// s = Q K^T, once the keys are there.
DEVICE void issue_scores(f32 (&s)[KEY_TILES][4], Shared& shared, u32 tile) {
    Ring& ring = shared.ring;
    const u32 stage = stage_of(ring, tile);
    mbarrier_wait(ring.keys_full[stage], parity_of(tile));
    fence_proxy_async();
    wgmma_fence();
    const u64 keys = KeyPanels::k_major(shared_address(ring.keys[stage]));
    const u64 queries = QueryPanels::k_major(shared_address(shared.queries[warpgroup_of_tile()]));
#pragma unroll
    for (u32 part = 0; part < QUERY_PARTS; part++) {
        const u64 some = wgmma_step(queries, part * QueryPanels::BYTES);
#pragma unroll
        for (u32 step = 0; step < HEAD_DIM / 16; step++) {
            wgmma(q_t{}, s, QueryPanels::k_major(some, step), KeyPanels::k_major(keys, step), part + step != 0);
        }
    }
    wgmma_commit();
}

// The layout of scores is that of the left operand.
DEVICE void split(u32 (&p)[KEY_STEPS * WEIGHT_PARTS][4], const f32 (&s)[KEY_TILES][4]) {
#pragma unroll
    for (u32 step = 0; step < KEY_STEPS; step++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const f32 x = s[step * 2 + i / 2][i % 2 * 2], y = s[step * 2 + i / 2][i % 2 * 2 + 1];
            p[step * WEIGHT_PARTS][i] = pack<v_t>(x, y);
            if constexpr (WEIGHT_PARTS == 2) {
                p[step * WEIGHT_PARTS + 1][i] = pack_rest<v_t>(p[step * WEIGHT_PARTS][i], x, y);
            }
        }
    }
}

// out += P V, once the values are there.
DEVICE void issue_outputs(f32 (&out)[VALUE_TILES][4], const u32 (&p)[KEY_STEPS * WEIGHT_PARTS][4], Ring& ring,
                          u32 tile) {
    const u32 stage = stage_of(ring, tile);
    mbarrier_wait(ring.values_full[stage], parity_of(tile));
    fence_proxy_async();
    wgmma_fence();
    const u64 values = ValuePanels::mn_major(shared_address(ring.values[stage]));
#pragma unroll
    for (u32 step = 0; step < KEY_STEPS; step++) {
#pragma unroll
        for (u32 part = 0; part < WEIGHT_PARTS; part++) {
            wgmma(v_t{}, out, p[step * WEIGHT_PARTS + part], ValuePanels::mn_major(values, step));
        }
    }
    wgmma_commit();
}

// Scores of the cursor's tile become weights.
DEVICE void soften(f32 (&s)[KEY_TILES][4], State& state, f32 (&shrink)[2], const Item& item,
                   const AttentionArgs& args) {
    const u32* run = args.tables + state.cursor.run;
    const u32 query = query_of(thread_of_tile());
    scale(s, args.params);
    if (run[2] == 0 || state.cursor.token + KEYS > run[1]) {
        // Not kept from tile to tile: registers are scarce, and such tiles rare.
        const Sight sight = sight_of(args, item.rows, item.num_queries, query, run);
        mask(s, state.cursor.token, sight.first, sight.count, true);
        if (HAS_GAP) {
            const Gap gap = gap_of(args.tables, item.rows, item.num_queries, query);
            mask(s, state.cursor.token, gap.first, gap.count, false);
        }
    }
    weigh(s, state.most, state.total, shrink);
}

// To the next tile, if there is one.
DEVICE bool step(State& state, const Item& item, const AttentionArgs& args) {
    advance(state.cursor, item.last_run, args);
    if (state.cursor.run == item.last_run) {
        return false;
    }
    state.tile++;
    return true;
}

DEVICE void begin(State& state, const Item& item, const AttentionArgs& args) {
    state.most[0] = state.most[1] = NOTHING;
    state.total[0] = state.total[1] = 0.0f;
#pragma unroll
    for (u32 n = 0; n < VALUE_TILES; n++) {
        state.out[n][0] = state.out[n][1] = state.out[n][2] = state.out[n][3] = 0.0f;
    }
    state.cursor = Cursor{item.first_run, args.tables[item.first_run]};
}

// Over all keys, the softmax of a tile beside the outputs of the one before.
DEVICE void pass(Shared& shared, State& state, f32 (&s)[KEY_TILES][4],
                 const Item& item, const AttentionArgs& args) {
    Ring& ring = shared.ring;
    u32 p[KEY_STEPS * WEIGHT_PARTS][4];
    f32 shrink[2];
    begin(state, item, args);
    wgmma_hold(s);
    issue_scores(s, shared, state.tile);
    wgmma_wait<0>();
    wgmma_hold(s);
    release(ring.keys_empty[stage_of(ring, state.tile)]);
    soften(s, state, shrink, item, args);
    split(p, s);
#pragma unroll 1
    while (step(state, item, args)) {
        wgmma_hold(s);
        wgmma_hold(p);
        wgmma_hold(state.out);
        issue_scores(s, shared, state.tile);
        issue_outputs(state.out, p, ring, state.tile - 1);
        wgmma_wait<1>();
        wgmma_hold(s);
        release(ring.keys_empty[stage_of(ring, state.tile)]);
        soften(s, state, shrink, item, args);
        wgmma_wait_behind(state.total[0] + state.total[1]);
        wgmma_wait<0>();
        wgmma_hold(state.out);
        wgmma_hold(p);
        release(ring.values_empty[stage_of(ring, state.tile - 1)]);
        rescale(state.out, shrink);
        split(p, s);
    }
    wgmma_hold(p);
    wgmma_hold(state.out);
    issue_outputs(state.out, p, ring, state.tile);
    wgmma_wait<0>();
    wgmma_hold(state.out);
    release(ring.values_empty[stage_of(ring, state.tile)]);
    state.tile++;
}

// Hands the item's tiles back, of which this consumer has no query.
DEVICE void pass_over(Shared& shared, State& state, const Item& item, const AttentionArgs& args) {
    Ring& ring = shared.ring;
    begin(state, item, args);
#pragma unroll 1
    for (bool has_next = true; has_next;) {
        const u32 stage = stage_of(ring, state.tile), parity = parity_of(state.tile);
        // A warp gives back when all of it has waited: who comes late would take the next phase for this one.
        mbarrier_wait(ring.keys_full[stage], parity);
        __syncwarp();
        release(ring.keys_empty[stage]);
        mbarrier_wait(ring.values_full[stage], parity);
        __syncwarp();
        release(ring.values_empty[stage]);
        has_next = step(state, item, args);
    }
    state.tile++;
}

// A pass with care: NaN and infinities of V are added by hand, and 0 takes their place.
DEVICE void careful_pass(Shared& shared, State& state, f32 (&s)[KEY_TILES][4],
                         const Item& item, const BulkArgs& args) {
    Ring& ring = shared.ring;
    u32 p[KEY_STEPS * WEIGHT_PARTS][4];
    f32 shrink[2];
    begin(state, item, args);
#pragma unroll 1
    for (bool has_next = true; has_next;) {
        wgmma_hold(s);
        issue_scores(s, shared, state.tile);
        wgmma_wait<0>();
        wgmma_hold(s);
        release(ring.keys_empty[stage_of(ring, state.tile)]);
        soften(s, state, shrink, item, args);
        rescale(state.out, shrink);
        split(p, s);
        mbarrier_wait(ring.values_full[stage_of(ring, state.tile)], parity_of(state.tile));
        const u32 query = query_of(thread_of_tile());
        u8* values = ring.values[stage_of(ring, state.tile)];
        const Sight sight =
            sight_of(args, item.rows, item.num_queries, query, args.tables + state.cursor.run);
        const Gap gap = gap_of(args.tables, item.rows, item.num_queries, query);
        const u32 pair = thread_of_tile() % 4 * 4;
        add_unbounded(state.out, sight, gap, state.cursor.token, [&](u32 key, u32 n) {
            return load_pair(reinterpret_cast<const v_t*>(values + ValuePanels::place(key, n) + pair));
        });
        meet(shared, 1);
        clear_unbounded(reinterpret_cast<v_t*>(values), KEYS * VALUE_DIM, thread_of_tile(), args.num_consumers * WARPGROUP);
        fence_proxy_async();
        meet(shared, 0);
        wgmma_hold(p);
        wgmma_hold(state.out);
        issue_outputs(state.out, p, ring, state.tile);
        wgmma_wait<0>();
        wgmma_hold(state.out);
        wgmma_hold(p);
        release(ring.values_empty[stage_of(ring, state.tile)]);
        has_next = step(state, item, args);
    }
    state.tile++;
}

// A turn with an item: from its queries to its state, or to the list of those that are done again.
DEVICE void attend(Shared& shared, State& state, f32 (&s)[KEY_TILES][4], const BulkArgs& args) {
    Turn& turn = shared.schedule.taken;
    const Item& item = turn.item;
    load_queries(shared, item, args);
    if (turn.kind == CAREFUL) {
        careful_pass(shared, state, s, item, args);
    } else if (warpgroup_of_tile() * CONSUMER_QUERIES < item.num_queries) {
        pass(shared, state, s, item, args);
    } else {
        pass_over(shared, state, item, args);
    }
    const u32 query = query_of(thread_of_tile());
    const bool is_unbounded = (query < item.num_queries && shows_unbounded(state.out, 0)) ||
                              (query + 8 < item.num_queries && shows_unbounded(state.out, 1));
    if (warp_any(is_unbounded) && thread_of_tile() % 32 == 0) {
        atomicOr(&turn.is_unbounded, 1u);
    }
    meet(shared, 1);
    if (turn.kind == PASS && turn.is_unbounded != 0) {
        if (thread_of_tile() == 0) {
            args.put_off[turn.number] = shared.schedule.put_off;
            shared.schedule.put_off = turn.number;
        }
        return;
    }
    if (!WRITES_STATES) {
        write_rows(state.out, state.most, state.total, query_of(thread_of_tile()), item.num_queries, item.rows, item.share,
                   args);
        return;
    }
    write_partial(state.out, state.most, state.total, query_of(thread_of_tile()), item.num_queries, item.first_state,
                  item.share, args);
    merge_arrived(args, item.rows, item.num_queries / GROUP, item.share, args.num_consumers * 4, shared.is_last,
                  [&](u32 phase) { meet(shared, phase); });
}

KERNEL(attention_sm90, BulkArgs, THREADS, 1) {
    Shared& shared = shared_memory<Shared>();
    if (threadIdx.x == 0) {
        init_ring(shared.ring, args.num_consumers * 4);
        init_schedule(shared.schedule);
        mbarrier_init(shared.met, args.num_consumers * 4);
        // Bulk copies count at barriers.
        fence_proxy_async();
    }
    __syncthreads();

    const u32 warpgroup = warpgroup_of_tile();
    if (warpgroup == CONSUMERS) {
        registers_lower<PRODUCER_REGISTERS>();
        if (BOX != 0 && args.has_maps != 0 && thread_of_tile() % WARPGROUP == 0) {
            prefetch_map(map_of(args, 0));
            prefetch_map(map_of(args, 1));
        }
        produce_all(shared.schedule, shared.ring, args);
    } else if (warpgroup < args.num_consumers) {
        registers_raise<CONSUMER_REGISTERS>();
        State state;
        state.tile = 0;
        f32 s[KEY_TILES][4] = {};
        const Turn& turn = shared.schedule.taken;
#pragma unroll 1
        while (true) {
            // Nobody needs the turn before any more.
            meet(shared, 0);
            if (thread_of_tile() == 0) {
                take(shared.schedule);
            }
            meet(shared, 1);
            if (turn.kind == END) {
                break;
            }
            if (turn.kind == NOTHING_SEEN) {
                const Item& item = turn.item;
                merge_nothing(args, item.rows, item.num_queries / GROUP, item.share, args.num_consumers * 4);
            } else if (turn.kind != PAUSE) {
                attend(shared, state, s, args);
            }
        }
    }
}
