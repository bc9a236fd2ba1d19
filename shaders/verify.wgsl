// verify: how far drafted tokens are the tokens that the model drew.
//
//   rows of a sequence: row 0 reads the last accepted token, row i > 0 draft i, a child of row parent[i] < i
//   current = 0; for i = 1, 2, ..: if parent[i] = current and draft[i] = target[current], current = i
//
// Shapes     sampled [rows] of (token, log_prob, ..); drafts [rows]; out [sequences][stride] words: accepted, token, row,
//            log_prob, then the rows of the accepted drafts, 0xffffffff behind the last.
//            tables: per sequence (first row, drafts, word where its parents begin), then the parents.
// Grid       one invocation per sequence; workgroups of 64, folded to 2-D. A tree has tens of drafts: one look at each,
//            in order, is enough, since parents come first.

struct Params {
    sequences: u32,
    stride: u32, // words
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> tables: array<u32>;
@group(0) @binding(2) var<storage, read> sampled: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> drafts: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

const NO_TOKEN: u32 = 0xffffffffu;
const NO_ROW: u32 = 0xffffffffu;

@compute @workgroup_size(64)
fn verify(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let sequence = (group.y * groups.x + group.x) * 64u + local;
    if sequence >= params.sequences {
        return;
    }
    let first = tables[3u * sequence];
    let count = tables[3u * sequence + 1u];
    let parents = tables[3u * sequence + 2u];
    let record = sequence * params.stride;
    var current = 0u;
    var token = sampled[first].x;
    var accepted = 0u;
    for (var i = 1u; i <= count; i++) {
        if tables[parents + i - 1u] == current && token != NO_TOKEN && drafts[first + i] == token {
            out[record + 4u + accepted] = first + i;
            accepted += 1u;
            current = i;
            token = sampled[first + i].x;
        }
    }
    for (var i = 4u + accepted; i < params.stride; i++) {
        out[record + i] = NO_ROW;
    }
    out[record] = accepted;
    out[record + 1u] = token;
    out[record + 2u] = first + current;
    out[record + 3u] = sampled[first + current].y;
}
