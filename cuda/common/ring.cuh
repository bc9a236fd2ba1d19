// ring.cuh: stages of keys and values between the warpgroup that loads them and those that multiply. After panel.cuh,
// bulk.cuh, fragment.cuh, item.cuh and cursor.cuh.
// Keys and values have barriers of their own: the keys of a tile can be on their way while the values of the one before
// are still in use. `full` ends a phase when all threads of the producer have their copies in place, `empty` when all
// warps of the consumers are done with the stage.
// A tile comes in boxes of BOX keys, bulk copies of a thread each, where all of its keys are seen and no box lies in two
// pages; else by copies of 16 bytes, which put zeros in the place of keys that nobody sees. BOX = 0: always.

constexpr u32 WARPGROUP = 128;
typedef Panels<KEYS, HEAD_DIM> KeyPanels;
typedef Panels<KEYS, VALUE_DIM> ValuePanels;

// Keys of a box, or of any where there are none.
constexpr u32 BOX_KEYS = BOX != 0 ? BOX : KEYS;

// The kernel's argument.
struct BulkArgs : AttentionArgs {
    // Of K and of V: [page][KV head][slot][lane].
    TensorMap maps[2];
    // A driver may refuse the strides of a tensor.
    u32 has_maps;
    // Consumers that have queries of any item: 1 or 2.
    u32 num_consumers;
    // Shares of all items.
    u32 num_shares;
    u32 padding;
    // Shares that were taken besides each workgroup's first; 0 between launches.
    u32* tickets;
    // [share of an item]: the one that was put off before it; see schedule.cuh.
    u32* put_off;
};
// Where the maps lie in it, in bytes.
constexpr u64 MAPS = (sizeof(AttentionArgs) + 127) / 128 * 128;
static_assert(sizeof(BulkArgs) == MAPS + 3 * 128, "what the host lays out");

// On 1024 bytes.
struct Ring {
    u8 keys[STAGES][KeyPanels::BYTES];
    u8 values[STAGES][ValuePanels::BYTES];
    Mbarrier keys_full[STAGES], keys_empty[STAGES];
    Mbarrier values_full[STAGES], values_empty[STAGES];
    // 0, which a compiler does not know.
    u32 first;
};

// Where no register is left, nothing that can be worked out again is kept from tile to tile.
constexpr bool IS_CROWDED = STAGES == 1 || VALUE_DIM == 256;

// The stage of tile number `tile`. What is known of it, most of all for a single one, makes constants of addresses, and a
// compiler keeps each in a register over the loop rather than add it up where it is used.
DEVICE u32 stage_of(const Ring& ring, u32 tile) {
    const u32 first = IS_CROWDED ? ring.first : 0;
    return STAGES == 1 ? first : (first + tile) % STAGES;
}

// The phase in which stage `tile % STAGES` is filled for tile number `tile`, and emptied by it.
DEVICE u32 parity_of(u32 tile) {
    return tile / STAGES % 2;
}

// One arrival of a warp: it no longer uses what it has read.
DEVICE void release(Mbarrier& empty) {
    if (thread_of_tile() % 32 == 0) {
        mbarrier_arrive(empty);
    }
}

DEVICE void init_ring(Ring& ring, u32 consumer_warps) {
    ring.first = 0;
    for (u32 i = 0; i < STAGES; i++) {
        mbarrier_init(ring.keys_full[i], WARPGROUP);
        mbarrier_init(ring.values_full[i], WARPGROUP);
        mbarrier_init(ring.keys_empty[i], consumer_warps);
        mbarrier_init(ring.values_empty[i], consumer_warps);
    }
}

// What the elements of a key are counted from that nobody sees.
constexpr u64 NOWHERE = ~0ull;

// Starts the copy of the keys of a tile, LANES lanes of each. A warp of the producer has KEYS / 4 of them, lane l what the
// elements of its l-th are counted from; 8 lanes copy a key: 128 neighbouring bytes at a time.
template <class Rows, u32 LANES, class T> DEVICE void load_panels(u8* rows, const T* pages, u64 chunk_of_key) {
    static_assert(sizeof(T) == 2 && LANES % 8 == 0, "operands of matrix products");
    const u32 thread = thread_of_tile(), warp = thread / 32 % 4, lane = thread % 32;
    // All at once take more registers than the producer has.
#pragma unroll 2
    for (u32 key = 0; key < KEYS / 4; key += 4) {
        const u64 own = shuffle(chunk_of_key, key + lane / 8);
        const bool is_seen = own != NOWHERE;
        const T* source = is_seen ? pages + own * 4 + lane % 8 * 8 : pages;
#pragma unroll
        for (u32 chunk = 0; chunk < LANES / 8; chunk += 8) {
            if (LANES % 64 == 0 || lane % 8 + chunk < LANES / 8) {
                u8* target = rows + Rows::place(warp * (KEYS / 4) + key + lane / 8, chunk + lane % 8);
                copy_async_16(target, is_seen ? source + chunk * 8 : source, is_seen);
            }
        }
    }
}

