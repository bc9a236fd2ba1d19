//! burn's ways to the output of a scene. Where query heads share a KV head, their queries stand in rows below each other
//! (`[kv heads, group * rows, dim]`), so that K is not repeated; burn's own attention needs it repeated where it masks by row,
//! and is given the copy for free.

use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::harness::{Ready, Scene};

/// A scene's numbers on the host, pages resolved: what one row of each view attends to.
pub struct Inputs {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    /// `[rows, heads, dim]`.
    q: Vec<f32>,
    /// Per view `[kv heads, tokens, dim]`.
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    /// Our output, `[rows, heads, dim]`.
    out: Vec<f32>,
    rows_per_view: usize,
    /// Leading tokens that all views share; 0 for one view.
    shared: usize,
}

impl Inputs {
    pub fn new(scene: &Scene, ready: &Ready) -> Inputs {
        let [q, k, v, out] = ready.tensors().each_ref().map(|t| t.read_f32().expect("readback"));
        let (spec, cache) = (&scene.spec, &scene.cache);
        let (kv_heads, dim, size) = (spec.num_kv_heads, spec.head_dim, cache.page_size());
        let places: Vec<Vec<u32>> = scene
            .rows
            .iter()
            .map(|r| cache.places(r.view, 0..r.first_slot + r.len as i32).expect("a view without holes"))
            .collect();
        let dense = |pages: &[f32]| -> Vec<Vec<f32>> {
            let of = |head: usize, place: u32| {
                let at = ((place as usize / size * kv_heads + head) * size + place as usize % size) * dim;
                pages[at..at + dim].to_vec()
            };
            places.iter().map(|p| (0..kv_heads).flat_map(|h| p.iter().flat_map(move |&p| of(h, p))).collect()).collect()
        };
        let same = |i: usize| places.iter().all(|p| p.get(i) == places[0].get(i));
        let shared = if places.len() == 1 { 0 } else { (0..).take_while(|&i| same(i)).count() };
        let (k, v, rows_per_view) = (dense(&k), dense(&v), scene.rows[0].len as usize);
        Inputs { heads: spec.num_q_heads, kv_heads, dim, q, k, v, out, rows_per_view, shared }
    }

    fn views(&self) -> usize {
        self.k.len()
    }

    fn tokens(&self) -> usize {
        self.k[0].len() / self.kv_heads / self.dim
    }

    /// Tokens `from..to` of every KV head of one view.
    fn part(&self, kv: &[f32], from: usize, to: usize) -> Vec<f32> {
        let head = self.tokens() * self.dim;
        kv.chunks(head).flat_map(|h| h[from * self.dim..to * self.dim].to_vec()).collect()
    }

    /// Whether a way's output, `[view, kv head, group, row of the view, dim]`, is ours.
    pub fn check(&self, way: &Way, scene: &str) {
        let got: Vec<f32> = (way.call)().into_data().try_to_vec().expect("f32");
        let (d, group, n) = (self.dim, self.heads / self.kv_heads, self.rows_per_view);
        assert_eq!(got.len(), self.out.len(), "{scene}: {}", way.name);
        for (i, &x) in got.iter().enumerate() {
            let (lane, row, member) = (i % d, i / d % n, i / d / n % group);
            let (head, view) = (i / d / n / group % self.kv_heads, i / d / n / self.heads);
            let want = self.out[((view * n + row) * self.heads + head * group + member) * d + lane];
            assert!((x - want).abs() < 1e-4, "{scene}: {} gives {x} where {want} is right", way.name);
        }
    }
}

/// One way: a closure whose output is `[view, kv head, group, row of the view, dim]` in memory.
pub struct Way {
    pub name: &'static str,
    call: Box<dyn Fn() -> Tensor<4>>,
}

impl Way {
    /// Runs once and waits. The output is alive until then, so that nothing can be left out.
    pub fn run(&self, device: &Device) -> Tensor<4> {
        let out = (self.call)();
        device.sync().expect("the device");
        out
    }
}

fn way(name: &'static str, call: impl Fn() -> Tensor<4> + 'static) -> Way {
    Way { name, call: Box::new(call) }
}

/// The ways of a scene: of a prefill, or of one row per view.
pub fn of(inputs: &Inputs, device: &Device) -> Vec<Way> {
    if inputs.rows_per_view > 1 { prefill(inputs, device) } else { decode(inputs, device) }
}

fn tensor<const D: usize>(device: &Device, shape: [usize; D], values: Vec<f32>) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Queries as `[view, kv head, group, row, dim]`.
fn queries(x: &Inputs) -> Vec<f32> {
    let (n, d) = (x.rows_per_view, x.dim);
    let of = |view: usize, head: usize, row: usize| {
        let at = ((view * n + row) * x.heads + head) * d;
        x.q[at..at + d].to_vec()
    };
    let (views, heads) = (x.views(), x.heads);
    (0..views).flat_map(|v| (0..heads).flat_map(move |h| (0..n).flat_map(move |r| of(v, h, r)))).collect()
}

