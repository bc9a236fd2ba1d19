//! What lies in the memory of a scene: K and V in their pages, in values or codes, and what rows choose.

use colatent::attention::QueryRows;
use colatent::kv::{KvCache, ViewId};
use colatent::layer::{KvScale, LayerSpec};
use colatent::{DType, Device, Tensor};

use super::Rng;
use super::scene::{Case, Signs};

/// Random K and V where tokens are, NaN elsewhere: `[pages, heads, page_size, dim]`. Keyed by the order in which `views`
/// meet the segments and by token, so that the place of a page does not matter.
pub fn pages(case: &Case, cache: &KvCache, views: &[ViewId], dim: usize, salt: u64) -> Vec<f32> {
    let (heads, size) = (case.heads.0, cache.page_size());
    let mut data = vec![f32::NAN; cache.num_pages() * heads * size * dim];
    let mut names = Vec::new();
    for &view in views {
        for entry in cache.view(view).expect("a view").entries() {
            let segment = cache.segment(entry.segment).expect("a segment");
            if names.contains(&entry.segment) {
                continue;
            }
            names.push(entry.segment);
            for token in 0..segment.len() as usize {
                let page = segment.pages()[token / size] as usize;
                let mut rng = Rng(salt ^ (token as u64) << 20 ^ (names.len() as u64) << 44);
                for head in 0..heads {
                    let at = ((page * heads + head) * size + token % size) * dim;
                    data[at..at + dim].copy_from_slice(&rng.values(dim));
                }
            }
        }
    }
    data
}

/// The selection of these rows, and which tokens somebody chose: others hold NaN.
pub fn choose(
    case: &Case,
    cache: &KvCache,
    views: &[ViewId],
    rows: &[QueryRows],
    words: usize,
) -> (Vec<u32>, Vec<bool>) {
    let (mut selection, mut some) = (Vec::new(), vec![false; cache.num_pages() * cache.page_size()]);
    for r in rows {
        let view = views.iter().position(|v| *v == r.view).expect("a view of the rows");
        let end = cache.view(r.view).expect("a view").next_slot();
        for slot in r.first_slot..r.first_slot + r.len as i32 {
            let mut row = vec![0u32; words];
            for key in 0..end {
                if case.chosen.is_some_and(|c| c.has(view, slot, key)) {
                    row[key as usize / 32] |= 1 << (key % 32);
                    // A slot that was dropped has no place.
                    for place in cache.places(r.view, key..key + 1).unwrap_or_default() {
                        some[place as usize] = true;
                    }
                }
            }
            selection.extend(row);
        }
    }
    (selection, some)
}

/// Values with the case's signs.
pub fn sign(case: &Case, page_size: usize, mut values: Vec<f32>) -> Vec<f32> {
    for (vector, lanes) in values.chunks_mut(case.dims.1).enumerate() {
        match case.signs {
            Signs::Any => {}
            Signs::Positive => lanes.iter_mut().for_each(|x| *x = x.abs()),
            Signs::Opposed => {
                let sign = [1.0, -1.0][vector % page_size % 2];
                lanes.iter_mut().for_each(|x| *x = sign * x.abs());
            }
        }
    }
    values
}

pub fn spoil(case: &Case, cache: &KvCache, views: &[ViewId], mut values: Vec<f32>) -> Vec<f32> {
    let (heads, size, dim) = (case.heads.0, cache.page_size(), case.dims.1);
    let (period, with) = case.spoiled;
    let segments = views.iter().flat_map(|&v| cache.view(v).expect("a view").entries()).map(|e| e.segment);
    for segment in segments.filter(|_| period > 0) {
        let segment = cache.segment(segment).expect("a segment");
        for token in (period - 1..segment.len() as usize).step_by(period) {
            let page = segment.pages()[token / size] as usize;
            let at = ((page * heads + token % heads) * size + token % size) * dim + token % dim;
            values[at] = with[token / period % with.len()];
        }
    }
    values
}

/// Pages of NaN in our layout or an engine's: `[page, slot, head, dim]` at an offset, between guards of NaN.
fn page_memory(device: &Device, dtype: DType, shape: [usize; 4], engine: bool) -> Tensor {
    if !engine {
        return super::poisoned(device, dtype, &shape);
    }
    let [pages, heads, size, dim] = shape;
    let pad = if dtype.is_code() { 16 } else { 8 };
    let wide = dim + pad;
    let whole = super::poisoned(device, dtype, &[pages + 1, size, heads, wide]);
    let strides = [size * heads * wide, heads * wide, wide, 1];
    let t =
        Tensor::with_strides(whole.buffer().clone(), dtype, pad, &[pages, size, heads, dim], &strides).expect("a view");
    t.permute(&[0, 2, 1, 3]).expect("a permutation")
}

/// Page tensors of K and V `[pages, heads, page_size, dim]`; codes have scales: NaN where no token is.
pub fn kv_tensors(device: &Device, spec: &LayerSpec, engine: bool, [k, v]: [([usize; 4], &[f32]); 2]) -> [Tensor; 2] {
    let [pages, heads, size, _] = k.0;
    // Beside each other: shaders bind one buffer for both.
    let scales = super::poisoned(device, DType::F32, &[2, pages, heads, size]);
    let strides = if engine { [size * heads * 2, 2, heads * 2] } else { [heads * size, size, 1] };
    let of = |i: usize, (shape, data): ([usize; 4], &[f32])| {
        let elements = if i == 0 { spec.key_elements() } else { shape[3] };
        let mut t = page_memory(device, spec.kv_dtype, [pages, heads, size, elements], engine);
        if i == 0 {
            t = spec.key_pages(&t).expect("a tail");
        }
        if spec.kv_scale == KvScale::Token {
            let offset = if engine { i } else { scales.strides()[0] * i };
            let buffer = scales.buffer().clone();
            let scales = Tensor::with_strides(buffer, DType::F32, offset, &[pages, heads, size], &strides);
            t = t.with_scales(&scales.expect("scales")).expect("codes");
        }
        let data: Vec<f32> = data.iter().zip(factors(spec, &t, i)).map(|(x, factor)| x / factor).collect();
        t.write_f32(&data).expect("pages");
        t
    };
    let k = of(0, k);
    let v = if spec.v_in_k { k.first_lanes(spec.head_dim_v).expect("v") } else { of(1, v) };
    [k, v]
}

/// What each lane of a tensor of K (0) or V (1) is multiplied by, if it is the same for all tokens.
fn factors(spec: &LayerSpec, t: &Tensor, part: usize) -> impl Iterator<Item = f32> {
    let factor = match spec.kv_scale {
        KvScale::Tensor { k, v } => [k, v][part],
        _ => 1.0,
    };
    let lanes = t.shape()[3];
    let before = lanes - t.tail().map_or(0, |tail| tail.shape()[3]);
    (0..t.len()).map(move |i| if i % lanes < before { factor } else { 1.0 })
}

/// What a tensor of K (0) or V (1) stands for, as f32.
pub fn values_of(spec: &LayerSpec, t: &Tensor, part: usize) -> Tensor {
    let values = t.read_f32().expect("pages").into_iter().zip(factors(spec, t, part));
    let values: Vec<f32> = values.map(|(x, factor)| x * factor).collect();
    Tensor::from_f32(&Device::Reference, DType::F32, t.shape(), &values).expect("pages")
}
