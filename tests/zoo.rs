//! The shapes of published models at reduced sizes: heads per KV head, head dims, masks, caps, sinks, norms and gates as they
//! come together, over every page size, against the definition. What is large in a model and says nothing new (KV heads,
//! windows, contexts) is small here; groups and dims are the models'.
//!
//! Every shape, and so every group and every head dim, meets every page size. Kinds of calls and storages take turns: each
//! pair of kind, page size and storage occurs, their product does not. What makes a kernel of its own (group, dims,
//! storage, whether positions are shifted) is one thing per shape, since a kernel takes longer to compile than to run.
//! Planted and seen red: every head with the sink of the first (WebGPU: adversarial shapes); scores without their cap
//! (CUDA: the matrix, all eight cases with one).
mod harness;

use colatent::DType::{self, BF16, F16, F32};
use harness::scene::{Case, Kind, Mask, check_all};
use harness::{bare_devices, devices};

/// A family's layer kind: name, query heads per KV head, dims, mask, and what else it has.
#[derive(Clone, Copy)]
struct Shape {
    #[allow(dead_code)] // says whose shape it is
    name: &'static str,
    group: usize,
    dims: (usize, usize),
    mask: Mask,
    extras: Extras,
}

#[derive(Clone, Copy, PartialEq)]
enum Extras {
    Nothing,
    Gate,
    GateAndNorm,
    Sinks,
    Cap,
    /// Outputs as e4m3 codes, for a projection in fp8.
    Codes,
}
use Extras::{Cap, Codes, Gate, GateAndNorm, Nothing, Sinks};

/// Windows and chunks are cut so that a stream of some dozens of tokens shows both ends.
#[rustfmt::skip]
const SHAPES: &[Shape] = {
    use Mask::*;
    const fn of(name: &'static str, group: usize, dims: (usize, usize), mask: Mask, extras: Extras) -> Shape {
        Shape { name, group, dims, mask, extras }
    }
    &[
        of("muse-spark window", 8, (64, 64), Window(20), GateAndNorm),
        of("muse-glimmer window", 16, (128, 128), Window(20), Gate),
        of("muse drafter", 4, (128, 128), Window(33), Nothing),
        of("llama3", 4, (128, 128), Causal, Nothing),
        of("llama4 chunked", 5, (128, 128), Chunked(16), Nothing),
        of("gemma2", 2, (256, 256), Window(20), Cap),
        of("gemma3 window", 2, (128, 128), ImageInWindow(12), Nothing),
        of("gemma3 global", 2, (256, 256), ImageOrCausal, Nothing),
        of("gemma4 global", 8, (512, 512), Causal, Nothing),
        of("deepseek-v4-vision", 8, (128, 128), WindowOrImage(12), Nothing),
        of("paligemma", 8, (256, 256), Prefix, Nothing),
        of("qwen2.5-vl", 7, (128, 128), Causal, Nothing),
        of("qwen3.5", 6, (256, 256), Causal, Gate),
        of("glm-4.5v", 12, (128, 128), Causal, Codes),
        of("gpt-oss window", 8, (64, 64), Window(8), Sinks),
        of("mimo window", 8, (192, 128), Window(9), Sinks),
        of("mimo full", 16, (192, 128), Causal, Nothing),
        of("mla 32 heads", 32, (320, 256), Causal, Nothing),
        of("mla 64 heads", 64, (576, 512), Causal, Nothing),
        of("mla 128 heads", 128, (576, 512), Causal, Nothing),
        of("modernbert window", 1, (64, 64), TwoSided(8), Nothing),
        of("bagel", 7, (128, 128), HiddenImage, Nothing),
        of("vit 72", 1, (72, 72), ImageOrCausal, Nothing),
        of("vit 80", 1, (80, 80), ImageOrCausal, Nothing),
        of("vit 88", 2, (88, 88), ImageOrCausal, Nothing),
        of("vit 96", 1, (96, 96), ImageOrCausal, Nothing),
        of("audio", 1, (128, 128), Chunked(12), Cap),
        of("compressed", 64, (128, 128), Compressed(4), Sinks),
    ]
};

const PAGE_SIZES: [usize; 4] = [1, 16, 64, 128];

const STORAGES: [(DType, DType); 4] = [(F32, F32), (BF16, BF16), (F16, F16), (BF16, F16)];

/// Those in which some agent sees tokens under a position shift.
const KINDS: [Kind; 5] = [Kind::Mixed, Kind::Decode, Kind::Draft, Kind::Parallel, Kind::Sequential];

/// Lengths of the prompt: around the ends of tiles and splits, and of a token.
const LENGTHS: [usize; 8] = [63, 64, 65, 47, 48, 49, 97, 1];

