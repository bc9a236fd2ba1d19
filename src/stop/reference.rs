//! The definition: rings, means in f64, and the rules in their order.

use super::OP;
use super::plan::StopPlan;
use super::problem::StopArgs;
use crate::sampling::NO_TOKEN;
use crate::tensor::{Memory, lock_write};
use crate::{Buffer, Error, Result};

#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(unused_variables))]
fn host<'a>(name: &'static str, buffer: &'a Buffer) -> Result<&'a std::sync::RwLock<Vec<u8>>> {
    match &buffer.memory {
        Memory::Host(memory) => Ok(memory),
        #[cfg(any(feature = "webgpu", feature = "cuda"))]
        _ => Err(Error::invalid(OP, name, "memory of the reference device", "memory of another device")),
    }
}

fn get(bytes: &[u8], word: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * word], bytes[4 * word + 1], bytes[4 * word + 2], bytes[4 * word + 3]])
}

fn set(bytes: &mut [u8], word: usize, value: u32) {
    bytes[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn run(plan: &StopPlan, args: &StopArgs) -> Result<()> {
    let mut sampled = lock_write(host("sampled", args.sampled)?);
    let mut state = lock_write(host("state", args.state.buffer())?);
    let records = plan.slots.next_multiple_of(4);
    let count = plan.steps.as_ref().map_or(Ok(0), crate::Steps::count)?;
    for (r, row) in plan.rows.iter().enumerate() {
        let slot = row.slot as usize;
        if get(&state, slot) == 0 {
            set(&mut sampled, 4 * r, NO_TOKEN);
            (1..4).for_each(|i| set(&mut sampled, 4 * r + i, f32::NAN.to_bits()));
            plan.steps.as_ref().map_or(Ok(()), |steps| steps.end(r, count.saturating_add(1)))?;
            continue;
        }
        let (token, confidence) = (get(&sampled, 4 * r), get(&sampled, 4 * r + 3));
        let (record, ring) = (records + 4 * slot, records + 4 * plan.slots + slot * plan.window);
        let draws = get(&state, record);
        set(&mut state, ring + draws as usize % plan.window, confidence);
        let draws = draws + 1;
        let mut group = f64::NAN;
        if draws as usize >= plan.window {
            let held = (0..plan.window).map(|i| f64::from(f32::from_bits(get(&state, ring + i))));
            group = held.sum::<f64>() / plan.window as f64;
        }
        let reason = if token == NO_TOKEN {
            1
        } else if plan.end_tokens.contains(&token) {
            2
        } else if draws == row.budget {
            3
        } else if group < f64::from(plan.threshold) {
            4
        } else {
            0
        };
        set(&mut state, record, draws);
        set(&mut state, record + 1, (group as f32).to_bits());
        set(&mut state, record + 2, reason);
        set(&mut state, slot, u32::from(reason == 0));
        if let Some(steps) = plan.steps.as_ref().filter(|_| reason != 0) {
            steps.end(r, count.saturating_add(if reason < 3 { 1 } else { 2 }))?;
        }
    }
    Ok(())
}
