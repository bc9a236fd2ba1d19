//! The definition: one pair of lanes after the other in f64, rounded once at the store.

use super::OP;
use super::plan::RebasePlan;
use super::problem::RebaseArgs;
use crate::tensor::{Memory, lock_read, lock_write};
use crate::{Error, Result, Tensor};

use std::sync::{Arc, RwLock};

#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(unused_variables))]
fn host<'a>(name: &'static str, t: &'a Tensor) -> Result<&'a Arc<RwLock<Vec<u8>>>> {
    match &t.buffer().memory {
        Memory::Host(memory) => Ok(memory),
        #[cfg(any(feature = "webgpu", feature = "cuda"))]
        _ => Err(Error::invalid(OP, name, "memory of the reference device", "memory of another device")),
    }
}

pub(super) fn run(plan: &RebasePlan, args: &RebaseArgs) -> Result<()> {
    let (spec, k) = (&plan.keys, args.turning());
    let delta = match args.delta {
        Some(delta) => Some((delta, lock_read(host("delta", delta)?))),
        None => None,
    };
    let mut keys = lock_write(host("k", k)?);
    let (size, s) = (k.dtype().size(), k.strides());
    for token in &plan.moves {
        let (page, slot) = (token.place as usize / plan.page_size, token.place as usize % plan.page_size);
        for head in 0..spec.num_kv_heads {
            let first = k.offset() + page * s[0] + head * s[1] + slot * s[2];
            let lanes = &mut keys[first * size..(first + spec.head_dim) * size];
            let mut x: Vec<f64> = lanes.chunks_exact(size).map(|b| f64::from(k.dtype().decode(b))).collect();
            if let Some(rope) = &spec.rope {
                for (j, &inv_freq) in rope.inv_freq.iter().enumerate() {
                    let (a, b) = rope.pair(j);
                    let (sin, cos) = (f64::from(token.shift[rope.axis[j] as usize]) * inv_freq).sin_cos();
                    (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
                }
            }
            if let Some((delta, bytes)) = &delta {
                let at = delta.offset() + token.run as usize * delta.strides()[0] + head * delta.strides()[1];
                for (d, x) in x.iter_mut().enumerate() {
                    *x += f64::from(delta.dtype().decode(&bytes[(at + d) * 4..(at + d + 1) * 4]));
                }
            }
            for (bytes, &x) in lanes.chunks_exact_mut(size).zip(&x) {
                k.dtype().encode(x as f32, bytes);
            }
        }
    }
    Ok(())
}
