//! The cache beside a model that copies everything, and the checks that hold after every call.

use std::collections::{BTreeMap, BTreeSet};

use colatent::Error;
use colatent::kv::{Appended, Join, KvCache, Lifetimes, Modality, ViewId};

/// One token of a model view: its slot, the token's own number, its shift.
pub type Seen = (i32, usize, [i32; 4]);

/// A view as a plain list.
#[derive(Clone, Debug)]
pub struct ModelView {
    pub id: ViewId,
    pub tokens: Vec<Seen>,
    pub next_slot: i32,
    /// The position at every slot, and where text goes on.
    pub stands: Vec<i32>,
}

impl ModelView {
    fn new(id: ViewId) -> ModelView {
        ModelView { id, tokens: vec![], next_slot: 0, stands: vec![0] }
    }

    fn next_position(&self) -> i32 {
        self.stands[self.stands.len() - 1]
    }

    /// Slots at these positions; text goes on at `next`.
    fn stand(&mut self, at: impl Iterator<Item = i32>, next: i32) {
        self.stands.pop();
        self.stands.extend(at);
        self.stands.push(next);
    }
}

/// A call. Views, slots and lengths are picked by remainder, so that every number is a valid choice.
#[derive(Clone, Debug)]
pub enum Op {
    Create,
    Append { view: usize, modality: usize, len: usize },
    AppendAt { view: usize, modality: usize, len: usize, ahead: i32 },
    Extend { view: usize, len: usize },
    Fork { view: usize },
    ForkAt { view: usize, slot: usize },
    ForkMany { view: usize, n: usize },
    Truncate { view: usize, slot: usize },
    Drop { view: usize, from: usize, len: usize },
    Share { from: usize, to: usize, first: usize, len: usize, shift: [i32; 4] },
    Join { views: Vec<usize>, sequential: bool },
    Release { view: usize },
}

/// The cache, the bytes it would manage (one token number per place), and the model.
pub struct World {
    pub cache: KvCache,
    memory: Vec<Option<usize>>,
    kinds: Vec<Modality>,
    atomic: Vec<Modality>,
    pub views: Vec<ModelView>,
    pub refused: usize,
}

impl World {
    pub fn new(page_size: usize, num_pages: usize, atomic: &[Modality]) -> World {
        World {
            cache: KvCache::new(page_size, num_pages).unwrap().with_atomic(atomic),
            memory: vec![None; page_size * num_pages],
            kinds: Vec::new(),
            atomic: atomic.to_vec(),
            views: Vec::new(),
            refused: 0,
        }
    }

