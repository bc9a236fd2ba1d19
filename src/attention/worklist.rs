//! The work list: which tile of query rows loads which run of keys of which segment.
//!
//! Rows of all agents that see a segment are packed into tiles, so that the segment's K/V is loaded once per tile of
//! rows and not once per agent. What decides an agent's bits is its own view alone: the tile of keys, the grid of key
//! tiles (which restarts at each span) and the split (counted from the start of the segment) never depend on who else
//! is in the batch; other rows of a tile are other lanes.

use super::merge_lists::{EntryStates, merge_lists};
use super::plan::Stats;
use super::problem::AttentionProblem;
use super::splits::Splits;
use super::tile::Tile;
use crate::Result;
use crate::kv::{Birth, Death, Lifetime, Modality, Segment};
use crate::layer::LayerSpec;

/// Rows of one call from which on a block of queries is a prefill: it fills the machine without splitting the keys.
const PREFILL_ROWS: u32 = 17;

/// Tables of the launch, word for word as the kernels read them.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkList {
    pub items: Vec<[u32; 8]>,
    pub item_rows: Vec<[u32; 8]>,
    pub runs: Vec<[u32; 8]>,
    pub pages: Vec<u32>,
    pub shifts: Vec<[i32; 4]>,
    /// Merge lists: row `r` has the partial states `index[indptr[r] .. indptr[r + 1]]`, in the order of its view.
    pub indptr: Vec<u32>,
    pub index: Vec<u32>,
    pub num_partials: u32,
    /// Whether any row has a gap.
    pub has_gap: bool,
    /// Whether each row has one state, as those of a prefill into one segment have.
    has_one_state: bool,
    /// Of the item that has most.
    pub most_rows: u32,
    tiles_loaded: u64,
    tiles_unshared: u64,
}

/// Consecutive rows of one view that see one entry.
#[derive(Debug, Clone, Copy)]
struct Sight {
    first_row: u32,
    rows: u32,
    first_slot: i32,
    /// Slot of token 0 of the segment in this view.
    base: i32,
    /// Tokens seen.
    begin: u32,
    end: u32,
    /// 0, or one more than the number of the shift.
    shift: u32,
    gap: (i32, i32),
    /// Place of the entry in the view: the order of merging.
    order: u32,
    /// Slots that the rows move on in the steps of the plan.
    moves: i32,
}

impl Sight {
    /// Rows `from .. from + rows` of it.
    fn part(self, from: u32, rows: u32) -> Sight {
        Sight { first_row: self.first_row + from, rows, first_slot: self.first_slot + from as i32, ..self }
    }
    /// Of the first step.
    fn last_slot(&self) -> i32 {
        self.first_slot + self.rows as i32 - 1
    }
}

/// Keys of a span `[start, end)` that a query at slot `q` sees: an interval, since births and deaths ascend along a
/// span. Both ends ascend with `q`. Slots of the view.
fn seen(lifetime: &Lifetime, q: i32, start: i32, end: i32) -> (i32, i32) {
    let all_if = |yes: bool| if yes { end } else { start };
    let hi = match lifetime.birth {
        Birth::Causal => q + 1,
        Birth::SpanStart => all_if(start <= q),
        Birth::At(slot) => all_if(slot <= q),
        Birth::Affine { num: 0, off, .. } => all_if(off <= q),
        Birth::Affine { num, den, off } => {
            let bound = (i64::from(q) - i64::from(off) + 1) * i64::from(den);
            (bound + i64::from(num) - 1).div_euclid(i64::from(num)).clamp(-1 << 30, 1 << 30) as i32
        }
    };
    let none_unless = |yes: bool| if yes { start } else { end };
    let lo = match lifetime.death {
        Death::Never => start,
        Death::SpanEnd => none_unless(q < end),
        Death::Window(w) => q.saturating_sub(w).saturating_add(1),
        Death::WindowOrSpan(w) => {
            if q < end {
                start
            } else {
                q.saturating_sub(w).saturating_add(1)
            }
        }
        Death::ChunkEnd(c) => q.div_euclid(c) * c,
        Death::At(slot) => none_unless(q < slot),
    };
    (lo.clamp(start, end), hi.clamp(start, end))
}

