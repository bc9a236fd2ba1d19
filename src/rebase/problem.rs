//! What is asked: [`RebaseProblem`] for the plan, [`RebaseArgs`] for each layer, and their validation.

use super::{OP, RebasePlan};
use crate::kv::Rebased;
use crate::layer::{LayerConstants, LayerSpec};
use crate::{DType, Error, Result, Tensor};

/// Which keys move, and by how much.
#[derive(Debug, Clone, Copy)]
pub struct RebaseProblem<'a> {
    /// The layer kind.
    pub spec: &'a LayerSpec,
    /// Slots of a page.
    pub page_size: usize,
    /// Pages of the pool.
    pub num_pages: usize,
    /// Runs of tokens that move alike; no place twice. [`KvCache::rebase`](crate::kv::KvCache::rebase) returns them and
    /// sees to it that nobody else reads these keys; who builds them by hand sees to it himself.
    pub runs: &'a [Rebased],
    /// Whether a delta is added to the keys of each run.
    pub has_delta: bool,
}

/// The tensors of one run: any strides, but lanes (the last dimension) contiguous.
#[derive(Debug, Clone, Copy)]
pub struct RebaseArgs<'a> {
    /// Read and written at the places: `[pages, num_kv_heads, page_size, head_dim]`, as the spec's kv_dtype. Where a
    /// layer keeps V in the same elements, V moves too. Codes turn in their [tail](LayerSpec::key_pages) alone.
    pub k: &'a Tensor,
    /// The layer's constants, made with the plan's layer kind.
    pub constants: &'a LayerConstants,
    /// `[runs, num_kv_heads, head_dim]` in f32, added after the rotation and before the one rounding. Present iff the
    /// problem says so.
    pub delta: Option<&'a Tensor>,
}

impl RebaseProblem<'_> {
    /// Checks everything that does not depend on a device.
    pub(super) fn validate(&self) -> Result<()> {
        self.spec.validate(OP)?;
        if self.spec.v_rope && !self.spec.v_in_k {
            return Err(Error::unsupported(OP, "v_rope with V apart from K", "V that stays where it is, or in K"));
        }
        self.spec.turning_keys().kv_dtype.expect_values(OP, "K")?;
        if self.has_delta && self.spec.tail_dtype.is_some() {
            return Err(Error::unsupported(OP, "a delta of keys that are codes with a tail", "none"));
        }
        let slots = self.page_size.checked_mul(self.num_pages).filter(|&n| n < u32::MAX as usize);
        let Some(slots) = slots.filter(|_| self.page_size > 0) else {
            let got = format!("{} pages of {}", self.num_pages, self.page_size);
            return Err(Error::invalid(OP, "page_size", "at least 1, and fewer than 2^32 - 1 slots in all", got));
        };
        let mut sorted: Vec<u32> = self.runs.iter().flat_map(|run| run.places.iter().copied()).collect();
        sorted.sort_unstable();
        if let Some(&last) = sorted.last().filter(|&&p| p as usize >= slots) {
            return Err(Error::invalid(OP, "runs", format!("places less than {slots}"), last));
        }
        if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::invalid(OP, "runs", "a place in one run only", format!("{} twice", twice[0])));
        }
        Ok(())
    }
}

impl RebaseArgs<'_> {
    /// Checks shapes and types; where the memory lies is checked by the device's part.
    pub(super) fn validate(&self, plan: &RebasePlan) -> Result<()> {
        let (spec, runs, has_delta) = (&plan.spec, plan.runs, plan.has_delta);
        let (num_pages, page_size) = (plan.num_pages, plan.page_size);
        spec.expect_pages(OP, "k", self.k, &[num_pages, spec.num_kv_heads, page_size, spec.head_dim])?;
        if self.delta.is_some() != has_delta {
            let say = |there| if there { "a delta" } else { "no delta" };
            return Err(Error::invalid(OP, "delta", say(has_delta), say(!has_delta)));
        }
        if let Some(delta) = self.delta {
            delta.expect(OP, "delta", DType::F32, &[runs, spec.num_kv_heads, spec.head_dim])?;
            if delta.buffer().is_same(self.k.buffer()) {
                return Err(Error::invalid(OP, "delta", "another buffer than k", "the same"));
            }
        }
        self.constants.validate(OP, spec)
    }

    /// The lanes of K that turn: values, be it in the tail of codes.
    pub(super) fn turning(&self) -> &Tensor {
        self.k.tail().unwrap_or(self.k)
    }
}