// The address of a map, which is read in place. Not by `&`: a compiler that sees an address of the argument taken reads no
// part of it as constants any more, and a consumer has no registers for that.
DEVICE u64 map_of(const BulkArgs& args, u32 i) {
#ifdef COLATENT_SIM
    return u64(&args.maps[i]);
#else
    u64 address;
    asm volatile("cvta.param.u64 %0, attention_sm90_param_0;" : "=l"(address));
    return address + MAPS + i * sizeof(TensorMap);
#endif
}

// Whether bulk copies bring the cursor's tile.
DEVICE bool is_boxed(Cursor cursor, const BulkArgs& args) {
    const u32* run = args.tables + cursor.run;
    const u32 page_size = args.params.page_size, slot = cursor.token % page_size;
    const bool is_seen = cursor.token >= run[6] && cursor.token + KEYS <= end_of_seen(args, run);
    return args.has_maps != 0 && is_seen && (slot % BOX_KEYS == 0 || slot + KEYS <= page_size);
}

// Starts the copies of a tile's boxes, thread i those of box i, which begins at `place`.
template <class Rows, u32 LANES>
DEVICE void load_boxes(u8* rows, u64 map, Place place, u32 head, Mbarrier& full) {
    const u32 box = thread_of_tile() % WARPGROUP;
    if (box >= KEYS / BOX_KEYS) {
        mbarrier_arrive(full);
        return;
    }
    mbarrier_arrive_expect(full, BOX_KEYS * LANES * 2);
#pragma unroll
    for (u32 panel = 0; panel < Rows::BYTES / Rows::PANEL; panel++) {
        u8* target = rows + panel * Rows::PANEL + box * (BOX_KEYS * Rows::SWIZZLE);
        copy_box(target, map, panel * (Rows::SWIZZLE / 2), place.slot, head, place.page, full);
    }
}

// Fills the ring with all tiles of the item, the first of which is number `tile`; returns the number behind the last. The
// places of a tile are looked up while the copies of the one before are on their way.
DEVICE u32 produce(Ring& ring, u32 tile, const Item& item, const BulkArgs& args) {
    const u32 thread = thread_of_tile(), key = thread / 32 % 4 * (KEYS / 4) + thread % 32 % (KEYS / 4);
    Cursor cursor = {item.first_run, args.tables[item.first_run]};
    // Of this thread's key, or of its box.
    Place place = {NO_PAGE, 0};
    bool is_bulk = false;
    const auto look_up = [&] {
        is_bulk = BOX != 0 && is_boxed(cursor, args);
        const u32 box = thread_of_tile() % WARPGROUP % (KEYS / BOX_KEYS);
        place = place_of(cursor, is_bulk ? box * BOX_KEYS : key, args, item.pages);
    };
    look_up();
#pragma unroll 1
    for (; cursor.run != item.last_run; tile++) {
        const u32 stage = tile % STAGES;
        const bool was_bulk = is_bulk;
        mbarrier_wait(ring.keys_empty[stage], parity_of(tile) ^ 1);
        if (was_bulk) {
            load_boxes<KeyPanels, HEAD_DIM>(ring.keys[stage], map_of(args, 0), place, kv_head_of(item.share),
                                            ring.keys_full[stage]);
        } else {
            const u64 chunk = place.page == NO_PAGE ? NOWHERE : key_chunk(place, args.params, item.share);
            load_panels<KeyPanels, HEAD_DIM>(ring.keys[stage], args.k, chunk);
            copy_async_arrive(ring.keys_full[stage]);
        }
        const Place value_place = place;
        advance(cursor, item.last_run, args);
        if (cursor.run != item.last_run) {
            look_up();
        }
        mbarrier_wait(ring.values_empty[stage], parity_of(tile) ^ 1);
        if (was_bulk) {
            load_boxes<ValuePanels, VALUE_DIM>(ring.values[stage], map_of(args, 1), value_place, kv_head_of(item.share),
                                               ring.values_full[stage]);
        } else {
            const u64 chunk = value_place.page == NO_PAGE ? NOWHERE : value_chunk(value_place, args.params, item.share);
            load_panels<ValuePanels, VALUE_DIM>(ring.values[stage], args.v, chunk);
            copy_async_arrive(ring.values_full[stage]);
        }
    }
    return tile;
}
