//! Worked examples and laws: rotation, identity, places and company, plans and encoders.

use colatent::DType::{self, F16, F32};
use colatent::layer::Pairing::{self, Adjacent, Half};
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights, Norm, Rope};
use proptest::prelude::*;

use super::case::{BASE, Case, Nhd, Off, Rms, Scaled, turn};
use super::setup::{Setup, append};
use crate::harness::{Rng, compare, devices};

#[test]
fn a_worked_example() {
    // One head of 8: RMS norm with mean square 1 and eps 3 halves everything, pair 0 = lanes (0, 4) turns by
    // 3 * pi / 2: (a, b) -> (b, -a). q is doubled.
    let rope = Rope {
        first_lane: 0,
        pairing: Half,
        inv_freq: vec![std::f64::consts::FRAC_PI_2, 0.0, 0.0, 0.0],
        axis: vec![2, 0, 0, 0],
        mscale: 1.0,
    };
    let spec = LayerSpec {
        q_scale: 2.0,
        q_norm: Norm::Rms { eps: 3.0 },
        k_norm: Norm::RmsOnePlus { eps: 3.0 },
        rope: Some(rope),
        ..LayerSpec::new(1, 1, 8)
    };
    let weights = LayerWeights { k_norm: vec![1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0], ..Default::default() };
    let x = [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0];
    let v = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    for device in devices() {
        let (gq, gk, gv) = append(device, &spec, weights.clone(), &[x, x, v].concat(), &[[9, 9, 3, 9]]);
        // q: halved, turned, doubled. k: halved, lanes 0 and 4 times 2 and 4, turned.
        compare("q", &gq, &[-1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0], F32).unwrap();
        compare("k", &gk, &[-2.0, -0.5, 0.5, 0.5, -1.0, 0.5, 0.5, 0.5], F32).unwrap();
        assert_eq!(gv, v);
    }
}

#[test]
fn norms_by_hand() {
    // Head 0 has mean 2 and variance 1, head 1 mean -1 and variance 4; with eps 3 they are divided by 2 and sqrt(7).
    let heads = [[1.0f32, 3.0].repeat(4), [-3.0f32, 1.0].repeat(4)];
    let (weights, biases) = ((1..=16).map(|i| i as f32).collect::<Vec<_>>(), vec![0.25f32; 16]);
    let layer = |by_head: bool, x: &[f32], head: usize, bias: f32| -> Vec<f32> {
        let (mean, root) = if x[0] == 1.0 { (2.0, 2.0) } else { (-1.0, 7f32.sqrt()) };
        let first = if by_head { 8 * head } else { 0 };
        x.iter().enumerate().map(|(d, x)| (x - mean) / root * weights[first + d] + bias).collect()
    };
    // Of length sqrt(40): head 0 (1 and 3) and head 1 (-3 and 1) are brought to 5.
    let clipped = |x: &[f32]| x.iter().map(|x| x * 5.0 / 40f32.sqrt()).collect::<Vec<f32>>();
    let spec = LayerSpec {
        q_norm: Norm::Layer { eps: 3.0, bias: true, by_head: true },
        k_norm: Norm::Layer { eps: 3.0, bias: false, by_head: false },
        v_norm: Norm::Clip { most: 5.0 },
        ..LayerSpec::new(2, 2, 8)
    };
    let (q_norm, k_norm) = (weights.clone(), weights[..8].to_vec());
    let constants = LayerWeights { q_norm, k_norm, q_bias: biases, ..Default::default() };
    let row = heads.concat();
    for device in devices() {
        let (q, k, v) = append(device, &spec, constants.clone(), &row.repeat(3), &[[0; 4]]);
        let each = |f: &dyn Fn(usize) -> Vec<f32>| [f(0), f(1)].concat();
        compare("q", &q, &each(&|h| layer(true, &heads[h], h, 0.25)), F32).unwrap();
        compare("k", &k, &each(&|h| layer(false, &heads[h], h, 0.0)), F32).unwrap();
        compare("v", &v, &each(&|h| clipped(&heads[h])), F32).unwrap();
        // A head that is short enough passes bit for bit.
        let (_, _, v) = append(
            device,
            &spec,
            constants.clone(),
            &row.repeat(3).iter().map(|x| x / 2.0).collect::<Vec<_>>(),
            &[[0; 4]],
        );
        assert_eq!(v, row.iter().map(|x| x / 2.0).collect::<Vec<_>>(), "{device}");
    }
}

fn rotating(pairing: Pairing, dim: usize, inv_freq: Vec<f64>) -> LayerSpec {
    let rope = Rope { first_lane: 0, pairing, axis: vec![0; inv_freq.len()], inv_freq, mscale: 1.0 };
    LayerSpec { rope: Some(rope), ..LayerSpec::new(1, 1, dim) }
}

