//! The shapes of published models at reduced sizes: heads per KV head, head dims, masks, caps, sinks, norms and gates as they
//! come together, over every page size, against the definition. What is large in a model and says nothing new (KV heads,
//! windows, contexts) is small here; groups and dims are the models'.
mod harness;

use colatent::DType::{self, BF16, F16, F32};
use harness::scene::{Case, Kind, Mask, check};

/// A family's layer kind: name, query heads per KV head, dims, mask, and what else it has.
#[derive(Clone, Copy)]
struct Shape {
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
}
use Extras::{Cap, Gate, GateAndNorm, Nothing, Sinks};

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
        of("glm-4.5v", 12, (128, 128), Causal, Nothing),
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

impl Shape {
    /// The shape over one page size. Kinds of calls, lengths around the ends of tiles and splits, storages and agents take
    /// turns, so that the matrix meets all of them without their product.
    fn case(&self, index: usize, page: usize) -> Case {
        use Kind::{Decode, Draft, Mixed, Parallel, Prefill, Sequential};
        let turn = index + 3 * page;
        let extras = self.extras;
        let is_large = self.group * self.dims.0 > 4096;
        let storages: [(DType, DType); 4] = [(F32, F32), (BF16, BF16), (F16, F16), (BF16, F16)];
        Case {
            seed: 1 + turn as u64,
            kind: [Mixed, Decode, Prefill, Draft, Parallel, Sequential][turn % 6],
            mask: self.mask,
            heads: (if is_large { 1 } else { 2 }, self.group),
            dims: self.dims,
            page_size: PAGE_SIZES[page],
            dtypes: storages[index % 4],
            tokens: if is_large { [17, 9, 1, 21][turn % 4] } else { [63, 64, 65, 1, 47, 48, 49, 97][turn % 8] },
            agents: if is_large { 2 } else { 3 },
            soft_cap: extras == Cap,
            sinks: extras == Sinks,
            gate: extras == Gate || extras == GateAndNorm,
            norm: extras == GateAndNorm,
            engine_layout: turn.is_multiple_of(2),
            ..Case::PLAIN
        }
    }
}

#[test]
fn published_shapes_over_all_page_sizes() {
    let mut failures = Vec::new();
    for (index, shape) in SHAPES.iter().enumerate() {
        // Wide shapes are slow on a software driver: two of the page sizes each, in turn.
        let pages = if shape.dims.0 > 256 { vec![index % 2, index % 2 + 2] } else { vec![0, 1, 2, 3] };
        for page in pages {
            failures.extend(check(&shape.case(index, page)).err().map(|e| format!("{}: {e}", shape.name)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
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
    let failures: Vec<String> = cases.iter().filter_map(|case| check(case).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
