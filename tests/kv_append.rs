//! kv_append: packed rows -> norm -> rotation -> q and pages.
//!
//! Proves: every device agrees with the reference over a table of named shapes, storages, norms, rotations and page
//! layouts; nothing but the elements of the outputs is written (outputs, pages, gaps and guard bands start as a NaN
//! pattern that must survive bit for bit) and nothing but the parts is read (gates, gaps and idle position axes hold
//! garbage); the reference agrees with recordings of published models (`golden::projections`); angles are right to 2e-7
//! at positions of millions and below zero; the laws of rotation, identity, page permutation and batching hold; every
//! refusal leaves memory as it was. A case that fails in the property test prints as a row for the table.
//!
//! Planted bugs, each seen red and taken out again:
//! - kernel, `a cos + b sin` in the half-split rotation: the table, the property, the worked example, the recordings,
//!   the group law;
//! - kernel, every pair turned by axis 0: the worked example, the table, the property;
//! - kernel, and in turn the reference, eps outside the root: the worked example, the table, the property;
//! - kernel, low word of the turn dropped: the angles (off by 0.017), the table, the property;
//! - kernel, v stored with the slot stride of k: the table and the property, by the poison;
//! - kernel, v normed with the eps of q: the table, the property;
//! - kernel (WebGPU), codes cut off instead of rounded: both tests of the rule of codes;
//! - CUDA kernel, a scale stored for the neighbouring token, or V's in K's place, and i8 without its sign: the rule of
//!   codes, the table; the scale of every head in the place of the first: the table;
//! - kernel, and in turn the CUDA kernel, the temperature of the next row; definition, steps counted from 0: the table, the
//!   property, the recordings;
//! - kernel, and in turn the CUDA kernel, k scaled in v's place: the table, the property, the recordings;
//! - CUDA kernel, every token in its page's even neighbour: the table, the property, the recordings, all laws but two;
//! - CUDA kernel, no barrier between the row's cosines and their use, or between a head's lanes and their partners: the
//!   table and the property, by the poison of shared memory;
//! - CUDA kernel, the squares of two teams summed: the table, the property, the worked example, the recordings;
//! - CUDA kernel, v stored with the slot stride of k: the table and the property, by the poison;
//! - shader, a weight in the place of its bias: the table and the norms by hand;
//! - shader, values left as they are where they turn: the table;
//! - shader, negative positions turned forwards, and a coefficient of the cosine with four digits less; CUDA kernel, the nearest quarter
//!   turn rounded up from a quarter of it: the closed forms (`positions`), alone among that file's.
mod harness;

use colatent::Tolerance;
use harness::{compare, compare_within, devices};
use proptest::prelude::*;

#[path = "kv_append/append.rs"]
mod append;
#[path = "kv_append/case.rs"]
mod case;
#[path = "kv_append/codes.rs"]
mod codes;
#[path = "kv_append/laws.rs"]
mod laws;
#[path = "kv_append/layouts.rs"]
mod layouts;
#[path = "kv_append/positions.rs"]
mod positions;
#[path = "kv_append/refusals.rs"]
mod refusals;
#[path = "kv_append/setup.rs"]
mod setup;
#[path = "kv_append/tail.rs"]
mod tail;
use case::{CASES, Case, any_case};
use setup::Setup;

/// Runs a case on every device and compares with the reference.
fn check(case: &Case) -> Result<(), String> {
    let mut want: Option<[Vec<f32>; 3]> = None;
    let mut scales_want: Option<[Vec<f32>; 2]> = None;
    for device in devices() {
        let mut setup = Setup::new(case, device);
        let fail = |e: String| format!("{device}: {e}\n{case:?},");
        setup.run().map_err(|e| fail(e.to_string()))?;
        setup.check_untouched().map_err(fail)?;
        let got = setup.outputs();
        if let Some(i) = got.iter().flatten().position(|x| !x.is_finite()) {
            return Err(fail(format!("value {i} of q, k, v is not finite: it was not written, or made from garbage")));
        }
        let want = want.get_or_insert_with(|| got.clone());
        let types = [case.storage.0, case.storage.1, case.storage.1];
        for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
            compare(name, &got[i], &want[i], types[i]).map_err(fail)?;
            // A code is the next one only where the f32 arithmetic before the rounding falls on the other side of a tie,
            // which is seldom: it is exact to 1e-6, and a step of a code is 4e-3 of the greatest and more.
            let others = got[i].iter().zip(&want[i]).filter(|(a, b)| a != b).count();
            if types[i].is_code() && others * 100 > got[i].len() {
                return Err(fail(format!("{name}: {others} of {} codes differ", got[i].len())));
            }
        }
        // Scales are as exact as the greatest lane is.
        let scales = setup.scales();
        let of_reference = scales_want.get_or_insert_with(|| scales.clone());
        for (got, want) in scales.iter().zip(of_reference.iter()) {
            compare_within("scales", got, want, Tolerance { atol: 0.0, rtol: 1e-5 }).map_err(fail)?;
        }
    }
    Ok(())
}

#[test]
fn devices_agree_on_the_table() {
    let failed: Vec<String> = CASES.iter().filter_map(|case| check(case).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), CASES.len(), failed.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn devices_agree_on_any_case(case in any_case()) {
        check(&case).map_err(TestCaseError::fail)?;
    }
}
