//! The definition: one lane after the other in f64, rounded once at the store.

use super::OP;
use super::plan::KvAppendPlan;
use super::problem::{KvAppendArgs, PADDING};
use crate::layer::{KvScale, LayerSpec, MOST_LANES, Norm, Part, Rope, Temperature};
use crate::tensor::{Memory, lock_read, lock_write};
use crate::{Error, Result, Tensor};

use std::sync::{Arc, RwLock};

/// Lanes of one head; the layer's validation allows no more.
type Lanes = [f64; MOST_LANES];

#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(unused_variables))]
fn host<'a>(name: &'static str, t: &'a Tensor) -> Result<&'a Arc<RwLock<Vec<u8>>>> {
    match &t.buffer().memory {
        Memory::Host(memory) => Ok(memory),
        #[cfg(any(feature = "webgpu", feature = "cuda"))]
        _ => Err(Error::invalid(OP, name, "memory of the reference device", "memory of another device")),
    }
}

pub(super) fn run(plan: &KvAppendPlan, args: &KvAppendArgs) -> Result<()> {
    let (spec, layout, weights) = (&plan.spec, &plan.layout, &args.constants.weights);
    let (packed, q, k, v) = (host("packed", args.packed)?, host("q", args.q)?, host("k", args.k)?, host("v", args.v)?);
    if !matches!(args.constants.buffer.memory, Memory::Host(_)) {
        return Err(Error::invalid(OP, "constants", "memory of the reference device", "memory of WebGPU"));
    }
    let packed = lock_read(packed);
    let read = |row: usize, part: Part, h: usize, lanes: usize| -> Lanes {
        let (t, size) = (args.packed, spec.dtype.size());
        let first = t.offset() + row * t.strides()[0] + part.offset + h * part.head_stride;
        let mut x = [0.0; MOST_LANES];
        for (d, x) in x[..lanes].iter_mut().enumerate() {
            *x = f64::from(t.dtype().decode(&packed[(first + d) * size..(first + d + 1) * size]));
        }
        x
    };
    // The rows of the step; past the room nothing is stored.
    let (step, is_past, ended) = match &plan.steps {
        Some(steps) => (steps.now()? as usize, steps.count()? >= steps.room(), steps.ended()?),
        None => (0, false, vec![]),
    };
    let has_ended = |row: usize| ended.get(row).copied().unwrap_or(false);
    let places = plan.places.iter().skip(step * plan.rows()).take(plan.rows());
    let places: Vec<u32> = places.map(|&place| if is_past { PADDING } else { place }).collect();
    let positions = &plan.positions[step * plan.rows()..][..plan.rows()];
    // k and v may be views of one buffer, so one lock is held at a time.
    {
        let mut out = lock_write(q);
        let s = args.q.strides();
        for (row, position) in positions.iter().enumerate().filter(|&(row, _)| !has_ended(row)) {
            let scale = f64::from(spec.q_scale) * temperature(spec.q_temperature, position[0]);
            for h in 0..spec.num_q_heads {
                let mut x = read(row, layout.q, h, spec.head_dim);
                normalize(&mut x[..spec.head_dim], spec.q_norm, h, &weights.q_norm, &weights.q_bias);
                rotate(&mut x, spec.rope.as_ref(), position);
                x.iter_mut().for_each(|x| *x *= scale);
                write(&mut out, args.q, row * s[0] + h * s[1], &x[..spec.head_dim]);
            }
        }
    }
    let rows = || (0..places.len()).filter(|&row| places[row] != PADDING && !has_ended(row));
    let at = |row: usize, h: usize, s: &[usize]| {
        let place = places[row] as usize;
        place / plan.page_size * s[0] + h * s[1] + place % plan.page_size * s[2]
    };
    let factors = spec.kv_scale.factors();
    let keep = |t: &Tensor, row: usize, h: usize, scale: f32| -> Result<()> {
        let Some(scales) = t.scales() else { return Ok(()) };
        write(&mut lock_write(host("scales", scales)?), scales, at(row, h, scales.strides()), &[f64::from(scale)]);
        Ok(())
    };
    {
        let mut out = lock_write(k);
        for row in rows() {
            for h in 0..spec.num_kv_heads {
                let mut x = read(row, layout.k, h, spec.head_dim);
                let normed = if spec.v_in_k { spec.head_dim_v } else { spec.head_dim };
                normalize(&mut x[..normed], spec.k_norm, h, &weights.k_norm, &weights.k_bias);
                rotate(&mut x, spec.rope.as_ref(), &positions[row]);
                let (x, tail) = x[..spec.head_dim].split_at_mut(spec.head_dim - spec.tail_lanes());
                let scale = coded(x, spec, factors[0]);
                write(&mut out, args.k, at(row, h, args.k.strides()), x);
                if let Some(t) = args.k.tail() {
                    write(&mut out, t, at(row, h, t.strides()), tail);
                }
                keep(args.k, row, h, scale)?;
            }
        }
    }
    let mut out = lock_write(v);
    for row in rows().filter(|_| !spec.v_in_k) {
        for h in 0..spec.num_kv_heads {
            let mut x = read(row, layout.v, h, spec.head_dim_v);
            normalize(&mut x[..spec.head_dim_v], spec.v_norm, h, &weights.v_norm, &weights.v_bias);
            rotate(&mut x, spec.rope.as_ref().filter(|_| spec.v_rope), &positions[row]);
            x.iter_mut().for_each(|x| *x *= f64::from(spec.v_scale));
            let scale = coded(&mut x[..spec.head_dim_v], spec, factors[1]);
            write(&mut out, args.v, at(row, h, args.v.strides()), &x[..spec.head_dim_v]);
            keep(args.v, row, h, scale)?;
        }
    }
    Ok(())
}

