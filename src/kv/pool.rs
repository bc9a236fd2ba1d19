//! The pool: which pages are free, and which segment holds the others.

/// Where a page is used. A page never belongs to two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    /// The segment; [`Owner::NONE`] has no valid one.
    segment: u32,
    /// The page's number within the segment.
    index: u32,
}

/// A fixed number of pages. The page given back last is taken first: it is the one most likely still in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    free: Vec<u32>,
    owners: Vec<Owner>,
}

impl Owner {
    const NONE: Owner = Owner { segment: u32::MAX, index: 0 };
}

impl Pool {
    /// All pages free; page 0 is taken first.
    pub(crate) fn new(num_pages: u32) -> Self {
        Pool { free: (0..num_pages).rev().collect(), owners: vec![Owner::NONE; num_pages as usize] }
    }

    /// Pages in all.
    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Pages free.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a page for the end of a segment's page list; nothing happens when none is free.
    pub(crate) fn take(&mut self, segment: u32, pages: &mut Vec<u32>) {
        if let Some(page) = self.free.pop() {
            if let Some(owner) = self.owners.get_mut(page as usize) {
                *owner = Owner { segment, index: pages.len() as u32 };
            }
            pages.push(page);
        }
    }

    /// Gives back the pages of a segment's list past the first `keep`.
    pub(crate) fn give_back(&mut self, pages: &mut Vec<u32>, keep: usize) {
        while pages.len() > keep {
            let Some(page) = pages.pop() else { return };
            if let Some(owner) = self.owners.get_mut(page as usize) {
                *owner = Owner::NONE;
            }
            self.free.push(page);
        }
    }

    /// The segment that holds the page and the page's number within it.
    pub(crate) fn owner(&self, page: u32) -> Option<(u32, u32)> {
        let owner = self.owners.get(page as usize)?;
        (*owner != Owner::NONE).then_some((owner.segment, owner.index))
    }
}