    /// Calls the cache and the model alike. An error must leave the cache as it was, and must be due.
    pub fn apply(&mut self, op: &Op) {
        let n = self.views.len();
        if n == 0 {
            let id = self.cache.create();
            self.views.push(ModelView::new(id));
            return;
        }
        match *op {
            Op::Create => {
                let id = self.cache.create();
                self.views.push(ModelView::new(id));
            }
            Op::Append { view, modality, len } => {
                let modality = Modality::ALL[modality % Modality::ALL.len()];
                let next = self.views[view % n].next_position() + len as i32;
                self.grow(view % n, modality, len, next, |cache, id| cache.append(id, modality, len));
            }
            Op::AppendAt { view, modality, len, ahead } => {
                let modality = Modality::ALL[modality % Modality::ALL.len()];
                let next = self.views[view % n].next_position() + ahead;
                self.grow(view % n, modality, len, next, |cache, id| cache.append_at(id, modality, len, next));
            }
            Op::Extend { view, len } => {
                let view = view % n;
                let last = self.views[view].tokens.last().map(|t| self.kinds[t.1]);
                let next = self.views[view].next_position() + len as i32;
                match last {
                    Some(kind) if !self.atomic.contains(&kind) => {
                        self.grow(view, kind, len, next, |cache, id| cache.extend(id, len));
                    }
                    due => {
                        let before = self.cache.clone();
                        let error = self.cache.extend(self.views[view].id, len).unwrap_err();
                        match due {
                            Some(kind) => {
                                assert!(
                                    matches!(error, Error::SplitSpan { modality, .. } if modality == kind),
                                    "{error}"
                                )
                            }
                            None => assert!(matches!(error, Error::Invalid { .. }), "{error}"),
                        }
                        assert_eq!(self.cache, before, "a refused extend changed the cache");
                    }
                }
            }
            Op::Fork { view } => {
                let id = self.cache.fork(self.views[view % n].id).unwrap();
                self.views.push(ModelView { id, ..self.views[view % n].clone() });
            }
            Op::ForkAt { view, slot } => {
                let parent = self.views[view % n].clone();
                let slot = (slot % (parent.next_slot as usize + 1)) as i32;
                let id = self.cache.fork_at(parent.id, slot).unwrap();
                self.views.push(ModelView { id, ..before(parent, slot) });
            }
            Op::ForkMany { view, n: children } => {
                let parent = self.views[view % n].clone();
                for id in self.cache.fork_many(parent.id, children).unwrap() {
                    self.views.push(ModelView { id, ..parent.clone() });
                }
            }
            Op::Truncate { view, slot } => {
                let target = self.views[view % n].clone();
                let slot = (slot % (target.next_slot as usize + 1)) as i32;
                self.cache.truncate(target.id, slot).unwrap();
                self.views[view % n] = before(target, slot);
            }
            Op::Drop { view, from, len } => {
                let target = &mut self.views[view % n];
                let from = (from % (target.next_slot as usize + 1)) as i32;
                let to = (from + len as i32).min(target.next_slot);
                self.cache.drop_range(target.id, from..to).unwrap();
                target.tokens.retain(|t| !(from..to).contains(&t.0));
            }
            Op::Share { from, to, first, len, shift } => self.share(from % n, to % n, first, len, shift),
            Op::Join { ref views, sequential } => {
                let views: Vec<usize> = views.iter().map(|v| v % n).collect();
                self.join(&views, sequential);
            }
            Op::Release { view } => {
                let gone = self.views.swap_remove(view % n);
                self.cache.release(gone.id).unwrap();
                let before = self.cache.clone();
                assert!(matches!(self.cache.release(gone.id), Err(Error::Invalid { .. })), "released twice");
                assert!(self.cache.fork(gone.id).is_err() && self.cache.append(gone.id, Modality::Text, 1).is_err());
                assert_eq!(self.cache, before, "a call with a released view changed the cache");
            }
        }
    }

    fn grow(
        &mut self,
        view: usize,
        modality: Modality,
        len: usize,
        next_position: i32,
        call: impl FnOnce(&mut KvCache, ViewId) -> colatent::Result<Appended>,
    ) {
        let before = self.cache.clone();
        let visible: BTreeSet<u32> = self.views.iter().flat_map(|v| places(&before, v.id)).collect();
        let target = &mut self.views[view];
        let appended = match call(&mut self.cache, target.id) {
            Ok(appended) => appended,
            Err(error) => {
                self.refused += 1;
                let due = match error {
                    Error::PoolFull { needed, free, .. } => {
                        free == before.free_pages() && needed > free && needed <= len.div_ceil(before.page_size())
                    }
                    Error::Invalid { .. } => len == 0,
                    _ => false,
                };
                assert!(due, "append of {len} refused: {error}");
                assert_eq!(self.cache, before, "a refused append changed the cache");
                return;
            }
        };
        let first_position = target.next_position();
        let (first_slot, count) = (target.next_slot, len as u32);
        assert_eq!(appended, Appended { view: target.id, first_slot, len: count, first_position });
        let mut written = vec![7];
        self.cache.write_places(&appended, &mut written).unwrap();
        assert_eq!(written.remove(0), 7);
        assert_eq!(written, self.cache.places(target.id, first_slot..first_slot + len as i32).unwrap());
        assert_eq!(written.len(), len);
        for (i, place) in written.into_iter().enumerate() {
            assert!(!visible.contains(&place), "a write to place {place}, which a view sees");
            self.memory[place as usize] = Some(self.kinds.len());
            target.tokens.push((first_slot + i as i32, self.kinds.len(), [0; 4]));
            self.kinds.push(modality);
        }
        target.next_slot += len as i32;
        target.stand(first_position..first_position + len as i32, next_position);
    }

