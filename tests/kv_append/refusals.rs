//! What is refused, and that memory stays as it was.

use colatent::DType::{F16, F32};
use colatent::kv_append::{KvAppendPlan, KvAppendProblem, PADDING};
use colatent::layer::Pairing::Half;
use colatent::layer::{LayerConstants, LayerSpec, Norm, PackedLayout, Part, Rope};
use colatent::{Buffer, Error, Tensor};

use super::case::{BASE, Case, Off, Scaled, turn};
use super::setup::{Setup, check_poison, fill};
use crate::harness::{Rng, devices};

pub fn refused(what: &str, result: Result<impl Sized, Error>, argument: &str) {
    match result {
        Ok(_) => panic!("{what}: accepted"),
        Err(e) => {
            let text = e.to_string();
            assert!(
                text.starts_with("kv_append") && text.contains(argument),
                "{what}: {text} does not name {argument}"
            );
        }
    }
}

#[test]
fn impossible_problems_are_refused() {
    let spec = LayerSpec::new(2, 1, 8);
    let places = [0, PADDING, 5];
    let positions = [[0; 4]; 3];
    let good = KvAppendProblem {
        spec: &spec,
        layout: spec.packed(),
        page_size: 3,
        num_pages: 2,
        places: &places,
        positions: &positions,
    };
    let bad_spec = |change: fn(&mut LayerSpec)| {
        let mut s = spec.clone();
        change(&mut s);
        s
    };
    let dim = bad_spec(|s| s.head_dim = 12);
    let eps = bad_spec(|s| s.v_norm = Norm::Rms { eps: f32::NAN });
    let length = bad_spec(|s| s.q_norm = Norm::Clip { most: f32::INFINITY });
    let out_norm = bad_spec(|s| s.out_norm = Norm::Layer { eps: 1e-5, bias: false, by_head: false });
    let lanes = bad_spec(|s| s.rope = Some(Rope::plain(16, 1e4, Half)));
    let layout = |change: fn(&mut PackedLayout)| {
        let mut l = spec.packed();
        change(&mut l);
        l
    };
    for device in devices() {
        let plan = |p: &KvAppendProblem| KvAppendPlan::new(device, p);
        let text = plan(&good).unwrap().to_string();
        assert!(text.contains("3 rows (1 padding)") && text.contains(device.kind()), "{text}");
        refused("place twice", plan(&KvAppendProblem { places: &[4, 0, 4], ..good }), "places");
        refused("place past the end", plan(&KvAppendProblem { places: &[4, 6, 0], ..good }), "places");
        refused("no page", plan(&KvAppendProblem { num_pages: 0, ..good }), "places");
        refused("empty pages", plan(&KvAppendProblem { page_size: 0, ..good }), "page_size");
        refused(
            "too many slots",
            plan(&KvAppendProblem { page_size: 1 << 20, num_pages: 1 << 12, ..good }),
            "page_size",
        );
        refused("overflow", plan(&KvAppendProblem { num_pages: usize::MAX, ..good }), "page_size");
        refused("positions missing", plan(&KvAppendProblem { positions: &positions[..2], ..good }), "positions");
        refused("head dim", plan(&KvAppendProblem { spec: &dim, ..good }), "head_dim 12");
        refused("eps", plan(&KvAppendProblem { spec: &eps, ..good }), "v_norm");
        refused("length", plan(&KvAppendProblem { spec: &length, ..good }), "q_norm");
        refused("out_norm", plan(&KvAppendProblem { spec: &out_norm, ..good }), "out_norm");
        refused("rope", plan(&KvAppendProblem { spec: &lanes, ..good }), "rope");
        for (name, l) in [
            ("layout.q", layout(|l| l.q.head_stride = 30)),
            ("layout.k", layout(|l| l.k.offset = 28)),
            ("layout.v", layout(|l| l.v.offset = usize::MAX)),
            ("layout.v", layout(|l| l.width -= 1)),
            ("layout.gate", layout(|l| l.gate = Some(Part { offset: 0, head_stride: 80 }))),
        ] {
            refused(name, plan(&KvAppendProblem { layout: l, ..good }), name);
        }
        if device.kind() != "reference" {
            let odd = layout(|l| {
                l.v.offset += 2;
                l.width += 2;
            });
            refused("offset 2", plan(&KvAppendProblem { layout: odd, ..good }), "layout.v");
        }
    }
}

