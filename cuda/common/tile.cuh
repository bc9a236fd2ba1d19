// tile.cuh: the tiles of queries, keys and values that a workgroup shares, and how they get there: places of keys
// first, one thread per key through the page table, then asynchronous copies of 16 bytes. After async.cuh.

constexpr u32 QUERIES = 64;
constexpr u32 THREADS = 128;
// Queries of a warp: the rows of one matrix product.
constexpr u32 WARP_QUERIES = 16;
// A thread has scores of 2 queries (lane / 4 and 8 more) and 2 neighbouring keys in each group of 8 keys; of outputs,
// likewise 2 x 2 in each group of 8 lanes of the value.
constexpr u32 KEY_TILES = KEYS / 8;
constexpr u32 VALUE_TILES = VALUE_DIM / 8;

DEVICE constexpr u32 round_up(u32 x, u32 multiple) {
    return (x + multiple - 1) / multiple * multiple;
}

// Matrix products take 16 lanes of a head at a time; the lanes behind the head dim are zero in q and k.
constexpr u32 PADDED_DIM = USES_MATRIX_UNITS ? round_up(HEAD_DIM, 16) : HEAD_DIM;
// Chunks of 16 bytes: of a key and a value, and of their rows in shared memory, which have an even number.
constexpr u32 KEY_CHUNKS = HEAD_DIM * sizeof(k_t) / 16;
constexpr u32 VALUE_CHUNKS = VALUE_DIM * sizeof(v_t) / 16;
constexpr u32 KEY_ROW = round_up(KEY_CHUNKS, 2);
constexpr u32 VALUE_ROW = round_up(VALUE_CHUNKS, 2);
// Queries lie in shared memory as matrix products take them (16 bits, in parts that add up), or as f32.
constexpr u32 QUERY_ROW = PADDED_DIM * (USES_MATRIX_UNITS ? 2 : 4) / 16;
constexpr u32 QUERY_PART = QUERIES * QUERY_ROW * 16;

// The place of a key that nobody sees: zeros in shared memory, not read.
constexpr u64 NOWHERE = ~0ull;

static_assert(KEYS % (THREADS / 8) == 0 && KEYS <= THREADS, "a pass of all threads loads whole keys");

