// lm_head_params.wgsl: the numbers of a call, for both kernels of the operation.

struct LmHeadParams {
    rows: u32,
    vocab: u32,
    width: u32, // chunks
    slices: u32,
    hidden_base: u32, // chunks
    hidden_row: u32,
    weight_base: u32,
    weight_row: u32,
    seed_low: u32,
    seed_high: u32,
    cap_scale: f32, // output_multiplier / cap
    cap_limit: f32, // |l| beyond which tanh is 1
    list: u32, // keys of a record
    stride: u32, // words of a record
    second: u32, // 1 in the second round
    pad_0: u32,
}
