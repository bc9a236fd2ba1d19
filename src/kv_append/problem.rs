//! What is asked: [`KvAppendProblem`] for the plan, [`KvAppendArgs`] for each run, and their validation.

use super::{KvAppendPlan, OP};
use crate::layer::{LayerConstants, LayerSpec, PackedLayout, Part};
use crate::{Error, Result, Tensor};

/// The place of a row that only fills a batch: its q is written, its k and v are not.
pub const PADDING: u32 = u32::MAX;

/// Where each row's K and V go, and where each row stands.
#[derive(Debug, Clone, Copy)]
pub struct KvAppendProblem<'a> {
    /// The layer kind.
    pub spec: &'a LayerSpec,
    /// Where q, k and v lie in a packed row; [`LayerSpec::packed`] unless an engine packs in another way.
    pub layout: PackedLayout,
    /// Slots of a page.
    pub page_size: usize,
    /// Pages of the pool.
    pub num_pages: usize,
    /// Per row `page * page_size + slot`, or [`PADDING`]. No place twice.
    pub places: &'a [u32],
    /// Per row the position along each of the four axes; the layer's rotation says which are used. A temperature uses the
    /// first.
    pub positions: &'a [[i32; 4]],
}

/// The tensors of one run: any strides, but lanes (the last dimension) contiguous.
///
/// Neither may what is written overlap itself, nor what is read. `k` and `v` may be views of one buffer, without an
/// element in common. A WebGPU device needs offsets and strides in multiples of 4 elements.
#[derive(Debug, Clone, Copy)]
pub struct KvAppendArgs<'a> {
    /// `[rows, width]`, as the spec's dtype: the output of the fused projection.
    pub packed: &'a Tensor,
    /// The layer's constants, made with the plan's layer kind.
    pub constants: &'a LayerConstants,
    /// Written: `[rows, num_q_heads, head_dim]`, as the spec's dtype.
    pub q: &'a Tensor,
    /// Written at the places: `[pages, num_kv_heads, page_size, head_dim]`, as the spec's kv_dtype, with its
    /// [tail](LayerSpec::key_pages) where there is one, and its [scales](Tensor::with_scales) where tokens have them.
    pub k: &'a Tensor,
    /// Written at the places: `[pages, num_kv_heads, page_size, head_dim_v]`, as k. Where V is in K, a
    /// [view](Tensor::first_lanes) of it, and written with it.
    pub v: &'a Tensor,
}

impl KvAppendProblem<'_> {
    /// Checks everything that does not depend on a device.
    pub(super) fn validate(&self) -> Result<()> {
        let spec = self.spec;
        spec.validate(OP)?;
        let (q, kv) = (spec.num_q_heads, spec.num_kv_heads);
        validate_part("layout.q", self.layout.q, q, spec.head_dim, self.layout.width)?;
        validate_part("layout.k", self.layout.k, kv, spec.head_dim, self.layout.width)?;
        validate_part("layout.v", self.layout.v, kv, spec.head_dim_v, self.layout.width)?;
        if let Some(gate) = self.layout.gate {
            validate_part("layout.gate", gate, q, spec.gate.lanes(spec.head_dim_v), self.layout.width)?;
        }
        for (name, norm) in [("q_norm", spec.q_norm), ("k_norm", spec.k_norm), ("v_norm", spec.v_norm)] {
            if !(norm.eps() >= 0.0 && norm.eps().is_finite()) {
                return Err(Error::invalid(OP, name, "an eps or a greatest length of 0 or more", norm.eps()));
            }
        }
        let slots = self.page_size.checked_mul(self.num_pages).filter(|&n| n < PADDING as usize);
        let Some(slots) = slots.filter(|_| self.page_size > 0) else {
            let got = format!("{} pages of {}", self.num_pages, self.page_size);
            return Err(Error::invalid(OP, "page_size", "at least 1, and fewer than 2^32 - 1 slots in all", got));
        };
        if self.places.len() != self.positions.len() {
            return Err(Error::invalid(OP, "positions", format!("{} rows", self.places.len()), self.positions.len()));
        }
        let mut sorted: Vec<u32> = self.places.iter().copied().filter(|&p| p != PADDING).collect();
        sorted.sort_unstable();
        if let Some(&last) = sorted.last().filter(|&&p| p as usize >= slots) {
            return Err(Error::invalid(OP, "places", format!("less than {slots}, or PADDING"), last));
        }
        if let Some(twice) = sorted.windows(2).find(|w| w[0] == w[1]) {
            return Err(Error::invalid(OP, "places", "a place of its own for each row", format!("{} twice", twice[0])));
        }
        Ok(())
    }
}