struct Shared {
    u8 queries[QUERY_PARTS * QUERY_PART];
    u8 keys[STAGES][KEYS * KEY_ROW * 16];
    u8 values[STAGES][KEYS * VALUE_ROW * 16];
    // Where each key's K and V lie, in chunks of 4 elements.
    u64 key_places[2][KEYS];
    u64 value_places[2][KEYS];
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

// The thread's number, which the compiler does not know to be the same in every tile: what is computed from it stays
// where it is used, instead of being kept in registers over the whole loop, a hundred addresses and more.
DEVICE u32 thread_of_tile() {
    u32 thread = threadIdx.x;
#ifndef COLATENT_SIM
    asm volatile("" : "+r"(thread));
#endif
    return thread;
}

// The first query of the thread; the other is 8 behind it.
DEVICE u32 query_of(u32 thread) {
    return thread / 32 * WARP_QUERIES + thread % 32 / 4;
}

// A tile of keys among an item's: its run, a word of the tables, and its first token.
struct Cursor {
    u32 run, token;
};

// The tile behind it, or the item's last run.
template <class Args> DEVICE void advance(Cursor& cursor, u32 last_run, const Args& args) {
    cursor.token += KEYS;
    if (cursor.run != last_run && cursor.token >= args.tables[cursor.run + 1]) {
        cursor.run += 8;
        cursor.token = cursor.run == last_run ? 0 : args.tables[cursor.run];
    }
}

// Finds where the keys of tile number `tile` lie, if there is one; `pages` is a word of the tables. Places are there
// after a barrier.
template <class Args>
DEVICE void find_places(Shared& shared, u32 tile, Cursor cursor, u32 last_run, const Args& args, u32 pages,
                        u32 kv_head) {
    if (cursor.run == last_run || threadIdx.x >= KEYS) {
        return;
    }
    const auto& params = args.params;
    const u32* run = args.tables + cursor.run;
    const u32 token = cursor.token + threadIdx.x;
    u64 key_place = NOWHERE, value_place = NOWHERE;
    // From the first token that any row sees.
    if (token >= run[6] && token < run[1]) {
        const u64 page = args.tables[pages + token / params.page_size], slot = token % params.page_size;
        key_place = page * params.k_page_stride + slot * params.k_token_stride + u64(kv_head) * params.k_head_stride;
        value_place = page * params.v_page_stride + slot * params.v_token_stride + u64(kv_head) * params.v_head_stride;
    }
    shared.key_places[tile % 2][threadIdx.x] = key_place;
    shared.value_places[tile % 2][threadIdx.x] = value_place;
}

// Starts the copy of what the places say, CHUNKS chunks of 16 bytes of each key, into rows of ROW chunks. 8 lanes share
// a key: 128 neighbouring bytes at a time.
template <u32 CHUNKS, u32 ROW, class T> DEVICE void load_rows(u8* rows, const T* pages, const u64* places) {
    const u32 thread = thread_of_tile(), first_key = thread / 8, first_chunk = thread % 8;
#pragma unroll
    for (u32 key = 0; key < KEYS; key += THREADS / 8) {
        const u64 place = places[first_key + key];
        const bool is_seen = place != NOWHERE;
        const T* source = is_seen ? pages + place * 4 + first_chunk * (16 / sizeof(T)) : pages;
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
template <class Args> DEVICE void load_tile(Shared& shared, u32 tile, const Args& args) {
    const u32 stage = tile % STAGES;
    load_rows<KEY_CHUNKS, KEY_ROW>(shared.keys[stage], args.k, shared.key_places[tile % 2]);
    load_rows<VALUE_CHUNKS, VALUE_ROW>(shared.values[stage], args.v, shared.value_places[tile % 2]);
    copy_async_commit();
}

// What the two queries of a thread see of a run: `count` tokens from `first`.
struct Sight {
    u32 first[2], count[2];
};

// What they do not see all the same: `count` tokens from `first`.
struct Gap {
    u32 first[2], count[2];
};

DEVICE bool sees(const Sight& sight, const Gap& gap, u32 query, u32 token) {
    const bool is_in_run = token - sight.first[query] < sight.count[query];
    return is_in_run && !(HAS_GAP && token - gap.first[query] < gap.count[query]);
}

// Two neighbouring lanes of a value.
struct Pair {
    f32 x, y;
};

DEVICE Pair load_pair(const f32* base) {
    const u32x2 words = *reinterpret_cast<const u32x2*>(base);
    return Pair{__uint_as_float(words.x), __uint_as_float(words.y)};
}

template <class T> DEVICE Pair load_pair(const T* base) {
    const u32 word = *reinterpret_cast<const u32*>(base);
    return Pair{to_f32(T{u16(word)}), to_f32(T{u16(word >> 16)})};
}

// This thread's lanes in group `n` of 8 lanes of the value of key 8 * keys + key.
DEVICE Pair value_pair(const u8* values, u32 keys, u32 key, u32 n, u32 lane) {
    // 8 lanes are one chunk of 16-bit elements, two of f32.
    constexpr u32 IN_8 = sizeof(v_t) / 2;
    const u32 pair = lane % 4;
    const u8* place = chunk_at<VALUE_ROW>(values, keys, key, n * IN_8 / 8, n * IN_8 % 8 + pair * IN_8 / 4);
    return load_pair(reinterpret_cast<const v_t*>(place) + pair % (4 / IN_8) * 2);
}

// -- with care: NaN and infinities of V reach the queries that see their key, and no others

DEVICE bool is_unbounded(f32 x) {
    return (__float_as_uint(x) & 0x7f800000) == 0x7f800000;
}

// Adds what is NaN or infinite, and nothing else, to the outputs of the queries that see it.
DEVICE void add_unbounded(f32 (&o)[VALUE_TILES][4], const Sight& sight, const Gap& gap, u32 token,
                          const Shared& shared, u32 stage) {
    const u32 lane = thread_of_tile() % 32;
#pragma unroll 1
    for (u32 key = 0; key < KEYS; key++) {
        const bool is_seen[2] = {sees(sight, gap, 0, token + key), sees(sight, gap, 1, token + key)};
#pragma unroll
        for (u32 n = 0; n < VALUE_TILES; n++) {
            const Pair v = value_pair(shared.values[stage], 0, key, n, lane);
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                const f32 x = e % 2 == 0 ? v.x : v.y;
                o[n][e] = is_unbounded(x) && is_seen[e / 2] ? o[n][e] + x : o[n][e];
            }
        }
    }
}

// Puts 0 in its place. All threads take part, between barriers.
DEVICE void clear_unbounded(Shared& shared, u32 stage) {
    v_t* values = reinterpret_cast<v_t*>(shared.values[stage]);
    for (u32 i = threadIdx.x; i < KEYS * VALUE_ROW * (16 / sizeof(v_t)); i += THREADS) {
        if (is_unbounded(to_f32(values[i]))) {
            values[i] = v_t{};
        }
    }
}