/// Births and deaths as words: kind and operands of the birth, kind and operand of the death.
pub(crate) fn rule_words(spec: &LayerSpec) -> Vec<u32> {
    let mut words = Vec::with_capacity(Modality::ALL.len() * 8);
    for modality in Modality::ALL {
        let lifetime = spec.lifetimes.get(modality);
        let birth = match lifetime.birth {
            Birth::Causal => [0, 0, 0, 0],
            Birth::SpanStart => [1, 0, 0, 0],
            Birth::At(slot) => [2, slot, 0, 0],
            Birth::Affine { num, den, off } => [3, num, den, off],
        };
        let death = match lifetime.death {
            Death::Never => [0, 0],
            Death::SpanEnd => [1, 0],
            Death::Window(w) => [2, w],
            Death::WindowOrSpan(w) => [3, w],
            Death::ChunkEnd(c) => [4, c],
            Death::At(slot) => [5, slot],
        };
        words.extend(birth.into_iter().chain(death).chain([0, 0]).map(|x: i32| x as u32));
    }
    words
}

/// What a tile of rows sees of one span in any step, on the grid of key tiles that starts at the span: partly up to
/// `full_begin`, in all steps fully up to `full_end`, partly up to `end`. Tokens of the segment.
#[derive(Debug, Clone, Copy)]
struct SpanRun {
    begin: u32,
    /// The first token that any row sees: at or behind the start of its tile.
    first_seen: u32,
    full_begin: u32,
    full_end: u32,
    end: u32,
    /// Nothing from here on is seen in the first step; the bound moves by a token a step, up to `end`.
    first_end: u32,
}

fn span_run(lifetime: &Lifetime, start: u32, end: u32, sights: &[Sight], keys: u32) -> Option<SpanRun> {
    let (mut lo, mut hi, mut first_hi) = (end, start, start);
    let (mut full_lo, mut full_hi) = (start, end);
    // By a token a step at most: others may see many more at once.
    let advances = match lifetime.birth {
        Birth::Causal => true,
        Birth::Affine { num, den, .. } => num >= den,
        Birth::SpanStart | Birth::At(_) => false,
    };
    for s in sights {
        if s.begin >= end || s.end <= start {
            full_hi = full_lo;
            continue;
        }
        // A span ends where the view stops seeing it.
        let (span_start, span_end) = (s.base + start as i32, s.base + end.min(s.end) as i32);
        let clip = |slot: i32| ((slot - s.base) as u32).clamp(s.begin.max(start), s.end.min(end));
        let first = seen(lifetime, s.first_slot, span_start, span_end);
        // Both ends ascend with the slot, so rows that move are rows at all the slots they come to.
        let last = seen(lifetime, s.last_slot() + s.moves, span_start, span_end);
        lo = lo.min(clip(first.0));
        hi = hi.max(clip(last.1));
        first_hi =
            first_hi.max(clip(if advances { seen(lifetime, s.last_slot(), span_start, span_end).1 } else { last.1 }));
        full_lo = full_lo.max(clip(last.0));
        full_hi = full_hi.min(clip(first.1));
        if s.gap.0 < s.gap.1 {
            full_hi = full_lo;
        }
    }
    if lo >= hi {
        return None;
    }
    let begin = start + (lo - start) / keys * keys;
    let full_begin = (start + (full_lo - start).div_ceil(keys) * keys).max(begin);
    // The last tile of a span may be short and is full if all of it is seen.
    let full_end = if full_hi == end { end } else { start + full_hi.saturating_sub(start) / keys * keys };
    let full_end = if full_begin < full_end { full_end.min(hi) } else { full_begin.min(hi) };
    let full_begin = full_begin.min(full_end);
    Some(SpanRun { begin, first_seen: lo, full_begin, full_end, end: hi, first_end: first_hi })
}

