//! The definition: every logit in f64, rounded to f32, then the draw of `sampling`'s definition.

use rayon::prelude::*;

use super::OP;
use super::plan::LmHeadPlan;
use super::problem::LmHeadArgs;
use crate::sampling::SamplingRow;
use crate::tensor::{Memory, lock_read, lock_write};
use crate::{Buffer, Error, Result};

#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(unused_variables))]
fn host<'a>(name: &'static str, buffer: &'a Buffer) -> Result<&'a std::sync::RwLock<Vec<u8>>> {
    match &buffer.memory {
        Memory::Host(memory) => Ok(memory),
        #[cfg(any(feature = "webgpu", feature = "cuda"))]
        _ => Err(Error::invalid(OP, name, "memory of the reference device", "memory of another device")),
    }
}

pub(super) fn run(plan: &LmHeadPlan, args: &LmHeadArgs) -> Result<()> {
    let (problem, draw) = (&plan.problem, plan.problem.draw());
    let step = plan.steps.as_ref().map_or(Ok(0), crate::Steps::now)?;
    let ended = plan.steps.as_ref().map_or(Ok(vec![]), crate::Steps::ended)?;
    let rows: Vec<[u8; 16]> = {
        let hidden = lock_read(host("hidden", args.hidden.buffer())?);
        // One tensor may be read as both.
        let weight = lock_read(host("weight", args.weight.buffer())?);
        let row_of = |t: &crate::Tensor, bytes: &[u8], row: usize| -> Vec<f64> {
            let (size, first) = (t.dtype().size(), t.offset() + row * t.strides()[0]);
            let lane = |d: usize| f64::from(t.dtype().decode(&bytes[(first + d) * size..(first + d + 1) * size]));
            (0..problem.width).map(lane).collect()
        };
        let states: Vec<Vec<f64>> = (0..problem.rows.len()).map(|r| row_of(args.hidden, &hidden, r)).collect();
        let columns: Vec<Vec<f32>> = (0..problem.vocab)
            .into_par_iter()
            .map(|token| {
                let w = row_of(args.weight, &weight, token);
                states.iter().map(|h| h.iter().zip(&w).map(|(h, w)| h * w).sum::<f64>() as f32).collect()
            })
            .collect();
        let logits = |r: usize| columns.iter().map(|column| column[r]).collect::<Vec<f32>>();
        let drawn = |(r, row): (usize, &SamplingRow)| match ended.get(r) {
            Some(true) => crate::sampling::nothing(row),
            _ => {
                let row = SamplingRow { step: row.step.wrapping_add(step), ..*row };
                crate::sampling::sample(&draw, &row, &logits(r))
            }
        };
        problem.rows.iter().enumerate().map(drawn).collect()
    };
    lock_write(host("out", args.out)?)[..rows.len() * 16].copy_from_slice(rows.as_flattened());
    Ok(())
}