#[test]
fn angles_are_right_at_every_position() {
    // (1, 0) turns into (cos, sin). Frequencies of one radian and more down to none; positions around zero, around
    // whole and eighth turns, and far out.
    let inv_freq = vec![1.0, 0.731, 5e5f64.powf(-0.5), 2e-6, std::f64::consts::FRAC_PI_4, 6.0, 1e-9, 0.0];
    let spec = rotating(Half, 16, inv_freq.clone());
    let mut rng = Rng(5);
    let mut positions: Vec<[i32; 4]> = (-20..20).map(|p| [p, 0, 0, 0]).collect();
    positions.extend([1_000_000, -1_000_000, 999_983, 1 << 20, 16_777_217].map(|p| [p, 0, 0, 0]));
    positions.extend((0..4000).map(|_| [rng.below(2_000_001) as i32 - 1_000_000, 0, 0, 0]));
    let mut row = [0.0; 48];
    (0..8).for_each(|j| (row[j], row[16 + j]) = (1.0, 1.0));
    let packed = row.repeat(positions.len());
    for device in devices() {
        let (q, k, _) = append(device, &spec, LayerWeights::default(), &packed, &positions);
        assert_eq!(q, k);
        let mut worst = (0.0, 0, 0.0);
        for (row, p) in positions.iter().enumerate() {
            for (j, f) in inv_freq.iter().enumerate() {
                let (sin, cos) = (f64::from(p[0]) * f).sin_cos();
                for (lane, want) in [(j, cos), (j + 8, sin)] {
                    let error = (f64::from(q[row * 16 + lane]) - want).abs();
                    if error > worst.0 {
                        worst = (error, p[0], *f);
                    }
                }
            }
        }
        println!("{device}: worst cos or sin off by {:.2e} at position {} of frequency {}", worst.0, worst.1, worst.2);
        assert!(worst.0 <= 2e-7, "{device}: {worst:?} (error, position, frequency)");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rotation keeps the length of every pair, and R(a) R(b) = R(a + b).
    #[test]
    fn rotations_are_a_group(a in -500_000i32..500_000, b in -500_000i32..500_000, half: bool, seed: u64) {
        let mut rng = Rng(seed);
        let pairing = if half { Half } else { Adjacent };
        let spec = rotating(pairing, 16, (0..8).map(|j| 1e4f64.powf(-f64::from(j) / 8.0)).collect());
        let rope = spec.rope.clone().unwrap();
        let x = rng.values(16);
        let row = |x: &[f32]| [x, x, x].concat();
        for device in devices() {
            let turned = |x: &[f32], p: i32| append(device, &spec, Default::default(), &row(x), &[[p, 0, 0, 0]]).1;
            let once = turned(&x, a);
            let lengths = |x: &[f32]| -> Vec<f32> {
                (0..8).map(|j| { let (l, r) = rope.pair(j); x[l].hypot(x[r]) }).collect()
            };
            compare("length", &lengths(&once), &lengths(&x), F32).map_err(TestCaseError::fail)?;
            compare("sum", &turned(&once, b), &turned(&x, a + b), F32).map_err(TestCaseError::fail)?;
            compare("back", &turned(&once, -a), &x, F32).map_err(TestCaseError::fail)?;
        }
    }
}

/// Without norm and rotation an append is a copy, bit for bit, negative zeros included.
#[test]
fn append_then_read_is_the_identity() {
    for dtype in DType::ALL {
        let case = Case { name: "identity", storage: (dtype, dtype), pages: Nhd, gap: 4, rows: 12, ..BASE };
        for device in devices() {
            let mut setup = Setup::new(&case, device);
            let mut values = setup.packed.read_f32().unwrap();
            values.iter_mut().step_by(7).filter(|x| x.is_finite()).for_each(|x| *x = -0.0);
            setup.packed.write_f32(&values).unwrap();
            setup.run().unwrap();
            let layout = case.layout(&case.spec());
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let [q, k, v] = setup.outputs();
            let width = layout.width;
            for (got, part, heads, lanes) in [(q, layout.q, 4, 16), (k, layout.k, 2, 16), (v, layout.v, 2, 16)] {
                let packed = setup.packed.read_f32().unwrap();
                let want: Vec<f32> = (0..case.rows * heads * lanes)
                    .map(|i| {
                        packed[i / (heads * lanes) * width
                            + part.offset
                            + i / lanes % heads * part.head_stride
                            + i % lanes]
                    })
                    .collect();
                assert_eq!(bits(&got), bits(&want), "{dtype} on {device}");
            }
        }
    }
}

/// The physical page means nothing, and a row is the same alone as in a batch: both bitwise.
#[test]
fn places_and_company_mean_nothing() {
    let case = Case {
        name: "company",
        dims: (64, 64),
        rope: turn(Half, 0, 32, 1),
        norms: (Rms, Scaled, Rms),
        storage: (F16, F32),
        rows: 6,
        page_size: 1,
        ..BASE
    };
    let spec = case.spec();
    let layout = spec.packed();
    let mut rng = Rng(9);
    let weights = case.weights(&mut rng);
    let rows: Vec<Vec<f32>> = (0..6).map(|_| rng.values(layout.width)).collect();
    let positions: Vec<[i32; 4]> = (0..6).map(|i| [i * 100_003, 0, 0, 0]).collect();
    for device in devices() {
        let whole = append(device, &spec, weights.clone(), &rows.concat(), &positions);
        let order = [3usize, 0, 5, 1, 4, 2];
        let shuffled: Vec<f32> = order.iter().flat_map(|&i| rows[i].clone()).collect();
        let other = append(device, &spec, weights.clone(), &shuffled, &order.map(|i| positions[i]));
        let part = |x: &[f32], i: usize| x[i * x.len() / 6..(i + 1) * x.len() / 6].to_vec();
        for (at, &i) in order.iter().enumerate() {
            let alone = append(device, &spec, weights.clone(), &rows[i], &positions[i..=i]);
            for (whole, other, alone) in
                [(&whole.0, &other.0, &alone.0), (&whole.1, &other.1, &alone.1), (&whole.2, &other.2, &alone.2)]
            {
                assert_eq!(part(whole, i), part(other, at), "{device}");
                assert_eq!(&part(whole, i), alone, "{device}");
            }
        }
    }
}

/// One plan and one workspace serve many layers; another plan in between changes nothing.
#[test]
fn a_plan_serves_every_layer_of_its_kind() {
    let kind = Case { name: "kind", norms: (Scaled, Scaled, Off), rope: turn(Half, 0, 8, 1), ..BASE };
    for device in devices() {
        let mut one = Setup::new(&kind, device);
        let mut other = Setup::new(&Case { name: "other", seed: 2, rows: 40, ..BASE }, device);
        one.plan.warm_up(&mut one.ws).unwrap();
        one.run().unwrap();
        let first = one.outputs();
        std::mem::swap(&mut one.ws, &mut other.ws);
        other.run().unwrap();
        std::mem::swap(&mut one.ws, &mut other.ws);
        other.run().unwrap();
        // The next layer: other weights, other input.
        let weights = LayerWeights { q_norm: vec![1.0; 16], k_norm: vec![0.5; 16], ..Default::default() };
        one.constants = LayerConstants::new(device, &kind.spec(), weights).unwrap();
        std::mem::swap(&mut one.ws, &mut other.ws);
        one.run().unwrap();
        assert_ne!(one.outputs(), first);
        one.constants = LayerConstants::new(device, &kind.spec(), kind.weights(&mut Rng(kind.seed))).unwrap();
        one.run().unwrap();
        assert_eq!(one.outputs(), first);
    }
}

/// Work encoded into the caller's encoder, on the caller's device, is the same work.
#[cfg(feature = "webgpu")]
#[test]
fn encoded_work_is_the_same_work() {
    use super::refusals::refused;
    use super::setup::check_poison;
    use colatent::kv_append::KvAppendArgs;
    use colatent::{Device, Workspace, wgpu};
    if !devices().iter().any(|d| d.kind() == "webgpu") {
        return;
    }
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = wgpu::Backends::PRIMARY;
    let adapters = pollster::block_on(wgpu::Instance::new(desc).enumerate_adapters(wgpu::Backends::PRIMARY));
    let wanted = wgpu::DeviceDescriptor { required_limits: adapters[0].limits(), ..Default::default() };
    let (own, queue) = pollster::block_on(adapters[0].request_device(&wanted)).unwrap();
    let device = Device::from_wgpu(own.clone(), queue.clone(), &adapters[0].get_info()).unwrap();

    let case = Case { name: "encoded", rope: turn(Half, 0, 8, 1), ..BASE };
    let mut ran = Setup::new(&case, &Device::reference());
    ran.run().unwrap();
    let mut encoded = Setup::new(&case, &device);
    let mut encoder = own.create_command_encoder(&Default::default());
    let Setup { plan, constants, packed, q, k, v, ws, .. } = &mut encoded;
    plan.encode(&KvAppendArgs { packed, constants, q, k, v }, ws, &mut encoder).unwrap();
    check_poison("before the submit", &encoded.q, &[]).unwrap();
    queue.submit([encoder.finish()]);
    encoded.check_untouched().unwrap();
    for (got, want) in encoded.outputs().iter().zip(&ran.outputs()) {
        compare("encoded", got, want, F32).unwrap();
    }

    // A workspace, a tensor or a plan of another device is refused.
    let mut mixed = Setup::new(&case, &device);
    mixed.ws = Workspace::new(&devices()[1]).unwrap();
    refused("workspace of another device", mixed.run(), "workspace");
    mixed.ws = Workspace::new(&Device::reference()).unwrap();
    refused("workspace of the reference", mixed.run(), "workspace");
    let Setup { plan, constants, packed, q, k, v, ws, .. } = &mut ran;
    let mut encoder = own.create_command_encoder(&Default::default());
    let args = KvAppendArgs { packed, constants, q, k, v };
    refused("plan of the reference", plan.encode(&args, ws, &mut encoder), "device");
}
