// attention_sm90.cu: attention of a work list on Hopper: matrix products of warpgroups, fed by a warpgroup
// that only loads. What it computes is what attention.cu computes.
// Maths     as attention.cu: per tile of keys S = Q K^T, m' = max(m, S), P = exp2(S - m'), O = O * exp2(m - m') + P V.
// Shapes    q [row, num_q_heads, head dim]; k, v [page, num_kv_heads, page_size, dim], q, k, v of one 16-bit type;
//           partials, lse, outputs and arrivals as attention.cu.
// Tables    as attention.cu.
// Grid      one workgroup of 3 warpgroups per (item, KV head). A tile is 128 queries (rows x heads of the group) x KEYS
//           keys. More rows are more tiles of the same shape.
// Roles     warpgroups 0 and 1 consume: 64 queries each, over all keys; the second leaves where there are at most 64.
//           Warpgroup 2 produces: it looks keys up in the page table and copies them, in boxes of whole tiles or parts of
//           them where pages are that large, 16 bytes at a time from pages of any size and strides. A thread has the scores
//           and outputs of fragment.cuh; queries never mix, so that a row's bits do not depend on its neighbours in the tile.
// Pipeline  a ring of STAGES tiles of keys and of values. A consumer issues the scores of the next tile before the
//           outputs of this one, and does the softmax of the next while the outputs are summed:
//             scores(t + 1) | outputs(t) |              rescale by t + 1, weights(t + 1) -> registers
//                            softmax(t + 1) ............|
// Numerics  as attention.cu, of which it differs in the order of sums: f32 sums, finite sentinels, weights and turned
//           queries in two 16-bit parts; NaN and infinities of V bring a second pass with care, without overlap.
// Limits    head dims (64, 64), (96, 96), (128, 128), (256, 256), (192, 128); K and V lie on 16 bytes, q on chunks.
//           sm_90a; at most 227 KiB of shared memory, one workgroup per multiprocessor.
// Constants KEYS, BOX, STAGES, GROUP, HEAD_PARTS, HEAD_DIM, VALUE_DIM, VALUE_PARTS = 1, QUERY_PARTS, WEIGHT_PARTS,
//           SHARED_BYTES, HAS_SOFT_CAP, HAS_GAP, HAS_SHIFT, HAS_STEPS, PAIRS_ARE_HALVES, ROPE_FIRST, ROPE_PAIRS,
//           ROTATION = 0; storage q, k, v, gate, out.
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

constexpr u32 CONSUMERS = 2;
constexpr u32 THREADS = (CONSUMERS + 1) * WARPGROUP;
// Queries of a consumer: the rows of one product.
constexpr u32 CONSUMER_QUERIES = 64;
// Registers of a thread: what 3 warpgroups have at the start is shared out again.
constexpr u32 PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;

typedef Panels<CONSUMER_QUERIES, HEAD_DIM> QueryPanels;
constexpr u32 KEY_STEPS = KEYS / 16;

DEVICE u32 num_consumers(const Item& item) {
    return (item.num_queries + CONSUMER_QUERIES - 1) / CONSUMER_QUERIES;
}

struct Shared {
    u8 queries[CONSUMERS][QUERY_PARTS][QueryPanels::BYTES];
    Ring ring;
    // Queries of a consumer are in place; all consumers have passed over all keys; consumers meet, with care.
    Mbarrier queries_full[CONSUMERS], passed, met;
    // Whether any output shows NaN or an infinity.
    u32 is_unbounded;
    // Not in registers, which are scarce.
    Item item;
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "the host asks for what the kernel uses");
static_assert(QueryPanels::BYTES % 1024 == 0 && KeyPanels::BYTES % 1024 == 0 && ValuePanels::BYTES % 1024 == 0, "atoms");

// What a consumer's thread carries from tile to tile.
struct State {
    f32 out[VALUE_TILES][4];
    f32 most[2], total[2];
    Cursor cursor;
    // Tiles before this one, over all passes.
    u32 tile;
};

