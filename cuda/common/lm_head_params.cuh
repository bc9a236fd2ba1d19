// lm_head_params.cuh: the numbers of a call and the record of a slice, for both kernels of the operation. After
// prelude.cuh.

struct LmHeadParams {
    u32 rows;
    u32 vocab;
    u32 width; // chunks
    u32 slices;
    u32 hidden_base; // 0: the pointers begin at the first element
    u32 hidden_row; // chunks
    u32 weight_base;
    u32 weight_row;
    u32 seed_low;
    u32 seed_high;
    f32 cap_scale; // output_multiplier / cap
    f32 cap_limit; // |l| beyond which tanh is 1
    u32 list; // keys of a record
    u32 stride; // words of a record
    u32 second; // 1 in the second round
    u32 pad_0;
};

// What a slice leaves of a row. Behind it the largest keys in order, 0 where there are fewer.
struct SliceRecord {
    u32 top_key; // 0: no finite logit
    u32 top_id;
    f32 exp_sum; // of e^z, z = x - the slice's largest
    f32 exp_z_sum; // of z e^z
    f32 best; // the greatest z + gumbel of a kept token
    u32 best_id; // NO_TOKEN: none
    f32 best_logit;
    u32 undefined; // whether a logit is NaN or +inf
};
constexpr u32 RECORD = 8; // its words

// Key 0 for what is not finite; see draw.cuh.
DEVICE u32 finite_key(f32 x) {
    const u32 key = key_of(x);
    return key >= LOWEST_KEY && x < __uint_as_float(INFINITY_BITS) ? key : 0;
}

// The larger key, of equal ones the lower id.
DEVICE u64 ranked(u32 key, u32 id) {
    return u64(key) << 32 | u32(~id);
}

DEVICE u64 warp_best(u64 best) {
    for (u32 mask = 16; mask > 0; mask /= 2) {
        best = max(best, shuffle_xor(best, mask));
    }
    return best;
}