    fn share(&mut self, from: usize, to: usize, first: usize, len: usize, shift: [i32; 4]) {
        let source = self.views[from].clone();
        let start = (first % (source.next_slot as usize + 1)) as i32;
        let end = start + len as i32;
        let moved: Vec<Seen> = source.tokens.iter().copied().filter(|t| (start..end).contains(&t.0)).collect();
        let before = self.cache.clone();
        let result = self.cache.share(source.id, start..end, self.views[to].id, shift);
        if from == to || len == 0 || moved.len() != len {
            assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
            assert_eq!(self.cache, before, "a refused share changed the cache");
            return;
        }
        let target = &mut self.views[to];
        let (first_slot, first_position) = (target.next_slot, target.next_position());
        assert_eq!(result, Ok(Appended { view: target.id, first_slot, len: len as u32, first_position }));
        target.tokens.extend(moved.iter().map(|&(slot, id, s)| (first_slot + slot - start, id, add(s, shift))));
        target.next_slot += len as i32;
        target.stand(source.stands[start as usize..end as usize].iter().map(|at| at + shift[0]), first_position);
    }

    fn join(&mut self, views: &[usize], sequential: bool) {
        let ids: Vec<ViewId> = views.iter().map(|&v| self.views[v].id).collect();
        let how = if sequential { Join::Sequential } else { Join::Parallel };
        let Some((&first, others)) = views.split_first() else {
            assert!(matches!(self.cache.join(&ids, how), Err(Error::Invalid { .. })));
            return;
        };
        let id = self.cache.join(&ids, how).unwrap();
        let mut joined = ModelView { id, ..self.views[first].clone() };
        let mut taken: BTreeSet<(usize, [i32; 4])> = joined.tokens.iter().map(|t| (t.1, t.2)).collect();
        for &other in others {
            let branch = &self.views[other];
            let own: Vec<Seen> = branch.tokens.iter().copied().filter(|t| taken.insert((t.1, t.2))).collect();
            let (before, stands) = (joined.next_position(), |t: &Seen| branch.stands[t.0 as usize]);
            let offset = match own.first() {
                Some(first) if sequential => before - stands(first),
                None if sequential => continue,
                _ => 0,
            };
            let next = before.max(branch.next_position() + offset);
            joined.stand(own.iter().map(|t| stands(t) + offset), next);
            for (_, id, shift) in own {
                joined.tokens.push((joined.next_slot, id, add(shift, [offset; 4])));
                joined.next_slot += 1;
            }
        }
        self.views.push(joined);
    }

    /// Everything that must hold between two calls.
    pub fn check(&self) {
        let page_size = self.cache.page_size();
        let mut table_entries = 0;
        // Per segment: how far it is reached, its pages.
        let mut segments = BTreeMap::new();
        for model in &self.views {
            let view = self.cache.view(model.id).unwrap();
            assert_eq!(view.next_slot(), model.next_slot, "{model:?}");
            let stands: Vec<i32> = (0..=model.next_slot).map(|slot| view.position_at(slot)).collect();
            assert_eq!((&stands, view.next_position()), (&model.stands, model.next_position()));
            assert_eq!((view.len(), view.is_empty()), (model.tokens.len(), model.tokens.is_empty()));
            let mut read = Vec::new();
            for entry in view.entries() {
                let places = self.cache.places(model.id, entry.slot_base..entry.slot_end()).unwrap();
                assert_eq!(places.len(), entry.len as usize);
                let spans = self.cache.segment(entry.segment).unwrap().spans();
                let mut span = 0;
                for (i, place) in places.into_iter().enumerate() {
                    let token = self.memory[place as usize].expect("a place that was never written");
                    let at = entry.start + i as u32;
                    while spans[span].start + spans[span].len <= at {
                        span += 1;
                    }
                    assert_eq!(spans[span].modality, self.kinds[token], "the span's modality is not the token's");
                    read.push((entry.slot_base + i as i32, token, entry.shift));
                }
                let end = entry.start + entry.len;
                table_entries += (end as usize).div_ceil(page_size);
                let reach = segments.entry(entry.segment).or_insert(0);
                *reach = end.max(*reach);
            }
            assert_eq!(read, model.tokens, "the view does not read what was written");
        }

        let mut held = BTreeSet::new();
        for (id, reach) in segments {
            let segment = self.cache.segment(id).unwrap();
            assert_eq!(segment.len(), reach, "a segment is as long as its farthest reader sees");
            assert_eq!(segment.pages().len(), (reach as usize).div_ceil(page_size));
            assert!(segment.pages().iter().all(|&page| held.insert(page)), "a page of two segments");
            let mut at = 0;
            for span in segment.spans() {
                assert_eq!(span.start, at, "spans do not follow one another");
                assert!(span.len > 0);
                at += span.len;
            }
            assert_eq!(at, segment.len(), "spans do not cover the segment");
        }
        let num_pages = self.cache.num_pages();
        let refs: Vec<usize> = (0..num_pages as u32).map(|page| self.cache.page_refs(page)).collect();
        assert_eq!(refs.iter().sum::<usize>(), table_entries, "references and table entries");
        for (page, &refs) in refs.iter().enumerate() {
            assert_eq!(refs > 0, held.contains(&(page as u32)), "page {page}: {refs} references");
        }
        assert_eq!(self.cache.used_pages(), held.len(), "pages that nobody reaches are not free");
        assert_eq!(self.cache.free_pages() + held.len(), num_pages);

        let ids: Vec<ViewId> = self.views.iter().map(|v| v.id).collect();
        let distinct: BTreeSet<usize> = self.views.iter().flat_map(|v| v.tokens.iter().map(|t| t.1)).collect();
        let all = self.views.iter().map(|v| v.tokens.len()).sum();
        assert_eq!(self.cache.tokens_shared(&ids), Ok(distinct.len()));
        assert_eq!(self.cache.tokens_unshared(&ids), Ok(all));
    }

