//! Merging states: parity with the definition, and the laws of the monoid (L2-L4, L6 and L7 of `docs/laws.md`: identity,
//! fold, shift of lse, duplicates, one dominant state).
//! Planted and seen red: the kernel's maximum replaced by the last lse (dominant state); the definition skipping the
//! first state (all but the refusals). In the CUDA kernel: the maximum of the first 32 states alone (dominant state);
//! weights of each 32 states relative to their own maximum, without rescaling (dominant state, table, property); an empty
//! state read (table, property, identity); the second chunk of a lane not stored (table). The same maximum taken where
//! only some lanes have a state was named by the simulated device: divergence in a shuffle.
//! Gates: each chunk of heads with the gate of its first (WebGPU: table); softplus without the maximum (CUDA), the sigmoid of
//! a head taken for a softplus (WebGPU), both in the table and by hand. Outputs that turn back: forwards (WebGPU, CUDA), a
//! partner always from a lane's first chunk (CUDA), all in the table.
//! Outputs as codes, each on WebGPU and CUDA and red in both tests of `codes`: no saturation, multiplied by the scale,
//! rounded to bf16 first, two bytes of a word swapped.
#[path = "merge/codes.rs"]
mod codes;
mod harness;

use colatent::layer::{Gate, LayerConstants, LayerSpec, LayerWeights, Norm, Pairing, Rope};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Device, Tensor, Workspace};
use harness::{Rng, compare, devices, poisoned};
use proptest::prelude::*;

/// States with their lse, `[states, heads, dim]` and `[states, heads]`.
#[derive(Debug, Clone)]
struct States {
    out: Vec<f32>,
    lse: Vec<f32>,
}

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    heads: usize,
    dim: usize,
    /// States of each row.
    rows: Vec<usize>,
    dtype: DType,
    norm: u8,
    gate: Gate,
    sinks: bool,
    /// Outputs turn back on the last lanes of the head, as many as 2 pairs.
    turn: Option<(Pairing, usize)>,
    /// Outputs are e4m3 codes under this scale.
    out_scale: Option<f32>,
}

const PLAIN: Case = Case {
    seed: 1,
    heads: 3,
    dim: 16,
    rows: vec![],
    dtype: DType::F32,
    norm: 0,
    gate: Gate::None,
    sinks: false,
    turn: None,
    out_scale: None,
};

impl Case {
    fn spec(&self) -> LayerSpec {
        let eps = 1e-5;
        let last = |(pairing, pairs): (Pairing, usize)| {
            let axis = (0..pairs).map(|j| (j % 3) as u8).collect();
            Rope { axis, ..Rope::plain(2 * pairs, 1e3, pairing) }.at_lane(self.dim - 2 * pairs)
        };
        LayerSpec {
            head_dim: if self.turn.is_some() { self.dim } else { 16 },
            rope: self.turn.map(last),
            v_rope: self.turn.is_some(),
            head_dim_v: self.dim,
            dtype: self.dtype,
            out_code: self.out_scale.map(|_| DType::E4M3),
            sinks: self.sinks,
            gate: self.gate,
            out_norm: [Norm::None, Norm::Rms { eps }, Norm::RmsScaled { eps }, Norm::RmsOnePlus { eps }]
                [self.norm as usize],
            ..LayerSpec::new(self.heads, 1, 16)
        }
    }

    /// A fifth of the states is empty and holds NaN.
    fn states(&self) -> States {
        let mut rng = Rng(self.seed);
        let n: usize = self.rows.iter().sum();
        let mut s = States { out: rng.values(n * self.heads * self.dim), lse: rng.values(n * self.heads) };
        for i in 0..n * self.heads {
            s.lse[i] *= 5.0;
            if rng.below(5) == 0 {
                s.lse[i] = f32::NEG_INFINITY;
                s.out[i * self.dim..(i + 1) * self.dim].fill(f32::NAN);
            }
        }
        s
    }

    fn indptr(&self) -> Vec<u32> {
        let mut indptr = vec![0];
        for n in &self.rows {
            indptr.push(indptr[indptr.len() - 1] + *n as u32);
        }
        indptr
    }
}