#[test]
fn unfit_tensors_are_refused_and_memory_stays() {
    let case = Case { name: "unfit", norms: (Scaled, Off, Off), rope: turn(Half, 0, 8, 1), ..BASE };
    for device in devices() {
        let gpu = device.kind() != "reference";
        let mut setup = Setup::new(&case, device);
        let (packed, q, k, v, constants) =
            (setup.packed.clone(), setup.q.clone(), setup.k.clone(), setup.v.clone(), setup.constants.clone());
        let spec = case.spec();
        let strided = |t: &Tensor, offset: usize, shape: &[usize], strides: &[usize]| {
            let bytes = 4 * (offset + 64 + shape.iter().zip(strides).map(|(a, b)| a * b).sum::<usize>());
            let buffer = Buffer::zeros(device, bytes).unwrap();
            fill(&buffer, t.dtype());
            Tensor::with_strides(buffer, t.dtype(), offset, shape, strides).unwrap()
        };
        let s = k.shape().to_vec();
        let typed = |t: &Tensor| Tensor::zeros(device, F16, t.shape()).unwrap();
        let elsewhere = |t: &Tensor| {
            // The reference's memory on a GPU and the other way about; with one device there is no elsewhere.
            devices()
                .iter()
                .find(|d| d.kind() != device.kind())
                .map(|d| Tensor::zeros(d, t.dtype(), t.shape()).unwrap())
        };
        let plain_constants =
            LayerConstants::new(device, &LayerSpec { q_norm: Norm::None, ..spec.clone() }, Default::default());
        let nope = LayerSpec { rope: None, ..spec.clone() };
        let nope_constants = LayerConstants::new(device, &nope, case.weights(&mut Rng(1)));

        let mut rows: Vec<(&str, Setup, &str)> = Vec::new();
        let mut add = |what: &'static str, argument: &'static str, change: &dyn Fn(&mut Setup)| {
            let mut changed = Setup::new(&case, device);
            (changed.packed, changed.q, changed.k, changed.v) = (packed.clone(), q.clone(), k.clone(), v.clone());
            changed.constants = constants.clone();
            change(&mut changed);
            rows.push((what, changed, argument));
        };
        add("packed type", "packed", &|s| s.packed = typed(&packed));
        add("q type", "q", &|s| s.q = typed(&q));
        add("k type", "k", &|s| s.k = typed(&k));
        add("v type", "v", &|s| s.v = typed(&v));
        add("packed width", "packed", &|s| s.packed = Tensor::zeros(device, F32, &[5, 8]).unwrap());
        add("q rank", "q", &|s| s.q = Tensor::zeros(device, F32, &[5, 64]).unwrap());
        add("k not permuted", "k", &|x| x.k = Tensor::zeros(device, F32, &[s[0], s[2], s[1], s[3]]).unwrap());
        add("v page count", "v", &|x| x.v = Tensor::zeros(device, F32, &[s[0] + 1, s[1], s[2], s[3]]).unwrap());
        add("lanes apart", "q", &|s| s.q = strided(&q, 0, &[5, 4, 16], &[128, 32, 2]));
        add("q on itself", "q", &|s| s.q = strided(&q, 0, &[5, 4, 16], &[64, 8, 1]));
        add("k on itself", "k", &|x| x.k = strided(&k, 0, &s, &[0, s[2] * s[3], s[3], 1]));
        add("q in packed", "q", &|s| s.q = Tensor::new(packed.buffer().clone(), F32, &[5, 4, 16]).unwrap());
        add("constants without weights", "constants", &|s| s.constants = plain_constants.clone().unwrap());
        add("constants without rotation", "constants", &|s| s.constants = nope_constants.clone().unwrap());
        if gpu {
            add("offset 2", "q", &|s| s.q = strided(&q, 2, &[5, 4, 16], &[64, 16, 1]));
            add("stride 66", "k", &|x| x.k = strided(&k, 0, &s, &[1024, 512, 18, 1]));
        }
        for (name, t) in [("packed", &packed), ("q", &q), ("k", &k), ("v", &v)] {
            let Some(t) = elsewhere(t) else { continue };
            add("elsewhere", name, &|s| {
                *match name {
                    "packed" => &mut s.packed,
                    "q" => &mut s.q,
                    "k" => &mut s.k,
                    _ => &mut s.v,
                } = t.clone()
            });
        }
        for (what, mut changed, argument) in rows {
            refused(what, changed.run(), &format!("kv_append: {argument}"));
        }
        for (name, t) in [("q", &q), ("k", &k), ("v", &v)] {
            check_poison(name, t, &[]).unwrap_or_else(|e| panic!("{device}: {e}"));
        }
        // And the same tensors, unchanged, are accepted.
        setup.run().unwrap();
        setup.check_untouched().unwrap();
    }
}
