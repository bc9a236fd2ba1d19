//! The cache: a pool of pages, the segments that hold them, the views that see those, and how a view grows.

use super::pool::Pool;
use super::slab::{Segments, Views};
use super::{Entry, Modality, Segment, SegmentId, Span, View, ViewId};
use crate::{Error, Result};

/// What an append made room for: `len` tokens at slots `first_slot ..` of the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The view that grew.
    pub view: ViewId,
    /// Slot of the first new token.
    pub first_slot: i32,
    /// Number of new tokens.
    pub len: u32,
    /// Position of the first new token if positions just count on.
    pub first_position: i32,
}

/// Pages, segments and views.
///
/// Every call that fails leaves the cache as it was. Two caches are equal if they name the same things alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCache {
    pub(super) page_size: u32,
    /// A bit per modality whose spans are never split.
    atomic: u8,
    pub(super) pool: Pool,
    pub(super) segments: Segments,
    pub(super) views: Views,
}

/// What [`KvCache::grow`] is asked for.
#[derive(Clone, Copy)]
struct Growth {
    op: &'static str,
    modality: Modality,
    len: usize,
    /// Where text goes on afterwards; counted on by `len` if absent.
    next_position: Option<i32>,
    /// Whether a span of this modality at the writable end is continued.
    continues: bool,
    /// Tokens of the first append of a span that has to be opened: 0 if it is the rest of one elsewhere.
    whole: u32,
}

/// What a growth comes to.
struct Fit {
    appended: Appended,
    /// The view's, afterwards.
    next_slot: i32,
    next_position: i32,
    /// The segment that grows; a new one if absent.
    tail: Option<SegmentId>,
    /// Its tokens.
    have: u32,
    /// Pages from the pool.
    needed: usize,
}

impl KvCache {
    /// A cache of `num_pages` pages of `page_size` tokens.
    pub fn new(page_size: usize, num_pages: usize) -> Result<Self> {
        const OP: &str = "cache";
        // Places, tokens of a segment and slots of a fresh view all stay within i32.
        let fits = page_size.max(1).checked_mul(num_pages.max(1)).is_some_and(|n| n <= i32::MAX as usize);
        if page_size == 0 {
            return Err(Error::invalid(OP, "page_size", "1 token or more", page_size));
        }
        if !fits {
            let got = format!("{num_pages} pages of {page_size}");
            return Err(Error::invalid(OP, "num_pages", format!("at most {} tokens in all", i32::MAX), got));
        }
        Ok(KvCache {
            page_size: page_size as u32,
            atomic: 0,
            pool: Pool::new(num_pages as u32),
            segments: Segments::default(),
            views: Views::default(),
        })
    }

    /// Refuses to split spans of these modalities across appends, whatever the layers: see
    /// [`super::Lifetime::looks_ahead`].
    pub fn with_atomic(mut self, modalities: &[Modality]) -> Self {
        self.atomic = modalities.iter().fold(self.atomic, |bits, &m| bits | 1 << m as u8);
        self
    }

    /// Tokens per page.
    pub fn page_size(&self) -> usize {
        self.page_size as usize
    }

    /// Pages in all.
    pub fn num_pages(&self) -> usize {
        self.pool.len()
    }

    /// Pages free.
    pub fn free_pages(&self) -> usize {
        self.pool.free()
    }

    /// Pages that some view reaches.
    pub fn used_pages(&self) -> usize {
        self.pool.len() - self.pool.free()
    }

    /// How many view entries reach into the page. An entry reaches from the start of its segment to its own end: pages
    /// before its first token count as well.
    pub fn page_refs(&self, page: u32) -> usize {
        let Some((segment, index)) = self.pool.owner(page) else { return 0 };
        let first = index * self.page_size;
        self.segments
            .get(SegmentId(segment))
            .map_or(0, |s| s.reaches.len() - s.reaches.partition_point(|&reach| reach <= first))
    }

    /// A view by name.
    pub fn view(&self, id: ViewId) -> Result<&View> {
        self.views.get("view", id)
    }

    /// A segment by name. Names come from entries of live views.
    pub fn segment(&self, id: SegmentId) -> Result<&Segment> {
        self.segment_of("segment", id)
    }

    pub(super) fn segment_of(&self, op: &'static str, id: SegmentId) -> Result<&Segment> {
        self.segments
            .get(id)
            .ok_or_else(|| Error::invalid(op, "segment", "one that a live view sees", format!("{id:?}")))
    }