/// Merges on a device: `(out, lse)`.
fn merge(case: &Case, device: &Device, states: &States, indptr: &[u32], index: &[u32]) -> Result<States, String> {
    let fail = |e: colatent::Error| e.to_string();
    let (spec, heads, dim) = (case.spec(), case.heads, case.dim);
    let num_states = states.lse.len() / heads;
    let rows = indptr.len() - 1;
    let plan = MergePlan::new(device, &MergeProblem { spec: &spec, indptr, index, num_states }).map_err(fail)?;
    let mut rng = Rng(case.seed ^ 9);
    let plan = match case.turn {
        None => plan,
        Some(_) => {
            let mut axis = || rng.below(2_000_000) as i32 - 1_000_000;
            let positions: Vec<[i32; 4]> = (0..rows).map(|_| [axis(), axis(), axis(), 0]).collect();
            plan.with_positions(&positions).map_err(fail)?
        }
    };
    let weights = LayerWeights {
        out_norm: if spec.out_norm.is_weighted() { rng.values(dim) } else { vec![] },
        sinks: if case.sinks { rng.values(heads) } else { vec![] },
        out_scale: case.out_scale,
        ..Default::default()
    };
    let constants = LayerConstants::new(device, &spec, weights).map_err(fail)?;
    let lanes = case.gate.lanes(dim);
    let gates: Vec<f32> = rng.values(rows * heads * lanes).iter().map(|g| g * 20.0).collect();
    let gate = Tensor::from_f32(device, case.dtype, &[rows, heads, lanes], &gates).map_err(fail)?;
    let t = |shape: &[usize], x: &[f32]| Tensor::from_f32(device, DType::F32, shape, x).map_err(fail);
    let args = MergeArgs {
        states: &t(&[num_states, heads, dim], &states.out)?,
        state_lse: &t(&[num_states, heads], &states.lse)?,
        constants: &constants,
        gate: (lanes > 0).then_some(&gate),
        out: &poisoned(device, spec.out_dtype(), &[rows, heads, dim]),
        lse: Some(&poisoned(device, DType::F32, &[rows, heads])),
    };
    let mut workspace = Workspace::new(device).map_err(fail)?;
    plan.warm_up(&mut workspace).map_err(fail)?;
    plan.run(&args, &mut workspace).map_err(fail)?;
    let lse = args.lse.ok_or("no lse")?.read_f32().map_err(fail)?;
    Ok(States { out: args.out.read_f32().map_err(fail)?, lse })
}

fn close(what: &str, got: &States, want: &States, dtype: DType) -> Result<(), String> {
    compare(&format!("{what}: out"), &got.out, &want.out, dtype)?;
    compare(&format!("{what}: lse"), &got.lse, &want.lse, DType::F32)
}

fn check(case: &Case) -> Result<(), String> {
    let (states, indptr) = (case.states(), case.indptr());
    // Backwards, so that index is not the identity.
    let index: Vec<u32> = (0..indptr[indptr.len() - 1]).rev().collect();
    let want = merge(case, &Device::Reference, &states, &indptr, &index)?;
    for device in devices() {
        let got = merge(case, device, &states, &indptr, &index)?;
        close(&format!("{device} {case:?}"), &got, &want, case.spec().out_dtype())?;
    }
    Ok(())
}

