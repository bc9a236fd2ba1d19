// verify.cu: how far drafted tokens are the tokens that the model drew.
//
//   rows of a sequence: row 0 reads the last accepted token, row i > 0 draft i, a child of row parent[i] < i
//   current = 0; for i = 1, 2, ..: if parent[i] = current and draft[i] = target[current], current = i
//
// Shapes     sampled [rows] of (token, log_prob, ..); drafts [rows]; out [sequences][stride] words: accepted, token, row,
//            log_prob, then the rows of the accepted drafts, 0xffffffff behind the last.
//            tables: per sequence (first row, drafts, word where its parents begin), then the parents.
// Grid       one thread per sequence, blocks of THREADS. A tree has tens of drafts: one look at each, in order, is enough,
//            since parents come first.
//
// Header     THREADS: u32.

// #include "common/prelude.cuh"

struct Params {
    u32 sequences;
    u32 stride; // words
    u32 pad_0;
    u32 pad_1;
};

struct VerifyArgs {
    Params params;
    const u32* tables;
    const u32* sampled;
    const u32* drafts;
    u32* out;
};

constexpr u32 NO_TOKEN = 0xffffffffu;
constexpr u32 NO_ROW = 0xffffffffu;

KERNEL(verify, VerifyArgs, THREADS, 1) {
    const u32 sequence = blockIdx.x * THREADS + threadIdx.x;
    if (sequence >= args.params.sequences) {
        return;
    }
    const u32* table = args.tables + 3 * u64(sequence);
    const u32* parents = args.tables + table[2];
    const u32* sampled = args.sampled + 4 * u64(table[0]);
    const u32* drafts = args.drafts + table[0];
    u32* record = args.out + u64(sequence) * args.params.stride;
    u32 current = 0;
    u32 token = sampled[0];
    u32 accepted = 0;
    for (u32 i = 1; i <= table[1]; i++) {
        if (parents[i - 1] == current && token != NO_TOKEN && drafts[i] == token) {
            record[4 + accepted] = table[0] + i;
            accepted++;
            current = i;
            token = sampled[4 * i];
        }
    }
    for (u32 i = 4 + accepted; i < args.params.stride; i++) {
        record[i] = NO_ROW;
    }
    record[0] = accepted;
    record[1] = token;
    record[2] = table[0] + current;
    record[3] = sampled[4 * current + 1];
}