    /// A new empty view.
    pub fn create(&mut self) -> ViewId {
        self.views.insert(View::default())
    }

    /// Sets the position at which text goes on. Needed where the cache cannot know it: after a share, and after a fork or
    /// truncation inside of a span whose positions have several axes.
    pub fn set_next_position(&mut self, view: ViewId, next_position: i32) -> Result<()> {
        const OP: &str = "set_next_position";
        let view = self.views.get_mut(OP, view)?;
        if next_position < 0 {
            return Err(Error::invalid(OP, "next_position", "0 or more", next_position));
        }
        view.go_on_at(next_position);
        Ok(())
    }

    /// Makes room for a new span of `len` tokens whose positions count on from `next_position`.
    ///
    /// Text after text, tool output after tool output and drafts after drafts make one span of the two, marked
    /// [split](Span::is_split): decoding token by token does not make a span each. Everything else starts a span.
    pub fn append(&mut self, view: ViewId, modality: Modality, len: usize) -> Result<Appended> {
        self.append_span("append", view, modality, len, None)
    }

    /// Makes room for `steps` tokens of each view, to be decoded one after the other: what `steps` times one token of
    /// each view [appended](KvCache::append) makes, but all of it or nothing. What was not decoded in the end goes back by
    /// [`KvCache::truncate`].
    ///
    /// # Errors
    /// [`Error::PoolFull`] with the pages that all views need; [`Error::SplitSpan`] for a modality of which each append
    /// starts a span; [`Error::Invalid`] for a view named twice, and as for an append.
    pub fn append_steps(&mut self, views: &[ViewId], modality: Modality, steps: usize) -> Result<Vec<Appended>> {
        const OP: &str = "append_steps";
        if steps > 1 && !self.continues(modality) {
            return Err(Error::SplitSpan { op: OP, modality, have: 1, more: steps - 1 });
        }
        let growth =
            Growth { op: OP, modality, len: steps, next_position: None, continues: self.continues(modality), whole: 1 };
        let mut needed = 0;
        for (i, &view) in views.iter().enumerate() {
            if views.iter().take(i).any(|v| *v == view) {
                return Err(Error::invalid(OP, "views", "each view once", format!("{view:?} twice")));
            }
            needed += self.fit(view, &growth)?.needed;
        }
        if needed > self.pool.free() {
            return Err(Error::PoolFull { op: OP, needed, free: self.pool.free() });
        }
        views.iter().map(|&view| self.grow(view, &growth)).collect()
    }

    /// Like [`KvCache::append`] for tokens with positions of their own; `next_position` is where text goes on afterwards
    /// (`max(t, h, w) + 1` for an image).
    pub fn append_at(&mut self, view: ViewId, modality: Modality, len: usize, next_position: i32) -> Result<Appended> {
        self.append_span("append_at", view, modality, len, Some(next_position))
    }

    fn append_span(
        &mut self,
        op: &'static str,
        view: ViewId,
        modality: Modality,
        len: usize,
        next_position: Option<i32>,
    ) -> Result<Appended> {
        let continues = self.continues(modality);
        self.grow(view, &Growth { op, modality, len, next_position, continues, whole: len as u32 })
    }

    /// Continues the last span of the view with `len` tokens more: a chunk of a prefill.
    ///
    /// The span is [split](Span::is_split) from then on. Where the view cannot write behind it (the view is a fork, or was
    /// cut), the rest is a span of its own with the same mark.
    pub fn extend(&mut self, view: ViewId, len: usize) -> Result<Appended> {
        const OP: &str = "extend";
        let (modality, have) = self.last_span(OP, view)?;
        if self.is_atomic(modality) {
            return Err(Error::SplitSpan { op: OP, modality, have, more: len });
        }
        self.grow(view, &Growth { op: OP, modality, len, next_position: None, continues: true, whole: 0 })
    }

    /// Whether an append goes on with a span of its modality at the writable end.
    fn continues(&self, modality: Modality) -> bool {
        matches!(modality, Modality::Text | Modality::Tool | Modality::Draft) && !self.is_atomic(modality)
    }

    fn is_atomic(&self, modality: Modality) -> bool {
        self.atomic & (1 << modality as u8) != 0
    }

