//! Random calls against the model.

use colatent::kv::{Birth, Death, Lifetimes, Modality::*};
use proptest::prelude::*;

use super::model::{Op, World};

/// A list of calls that prints one call per line.
struct Calls(Vec<Op>);

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|op| write!(f, "\n    {op:?}"))
    }
}

fn calls() -> impl Strategy<Value = Calls> {
    proptest::collection::vec(op(), 1..60).prop_map(Calls)
}

fn op() -> impl Strategy<Value = Op> {
    // Views and slots are picked by remainder; small numbers keep a failing case readable.
    let n = || 0usize..1000;
    let len = prop_oneof![8 => 1usize..6, 3 => 0usize..40, 1 => 40usize..200];
    let shift = prop_oneof![3 => Just([0; 4]), 1 => proptest::array::uniform4(-3i32..4)];
    prop_oneof![
        1 => Just(Op::Create),
        8 => (n(), n(), len.clone()).prop_map(|(view, modality, len)| Op::Append { view, modality, len }),
        2 => (n(), n(), len.clone(), 0i32..9)
            .prop_map(|(view, modality, len, ahead)| Op::AppendAt { view, modality, len, ahead }),
        3 => (n(), len.clone()).prop_map(|(view, len)| Op::Extend { view, len }),
        2 => n().prop_map(|view| Op::Fork { view }),
        2 => (n(), n()).prop_map(|(view, slot)| Op::ForkAt { view, slot }),
        1 => (n(), 0usize..5).prop_map(|(view, n)| Op::ForkMany { view, n }),
        3 => (n(), n()).prop_map(|(view, slot)| Op::Truncate { view, slot }),
        2 => (n(), n(), len.clone()).prop_map(|(view, from, len)| Op::Drop { view, from, len }),
        3 => (n(), n(), n(), 0usize..8, shift)
            .prop_map(|(from, to, first, len, shift)| Op::Share { from, to, first, len, shift }),
        2 => (proptest::collection::vec(n(), 0..5), any::<bool>())
            .prop_map(|(views, sequential)| Op::Join { views, sequential }),
        5 => n().prop_map(|view| Op::Release { view }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_match_a_model_that_copies_everything(
        page_size in prop_oneof![Just(1usize), Just(3), Just(16), Just(64), Just(128)],
        tokens in 30usize..900,
        atomic in prop_oneof![Just(vec![]), Just(vec![Image, Noise]), Just(vec![Text])],
        ops in calls(),
    ) {
        let mut world = World::new(page_size, tokens.div_ceil(page_size), &atomic);
        let looks = Lifetimes::window(7)
            .with(Image, Birth::SpanStart, Death::WindowOrSpan(7))
            .with(Noise, Birth::SpanStart, Death::SpanEnd)
            .with(Audio, Birth::Affine { num: 1, den: 1, off: -2 }, Death::ChunkEnd(16));
        for op in &ops.0 {
            world.apply(op);
            world.check();
        }
        world.check_headers(&looks);
        world.check_undo(5);
        world.finish();
    }

    #[test]
    fn beams_follow_any_parent_vector(parents in proptest::collection::vec(proptest::array::uniform4(0usize..4), 1..20)) {
        // Four beams; at each step every beam is re-parented, and the old ones are given up.
        let mut world = World::new(3, 400, &[]);
        world.apply(&Op::Create);
        world.apply(&Op::Append { view: 0, modality: 0, len: 7 });
        world.apply(&Op::ForkMany { view: 0, n: 3 });
        for step in parents {
            step.iter().for_each(|&view| world.apply(&Op::Fork { view }));
            // Releasing swaps the last view in, so that the four children come to stand in front.
            for view in 0..4 {
                world.apply(&Op::Release { view });
            }
            for view in 0..4 {
                world.apply(&Op::Append { view, modality: 0, len: 1 });
            }
            world.check();
        }
        prop_assert_eq!(world.refused, 0);
        world.finish();
    }
}