// Puts the consumer's queries into shared memory, zeros behind the last.
DEVICE void load_queries(Shared& shared, u32 consumer, const Item& item, const AttentionArgs& args) {
    constexpr u32 CHUNKS = HEAD_DIM / 4;
    for (u32 i = threadIdx.x % WARPGROUP; i < CONSUMER_QUERIES * CHUNKS; i += WARPGROUP) {
        const u32 own = i / CHUNKS, chunk = i % CHUNKS, query = consumer * CONSUMER_QUERIES + own;
        f32x4 x = {0.0f, 0.0f, 0.0f, 0.0f};
        if (query < item.num_queries) {
            x = query_chunk(args, item.rows, query, chunk, item.share);
        }
        const u32 place = QueryPanels::place(own, chunk / 2) + chunk % 2 * 8;
        *reinterpret_cast<u32x2*>(shared.queries[consumer][0] + place) =
            u32x2{pack<q_t>(x.x, x.y), pack<q_t>(x.z, x.w)};
        if constexpr (QUERY_PARTS == 2) {
            *reinterpret_cast<u32x2*>(shared.queries[consumer][1] + place) =
                u32x2{pack<q_t>(rest<q_t>(x.x), rest<q_t>(x.y)), pack<q_t>(rest<q_t>(x.z), rest<q_t>(x.w))};
        }
    }
    fence_proxy_async();
    mbarrier_arrive(shared.queries_full[consumer]);
    mbarrier_wait(shared.queries_full[consumer], 0);
}