    /// Modality of the view's last span, and how many of its tokens the last entry sees.
    fn last_span(&self, op: &'static str, id: ViewId) -> Result<(Modality, usize)> {
        let entry = self.views.get(op, id)?.entries.last();
        let span = entry.and_then(|entry| {
            let segment = self.segments.get(entry.segment)?;
            let span = segment.spans.get(segment.span_at(entry.end().checked_sub(1)?)?)?;
            Some((span.modality, (entry.end() - span.start.max(entry.start)) as usize))
        });
        span.ok_or_else(|| Error::invalid(op, "view", "a view with a span to continue", "an empty view"))
    }

    /// The segment at the view's end if the view may write behind it: it opened the segment, sees its last token, and
    /// the next slot follows. A fork never writes there, so what its segments look like does not depend on siblings.
    fn writable(&self, id: ViewId, view: &View) -> Option<(SegmentId, &Segment)> {
        let entry = view.entries.last()?;
        let segment = self.segments.get(entry.segment)?;
        (segment.owner == Some(id)
            && entry.end() == segment.len
            && entry.slot_end() == view.next_slot
            && entry.shift == [0; 4])
            .then_some((entry.segment, segment))
    }

    /// What a growth comes to, if nothing but a full pool is in its way.
    fn fit(&self, id: ViewId, growth: &Growth) -> Result<Fit> {
        let Growth { op, len: asked, next_position, .. } = *growth;
        let view = self.views.get(op, id)?;
        let (first_slot, first_position) = (view.next_slot, view.next_position());
        let slot_end = i32::try_from(asked).ok().and_then(|len| first_slot.checked_add(len));
        let (Some(next_slot), true) = (slot_end, asked > 0) else {
            let most = i32::MAX - first_slot;
            return Err(Error::invalid(op, "len", format!("1 to {most} tokens"), asked));
        };
        let len = asked as u32;
        let next_position = match next_position {
            Some(given) if given >= first_position => given,
            Some(given) => {
                return Err(Error::invalid(op, "next_position", format!("{first_position} or more"), given));
            }
            None => first_position.checked_add(len as i32).ok_or_else(|| {
                Error::invalid(op, "len", format!("positions up to {}", i32::MAX), format!("{first_position} + {len}"))
            })?,
        };
        let tail = self.writable(id, view).map(|(at, segment)| (at, segment.len, segment.pages.len()));
        let (have, have_pages) = tail.map_or((0, 0), |(_, len, pages)| (len, pages));
        let needed = (u64::from(have) + u64::from(len)).div_ceil(u64::from(self.page_size)) as usize - have_pages;
        let appended = Appended { view: id, first_slot, len, first_position };
        Ok(Fit { appended, next_slot, next_position, tail: tail.map(|(at, ..)| at), have, needed })
    }

    fn grow(&mut self, id: ViewId, growth: &Growth) -> Result<Appended> {
        let Growth { op, modality, continues, whole, .. } = *growth;
        // Everything that can fail comes before the first change.
        let Fit { appended, next_slot, next_position, tail, have, needed } = self.fit(id, growth)?;
        let Appended { first_slot, len, .. } = appended;
        if needed > self.pool.free() {
            return Err(Error::PoolFull { op, needed, free: self.pool.free() });
        }

        let at = match tail {
            Some(at) => at,
            None => self.segments.insert(Segment { owner: Some(id), ..Segment::default() }),
        };
        let (Some(segment), Ok(view)) = (self.segments.get_mut(at), self.views.get_mut(op, id)) else {
            return Err(Error::invalid(op, "view", "a view of this cache", format!("{id:?}")));
        };
        for _ in 0..needed {
            self.pool.take(at.0, &mut segment.pages);
        }
        match segment.spans.last_mut() {
            Some(last) if continues && last.modality == modality => {
                last.len += len;
            }
            _ => segment.spans.push(Span { modality, start: have, len, whole }),
        }
        segment.len = have + len;
        // The tail's entry reaches farthest, so the greatest number is the one that moves.
        match (tail, view.entries.last_mut(), segment.reaches.last_mut()) {
            (Some(_), Some(entry), Some(reach)) => {
                entry.len += len;
                *reach += len;
            }
            _ => {
                view.entries.push(Entry { segment: at, start: 0, len, slot_base: first_slot, shift: [0; 4] });
                segment.reaches.push(len);
            }
        }
        view.next_slot = next_slot;
        view.go_on_at(next_position);
        Ok(appended)
    }
}