/// One head; `head` picks its weights where every head has its own.
fn normalize(x: &mut [f64], norm: Norm, head: usize, weights: &[f32], biases: &[f32]) {
    let lanes = x.len() as f64;
    let mean_square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>() / lanes;
    match norm {
        Norm::None => {}
        Norm::Rms { eps } => {
            let root = (mean_square(x) + f64::from(eps)).sqrt();
            x.iter_mut().for_each(|x| *x /= root);
        }
        Norm::RmsScaled { eps } => {
            let root = (mean_square(x) + f64::from(eps)).sqrt();
            x.iter_mut().zip(weights).for_each(|(x, &w)| *x = *x / root * f64::from(w));
        }
        Norm::RmsOnePlus { eps } => {
            let root = (mean_square(x) + f64::from(eps)).sqrt();
            x.iter_mut().zip(weights).for_each(|(x, &w)| *x = *x / root * (1.0 + f64::from(w)));
        }
        Norm::Layer { eps, bias, by_head } => {
            let mean = x.iter().sum::<f64>() / lanes;
            x.iter_mut().for_each(|x| *x -= mean);
            let root = (mean_square(x) + f64::from(eps)).sqrt();
            let first = if by_head { head * x.len() } else { 0 };
            for (d, x) in x.iter_mut().enumerate() {
                let shift = if bias { f64::from(biases[first + d]) } else { 0.0 };
                *x = *x / root * f64::from(weights[first + d]) + shift;
            }
        }
        Norm::Clip { most } => {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            if length > f64::from(most) {
                x.iter_mut().for_each(|x| *x *= f64::from(most) / length);
            }
        }
    }
}

fn rotate(x: &mut Lanes, rope: Option<&Rope>, position: &[i32; 4]) {
    let Some(rope) = rope else { return };
    for j in 0..rope.inv_freq.len() {
        let (a, b) = rope.pair(j);
        // The product of a position up to 2^31 and a frequency is off by 2^-53 of itself: 1e-10 rad at 1 000 000.
        let (sin, cos) = (f64::from(position[rope.axis[j] as usize]) * rope.inv_freq[j]).sin_cos();
        let m = f64::from(rope.mscale);
        (x[a], x[b]) = (m * (x[a] * cos - x[b] * sin), m * (x[b] * cos + x[a] * sin));
    }
}

fn temperature(temperature: Option<Temperature>, position: i32) -> f64 {
    let Some(Temperature { beta, interval, offset }) = temperature else { return 1.0 };
    let steps = ((f64::from(position) + f64::from(offset)) / f64::from(interval)).floor();
    1.0 + f64::from(beta) * (1.0 + steps.max(0.0)).ln()
}

/// Makes codes of a vector, which are rounded when they are written; returns their scale. Codes are made of f32: the value,
/// the scale and their product are each rounded to it.
fn coded(x: &mut [f64], spec: &LayerSpec, factor: f32) -> f32 {
    let lanes: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let (scale, inverse) = match spec.kv_scale {
        KvScale::None => return 1.0,
        KvScale::Tensor { .. } => (factor, 1.0 / factor),
        KvScale::Token => spec.kv_dtype.scale_of(&lanes),
    };
    x.iter_mut().zip(lanes).for_each(|(x, lane)| *x = f64::from(lane * inverse));
    scale
}

fn write(out: &mut [u8], t: &Tensor, at: usize, x: &[f64]) {
    let size = t.dtype().size();
    let out = &mut out[(t.offset() + at) * size..][..x.len() * size];
    for (bytes, &x) in out.chunks_exact_mut(size).zip(x) {
        t.dtype().encode(x as f32, bytes);
    }
}
