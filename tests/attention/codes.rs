//! Attention over codes: against the reference, and against what the codes stand for.
//! Planted and seen red by both of codes: the scales of the first head for all (WebGPU, CUDA), V without its scales (WebGPU);
//! on CUDA the scales of another page, those of the neighbouring token, i8 without its sign.
//! Planted, in the shaders and in the CUDA kernel, and seen red by both of tails: the tail multiplied by the scale of the codes,
//! the tail read from another place of its row.

use colatent::{DType, Device};

use crate::harness;
use crate::harness::scene::{Case, Chosen, Kind, Mask, WILD, check_all};

/// K and V as codes: scales of tokens where the seed is odd or the type i8, else one of all.
#[rustfmt::skip]
fn code_cases() -> Vec<Case> {
    use DType::{BF16, E4M3, F16, F32, I8};
    use Kind::*;
    use Mask::*;
    let p = Case::PLAIN;
    vec![
        Case { dtypes: (F32, E4M3), ..p.clone() },
        Case { dtypes: (BF16, E4M3), dims: (96, 96), seed: 2, kind: Mixed, agents: 5, soft_cap: true, ..p.clone() },
        Case { dtypes: (F32, I8), dims: (80, 80), kind: Sequential, agents: 5, page_size: 1, ..p.clone() },
        Case { dtypes: (F16, I8), dims: (192, 128), heads: (1, 8), kind: Decode, tokens: 300, agents: 9, gate: true, ..p.clone() },
        Case { dtypes: (F32, E4M3), dims: (80, 96), kind: Parallel, agents: 5, page_size: 64, engine_layout: true, ..p.clone() },
        Case { dtypes: (F32, E4M3), spoiled: (40, WILD), mask: Window(20), ..p.clone() },
        Case { dtypes: (BF16, E4M3), dims: (96, 96), seed: 2, soft_cap: true, spoiled: (40, WILD), mask: Window(20), ..p.clone() },
        Case { dtypes: (BF16, I8), dims: (96, 96), spoiled: (50, WILD), kind: Mixed, mask: ImageInWindow(30), agents: 5, ..p.clone() },
        Case { heads: (1, 4), dims: (576, 512), tokens: 40, dtypes: (BF16, E4M3), kind: Sequential, ..p.clone() },
    ]
}

/// Latents as codes, the lanes behind them bf16 in the same row.
#[rustfmt::skip]
fn tail_cases() -> Vec<Case> {
    use DType::{BF16, E4M3, F16, F32, I8};
    use Kind::*;
    use Mask::*;
    let p = Case { dims: (48, 32), tail: true, heads: (1, 4), ..Case::PLAIN };
    vec![
        Case { dtypes: (F32, E4M3), ..p.clone() },
        Case { dtypes: (F32, E4M3), seed: 2, page_size: 1, ..p.clone() },
        Case { dtypes: (BF16, E4M3), kind: Sequential, agents: 5, engine_layout: true, soft_cap: true, sinks: true, ..p.clone() },
        Case { dtypes: (BF16, E4M3), seed: 2, kind: Mixed, agents: 5, mask: Window(20), heads: (2, 3), engine_layout: true, ..p.clone() },
        Case { dtypes: (F16, I8), dims: (192, 128), heads: (1, 8), kind: Decode, tokens: 300, agents: 9, gate: true, ..p.clone() },
        Case { dtypes: (F32, E4M3), seed: 2, kind: Parallel, agents: 3, chosen: Some(Chosen { keep: 6, run: 3 }), ..p.clone() },
        Case { dtypes: (BF16, E4M3), chosen: Some(Chosen { keep: 4, run: 1 }), kind: Decode, ..p.clone() },
        Case { dims: (576, 512), tokens: 40, dtypes: (BF16, E4M3), kind: Sequential, ..p.clone() },
    ]
}

#[test]
fn codes_in_the_cache() {
    check_all(harness::bare_devices(), &code_cases()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn codes_with_a_tail() {
    check_all(harness::bare_devices(), &tail_cases()).unwrap_or_else(|e| panic!("{e}"));
}

/// Codes are nothing but a way to write numbers: attention over them is attention over what they stand for.
#[test]
fn codes_are_the_values_they_stand_for() {
    use DType::{E4M3, F32, I8};
    let plain = Case { kind: Kind::Sequential, agents: 3, ..Case::PLAIN };
    let tail = Case { dims: (48, 32), tail: true, ..plain.clone() };
    for (case, dtype, seed, page_size) in [
        (&plain, E4M3, 1, 1),
        (&plain, E4M3, 2, 16),
        (&plain, I8, 1, 16),
        (&plain, I8, 2, 64),
        (&tail, E4M3, 1, 16),
        (&tail, E4M3, 2, 1),
    ] {
        let case = Case { dtypes: (F32, dtype), seed, page_size, ..case.clone() };
        let values = harness::scene::run(&Case { decoded: true, ..case.clone() }, &Device::Reference).unwrap();
        for device in harness::devices() {
            let got = harness::scene::run(&case, device).unwrap();
            harness::compare(&format!("out on {device}"), &got.out, &values.out, F32).unwrap();
            harness::compare(&format!("lse on {device}"), &got.lse, &values.lse, F32).unwrap();
        }
    }
}