impl WorkList {
    /// The list of `room` steps.
    pub fn new(problem: &AttentionProblem<'_>, tile: &Tile, room: u32) -> Result<Self> {
        let spec = problem.spec;
        let mut list = WorkList::default();
        // Segments in the order in which the rows meet them, each with its decode rows and its prefill rows.
        let mut segments: Vec<(&Segment, [Vec<Sight>; 2])> = Vec::new();
        let mut number: Vec<u32> = Vec::new();
        let mut first_row = 0;
        for rows in problem.rows {
            let gap = rows.gap.clone().map_or((0, 0), |g| (g.start, g.end));
            list.has_gap |= gap.0 < gap.1;
            for (order, entry) in problem.cache.view(rows.view)?.entries().iter().enumerate() {
                let at = entry.segment.0 as usize;
                if number.len() <= at {
                    number.resize(at + 1, u32::MAX);
                }
                if number[at] == u32::MAX {
                    number[at] = segments.len() as u32;
                    segments.push((problem.cache.segment(entry.segment)?, Default::default()));
                }
                let sight = Sight {
                    first_row,
                    rows: rows.len,
                    first_slot: rows.first_slot,
                    base: entry.slot_base - entry.start as i32,
                    begin: entry.start,
                    end: entry.start + entry.len,
                    shift: list.shift_number(spec, entry.shift),
                    gap,
                    order: order as u32,
                    moves: room as i32 - 1,
                };
                if rows.len > 0 {
                    segments[number[at] as usize].1[usize::from(rows.len >= PREFILL_ROWS)].push(sight);
                }
            }
            first_row += rows.len;
        }

        let rows_per_tile = (tile.queries / tile.heads(spec)) as u32;
        let mut states: Vec<EntryStates> = Vec::new();
        for (segment, classes) in &segments {
            let pages_begin = list.pages.len() as u32;
            list.pages.extend_from_slice(segment.pages());
            for (sights, splits) in classes.iter().zip([tile.splits, Splits::NONE]) {
                for sight in sights {
                    list.tiles_unshared += unshared_tiles(spec, segment, *sight, rows_per_tile, tile.keys as u32);
                }
                for rows in tiles_of_rows(sights, rows_per_tile) {
                    list.push_tile(spec, segment, &rows, pages_begin, splits, tile.keys as u32, &mut states);
                }
            }
        }
        (list.indptr, list.index) = merge_lists(first_row as usize, states);
        list.has_one_state = list.indptr.windows(2).all(|ends| ends[1] - ends[0] == 1);
        if tile.merges {
            list.push_blind_rows(rows_per_tile);
        }
        list.most_rows = list.items.iter().map(|item| item[1]).max().unwrap_or(0);
        list.order_items(tile);
        Ok(list)
    }

    /// Long items first; on a driver that deals them out in contiguous parts, evenly spread. Changes no bit.
    fn order_items(&mut self, tile: &Tile) {
        let tiles = |item: &[u32; 8]| -> u32 {
            let runs = &self.runs[item[2] as usize..(item[2] + item[3]) as usize];
            runs.iter().map(|r| (r[1] - r[0]).div_ceil(tile.keys as u32)).sum()
        };
        let mut sorted = self.items.clone();
        sorted.sort_by_cached_key(|item| std::cmp::Reverse(tiles(item)));
        if tile.is_spread {
            let count = sorted.len();
            // Bit reversal visits every part of the list before it comes back to one.
            let bits = sorted.len().next_power_of_two().trailing_zeros().max(1);
            let places = (0..1usize << bits).map(|i| i.reverse_bits() >> (usize::BITS - bits));
            for (place, item) in places.filter(|&p| p < count).zip(sorted) {
                self.items[place] = item;
            }
        } else {
            self.items = sorted;
        }
    }

    /// 0 for no shift and for layers without rotation, else one more than the number of the shift.
    fn shift_number(&mut self, spec: &LayerSpec, shift: [i32; 4]) -> u32 {
        if shift == [0; 4] || spec.rope.is_none() {
            return 0;
        }
        let known = self.shifts.iter().position(|s| *s == shift);
        known.unwrap_or_else(|| {
            self.shifts.push(shift);
            self.shifts.len() - 1
        }) as u32
            + 1
    }