// s = Q K^T, once the keys are there.
DEVICE void issue_scores(f32 (&s)[KEY_TILES][4], Shared& shared, u32 consumer, u32 tile) {
    Ring& ring = shared.ring;
    const u32 stage = stage_of(ring, tile);
    mbarrier_wait(ring.keys_full[stage], parity_of(tile));
    fence_proxy_async();
    wgmma_fence();
    const u64 keys = KeyPanels::k_major(shared_address(ring.keys[stage]));
    // The number of the consumer is not kept either (ring.cuh).
    const u32 own = IS_CROWDED ? shuffle(thread_of_tile() / WARPGROUP, 0) : consumer;
    const u64 queries = QueryPanels::k_major(shared_address(shared.queries[own]));
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

// The stage's keys, or values, are no longer used by this warp.
DEVICE void release(Mbarrier& empty) {
    if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(empty);
    }
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
                p[step * WEIGHT_PARTS + 1][i] = pack<v_t>(rest<v_t>(x), rest<v_t>(y));
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
DEVICE void pass(Shared& shared, u32 consumer, State& state, f32 (&s)[KEY_TILES][4],
                 const Item& item, const AttentionArgs& args) {
    Ring& ring = shared.ring;
    u32 p[KEY_STEPS * WEIGHT_PARTS][4];
    f32 shrink[2];
    begin(state, item, args);
    wgmma_hold(s);
    issue_scores(s, shared, consumer, state.tile);
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
        issue_scores(s, shared, consumer, state.tile);
        issue_outputs(state.out, p, ring, state.tile - 1);
        wgmma_wait<1>();
        wgmma_hold(s);
        release(ring.keys_empty[stage_of(ring, state.tile)]);
        soften(s, state, shrink, item, args);
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

// The same with care: NaN and infinities of V are added by hand, and 0 takes their place.
DEVICE void careful_pass(Shared& shared, u32 consumer, State& state, f32 (&s)[KEY_TILES][4],
                         const Item& item, const AttentionArgs& args) {
    Ring& ring = shared.ring;
    u32 p[KEY_STEPS * WEIGHT_PARTS][4];
    f32 shrink[2];
    begin(state, item, args);
#pragma unroll 1
    for (bool has_next = true; has_next;) {
        wgmma_hold(s);
        issue_scores(s, shared, consumer, state.tile);
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
        // Two meetings per tile: phases 0 and 1.
        mbarrier_arrive(shared.met);
        mbarrier_wait(shared.met, 0);
        clear_unbounded(reinterpret_cast<v_t*>(values), KEYS * VALUE_DIM, thread_of_tile(),
                        num_consumers(item) * WARPGROUP);
        fence_proxy_async();
        mbarrier_arrive(shared.met);
        mbarrier_wait(shared.met, 1);
        wgmma_hold(p);
        wgmma_hold(state.out);
        issue_outputs(state.out, p, ring, state.tile);
        wgmma_wait<0>();
        wgmma_hold(state.out);
        wgmma_hold(p);
        release(ring.values_empty[stage_of(ring, state.tile)]);
        has_next = step(state, item, args);
    }
}

KERNEL(attention_sm90, BulkArgs, THREADS, 1) {
    Shared& shared = shared_memory<Shared>();
    const Item& item = shared.item;
    // The same for all lanes, which the compiler does not know without the shuffle.
    const u32 warpgroup = shuffle(threadIdx.x / WARPGROUP, 0);
    if (threadIdx.x == 0) {
        shared.item = item_of(args);
        init_ring(shared.ring, num_consumers(item) * 4);
        mbarrier_init(shared.passed, num_consumers(item) * 4);
        mbarrier_init(shared.met, num_consumers(item) * WARPGROUP);
        for (u32 i = 0; i < CONSUMERS; i++) {
            mbarrier_init(shared.queries_full[i], WARPGROUP);
        }
        shared.is_unbounded = 0;
        // Bulk copies count at barriers.
        fence_proxy_async();
    }
    __syncthreads();

    if (item.first_run == item.last_run || have_ended(args, item.rows, item.num_queries / GROUP)) {
        merge_nothing(args, item.rows, item.num_queries / GROUP, item.share, THREADS / 32);
        return;
    }
    if (warpgroup == CONSUMERS) {
        registers_lower<PRODUCER_REGISTERS>();
        if (BOX != 0 && args.has_maps != 0 && thread_of_tile() % WARPGROUP == 0) {
            prefetch_map(map_of(args, 0));
            prefetch_map(map_of(args, 1));
        }
        const u32 tile = produce(shared.ring, 0, item, args);
        mbarrier_wait(shared.passed, 0);
        if (shared.is_unbounded != 0) {
            produce(shared.ring, tile, item, args);
            // Who leaves has nothing on its way.
            copy_async_commit();
            copy_async_wait<0>();
        }
    } else if (warpgroup < num_consumers(item)) {
        registers_raise<CONSUMER_REGISTERS>();
        load_queries(shared, warpgroup, item, args);
        State state;
        state.tile = 0;
        f32 s[KEY_TILES][4] = {};
        pass(shared, warpgroup, state, s, item, args);
        const u32 query = query_of(threadIdx.x);
        const bool is_unbounded = (query < item.num_queries && shows_unbounded(state.out, 0)) ||
                                  (query + 8 < item.num_queries && shows_unbounded(state.out, 1));
        const bool is_any = warp_any(is_unbounded);
        if (threadIdx.x % 32 == 0) {
            if (is_any) {
                atomicOr(&shared.is_unbounded, 1u);
            }
            mbarrier_arrive(shared.passed);
        }
        mbarrier_wait(shared.passed, 0);
        if (shared.is_unbounded != 0) {
            careful_pass(shared, warpgroup, state, s, item, args);
        }
        write_partial(state.out, state.most, state.total, query_of(thread_of_tile()), item.num_queries,
                      item.first_state, item.share, args);
        merge_arrived(args, item.rows, item.num_queries / GROUP, item.share, num_consumers(item) * 4,
                      reinterpret_cast<u32*>(shared.queries), [&](u32 phase) {
                          // A careful pass has an even number of phases.
                          mbarrier_arrive(shared.met);
                          mbarrier_wait(shared.met, phase);
                      });
    }
}
