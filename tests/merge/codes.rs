//! Outputs as codes: the f32 row times 1 over the scale, rounded once, on every device; what is refused.

use colatent::DType::{BF16, E4M3, F16, F32, I8};
use colatent::layer::{Gate, LayerConstants, LayerSpec, LayerWeights, Pairing};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Device, Error, Tensor, Workspace};

use super::{Case, PLAIN, check, merge};
use crate::harness::codes::{expect_codes, nearest, value};
use crate::harness::{devices, poisoned};

/// Values whose codes are hard: the middle of each two codes and its neighbours, which a rounding to fewer digits would
/// make a tie; the smallest codes and less; the greatest and more; what is not finite.
fn values() -> Vec<f32> {
    let mut all = vec![1e-30, 448.0, 463.9, 464.0, 464.1, 480.0, 1e30, f32::INFINITY, f32::NAN];
    for code in 0..0x7e {
        let middle = ((value(E4M3, code) + value(E4M3, code + 1)) / 2.0) as f32;
        all.extend([value(E4M3, code) as f32, middle, middle * (1.0 + 1e-6), middle * (1.0 - 1e-6)]);
    }
    let negative: Vec<f32> = all.iter().filter(|&&x| x != 0.0).map(|x| -x).collect();
    all.extend(negative);
    all.resize(all.len().next_multiple_of(16), 0.5);
    all
}

/// A row of one state is that state, exactly. Under scales by which products are exact, and one by which they round.
#[test]
fn codes_are_those_of_the_rule_bit_for_bit() {
    let values = values();
    let (rows, lanes) = (values.len() / 16, 16);
    for scale in [1.0f32, 0.25, 0.37] {
        let spec = LayerSpec { out_code: Some(E4M3), ..LayerSpec::new(1, 1, lanes) };
        let states: Vec<f32> = values.iter().map(|x| x * scale).collect();
        let want: Vec<u8> = states.iter().map(|x| nearest(E4M3, x * (1.0 / scale))).collect();
        let indptr: Vec<u32> = (0..=rows as u32).collect();
        let problem = MergeProblem { spec: &spec, indptr: &indptr, index: &indptr[..rows], num_states: rows };
        for device in devices() {
            let weights = LayerWeights { out_scale: Some(scale), ..Default::default() };
            let out = poisoned(device, E4M3, &[rows, 1, lanes]);
            let args = MergeArgs {
                states: &Tensor::from_f32(device, F32, &[rows, 1, lanes], &states).unwrap(),
                state_lse: &Tensor::zeros(device, F32, &[rows, 1]).unwrap(),
                constants: &LayerConstants::new(device, &spec, weights).unwrap(),
                gate: None,
                out: &out,
                lse: None,
            };
            MergePlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap()).unwrap();
            let got = out.buffer().read().unwrap();
            for ((got, want), x) in got.iter().zip(&want).zip(&states) {
                assert_eq!(got, want, "{device}: {x} under {scale}");
            }
        }
    }
}

/// Behind every epilogue: near the definition, and bit for bit the codes of what the same device writes as f32.
#[test]
fn codes_behind_every_epilogue() {
    let p = Case { rows: vec![3, 0, 1, 40], out_scale: Some(0.0013), ..PLAIN };
    for case in [
        Case { norm: 2, gate: Gate::Sigmoid, turn: Some((Pairing::Half, 36)), dim: 72, ..p.clone() },
        Case { norm: 1, gate: Gate::HeadSoftplus, sinks: true, dim: 136, ..p.clone() },
    ] {
        check(&case).unwrap();
        let (states, indptr) = (case.states(), case.indptr());
        let index: Vec<u32> = (0..indptr[indptr.len() - 1]).collect();
        for device in devices() {
            let run = |case: &Case| merge(case, device, &states, &indptr, &index).unwrap();
            let (codes, rows) = (run(&case), run(&Case { out_scale: None, ..case.clone() }));
            expect_codes(&device.to_string(), &codes.out, &rows.out, 0.0013);
            assert_eq!(codes.lse, rows.lse, "{device}");
        }
    }
    check(&Case { dtype: BF16, norm: 3, gate: Gate::Softplus, ..p }).unwrap();
}

#[test]
fn codes_that_do_not_fit_are_refused() {
    let values = LayerSpec::new(2, 1, 16);
    let codes = LayerSpec { out_code: Some(E4M3), ..values.clone() };
    for code in [I8, F16, F32] {
        let refused = LayerSpec { out_code: Some(code), ..values.clone() }.validate("test").unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    }
    let constants = |device: &Device, spec: &LayerSpec, out_scale| {
        LayerConstants::new(device, spec, LayerWeights { out_scale, ..Default::default() })
    };
    for device in devices() {
        for (spec, scale) in [
            (&codes, None),
            (&values, Some(1.0)),
            (&codes, Some(0.0)),
            (&codes, Some(-1.0)),
            (&codes, Some(f32::INFINITY)),
            (&codes, Some(f32::NAN)),
        ] {
            let refused = constants(device, spec, scale).unwrap_err();
            assert!(matches!(refused, Error::Invalid { argument: "out_scale", .. }), "{refused}");
        }
        let run = |spec: &LayerSpec, constants: &LayerConstants, out: &Tensor| {
            let zeros = |shape: &[usize]| Tensor::zeros(device, F32, shape).unwrap();
            let (states, state_lse) = (&zeros(&[1, 2, 16]), &zeros(&[1, 2]));
            let problem = MergeProblem { spec, indptr: &[0, 1], index: &[0], num_states: 1 };
            let args = MergeArgs { states, state_lse, constants, gate: None, out, lse: None };
            MergePlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap())
        };
        let out = |dtype: DType| poisoned(device, dtype, &[1, 2, 16]);
        let (of_codes, of_values) =
            (constants(device, &codes, Some(1.0)).unwrap(), constants(device, &values, None).unwrap());
        let with_scales = out(E4M3).with_scales(&Tensor::zeros(device, F32, &[1, 2]).unwrap()).unwrap();
        for (spec, constants, out, argument) in [
            (&codes, &of_codes, &out(F32), "out"),
            (&codes, &of_codes, &with_scales, "out"),
            (&values, &of_values, &out(E4M3), "out"),
            (&codes, &of_values, &out(E4M3), "out_scale"),
            (&values, &of_codes, &out(F32), "out_scale"),
        ] {
            let refused = run(spec, constants, out).unwrap_err();
            assert!(matches!(&refused, Error::Invalid { argument: a, .. } if *a == argument), "{device}: {refused}");
            let bytes = out.buffer().read().unwrap();
            assert!(bytes == poisoned(device, out.dtype(), &[1, 2, 16]).buffer().read().unwrap(), "{device}: written");
        }
        run(&codes, &of_codes, &out(E4M3)).unwrap();
    }
}
