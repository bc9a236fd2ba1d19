//! Slabs: views by name and generation, segments by number.

use super::{Segment, SegmentId, View, ViewId};
use crate::{Error, Result};

/// A place for a view. The generation makes the name of a released view invalid for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    generation: u32,
    view: Option<View>,
}

/// All views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Views {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Views {
    /// How many more views can be named.
    pub(crate) fn room(&self) -> usize {
        (u32::MAX as usize - self.slots.len()) + self.free.len()
    }

    /// Makes room for `n` more views at once.
    pub(crate) fn reserve(&mut self, n: usize) {
        self.slots.reserve(n.saturating_sub(self.free.len()));
    }

    /// Names a view.
    pub(crate) fn insert(&mut self, view: View) -> ViewId {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.view = Some(view);
            return ViewId { index, generation: slot.generation };
        }
        self.slots.push(Slot { generation: 0, view: Some(view) });
        ViewId { index: (self.slots.len() - 1) as u32, generation: 0 }
    }

    /// The view of that name.
    pub(crate) fn get(&self, op: &'static str, id: ViewId) -> Result<&View> {
        self.slots
            .get(id.index as usize)
            .filter(|slot| slot.generation == id.generation)
            .and_then(|slot| slot.view.as_ref())
            .ok_or_else(|| stale(op, id))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &View> {
        self.slots.iter().filter_map(|slot| slot.view.as_ref())
    }

    /// The view of that name, to be changed.
    pub(crate) fn get_mut(&mut self, op: &'static str, id: ViewId) -> Result<&mut View> {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)
            .and_then(|slot| slot.view.as_mut())
            .ok_or_else(|| stale(op, id))
    }

    /// Takes the view out; its name is not used again.
    pub(crate) fn remove(&mut self, op: &'static str, id: ViewId) -> Result<View> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let Some((slot, view)) = slot.and_then(|slot| slot.view.take().map(|view| (slot, view))) else {
            return Err(stale(op, id));
        };
        // A place whose generations are used up is left empty: a name is never used twice.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(id.index);
        }
        Ok(view)
    }
}

fn stale(op: &'static str, id: ViewId) -> Error {
    Error::invalid(op, "view", "a live view", format!("{id:?}, released or of another cache"))
}

/// All segments. Numbers are used again: only entries of live views name segments, and those keep them alive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Segments {
    slots: Vec<Option<Segment>>,
    free: Vec<u32>,
}

impl Segments {
    /// The number that the next inserted segment gets.
    pub(crate) fn next(&self) -> SegmentId {
        SegmentId(self.free.last().copied().unwrap_or(self.slots.len() as u32))
    }

    /// Names a segment: [`Segments::next`].
    pub(crate) fn insert(&mut self, segment: Segment) -> SegmentId {
        let id = self.next();
        self.free.pop();
        match self.slots.get_mut(id.0 as usize) {
            Some(slot) => *slot = Some(segment),
            None => self.slots.push(Some(segment)),
        }
        id
    }

    /// The segment of that number.
    pub(crate) fn get(&self, id: SegmentId) -> Option<&Segment> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// The segment of that number, to be changed.
    pub(crate) fn get_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Forgets a segment that nobody reaches.
    pub(crate) fn remove(&mut self, id: SegmentId) {
        if self.slots.get_mut(id.0 as usize).and_then(Option::take).is_some() {
            self.free.push(id.0);
        }
    }
}
