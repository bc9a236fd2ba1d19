// tile.cuh: the tiles of queries, keys and values that a workgroup shares, and how they get there: places of keys
// first, one thread per key through the page table, then asynchronous copies of 16 bytes. After async.cuh,
// fragment.cuh, cursor.cuh, token_scales.cuh, chosen.cuh and unbounded.cuh.

// A warp for 16 queries.
constexpr u32 THREADS = QUERIES * 2;

DEVICE constexpr u32 round_up(u32 x, u32 multiple) {
    return (x + multiple - 1) / multiple * multiple;
}

// Matrix products take 16 lanes of a head at a time; the lanes behind the head dim are zero in q and k.
constexpr u32 PADDED_DIM = USES_MATRIX_UNITS ? round_up(HEAD_DIM, 16) : HEAD_DIM;
// Lanes of a key's tail: behind the value, as bf16 behind its codes.
constexpr u32 TAIL_DIM = HAS_TAIL ? HEAD_DIM - VALUE_DIM : 0;
// Chunks of 16 bytes: of a key and a part of a value, and of their rows in shared memory, which have an even number.
constexpr u32 KEY_CHUNKS = ((HEAD_DIM - TAIL_DIM) * sizeof(k_t) + TAIL_DIM * sizeof(bf16)) / 16;
constexpr u32 VALUE_CHUNKS = PART_DIM * sizeof(v_t) / 16;
constexpr u32 KEY_ROW = round_up(KEY_CHUNKS, 2);
constexpr u32 VALUE_ROW = round_up(VALUE_CHUNKS, 2);
// Queries lie in shared memory as matrix products take them (16 bits, in parts that add up), or as f32.
constexpr u32 QUERY_ROW = PADDED_DIM * (USES_MATRIX_UNITS ? 2 : 4) / 16;
constexpr u32 QUERY_PART = QUERIES * QUERY_ROW * 16;

static_assert(KEYS % (THREADS / 8) == 0 && KEYS <= THREADS, "a pass of all threads loads whole keys");

struct Shared : TokenScales {
    u8 queries[QUERY_PARTS * QUERY_PART];
    u8 keys[STAGES][KEYS * KEY_ROW * 16];
    u8 values[STAGES][KEYS * VALUE_ROW * 16];
    // Where each key lies, of this tile and the next. Not what its K and V are counted from: that would be twice the room,
    // and at 128 lanes two workgroups would not fit into the 164 KiB of sm_80 any more.
    Place places[2][KEYS];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "the host asks for what the kernel uses");

// Chunk `chunk` of row `row` of a tile whose rows have ROW chunks. The lowest bits of the chunk are turned by the row,
// so that 8 neighbouring rows have it in 8 different places of the 128 bytes that are served at once. Rows and chunks
// that are 8 apart differ by a constant: `rows` and `chunks`, the parts known at compile time, count such steps.
template <u32 ROW, class Byte> DEVICE Byte* chunk_at(Byte* tile, u32 rows, u32 row, u32 chunks, u32 chunk) {
    static_assert(ROW % 2 == 0, "rows have an even number of chunks");
    constexpr u32 BITS = ROW % 8 == 0 ? 3 : ROW % 4 == 0 ? 2 : 1;
    const u32 turned = chunk ^ ((row >> (3 - BITS)) & ((1u << BITS) - 1));
    return tile + (row * ROW + turned) * 16 + (rows * ROW + chunks) * 128;
}

// Finds where the keys of tile number `tile` lie, if there is one; `rows` and `pages` are words of the tables. Places are
// there after a barrier. A key that no row of the item chose has none: it is not read. Returns whether this thread's has.
DEVICE bool find_places(Shared& shared, u32 tile, Cursor cursor, u32 last_run, const AttentionArgs& args, u32 rows,
                        u32 num_rows, u32 pages, u32 share) {
    if (cursor.run == last_run || threadIdx.x >= KEYS) {
        return false;
    }
    Place place = place_of(cursor, threadIdx.x, args, pages);
    if (HAS_SELECTION && place.page != NO_PAGE && !is_chosen(args, rows, num_rows, cursor.token + threadIdx.x)) {
        place.page = NO_PAGE;
    }
    shared.places[tile % 2][threadIdx.x] = place;
    find_scales(shared, tile, cursor, args, pages, share);
    return place.page != NO_PAGE;
}

// A barrier; behind it, whether the tile of which the threads found these keys has any that somebody chose.
DEVICE bool barrier_of_tile(bool is_found) {
    if (HAS_SELECTION) {
        return __syncthreads_or(is_found) != 0;
    }
    __syncthreads();
    return true;
}

// Starts the copy of CHUNKS chunks of 16 bytes of each key, from where `chunk_of` says of its place, into rows of ROW chunks.
// 8 lanes share a key: 128 neighbouring bytes at a time.
template <u32 CHUNKS, u32 ROW, class T, class F>
DEVICE void load_rows(u8* rows, const T* pages, const Place* places, F chunk_of) {
    const u32 thread = thread_of_tile(), first_key = thread / 8, first_chunk = thread % 8;
#pragma unroll
    for (u32 key = 0; key < KEYS; key += THREADS / 8) {
        const Place place = places[first_key + key];
        const bool is_seen = place.page != NO_PAGE;
        const T* source = is_seen ? pages + chunk_of(place) * 4 + first_chunk * (16 / sizeof(T)) : pages;
#pragma unroll
        for (u32 chunk = 0; chunk < CHUNKS; chunk += 8) {
            if (CHUNKS % 8 == 0 || first_chunk + chunk < CHUNKS) {
                u8* target = chunk_at<ROW>(rows, key / 8, first_key, chunk / 8, first_chunk);
                copy_async_16(target, is_seen ? source + chunk * (16 / sizeof(T)) : source, is_seen);
            }
        }
    }
}

// Starts the copy of tile number `tile` into its stage. All threads take part.
DEVICE void load_tile(Shared& shared, u32 tile, const AttentionArgs& args, u32 share) {
    const u32 stage = tile % STAGES;
    const Place* places = shared.places[tile % 2];
    const AttentionParams& params = args.params;
    load_rows<KEY_CHUNKS, KEY_ROW>(shared.keys[stage], args.k, places,
                                   [&](Place place) { return key_chunk(place, params, of_tile(share)); });
    load_rows<VALUE_CHUNKS, VALUE_ROW>(shared.values[stage], args.v, places,
                                       [&](Place place) { return value_chunk(place, params, of_tile(share)); });
    copy_async_commit();
}

// This thread's lanes in group `n` of 8 lanes of the value of key 8 * keys + key.
DEVICE Pair value_pair(const u8* values, u32 keys, u32 key, u32 n, u32 lane) {
    // 8 lanes are one chunk of 16-bit elements, two of f32, half a chunk of codes.
    constexpr u32 SIZE = sizeof(v_t);
    const u32 first = n * SIZE / 2, byte = n * 8 * SIZE % 16 + lane % 4 * 2 * SIZE;
    const u8* place = chunk_at<VALUE_ROW>(values, keys, key, first / 8, first % 8 + byte / 16);
    return load_pair(reinterpret_cast<const v_t*>(place + byte % 16));
}
