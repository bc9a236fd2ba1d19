//! Encoders as an engine writes them: documents and images of different lengths in one call, heads of 64 to 128 lanes as
//! they lie in the projection's output, windows by permutation, two and three axes of positions, text and image joint; and
//! layers of a decoder that see nothing but what an encoder made. Each against a plain loop over tokens, written down here
//! and nowhere else.
//! Planted and seen red: what a window sees born at the key's slot (WebGPU: windows; elsewhere tiles are full and nothing is
//! compared); every pair turned by the first axis (CUDA: all but cross-attention, which has no positions); a gap forgotten
//! (WebGPU: cross-attention).
mod harness;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Birth, Death, KvCache, Lifetime, Lifetimes, Modality};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, LayerWeights, Norm, Pairing, Rope};
use colatent::{DType, Device, Tensor, Workspace};
use harness::{Rng, compare, devices, poisoned};

const PAGE_SIZE: usize = 16;
/// An image, a document or a window sees itself.
const OWN_SPAN: Lifetimes = Lifetimes::all(Lifetime { birth: Birth::SpanStart, death: Death::SpanEnd });
/// A view sees itself as a whole, whatever its spans.
const OWN_VIEW: Lifetimes = Lifetimes::all(Lifetime { birth: Birth::At(0), death: Death::Never });

const IMAGE: Modality = Modality::Image;

/// Rows of the packed projection and their positions, view by view; a view is a list of spans.
struct Batch {
    views: Vec<Vec<(Modality, usize)>>,
    packed: Vec<f32>,
    positions: Vec<[i32; 4]>,
    /// Slots that the rows of a span do not see, span by span; none for spans beyond the list.
    gaps: Vec<Option<std::ops::Range<i32>>>,
}

/// Weights of the norms of q and k, if the layer has them.
fn weights(spec: &LayerSpec) -> LayerWeights {
    let of = |norm: Norm, seed: u64| if norm.is_weighted() { Rng(seed).values(spec.head_dim) } else { vec![] };
    LayerWeights { q_norm: of(spec.q_norm, 21), k_norm: of(spec.k_norm, 22), ..Default::default() }
}

/// One layer over the batch: one append and one attention, whatever the lengths. `[rows, heads, lanes]`.
fn encode(device: &Device, spec: &LayerSpec, batch: &Batch) -> Vec<f32> {
    let rows = batch.positions.len();
    let num_pages = batch.views.iter().map(|v| v.iter().map(|span| span.1).sum::<usize>().div_ceil(PAGE_SIZE)).sum();
    let mut cache = KvCache::new(PAGE_SIZE, num_pages).unwrap();
    let (mut places, mut queries) = (Vec::new(), Vec::new());
    for spans in &batch.views {
        let view = cache.create();
        for &(modality, len) in spans {
            let appended = cache.append(view, modality, len).unwrap();
            cache.write_places(&appended, &mut places).unwrap();
            queries.push(QueryRows { gap: batch.gaps.get(queries.len()).cloned().flatten(), ..appended.into() });
        }
    }
    let pages = |dim| poisoned(device, spec.kv_dtype, &[num_pages, spec.num_kv_heads, PAGE_SIZE, dim]);
    let (k, v) = (pages(spec.head_dim), pages(spec.head_dim_v));
    let constants = LayerConstants::new(device, spec, weights(spec)).unwrap();
    let layout = spec.packed();
    let packed = Tensor::from_f32(device, spec.dtype, &[rows, layout.width], &batch.packed).unwrap();
    let q = poisoned(device, spec.dtype, &[rows, spec.num_q_heads, spec.head_dim]);
    let positions = &batch.positions;
    let problem = KvAppendProblem { spec, layout, page_size: PAGE_SIZE, num_pages, places: &places, positions };
    let args = KvAppendArgs { packed: &packed, constants: &constants, q: &q, k: &k, v: &v };
    KvAppendPlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    let plan = AttentionPlan::new(device, &AttentionProblem { spec, cache: &cache, rows: &queries }).unwrap();
    let out = poisoned(device, spec.dtype, &[rows, spec.num_q_heads, spec.head_dim_v]);
    let args =
        AttentionArgs { q: &q, k: &k, v: &v, constants: &constants, selection: None, gate: None, out: &out, lse: None };
    plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    out.read_f32().unwrap()
}

