// attention_args.cuh: what an attention kernel is given; see attention.cu for the tables. After state.cuh and
// steps.cuh.

// Field for field the params on the host. The offsets are 0: pointers begin at the first element.
struct AttentionParams {
    u32 num_q_heads;
    u32 num_kv_heads;
    u32 q_offset;
    u32 q_row_stride;
    u32 q_head_stride;
    u32 k_offset;
    u32 k_page_stride;
    u32 k_head_stride;
    u32 k_token_stride;
    u32 v_offset;
    u32 v_page_stride;
    u32 v_head_stride;
    u32 v_token_stride;
    f32 score_scale;
    f32 cap_scale;
    u32 page_size;
    // Multiplies outputs: the scale of all codes of V, or 1.
    f32 value_scale;
    // Offsets, 0, and strides of the scales of tokens, in elements.
    u32 k_scales_offset;
    u32 v_scales_offset;
    u32 scale_page_stride;
    u32 scale_head_stride;
    u32 scale_token_stride;
    u32 selection_words; // of a row
    u32 selection_size;  // words of all rows
};

struct AttentionArgs {
    AttentionParams params;
    MergeParams merge;
    const u32* tables;
    const q_t* q;
    const k_t* k;
    const v_t* v;
    f32* partials;
    f32* lse;
    u32* arrivals; // [row, KV head], zero between launches
    const f32* constants;
    const gate_t* gate; // [row, head, value], or null
    out_t* out; // [row, head, value]
    f32* out_lse; // [row, head], or null
    const u32* steps; // see steps.cuh
    const f32* k_scales; // [page, KV head, slot], or null
    const f32* v_scales;
    const u32* selection; // see chosen.cuh, or null
};

// One past the last token of a run that may be seen at this step: the bound of the first step, and a token a step.
DEVICE u32 end_of_seen(const AttentionArgs& args, const u32* run) {
    return HAS_STEPS ? min(run[1], run[7] + step_of(args.steps)) : run[1];
}