    /// Headers against births and deaths of one token after the other.
    pub fn check_headers(&self, lifetimes: &Lifetimes) {
        let page_size = self.cache.page_size() as u32;
        for model in &self.views {
            for (e, entry) in self.cache.view(model.id).unwrap().entries().iter().enumerate() {
                let segment = self.cache.segment(entry.segment).unwrap();
                for page in 0..segment.pages().len() {
                    let header = self.cache.page_header(model.id, e, page, lifetimes).unwrap();
                    let mut bounds = (i32::MAX, i32::MIN, i32::MAX, i32::MIN);
                    for token in (entry.start..entry.start + entry.len).filter(|t| t / page_size == page as u32) {
                        let span = segment.spans().iter().find(|s| token < s.start + s.len).unwrap();
                        let last = span.end().min(entry.start + entry.len);
                        let (start, end) = (entry.slot_of(span.start), entry.slot_of(last));
                        let (birth, death) = lifetimes.get(span.modality).of(entry.slot_of(token), start, end);
                        bounds = (bounds.0.min(birth), bounds.1.max(birth), bounds.2.min(death), bounds.3.max(death));
                    }
                    assert_eq!((header.birth_min, header.birth_max, header.death_min, header.death_max), bounds);
                }
                let past = segment.pages().len();
                assert!(self.cache.page_header(model.id, e, past, lifetimes).is_err());
            }
        }
    }

    /// Appending and truncating again leaves every view as it was.
    pub fn check_undo(&mut self, len: usize) {
        for model in &self.views {
            let visible = |c: &KvCache| (c.view(model.id).unwrap().clone(), places(c, model.id), c.free_pages());
            let before = visible(&self.cache);
            if let Ok(appended) = self.cache.append(model.id, Modality::Draft, len) {
                self.cache.truncate(model.id, appended.first_slot).unwrap();
            }
            assert_eq!(visible(&self.cache), before);
        }
        self.check();
    }

    /// Releases every view; nothing may be left.
    pub fn finish(mut self) {
        for view in std::mem::take(&mut self.views) {
            self.cache.release(view.id).unwrap();
        }
        self.check();
        assert_eq!(self.cache.free_pages(), self.cache.num_pages(), "pages leaked");
    }
}

/// Every place that the view sees.
pub fn places(cache: &KvCache, view: ViewId) -> Vec<u32> {
    let entries = cache.view(view).unwrap().entries();
    entries.iter().flat_map(|e| cache.places(view, e.slot_base..e.slot_end()).unwrap()).collect()
}

/// A view cut to the slots before `slot`.
fn before(mut view: ModelView, slot: i32) -> ModelView {
    view.tokens.retain(|t| t.0 < slot);
    view.next_slot = slot;
    view.stands.truncate(slot as usize + 1);
    if let Some(next) = view.stands.last_mut() {
        *next = (*next).max(0);
    }
    view
}

fn add(a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
    std::array::from_fn(|i| a[i] + b[i])
}