/// The same by definition: row `q` sees row `k` of the batch where `sees(q, k)`.
fn expected(spec: &LayerSpec, batch: &Batch, sees: &dyn Fn(usize, usize) -> bool) -> Vec<f32> {
    let (heads, kv, dim) = (spec.num_q_heads, spec.num_kv_heads, spec.head_dim);
    let width = (heads + 2 * kv) * dim;
    let head = |row: usize, first: usize, norm: Option<&[f32]>| -> Vec<f64> {
        let mut x: Vec<f64> = batch.packed[row * width + first..][..dim].iter().map(|&x| f64::from(x)).collect();
        let Some(norm) = norm else { return x }; // v
        if let Norm::RmsScaled { eps } = spec.q_norm {
            let root = (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + f64::from(eps)).sqrt();
            x.iter_mut().zip(norm).for_each(|(x, w)| *x = *x / root * f64::from(*w));
        }
        let Some(rope) = spec.rope.as_ref() else { return x };
        let (pairs, mut y) = (rope.inv_freq.len(), x.clone());
        for j in 0..pairs {
            let (a, b) = if rope.pairing == Pairing::Half { (j, j + pairs) } else { (2 * j, 2 * j + 1) };
            let (sin, cos) = (f64::from(batch.positions[row][rope.axis[j] as usize]) * rope.inv_freq[j]).sin_cos();
            (y[a], y[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
        }
        y
    };
    let rows = batch.positions.len();
    let all = |first: usize, norm: Option<&[f32]>| (0..rows).map(|row| head(row, first, norm)).collect::<Vec<_>>();
    let LayerWeights { q_norm, k_norm, .. } = weights(spec);
    let mut out = vec![0.0; rows * heads * dim];
    for h in 0..heads {
        let of_kv = h / (heads / kv) * dim;
        let (q, k) = (all(h * dim, Some(&q_norm)), all(heads * dim + of_kv, Some(&k_norm)));
        let v = all((heads + kv) * dim + of_kv, None);
        for row in 0..rows {
            let seen: Vec<usize> = (0..rows).filter(|&key| sees(row, key)).collect();
            let dot = |key: usize| q[row].iter().zip(&k[key]).map(|(a, b)| a * b).sum::<f64>();
            let weights: Vec<f64> = seen.iter().map(|&key| (dot(key) * f64::from(spec.softmax_scale)).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..dim {
                let sum: f64 = seen.iter().zip(&weights).map(|(&key, w)| w * v[key][d]).sum();
                // A row that sees nothing is zero.
                out[(row * heads + h) * dim + d] = if seen.is_empty() { 0.0 } else { (sum / total) as f32 };
            }
        }
    }
    out
}

/// A grid of `h` x `w` patches, row by row, at one time.
fn grid(t: i32, h: i32, w: i32) -> impl Iterator<Item = [i32; 4]> {
    (0..h * w).map(move |i| [t, i / w, i % w, 0])
}

/// In f32 against the loop above; in bf16, where tensor cores serve these dims, against the reference.
fn check(what: &str, spec: &LayerSpec, batch: &Batch, sees: &dyn Fn(usize, usize) -> bool) {
    let want = expected(spec, batch, sees);
    let narrow = LayerSpec { dtype: DType::BF16, kv_dtype: DType::BF16, ..spec.clone() };
    let narrow_want = encode(&Device::Reference, &narrow, batch);
    for device in devices() {
        compare(&format!("{what} on {device}"), &encode(device, spec, batch), &want, DType::F32).unwrap();
        let got = encode(device, &narrow, batch);
        compare(&format!("{what} in bf16 on {device}"), &got, &narrow_want, DType::BF16).unwrap();
    }
}

/// Packed images of different sizes; a head has the lanes that it has: nothing is padded or copied.
#[test]
fn images_of_different_sizes_in_one_call() {
    for (dim, heads, kv_heads) in [(64, 2, 2), (72, 2, 2), (80, 2, 2), (88, 2, 2), (96, 2, 2), (128, 4, 2)] {
        let blocks = [(Rope::HEIGHT, dim / 2), (Rope::WIDTH, dim / 2)];
        let rope = Some(Rope::axial(&blocks, 1e4, Pairing::Half));
        let spec = LayerSpec { rope, lifetimes: OWN_SPAN, ..LayerSpec::new(heads, kv_heads, dim) };
        let sizes = [(1, 1), (3, 7), (6, 8), (7, 7), (2, 3)]; // 48 and 49 patches: the end of a tile of keys, and beyond
        let positions: Vec<[i32; 4]> = sizes.iter().flat_map(|&(h, w)| grid(0, h, w)).collect();
        let image: Vec<usize> = sizes.iter().enumerate().flat_map(|(i, &(h, w))| vec![i; (h * w) as usize]).collect();
        let batch = Batch {
            views: sizes.iter().map(|&(h, w)| vec![(IMAGE, (h * w) as usize)]).collect(),
            packed: Rng(dim as u64).values(positions.len() * spec.packed().width),
            positions,
            gaps: vec![],
        };
        check(&format!("images, {dim} lanes"), &spec, &batch, &|q, k| image[q] == image[k]);
    }
}

/// Rows are put in the order of their windows once; window layers see spans, full layers see views. Nothing else differs
/// between the two, and the same places serve both.
#[test]
fn windows_by_permutation() {
    const SIDE: i32 = 4;
    let sizes = [(6, 10), (4, 4), (5, 3)]; // windows of 16, 8, 4 and fewer patches at the edges
    let dim = 80;
    let rope = Some(Rope::axial(&[(Rope::HEIGHT, dim / 2), (Rope::WIDTH, dim / 2)], 1e4, Pairing::Half));
    let window_layer = LayerSpec { rope, lifetimes: OWN_SPAN, ..LayerSpec::new(2, 2, dim) };
    let full_layer = LayerSpec { lifetimes: OWN_VIEW, ..window_layer.clone() };

    // The images as they come, and which window each patch is in.
    let raster: Vec<[i32; 4]> = sizes.iter().flat_map(|&(h, w)| grid(0, h, w)).collect();
    let image: Vec<usize> = sizes.iter().enumerate().flat_map(|(i, &(h, w))| vec![i; (h * w) as usize]).collect();
    let window = |row: usize| (image[row], raster[row][1] / SIDE, raster[row][2] / SIDE);
    let width = window_layer.packed().width;
    let packed = Rng(7).values(raster.len() * width);

    // The permutation, the spans that it makes, and the rows in its order.
    let mut order: Vec<usize> = (0..raster.len()).collect();
    order.sort_by_key(|&row| window(row)); // stable: raster order within a window
    let mut views = vec![Vec::new(); sizes.len()];
    for windows in order.chunk_by(|&a, &b| window(a) == window(b)) {
        views[image[windows[0]]].push((IMAGE, windows.len()));
    }
    let permuted = Batch {
        views,
        packed: order.iter().flat_map(|&row| packed[row * width..][..width].to_vec()).collect(),
        positions: order.iter().map(|&row| raster[row]).collect(),
        gaps: vec![],
    };
    let as_they_came = Batch { views: vec![], packed, positions: raster.clone(), gaps: vec![] };
    let in_window: &dyn Fn(usize, usize) -> bool = &|q, k| window(q) == window(k);
    let in_image: &dyn Fn(usize, usize) -> bool = &|q, k| image[q] == image[k];
    for (spec, sees) in [(&window_layer, in_window), (&full_layer, in_image)] {
        let want = expected(spec, &as_they_came, sees);
        for device in devices() {
            let got = encode(device, spec, &permuted);
            let mut back = vec![f32::NAN; got.len()];
            let lanes = got.len() / order.len();
            for (at, &row) in order.iter().enumerate() {
                back[row * lanes..(row + 1) * lanes].copy_from_slice(&got[at * lanes..(at + 1) * lanes]);
            }
            compare(&format!("{device}"), &back, &want, DType::F32).unwrap();
        }
    }
}

/// Clips of several frames turn by time, row and column; frames of a clip see each other, clips do not.
#[test]
fn clips_turn_by_three_axes() {
    let rope = Rope::plain(96, 1e4, Pairing::Half).with_interleaved_sections([16, 16, 16]);
    let spec = LayerSpec { rope: Some(rope), lifetimes: OWN_SPAN, ..LayerSpec::new(2, 1, 96) };
    let clips = [(3, 2, 4), (1, 3, 3), (5, 2, 2)];
    let frames = |&(t, h, w): &(i32, i32, i32)| (0..t).flat_map(move |t| grid(t, h, w)).collect::<Vec<_>>();
    let positions: Vec<[i32; 4]> = clips.iter().flat_map(frames).collect();
    let clip: Vec<usize> = clips.iter().enumerate().flat_map(|(i, c)| vec![i; frames(c).len()]).collect();
    let views = clips.iter().map(|c| vec![(IMAGE, frames(c).len())]).collect();
    let packed = Rng(3).values(positions.len() * spec.packed().width);
    let batch = Batch { views, packed, positions, gaps: vec![] };
    check("clips", &spec, &batch, &|q, k| clip[q] == clip[k]);
}

/// Joint attention of the FLUX kind: text and image of a sample are one span, text stands at 0 and the image on its grid.
#[test]
fn text_and_image_attend_jointly() {
    let spec = LayerSpec { num_q_heads: 2, num_kv_heads: 2, ..LayerSpec::flux_joint() };
    let samples = [(7usize, 4, 6), (12, 3, 3)];
    let rows = |&(text, h, w): &(usize, i32, i32)| {
        std::iter::repeat_n([0; 4], text).chain(grid(0, h, w)).collect::<Vec<[i32; 4]>>()
    };
    let positions: Vec<[i32; 4]> = samples.iter().flat_map(rows).collect();
    let sample: Vec<usize> = samples.iter().enumerate().flat_map(|(i, s)| vec![i; rows(s).len()]).collect();
    let views = samples.iter().map(|s| vec![(IMAGE, rows(s).len())]).collect();
    let packed = Rng(4).values(positions.len() * spec.packed().width);
    let batch = Batch { views, packed, positions, gaps: vec![] };
    check("joint", &spec, &batch, &|q, k| sample[q] == sample[k]);
}

/// The cross-attention layers of Llama 3.2 Vision: text sees the tokens of images before it and nothing else. Rows in front
/// of the first image see nothing and are zero; a gap hides the first image from what is behind the second.
#[test]
fn text_reads_images_alone() {
    const TEXT: Modality = Modality::Text;
    let preset = LayerSpec::llama32_vision_cross();
    let spec = LayerSpec { num_q_heads: 4, num_kv_heads: 1, ..preset };
    let stream = vec![(TEXT, 5), (IMAGE, 37), (TEXT, 4), (IMAGE, 21), (TEXT, 20)];
    let alone = vec![(TEXT, 3)]; // a stream without an image
    let gaps = vec![None, None, None, None, Some(5..42), None];
    let rows = 87 + 3;
    let packed = Rng(6).values(rows * spec.packed().width);
    let batch = Batch { views: vec![stream, alone], packed, positions: vec![[0; 4]; rows], gaps };
    let sees = |q: usize, k: usize| match k {
        5..42 => q < 67 && k <= q,
        46..67 => q < 87 && k <= q,
        _ => false,
    };
    check("cross-attention", &spec, &batch, &sees);
}
