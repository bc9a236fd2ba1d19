//! The definition: from the last accepted token down the tree, child by child.

use super::plan::VerifyPlan;
use super::problem::VerifyArgs;
use super::{DraftTree, NO_ROW, OP};
use crate::sampling::NO_TOKEN;
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

/// Word `i` of a buffer.
fn word(bytes: &[u8], i: usize) -> u32 {
    u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
}

pub(super) fn run(plan: &VerifyPlan, args: &VerifyArgs) -> Result<()> {
    let (sampled, drafts) = (lock_read(host("sampled", args.sampled)?), lock_read(host("drafts", args.drafts)?));
    let mut out = lock_write(host("out", args.out)?);
    let longest = plan.trees.iter().map(|tree| tree.parents.len()).max().unwrap_or(0).next_multiple_of(4);
    let mut words = Vec::new();
    for tree in &plan.trees {
        let target = |row: u32| word(&sampled, 4 * row as usize);
        let path = accepted(tree, target, |row| word(&drafts, row as usize));
        let last = path.last().copied().unwrap_or(tree.first_row);
        words.extend([path.len() as u32, target(last), last, word(&sampled, 4 * last as usize + 1)]);
        words.extend(path.iter().copied().chain(std::iter::repeat(NO_ROW)).take(longest));
    }
    for (bytes, word) in out.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Ok(())
}

/// Rows of the accepted drafts.
fn accepted(tree: &DraftTree, target: impl Fn(u32) -> u32, draft: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut path = Vec::new();
    let mut current = 0;
    loop {
        let token = target(tree.first_row + current);
        let children = (1..=tree.parents.len() as u32).filter(|&i| tree.parents[i as usize - 1] == current);
        let hit = children.into_iter().find(|&i| token != NO_TOKEN && draft(tree.first_row + i) == token);
        match hit {
            Some(child) => {
                path.push(tree.first_row + child);
                current = child;
            }
            None => return path,
        }
    }
}
