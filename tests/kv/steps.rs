//! Steps appended ahead.

use colatent::Error;
use colatent::kv::{Appended, KvCache, Modality::*};

use super::{cache, invalid, spans};

#[test]
fn steps_appended_ahead_are_appends_of_one_token_each() {
    let (mut ahead, mut one_by_one) = (cache(4, 8), cache(4, 8));
    let views = [&mut ahead, &mut one_by_one].map(|c| {
        let v = c.create();
        c.append(v, Text, 5).unwrap();
        [v, c.fork(v).unwrap()]
    });
    let [views, _] = views;
    let grown = ahead.append_steps(&views, Text, 6).unwrap();
    let firsts: Vec<_> = (0..6).map(|_| views.map(|v| one_by_one.append(v, Text, 1).unwrap())).collect();
    for (grown, first) in grown.iter().zip(firsts[0]) {
        assert_eq!(*grown, Appended { len: 6, ..first });
    }
    let seen = |c: &KvCache| views.map(|v| (spans(c, v), c.view(v).unwrap().clone()));
    assert_eq!(seen(&ahead), seen(&one_by_one));
    assert_eq!(spans(&ahead, views[1]), [(Text, 0, 6, true)]);
    assert_eq!((ahead.free_pages(), one_by_one.free_pages()), (3, 3));
    // Two of the steps came to be.
    for c in [&mut ahead, &mut one_by_one] {
        views.iter().for_each(|&v| c.truncate(v, 7).unwrap());
        assert_eq!(c.free_pages(), 5);
    }
    assert_eq!(seen(&ahead), seen(&one_by_one));
}

#[test]
fn steps_for_all_views_or_for_none() {
    let mut c = cache(4, 3).with_atomic(&[Draft]);
    let v = c.create();
    c.append(v, Text, 3).unwrap();
    let child = c.fork(v).unwrap();
    let before = c.clone();
    let full = Error::PoolFull { op: "append_steps", needed: 3, free: 2 };
    assert_eq!(c.append_steps(&[v, child], Text, 5), Err(full));
    for modality in [Draft, Image] {
        let split = Error::SplitSpan { op: "append_steps", modality, have: 1, more: 1 };
        assert_eq!(c.append_steps(&[v], modality, 2), Err(split));
    }
    invalid(c.append_steps(&[v, child, v], Text, 1), "views");
    invalid(c.append_steps(&[v], Text, 0), "len");
    assert_eq!(c, before);
    c.append_steps(&[v, child], Text, 4).unwrap();
    assert_eq!(c.free_pages(), 0);
}