    /// Items of one tile of rows over one segment.
    #[allow(clippy::too_many_arguments)] // one call site, every argument a different thing
    fn push_tile(
        &mut self,
        spec: &LayerSpec,
        segment: &Segment,
        rows: &[Sight],
        pages_begin: u32,
        splits: Splits,
        keys: u32,
        states: &mut Vec<EntryStates>,
    ) {
        let rows_begin = self.item_rows.len() as u32;
        let num_rows: u32 = rows.iter().map(|s| s.rows).sum();
        let (first_state, first_item) = (self.num_partials, self.items.len());
        let mut open: Option<u64> = None;
        for span in segment.spans() {
            let lifetime = spec.lifetimes.get(span.modality);
            let (start, end) = (span.start, span.start + span.len);
            let Some(run) = span_run(&lifetime, start, end, rows, keys) else { continue };
            let parts = [(run.begin, run.full_begin, 0), (run.full_begin, run.full_end, 1), (run.full_end, run.end, 0)];
            for (mut begin, end_of_part, full) in parts {
                while begin < end_of_part {
                    // A tile of keys belongs to the split in which it begins.
                    let (this_split, next) = splits.at(begin);
                    let tiles = (next - u64::from(start)).div_ceil(u64::from(keys));
                    let end = (u64::from(start) + tiles * u64::from(keys)).min(u64::from(end_of_part)) as u32;
                    if open != Some(this_split) {
                        open = Some(this_split);
                        let runs_begin = self.runs.len() as u32;
                        let partial = self.num_partials;
                        self.items.push([rows_begin, num_rows, runs_begin, 0, pages_begin, partial, 0, 0]);
                        self.num_partials += num_rows;
                    }
                    let first_end = run.first_end.min(end);
                    self.runs.push([
                        begin,
                        end,
                        full,
                        start,
                        span.end(),
                        span.modality as u32,
                        run.first_seen,
                        first_end,
                    ]);
                    if let Some(item) = self.items.last_mut() {
                        item[3] += 1;
                    }
                    self.tiles_loaded += u64::from((end - begin).div_ceil(keys));
                    begin = end;
                }
            }
        }
        if open.is_some() {
            let splits = (self.items.len() - first_item) as u32;
            let mut first = first_state;
            for s in rows {
                let Sight { first_row, rows, order, .. } = *s;
                states.push(EntryStates { first_row, rows, order, first, stride: num_rows, splits });
                first += rows;
                for i in 0..s.rows {
                    let slot = (s.first_slot + i as i32) as u32;
                    let gap = [s.gap.0 as u32, s.gap.1 as u32];
                    self.item_rows.push([
                        s.first_row + i,
                        slot,
                        s.base as u32,
                        s.begin,
                        s.end,
                        s.shift,
                        gap[0],
                        gap[1],
                    ]);
                }
            }
        }
    }

    /// Items without runs, for the rows that have no state.
    fn push_blind_rows(&mut self, rows_per_tile: u32) {
        let blind = |ends: &[u32]| ends[0] == ends[1];
        let rows: Vec<u32> =
            (0..).zip(self.indptr.windows(2)).filter(|(_, ends)| blind(ends)).map(|(r, _)| r).collect();
        for tile in rows.chunks(rows_per_tile as usize) {
            let (first_row, first_run) = (self.item_rows.len() as u32, self.runs.len() as u32);
            self.items.push([first_row, tile.len() as u32, first_run, 0, 0, 0, 0, 0]);
            self.item_rows.extend(tile.iter().map(|&row| [row, 0, 0, 0, 0, 0, 0, 0]));
        }
    }

    /// Whether the states are the rows: each row has one, and nothing is done to it.
    pub fn is_final(&self, spec: &LayerSpec) -> bool {
        self.has_one_state && !spec.has_epilogue() && !spec.sinks
    }

    /// Of all items: each share is a workgroup's.
    pub fn num_shares(&self, tile: &Tile, spec: &LayerSpec) -> usize {
        self.items.len() * tile.shares(spec)
    }

    pub fn stats(&self, shares: usize) -> Stats {
        Stats {
            tiles_loaded: self.tiles_loaded * shares as u64,
            tiles_unshared: self.tiles_unshared * shares as u64,
            items: self.items.len(),
            partials: self.num_partials as usize,
            ..Stats::default()
        }
    }
}

/// Packs rows into tiles, in order.
fn tiles_of_rows(sights: &[Sight], rows_per_tile: u32) -> Vec<Vec<Sight>> {
    let mut tiles: Vec<Vec<Sight>> = Vec::new();
    let mut room = 0;
    for sight in sights {
        let mut from = 0;
        while from < sight.rows {
            if room == 0 {
                tiles.push(Vec::new());
                room = rows_per_tile;
            }
            let rows = room.min(sight.rows - from);
            if let Some(tile) = tiles.last_mut() {
                tile.push(sight.part(from, rows));
            }
            from += rows;
            room -= rows;
        }
    }
    tiles
}

/// Key tiles that these rows alone would load of their entry.
fn unshared_tiles(spec: &LayerSpec, segment: &Segment, sight: Sight, rows_per_tile: u32, keys: u32) -> u64 {
    let mut tiles = 0;
    for from in (0..sight.rows).step_by(rows_per_tile as usize) {
        let rows = [sight.part(from, rows_per_tile.min(sight.rows - from))];
        for span in segment.spans() {
            let lifetime = spec.lifetimes.get(span.modality);
            if let Some(run) = span_run(&lifetime, span.start, span.start + span.len, &rows, keys) {
                tiles += u64::from((run.end - run.begin).div_ceil(keys));
            }
        }
    }
    tiles
}
