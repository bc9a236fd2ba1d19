//! What a launch will do: the runs of keys that each row chooses among.

use super::problem::SelectProblem;
use super::reference::Snapshot;
use super::{OP, SelectSpec};
use crate::backend::next_plan_id;
use crate::backend::source::Variant;
use crate::kv::Lifetime;
use crate::{Buffer, DType, Device, Result};

/// Lanes of a workgroup, which has one row.
#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code))]
pub(super) const LANES: usize = 256;

/// A validated launch. Build it once per step; run it for every layer with an indexer of its own.
#[derive(Clone)]
pub struct SelectPlan {
    pub(super) device: Device,
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code))]
    pub(super) id: u64,
    pub(super) spec: SelectSpec,
    pub(super) num_rows: usize,
    pub(super) num_pages: usize,
    pub(super) page_size: usize,
    pub(super) words: usize,
    pub(super) work: Work,
}

/// The definition walks tokens, a kernel walks runs of them.
#[derive(Clone)]
pub(super) enum Work {
    Tokens(Snapshot),
    #[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code))]
    Tables(Vec<u32>),
}

impl SelectPlan {
    /// Validates the problem and lists what each row sees.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for stale views, rows outside of them or numbers that make no indexer,
    /// [`crate::Error::Unsupported`] for shifted entries, affine births, dims above 256 and too many rows.
    pub fn new(device: &Device, problem: &SelectProblem<'_>) -> Result<Self> {
        problem.validate()?;
        let work = match device {
            Device::Reference => Work::Tokens(Snapshot::new(problem)?),
            #[cfg(any(feature = "webgpu", feature = "cuda"))]
            _ => Work::Tables(tables(problem)?),
        };
        Ok(SelectPlan {
            device: device.clone(),
            id: next_plan_id(),
            spec: problem.spec.clone(),
            num_rows: problem.num_rows(),
            num_pages: problem.cache.num_pages(),
            page_size: problem.cache.page_size(),
            words: problem.words()?,
            work,
        })
    }

    /// Query rows.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Words of a row of the selection: a bit for every slot of the longest view.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Reads the slots that each row chose, ascending. Waits for the device.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a buffer that is too small, [`crate::Error::Device`] if the device failed.
    pub fn read(&self, selection: &Buffer) -> Result<Vec<Vec<u32>>> {
        let bytes = selection.read()?;
        if bytes.len() < self.num_rows * self.words * 4 {
            let expected = format!("{} bytes", self.num_rows * self.words * 4);
            return Err(crate::Error::invalid(OP, "selection", expected, bytes.len()));
        }
        let is_chosen = |row: usize, slot: usize| bytes[row * self.words * 4 + slot / 8] >> (slot % 8) & 1 == 1;
        let slots = |row| (0..self.words * 32).filter(move |&slot| is_chosen(row, slot)).map(|slot| slot as u32);
        Ok((0..self.num_rows).map(|row| slots(row).collect()).collect())
    }
}

/// The tables of `shaders/select.wgsl`.
#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code))]
fn tables(problem: &SelectProblem<'_>) -> Result<Vec<u32>> {
    let (mut indptr, mut runs, mut pages): (_, Vec<[u32; 4]>, Vec<u32>) = (vec![0u32], Vec::new(), Vec::new());
    // Where each segment's pages begin.
    let mut number: Vec<Option<u32>> = Vec::new();
    for rows in problem.rows {
        let entries = problem.cache.view(rows.view)?.entries();
        let gap = rows.gap.clone().unwrap_or(0..0);
        for q in (0..rows.len as i32).map(|i| rows.first_slot + i) {
            for entry in entries {
                let segment = problem.cache.segment(entry.segment)?;
                let at = entry.segment.0 as usize;
                if number.len() <= at {
                    number.resize(at + 1, None);
                }
                let first_page = *number[at].get_or_insert_with(|| {
                    pages.extend_from_slice(segment.pages());
                    (pages.len() - segment.pages().len()) as u32
                });
                let base = entry.slot_base - entry.start as i32;
                for span in segment.spans() {
                    let end = (span.start + span.len).min(entry.start + entry.len);
                    let lifetime = problem.spec.lifetimes.get(span.modality);
                    let (start, end) = (base + span.start as i32, base + end as i32);
                    let (lo, hi) = seen(&lifetime, q, start, end);
                    let lo = lo.max(base + entry.start as i32);
                    // What lies in front of the gap, and behind it.
                    let parts = match gap.is_empty() {
                        true => [(lo, hi), (0, 0)],
                        false => [(lo, hi.min(gap.start)), (lo.max(gap.end), hi)],
                    };
                    for (lo, hi) in parts.into_iter().filter(|(lo, hi)| lo < hi) {
                        runs.push([(lo - base) as u32, (hi - lo) as u32, lo as u32, first_page]);
                    }
                }
            }
            indptr.push(runs.len() as u32);
        }
    }
    const HEADER: usize = 4;
    let runs_at = HEADER + indptr.len();
    let pages_at = runs_at + runs.len() * 4;
    let mut words = vec![HEADER as u32, runs_at as u32, pages_at as u32, 0];
    words.extend(indptr);
    words.extend(runs.as_flattened());
    words.extend(pages);
    Ok(words)
}

/// Keys of a span `[start, end)` that a query at slot `q` sees: births and deaths ascend along a span.
fn seen(lifetime: &Lifetime, q: i32, start: i32, end: i32) -> (i32, i32) {
    let first = |is_before: &dyn Fn(i32) -> bool| {
        let (mut lo, mut hi) = (start, end.max(start));
        while lo < hi {
            let middle = lo + (hi - lo) / 2;
            if is_before(middle) { lo = middle + 1 } else { hi = middle }
        }
        lo
    };
    (first(&|k| lifetime.of(k, start, end).1 <= q), first(&|k| lifetime.of(k, start, end).0 <= q))
}

#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code))]
pub(super) fn variant(dim: usize, dtype: DType, k_dtype: DType) -> Variant {
    Variant::new(OP).u32("LANES", LANES).u32("CHUNKS", dim / 4).storage("q", dtype).storage("k", k_dtype)
}

#[cfg_attr(not(any(feature = "webgpu", feature = "cuda")), allow(dead_code))]
pub(super) fn variants() -> Vec<Variant> {
    use DType::{BF16, F16, F32};
    let kinds = [(128, BF16, BF16), (128, F32, F32), (64, F16, BF16), (8, BF16, F32), (256, F32, F16)];
    kinds.map(|(dim, dtype, k_dtype)| variant(dim, dtype, k_dtype)).to_vec()
}

impl std::fmt::Display for SelectPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = &self.spec;
        write!(f, "{OP} on {}: {} rows, {} heads of {}", self.device, self.num_rows, s.heads, s.dim)?;
        write!(f, ", {} units of {} slots each, {} words per row", s.count, s.block, self.words)
    }
}