#[test]
#[rustfmt::skip]
fn table_of_cases() {
    use DType::{BF16, F16};
    use Pairing::{Adjacent, Half};
    use Gate::{HeadSigmoid, HeadSoftplus, Sigmoid, Softplus};
    let p = PLAIN;
    let cases = [
        Case { rows: vec![0], ..p.clone() },
        Case { rows: vec![1, 0, 3, 17], ..p.clone() },
        Case { rows: vec![2; 70], heads: 8, dim: 8, ..p.clone() },
        Case { rows: vec![3, 2], dim: 256, norm: 1, ..p.clone() },
        Case { rows: vec![1, 3, 0], dim: 512, norm: 2, ..p.clone() },
        Case { rows: vec![3, 0, 2], norm: 2, gate: Sigmoid, ..p.clone() },
        Case { rows: vec![3, 0, 2], norm: 3, gate: Sigmoid, sinks: true, ..p.clone() },
        // More states than a warp has lanes.
        Case { rows: vec![33, 0, 64, 70], heads: 2, dim: 8, ..p.clone() },
        Case { rows: vec![40], dim: 136, norm: 3, sinks: true, ..p.clone() },
        // A sink that outweighs the only state, and one beside an empty state.
        Case { rows: vec![1], seed: 11859448427261519355, sinks: true, ..p.clone() },
        Case { rows: vec![1, 1], seed: 13099186157006377564, sinks: true, ..p.clone() },
        Case { rows: vec![1], seed: 1931180296034817745, sinks: true, ..p.clone() },
        Case { rows: vec![3, 2], dtype: F16, gate: Sigmoid, ..p.clone() },
        Case { rows: vec![3, 0, 2], norm: 1, gate: Softplus, ..p.clone() },
        Case { rows: vec![3, 2], dim: 136, dtype: BF16, gate: Softplus, ..p.clone() },
        Case { rows: vec![3, 0, 2], gate: HeadSigmoid, ..p.clone() },
        Case { rows: vec![3, 2, 1], heads: 5, dtype: BF16, norm: 2, gate: HeadSoftplus, ..p.clone() },
        Case { rows: vec![1; 9], heads: 3, dim: 256, dtype: F16, sinks: true, gate: HeadSoftplus, ..p.clone() },
        Case { rows: vec![3, 2], dtype: BF16, norm: 1, sinks: true, ..p.clone() },
        // Outputs that turn back: a chunk's partner in another lane, in another chunk of a lane, in the chunk itself.
        Case { rows: vec![3, 0, 1, 2], dim: 72, turn: Some((Half, 36)), norm: 2, gate: Sigmoid, ..p.clone() },
        Case { rows: vec![2, 1], dim: 512, turn: Some((Half, 132)), sinks: true, ..p.clone() },
        Case { rows: vec![2, 1], dim: 512, turn: Some((Adjacent, 32)), dtype: BF16, ..p.clone() },
    ];
    let failures: Vec<String> = cases.iter().filter_map(|c| check(c).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_states(seed in any::<u64>(), rows in prop::collection::vec(0usize..6, 1..5), norm in 0u8..4, gate in 0usize..5, sinks: bool) {
        let gate = [Gate::None, Gate::Sigmoid, Gate::Softplus, Gate::HeadSigmoid, Gate::HeadSoftplus][gate];
        check(&Case { seed, rows, norm, gate, sinks, ..PLAIN }).map_err(TestCaseError::fail)?;
    }

    /// Merging groups and then their merged states is merging everything; a group may be empty.
    #[test]
    fn n_ary_merge_is_a_fold(seed in any::<u64>(), groups in prop::collection::vec(0usize..4, 2..5)) {
        let case = Case { seed, rows: groups, ..PLAIN };
        let (states, indptr) = (case.states(), case.indptr());
        let index: Vec<u32> = (0..indptr[indptr.len() - 1]).collect();
        for device in devices() {
            let whole = merge(&case, device, &states, &[0, index.len() as u32], &index).map_err(TestCaseError::fail)?;
            let parts = merge(&case, device, &states, &indptr, &index).map_err(TestCaseError::fail)?;
            let order: Vec<u32> = (0..case.rows.len() as u32).rev().collect();
            let folded = merge(&case, device, &parts, &[0, order.len() as u32], &order).map_err(TestCaseError::fail)?;
            close(&format!("{device}"), &folded, &whole, DType::F32).map_err(TestCaseError::fail)?;
        }
    }

    /// Adding c to every lse adds c to the merged one; doubling the states adds ln 2; outputs stay.
    #[test]
    fn shift_and_duplicates(seed in any::<u64>(), n in 1usize..6, c in -30f32..30.0) {
        let case = Case { seed, rows: vec![n], ..PLAIN };
        let states = case.states();
        let index: Vec<u32> = (0..n as u32).collect();
        let twice: Vec<u32> = index.iter().chain(&index).copied().collect();
        let moved = States { lse: states.lse.iter().map(|l| l + c).collect(), ..states.clone() };
        let shift = |s: &States, by: f32| States { lse: s.lse.iter().map(|l| l + by).collect(), ..s.clone() };
        for device in devices() {
            let run = |s: &States, index: &[u32]| merge(&case, device, s, &[0, index.len() as u32], index).map_err(TestCaseError::fail);
            let plain = run(&states, &index)?;
            // lse near 60 has ulps of 4e-6: the outputs' weights move by as much.
            let tol = colatent::Tolerance { atol: 5e-5, rtol: 5e-5 };
            harness::compare_within("shift", &run(&moved, &index)?.out, &plain.out, tol).map_err(TestCaseError::fail)?;
            harness::compare_within("shift", &run(&moved, &index)?.lse, &shift(&plain, c).lse, tol).map_err(TestCaseError::fail)?;
            close("twice", &run(&states, &twice)?, &shift(&plain, std::f32::consts::LN_2), DType::F32).map_err(TestCaseError::fail)?;
        }
    }
}

#[test]
fn an_empty_state_is_the_identity_bit_for_bit() {
    let case = Case { rows: vec![3], ..PLAIN };
    let mut states = case.states();
    states.lse = Rng(5).values(3 * case.heads);
    states.out = Rng(6).values(3 * case.heads * case.dim);
    states.lse[case.heads..2 * case.heads].fill(f32::NEG_INFINITY);
    states.out[case.heads * case.dim..2 * case.heads * case.dim].fill(f32::NAN);
    for device in devices() {
        let with = merge(&case, device, &states, &[0, 3], &[0, 1, 2]).unwrap();
        let without = merge(&case, device, &states, &[0, 2], &[0, 2]).unwrap();
        assert_eq!(with.out, without.out, "{device}");
        assert_eq!(with.lse, without.lse, "{device}");
        let alone = merge(&case, device, &states, &[0, 1], &[0]).unwrap();
        compare("alone", &alone.out, &states.out[..case.heads * case.dim], DType::F32).unwrap();
    }
}

#[test]
fn one_dominant_state_returns_its_output_exactly() {
    // The second is past what a warp takes at once.
    for (n, dominant) in [(2, 0), (50, 40)] {
        let case = Case { rows: vec![n], ..PLAIN };
        let (heads, dim) = (case.heads, case.dim);
        let mut states = case.states();
        states.out = Rng(6).values(n * heads * dim);
        states.lse.fill(0.0);
        states.lse[dominant * heads..(dominant + 1) * heads].fill(1e4);
        let index: Vec<u32> = (0..n as u32).collect();
        for device in devices() {
            let got = merge(&case, device, &states, &[0, n as u32], &index).unwrap();
            assert_eq!(got.out, states.out[dominant * heads * dim..(dominant + 1) * heads * dim], "{device}");
            assert_eq!(got.lse, [1e4; 3], "{device}");
        }
    }
}

/// Softplus at 0 is ln 2, of a large number the number, of a very negative one nothing; a head's gate is that of all its
/// lanes.
#[test]
fn gates_by_hand() {
    let states = Tensor::from_f32;
    let ln_2 = std::f32::consts::LN_2;
    for (kind, gates, want) in [
        (
            Gate::Softplus,
            [0.0, 30.0, -200.0, 300.0, 0.0, 1.0, -1.0, 2.0],
            [ln_2, 30.0, 0.0, 300.0, ln_2, 1.3132616, 0.31326166, 2.126928],
        ),
        (
            Gate::Sigmoid,
            [0.0, 30.0, -200.0, 300.0, 0.0, 1.0, -1.0, 2.0],
            [0.5, 1.0, 0.0, 1.0, 0.5, 0.7310586, 0.26894143, 0.880797],
        ),
        (Gate::HeadSoftplus, [1.0; 8], [1.3132616; 8]),
        (Gate::HeadSigmoid, [-1.0; 8], [0.26894143; 8]),
    ] {
        let spec = LayerSpec { gate: kind, ..LayerSpec::new(1, 1, 8) };
        for device in devices() {
            let plan =
                MergePlan::new(device, &MergeProblem { spec: &spec, indptr: &[0, 1], index: &[0], num_states: 1 })
                    .unwrap();
            let t = |shape: &[usize], x: &[f32]| states(device, DType::F32, shape, x).unwrap();
            let lanes = kind.lanes(8);
            let out = poisoned(device, DType::F32, &[1, 1, 8]);
            let args = MergeArgs {
                states: &t(&[1, 1, 8], &[1.0; 8]),
                state_lse: &t(&[1, 1], &[0.3]),
                constants: &LayerConstants::new(device, &spec, Default::default()).unwrap(),
                gate: Some(&t(&[1, 1, lanes], &gates[..lanes])),
                out: &out,
                lse: None,
            };
            plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
            compare(&format!("{kind:?} on {device}"), &out.read_f32().unwrap(), &want, DType::F32).unwrap();
        }
    }
}

#[test]
fn bad_arguments_are_refused() {
    let spec = PLAIN.spec();
    let device = Device::Reference;
    let new = |indptr: &[u32], index: &[u32]| {
        MergePlan::new(&device, &MergeProblem { spec: &spec, indptr, index, num_states: 2 })
            .err()
            .map(|e| e.to_string())
    };
    assert_eq!(new(&[0, 2], &[0, 1]), None);
    assert!(new(&[1, 2], &[0, 1]).unwrap().contains("indptr"));
    assert!(new(&[], &[]).unwrap().contains("indptr"));
    assert!(new(&[0, 3], &[0, 1]).unwrap().contains("index"));
    assert!(new(&[0, 2], &[0, 2]).unwrap().contains("states below 2"));
}

#[test]
fn what_cannot_turn_back_is_refused() {
    let turns = Case { dim: 64, turn: Some((Pairing::Half, 16)), ..PLAIN }.spec();
    let new = |spec: &LayerSpec| {
        MergePlan::new(&Device::Reference, &MergeProblem { spec, indptr: &[0, 1], index: &[0], num_states: 1 })
    };
    let refusal = |spec: LayerSpec| new(&spec).err().unwrap().to_string();
    let rope = |change: fn(&mut Rope)| {
        let mut rope = turns.rope.clone().unwrap();
        change(&mut rope);
        LayerSpec { rope: Some(rope), ..turns.clone() }
    };
    assert!(refusal(LayerSpec { rope: None, ..turns.clone() }).contains("v_rope"));
    assert!(refusal(LayerSpec { head_dim_v: 32, ..turns.clone() }).contains("turning lanes within 32"));
    assert!(refusal(rope(|r| r.first_lane = 30)).contains("whole chunks of 4 lanes"));
    assert!(refusal(rope(|r| r.mscale = 1.3)).contains("an attention factor of 1.3"));
    let positions = |spec, n| new(spec).unwrap().with_positions(&vec![[0; 4]; n]).err().map(|e| e.to_string());
    assert_eq!(positions(&turns, 1), None);
    assert!(positions(&turns, 2).unwrap().contains("1 rows"));
    assert!(positions(&PLAIN.spec(), 1).unwrap().contains("turns no values"));
    let device = Device::Reference;
    let (heads, lse) = ([1, 3, 64], [1, 3]);
    let zeros = |shape: &[usize]| Tensor::zeros(&device, DType::F32, shape).unwrap();
    let args = MergeArgs {
        states: &zeros(&heads),
        state_lse: &zeros(&lse),
        constants: &LayerConstants::new(&device, &turns, Default::default()).unwrap(),
        gate: None,
        out: &zeros(&heads),
        lse: None,
    };
    let error = new(&turns).unwrap().run(&args, &mut Workspace::new(&device).unwrap()).unwrap_err();
    assert!(error.to_string().contains("with_positions"), "{error}");
}