fn validate_part(name: &'static str, part: Part, heads: usize, lanes: usize, width: usize) -> Result<()> {
    let last = part.head_stride.saturating_mul(heads - 1);
    if part.offset.saturating_add(last).saturating_add(lanes) > width {
        let got = format!("{heads} heads of {lanes} at {} + h * {}", part.offset, part.head_stride);
        return Err(Error::invalid(OP, name, format!("heads within {width} elements"), got));
    }
    Ok(())
}

impl KvAppendArgs<'_> {
    /// Checks shapes, types and overlaps; where the memory lies is checked by the device's part.
    pub(super) fn validate(&self, plan: &KvAppendPlan) -> Result<()> {
        let (spec, width, rows) = (&plan.spec, plan.layout.width, plan.rows());
        let (num_pages, page_size) = (plan.num_pages, plan.page_size);
        let (q, kv, d, dv) = (spec.num_q_heads, spec.num_kv_heads, spec.head_dim, spec.head_dim_v);
        self.packed.expect(OP, "packed", spec.dtype, &[rows, width])?;
        self.q.expect(OP, "q", spec.dtype, &[rows, q, d])?;
        spec.expect_pages(OP, "k", self.k, &[num_pages, kv, page_size, d])?;
        spec.expect_pages(OP, "v", self.v, &[num_pages, kv, page_size, dv])?;
        if spec.v_in_k {
            self.v.expect_first_lanes(OP, "v", self.k)?;
        }
        let scales = [("scales of k", self.k), ("scales of v", self.v)];
        let scales = scales.into_iter().filter_map(|(name, t)| Some((name, t.scales()?)));
        let beside = || [self.q, self.k, self.v].into_iter();
        for (name, t) in scales.clone() {
            if beside().any(|other| other.buffer().is_same(t.buffer())) {
                return Err(Error::invalid(OP, name, "another buffer than q, k and v", "the same"));
            }
        }
        for (name, t) in [("q", self.q), ("k", self.k), ("v", self.v)].into_iter().chain(scales) {
            if t.buffer().is_same(self.packed.buffer()) {
                return Err(Error::invalid(OP, name, "another buffer than packed", "the same"));
            }
            if overlaps_itself(&t.covered()) {
                let got = format!("{:?} for {:?}", t.strides(), t.shape());
                return Err(Error::invalid(OP, name, "strides that keep its elements apart", got));
            }
        }
        self.constants.validate(OP, spec)
    }
}

/// Whether two elements of the view may share memory: some dimension steps inside what the finer ones cover. Every
/// permuted or padded row-major view passes.
fn overlaps_itself(t: &Tensor) -> bool {
    let mut covered = 1;
    let mut done = 0;
    // Dimensions in the order of their strides; there are at most four.
    loop {
        let dims = || t.shape().iter().zip(t.strides()).enumerate().filter(|&(i, (&n, _))| n > 1 && done >> i & 1 == 0);
        let Some((i, (&n, &stride))) = dims().min_by_key(|&(_, (_, &stride))| stride) else {
            return false;
        };
        if stride < covered {
            return true;
        }
        covered += (n - 1) * stride;
        done |= 1 << i;
    }
}
