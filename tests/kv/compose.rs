//! Composed and moved views, and places that are used again.

use colatent::kv::{Entry, Join, KvCache, Modality::*, Piece, ViewId};

use super::{cache, entries, invalid};

fn piece(view: ViewId, slots: std::ops::Range<i32>) -> Piece {
    Piece { view, slots }
}

/// A root of 6 tokens and two children with so many of their own.
fn family(own: [usize; 2]) -> (KvCache, [ViewId; 3]) {
    let mut c = cache(4, 32);
    let root = c.create();
    c.append(root, Text, 6).unwrap();
    let [a, b] = [c.fork(root).unwrap(), c.fork(root).unwrap()];
    c.append(a, Text, own[0]).unwrap();
    c.append(b, Text, own[1]).unwrap();
    (c, [root, a, b])
}

#[test]
fn pieces_stand_one_behind_the_other() {
    let (mut c, [_, a, b]) = family([3, 5]);
    let pages = c.used_pages();
    // The prefix, the end of b, then a; the prefix of a is there already.
    let pieces = [piece(a, 0..6), piece(b, 8..11), piece(a, 0..9)];
    let v = c.compose(&pieces, Join::Sequential).unwrap();
    assert_eq!(entries(&c, v), [(0, 0, 6, 0, 0), (3, 2, 3, 6, -2), (2, 0, 3, 9, 3)]);
    assert_eq!((c.view(v).unwrap().next_slot(), c.view(v).unwrap().next_position()), (12, 12));
    let v = c.compose(&pieces, Join::Parallel).unwrap();
    assert_eq!(entries(&c, v), [(0, 0, 6, 0, 0), (3, 2, 3, 6, 0), (2, 0, 3, 9, 0)]);
    assert_eq!(c.view(v).unwrap().next_position(), 11);
    assert_eq!(c.used_pages(), pages);
    let before = c.clone();
    invalid(c.compose(&[piece(a, 0..6), piece(b, 3..12)], Join::Parallel), "slots");
    invalid(c.compose(&[piece(a, -1..6)], Join::Parallel), "slots");
    assert_eq!(c, before);
    let nothing = c.compose(&[], Join::Parallel).unwrap();
    assert!(c.view(nothing).unwrap().is_empty());
}

#[test]
fn a_composed_view_holds_its_pages() {
    let (mut c, [root, a, b]) = family([3, 5]);
    let v = c.compose(&[piece(a, 0..6), piece(b, 6..8)], Join::Parallel).unwrap();
    [root, a, b].into_iter().for_each(|view| c.release(view).unwrap());
    assert_eq!(c.used_pages(), 2 + 1, "b's second page is reached by nobody");
    c.release(v).unwrap();
    assert_eq!(c.used_pages(), 0);
}

#[test]
fn a_moved_view_opens_a_segment() {
    let (mut c, [_, a, _]) = family([3, 5]);
    c.shift(a, 10).unwrap();
    assert_eq!(entries(&c, a), [(0, 0, 6, 0, 10), (2, 0, 3, 6, 10)]);
    assert_eq!(c.append(a, Text, 1).unwrap().first_position, 19);
    assert_eq!(c.view(a).unwrap().entries().len(), 3);
    c.shift(a, -10).unwrap();
    let shifts: Vec<i32> = c.view(a).unwrap().entries().iter().map(|e: &Entry| e.shift[0]).collect();
    assert_eq!(shifts, [0, 0, -10]);
    let before = c.clone();
    assert!(c.shift(a, i32::MAX).is_err());
    assert_eq!(c, before);
}

#[test]
fn a_dropped_slot_is_written_again() {
    let mut c = cache(4, 8);
    let v = c.create();
    c.append(v, Text, 10).unwrap();
    c.drop_range(v, 2..7).unwrap();
    let places = c.places(v, 0..2).unwrap();
    let a = c.refill(v, 4).unwrap();
    assert_eq!((a.first_slot, a.len, a.first_position), (4, 1, 10));
    let mut place = Vec::new();
    c.write_places(&a, &mut place).unwrap();
    assert_eq!(place, [4]);
    assert_eq!(entries(&c, v), [(0, 0, 2, 0, 0), (0, 4, 1, 4, 0), (0, 7, 3, 7, 0)]);
    for slot in [2, 3, 6, 5] {
        c.refill(v, slot).unwrap();
    }
    assert_eq!(entries(&c, v), [(0, 0, 10, 0, 0)]);
    assert_eq!((c.view(v).unwrap().next_slot(), c.view(v).unwrap().next_position()), (10, 15));
    assert_eq!(c.places(v, 0..2).unwrap(), places);
    assert_eq!((c.used_pages(), c.page_refs(0)), (3, 1));
    c.release(v).unwrap();
    assert_eq!(c.used_pages(), 0);
}

/// What was written again keeps its thought where it began: counted back from where it goes on, one token per slot, it
/// would stand among the tokens before it.
#[test]
fn a_thought_written_again_begins_where_it_did() {
    for (how, shift, next) in [(Join::Sequential, 2, 14), (Join::Parallel, 0, 12)] {
        let (mut c, [_, a, b]) = family([4, 2]);
        c.drop_range(a, 7..9).unwrap();
        let positions = [8, 7].map(|slot| c.refill(a, slot).unwrap().first_position);
        assert_eq!((positions, c.view(a).unwrap().next_position()), ([10, 11], 12));
        let joined = c.join(&[b, a], how).unwrap();
        let composed = c.compose(&[piece(b, 0..8), piece(a, 6..10)], how).unwrap();
        for view in [joined, composed] {
            assert_eq!(entries(&c, view), [(0, 0, 6, 0, 0), (3, 0, 2, 6, 0), (2, 0, 4, 8, shift)], "{how:?}");
            assert_eq!(c.view(view).unwrap().next_position(), next, "{how:?}");
        }
    }
}

#[test]
fn only_places_of_ones_own_that_nobody_sees_are_written_again() {
    let (mut c, [root, a, _]) = family([3, 5]);
    let before = c.clone();
    invalid(c.refill(a, 7), "slot"); // seen
    invalid(c.refill(a, 9), "slot"); // not there yet
    invalid(c.refill(a, -1), "slot");
    assert_eq!(c, before);
    c.drop_range(a, 2..4).unwrap();
    invalid(c.refill(a, 3), "slot"); // the root's
    c.drop_range(root, 2..4).unwrap();
    invalid(c.refill(root, 3), "slot"); // its children see the segment
    let child = c.fork(a).unwrap();
    c.drop_range(a, 6..8).unwrap();
    invalid(c.refill(a, 6), "slot");
    c.release(child).unwrap();
    c.refill(a, 6).unwrap();
    // A slot whose page went back is no hole of the segment any more.
    c.drop_range(a, 8..9).unwrap();
    invalid(c.refill(a, 8), "slot");
}