/// A shape over a page size. Every seventh shape is a prefill.
fn case(index: usize, page: usize) -> Case {
    let shape = &SHAPES[index];
    let same = |s: &Shape| (s.group, s.dims) == (shape.group, shape.dims);
    let kernel = SHAPES.iter().position(same).unwrap_or(index);
    // Text that looks ahead cannot be published, so that there is no shift but in a sequential join.
    let kinds = if shape.mask.text_looks_ahead() { &KINDS[..4] } else { &KINDS[..] };
    let is_prefill = index % 7 == 1;
    let is_large = shape.group * shape.dims.0 > 4096;
    let turn = index + 3 * page;
    let lengths = &LENGTHS[..if is_prefill { 8 } else { 7 }];
    Case {
        seed: 1 + turn as u64,
        kind: if is_prefill { Kind::Prefill } else { kinds[(index + page) % kinds.len()] },
        mask: shape.mask,
        heads: (if is_large { 1 } else { 2 }, shape.group),
        dims: shape.dims,
        page_size: PAGE_SIZES[page],
        dtypes: STORAGES[kernel % 4],
        tokens: if is_large { [17, 9, 13, 21][turn % 4] } else { lengths[turn % lengths.len()] },
        agents: if is_large { 2 } else { 3 },
        soft_cap: shape.extras == Cap,
        sinks: shape.extras == Sinks,
        gate: shape.extras == Gate || shape.extras == GateAndNorm,
        norm: shape.extras == GateAndNorm,
        out_scale: (shape.extras == Codes).then_some(0.01),
        engine_layout: turn.is_multiple_of(2),
        ..Case::PLAIN
    }
}

fn matrix() -> Vec<Case> {
    // The widest shapes are slow on a software driver: two of the page sizes each, in turn.
    let pages =
        |index: usize| if SHAPES[index].dims.0 > 512 { vec![index % 2, index % 2 + 2] } else { vec![0, 1, 2, 3] };
    (0..SHAPES.len()).flat_map(|index| pages(index).into_iter().map(move |page| case(index, page))).collect()
}

#[test]
fn published_shapes_over_all_page_sizes() {
    check_all(devices(), &matrix()).unwrap_or_else(|e| panic!("{e}"));
}

/// What the matrix leaves out is a product, no pair.
#[test]
fn the_matrix_has_every_pair() {
    let matrix = matrix();
    let kinds = || KINDS.into_iter().chain([Kind::Prefill]);
    let has = |what: &str, is: &dyn Fn(&Case) -> bool| assert!(matrix.iter().any(is), "no {what}");
    for page in PAGE_SIZES {
        for group in [1, 2, 4, 5, 6, 7, 8, 12, 16, 32, 64] {
            has(&format!("group {group} over {page}"), &|c| c.heads.1 == group && c.page_size == page);
        }
        for dim in SHAPES.iter().map(|s| s.dims) {
            has(&format!("{dim:?} over {page}"), &|c| c.dims == dim && c.page_size == page);
        }
        for kind in kinds() {
            has(&format!("{kind:?} over {page}"), &|c| c.kind == kind && c.page_size == page);
        }
        for storage in STORAGES {
            has(&format!("{storage:?} over {page}"), &|c| c.dtypes == storage && c.page_size == page);
        }
    }
    for (kind, storage) in kinds().flat_map(|kind| STORAGES.map(|storage| (kind, storage))) {
        has(&format!("{kind:?} of {storage:?}"), &|c| c.kind == kind && c.dtypes == storage);
    }
    has("group 128", &|c| c.heads.1 == 128);
}

/// What is rare and goes wrong: a sink beside nothing, a window of one key, a span that dies at a slot that rows have
/// passed, an image that begins the stream.
#[test]
#[rustfmt::skip]
fn adversarial_shapes() {
    let p = Case::PLAIN;
    let cases = [
        Case { mask: Mask::Compressed(4), tokens: 9, sinks: true, ..p.clone() },
        Case { mask: Mask::Compressed(4), tokens: 9, sinks: true, dtypes: (BF16, BF16), gate: true, norm: true, ..p.clone() },
        Case { mask: Mask::Window(1), kind: Kind::Mixed, tokens: 49, page_size: 1, ..p.clone() },
        Case { mask: Mask::Window(1), kind: Kind::Decode, sinks: true, dtypes: (F16, F16), ..p.clone() },
        Case { mask: Mask::Until(20), kind: Kind::Decode, tokens: 65, ..p.clone() },
        Case { mask: Mask::Prefix, tokens: 48, page_size: 128, ..p.clone() },
        Case { mask: Mask::ImageInWindow(1), tokens: 64, ..p.clone() },
    ];
    check_all(bare_devices(), &cases).unwrap_or_else(|e| panic!("{e}"));
}