fn prefill(x: &Inputs, device: &Device) -> Vec<Way> {
    let (n, d, kv, group) = (x.tokens(), x.dim, x.kv_heads, x.heads / x.kv_heads);
    let scale = 1.0 / (d as f64).sqrt();
    let repeat = |kv: &[f32]| -> Vec<f32> { kv.chunks(n * d).flat_map(|head| head.repeat(group)).collect() };
    let q = tensor(device, [1, x.heads, n, d], queries(x));
    let (k, v) =
        (tensor(device, [1, x.heads, n, d], repeat(&x.k[0])), tensor(device, [1, x.heads, n, d], repeat(&x.v[0])));
    let options = AttentionModuleOptions { scale: Some(scale), softcap: None, is_causal: true };
    let own = way("attention", move || attention(q.clone(), k.clone(), v.clone(), None, None, options));

    let q = tensor(device, [1, kv, group * n, d], queries(x));
    let (k, v) = (tensor(device, [1, kv, n, d], x.k[0].clone()), tensor(device, [1, kv, n, d], x.v[0].clone()));
    let future = |i: usize| if i % n > i / n % n { -1e30 } else { 0.0 };
    let mask = tensor(device, [1, 1, group * n, n], (0..group * n * n).map(future).collect());
    let by_hand = way("matmul, softmax, matmul", move || {
        let scores = q.clone().matmul(k.clone().swap_dims(2, 3)) * scale + mask.clone();
        softmax(scores, 3).matmul(v.clone())
    });
    vec![own, by_hand]
}

fn decode(x: &Inputs, device: &Device) -> Vec<Way> {
    let (n, d, kv, group, views, shared) = (x.tokens(), x.dim, x.kv_heads, x.heads / x.kv_heads, x.views(), x.shared);
    let scale = 1.0 / (d as f64).sqrt();
    let batch = |dense: &[Vec<f32>]| tensor(device, [views, kv, n, d], dense.concat());
    let q = tensor(device, [views, kv, group, d], queries(x));
    let (k, v) = (batch(&x.k), batch(&x.v));
    let options = AttentionModuleOptions { scale: Some(scale), softcap: None, is_causal: false };
    let mut ways = Vec::new();
    {
        let (q, k, v) = (q.clone(), k.clone(), v.clone());
        ways.push(way("attention", move || attention(q.clone(), k.clone(), v.clone(), None, None, options)));
    }
    {
        let q = q.clone();
        ways.push(way("matmul, softmax, matmul", move || {
            let scores = q.clone().matmul(k.clone().swap_dims(2, 3)) * scale;
            softmax(scores, 3).matmul(v.clone())
        }));
    }
    if shared == 0 {
        return ways;
    }
    // The prompt once, for the rows of all views; what is each view's own as a batch.
    let prompt = |dense: &[Vec<f32>]| tensor(device, [1, kv, shared, d], x.part(&dense[0], 0, shared));
    let own = |dense: &[Vec<f32>]| {
        let parts: Vec<f32> = dense.iter().flat_map(|view| x.part(view, shared, n)).collect();
        tensor(device, [views, kv, n - shared, d], parts)
    };
    let (k0, v0, k1, v1) = (prompt(&x.k), prompt(&x.v), own(&x.k), own(&x.v));
    // [view, kv, group, d] <-> [1, kv, view * group, d]
    let together = move |t: Tensor<4>| {
        let lanes = t.dims()[3];
        t.swap_dims(0, 1).reshape([1, kv, views * group, lanes])
    };
    let apart = move |t: Tensor<4>| {
        let lanes = t.dims()[3];
        t.reshape([kv, views, group, lanes]).swap_dims(0, 1)
    };
    {
        let (q, k0, v0, k1, v1) = (q.clone(), k0.clone(), v0.clone(), k1.clone(), v1.clone());
        ways.push(way("shared prompt, one softmax", move || {
            let s0 = together(q.clone()).matmul(k0.clone().swap_dims(2, 3)) * scale;
            let s1 = q.clone().matmul(k1.clone().swap_dims(2, 3)) * scale;
            let weights = softmax(Tensor::cat(vec![apart(s0), s1], 3), 3);
            let o0 = together(weights.clone().narrow(3, 0, shared)).matmul(v0.clone());
            apart(o0) + weights.narrow(3, shared, n - shared).matmul(v1.clone())
        }));
    }
    ways.push(way("shared prompt, states merged", move || {
        let state = |scores: Tensor<4>, v: Tensor<4>| {
            let top = scores.clone().max_dim(3);
            let weights = (scores - top.clone()).exp();
            (weights.clone().matmul(v), weights.sum_dim(3), top)
        };
        let s0 = together(q.clone()).matmul(k0.clone().swap_dims(2, 3)) * scale;
        let (o0, sum0, top0) = state(s0, v0.clone());
        let (o0, sum0, top0) = (apart(o0), apart(sum0), apart(top0));
        let (o1, sum1, top1) = state(q.clone().matmul(k1.clone().swap_dims(2, 3)) * scale, v1.clone());
        let top = top0.clone().max_pair(top1.clone());
        let (w0, w1) = ((top0 - top.clone()).exp(), (top1 - top).exp());
        (o0 * w0.clone() + o1 * w1.clone()) / (sum0 * w0 + sum1 * w1)
    }));
    ways
}
