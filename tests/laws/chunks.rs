//! Chunked prefill: a stream cut at any legal place leaves the same pages, and its rows have the same outputs, as the
//! stream in one piece; a cut through a span that sees itself as a whole is refused. Streams are short enough for every
//! segment to be one split, where the laws promise bits (L23), so all of it is bit for bit.
//! Planted and seen red: positions that count from the chunk's start (WebGPU: both laws); tiles that rows see in part taken
//! for full (CUDA: the random one).

use std::ops::Range;

use colatent::attention::{AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{KvCache, Modality};
use colatent::layer::{LayerSpec, Pairing, Rope};
use colatent::{Device, Error};
use proptest::prelude::*;

use super::stream::{Rows, Stream, names};
use crate::harness::devices;
use crate::harness::scene::{Answer, Mask};

const TEXT: Modality = Modality::Text;
const IMAGE: Modality = Modality::Image;
const AUDIO: Modality = Modality::Audio;

#[derive(Debug, Clone)]
struct Scene {
    mask: Mask,
    spans: Vec<(Modality, usize)>,
    seed: u64,
}

impl Scene {
    /// Three axes of positions, two KV heads of 32 lanes with two query heads each.
    fn spec(&self) -> LayerSpec {
        let rope = Rope { axis: (0..16).map(|j| j % 3).collect(), ..Rope::plain(32, 1e4, Pairing::Half) };
        LayerSpec { rope: Some(rope), lifetimes: self.mask.lifetimes(), ..LayerSpec::new(4, 2, 32) }
    }

    fn tokens(&self) -> usize {
        self.spans.iter().map(|span| span.1).sum()
    }

    /// Text counts on; an image is a grid of 4 columns in one place of time.
    fn positions(&self) -> Vec<[i32; 4]> {
        let (mut all, mut next) = (Vec::new(), 0);
        for &(modality, len) in &self.spans {
            let len = len as i32;
            let of = |i: i32| match modality {
                Modality::Image => [next, next + i / 4, next + i % 4, 0],
                _ => [next + i; 4],
            };
            all.extend((0..len).map(of));
            next = all.iter().flat_map(|p| &p[..3]).max().map_or(0, |most| most + 1);
        }
        all
    }

    /// Each span's range of tokens, and whether it sees itself as a whole.
    fn ranges(&self) -> Vec<(Modality, Range<usize>, bool)> {
        let lifetimes = self.mask.lifetimes();
        let mut first = 0;
        let range = |&(modality, len): &(Modality, usize)| {
            let range = first..first + len;
            first += len;
            (modality, range, lifetimes.get(modality).looks_ahead())
        };
        self.spans.iter().map(range).collect()
    }

    /// Places between two tokens, legal and not.
    fn cuts(&self) -> (Vec<usize>, Vec<usize>) {
        let ranges = self.ranges();
        let is_legal = |cut: &usize| !ranges.iter().any(|(_, r, whole)| *whole && r.start < *cut && *cut < r.end);
        (1..self.tokens()).partition(is_legal)
    }

    /// Appends `tokens` to the stream's only view as an engine does: a span goes on where the last chunk left it.
    fn append(&self, stream: &mut Stream, view: colatent::kv::ViewId, tokens: Range<usize>) -> Vec<Rows> {
        let all: Vec<u64> = names(self.seed, 0, self.tokens()).collect();
        let positions = self.positions();
        let mut rows = Vec::new();
        for (modality, range, _) in self.ranges() {
            let piece = range.start.max(tokens.start)..range.end.min(tokens.end);
            if piece.is_empty() {
                continue;
            }
            let appended = match piece.start == range.start {
                true => stream.cache.append(view, modality, piece.len()),
                false => stream.cache.extend(view, piece.len()),
            };
            rows.push(stream.write(appended.unwrap(), all[piece.clone()].iter().copied(), &positions[piece]));
        }
        rows
    }

    /// The outputs of all rows and the bytes of K and V after a prefill in chunks that end at `cuts` and at the end.
    fn prefill(&self, device: &Device, cuts: &[usize]) -> (Answer, [Vec<u8>; 2]) {
        let mut stream = Stream::new(device, &self.spec());
        let view = stream.cache.create();
        let mut all = Answer { out: Vec::new(), lse: Vec::new() };
        let mut first = 0;
        for end in cuts.iter().copied().chain([self.tokens()]) {
            let rows = self.append(&mut stream, view, first..end);
            let answer = stream.attend(&rows);
            all.out.extend(answer.out);
            all.lse.extend(answer.lse);
            first = end;
        }
        (all, [&stream.k, &stream.v].map(|t| t.buffer().read().unwrap()))
    }

    fn check(&self, device: &Device, cuts: &[usize], want: &(Answer, [Vec<u8>; 2])) -> Result<(), String> {
        let got = self.prefill(device, cuts);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let fail = |what: &str| Err(format!("{device}: {what} of a prefill cut at {cuts:?}\n{self:?},"));
        if got.1 != want.1 {
            return fail("pages");
        }
        if bits(&got.0.lse) != bits(&want.0.lse) || bits(&got.0.out) != bits(&want.0.out) {
            return fail("outputs");
        }
        Ok(())
    }

    /// At every legal place alone, and at all of a random choice together.
    fn check_all(&self, choice: u64) -> Result<(), String> {
        let (legal, _) = self.cuts();
        let some: Vec<usize> = legal.iter().copied().filter(|cut| choice >> (cut % 64) & 1 == 1).collect();
        for device in devices() {
            let want = self.prefill(device, &[]);
            // The reference is slow, and it is the definition that the devices are compared with elsewhere.
            let step = if device.kind() == "reference" { 5 } else { 1 };
            for cut in legal.iter().step_by(step) {
                self.check(device, &[*cut], &want)?;
            }
            self.check(device, &some, &want)?;
        }
        Ok(())
    }
}

/// An image longer than the window in both compositions, an image at slot 0 that ends where a tile of 48 keys does,
/// adjacent images, chunks that end within spans, a window of 1, noise-like images, a prefix.
#[test]
#[rustfmt::skip]
fn a_prefill_may_be_cut_at_any_legal_place() {
    let scenes = [
        Scene { mask: Mask::ImageInWindow(12), spans: vec![(TEXT, 5), (IMAGE, 20), (TEXT, 7), (IMAGE, 3), (IMAGE, 4), (TEXT, 2)], seed: 1 },
        Scene { mask: Mask::WindowOrImage(12), spans: vec![(TEXT, 5), (IMAGE, 20), (TEXT, 17)], seed: 2 },
        Scene { mask: Mask::ImageOrCausal, spans: vec![(IMAGE, 48), (TEXT, 6), (AUDIO, 5)], seed: 3 },
        Scene { mask: Mask::Chunked(16), spans: vec![(TEXT, 19), (IMAGE, 20), (TEXT, 4)], seed: 4 },
        Scene { mask: Mask::Window(1), spans: vec![(TEXT, 9), (IMAGE, 9)], seed: 5 },
        Scene { mask: Mask::HiddenImage, spans: vec![(TEXT, 6), (IMAGE, 18), (TEXT, 8)], seed: 6 },
        Scene { mask: Mask::Prefix, spans: vec![(IMAGE, 18), (TEXT, 20)], seed: 7 },
    ];
    for scene in scenes {
        scene.check_all(0x5a5a_1234_9abc_def1).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_prefill_may_be_cut_at_any_legal_place(
        mask in prop_oneof![
            Just(Mask::Causal), (1i32..30).prop_map(Mask::Window), (1i32..30).prop_map(Mask::Chunked),
            Just(Mask::ImageOrCausal), (1i32..30).prop_map(Mask::ImageInWindow), (1i32..30).prop_map(Mask::WindowOrImage),
        ],
        spans in prop::collection::vec((prop_oneof![Just(TEXT), Just(IMAGE), Just(AUDIO)], 1usize..24), 1..5),
        seed: u64, choice: u64,
    ) {
        Scene { mask, spans, seed }.check_all(choice).map_err(TestCaseError::fail)?;
    }
}

/// A cut through a span that sees itself as a whole: a cache that knows refuses to go on with the span, and otherwise the
/// plan of whatever sees the span refuses.
#[test]
fn an_illegal_cut_is_refused() {
    let spans = vec![(TEXT, 5), (IMAGE, 20), (TEXT, 7)];
    for mask in [Mask::ImageInWindow(12), Mask::WindowOrImage(12), Mask::ImageOrCausal, Mask::HiddenImage, Mask::Prefix]
    {
        let scene = Scene { mask, spans: spans.clone(), seed: 1 };
        let (legal, illegal) = scene.cuts();
        assert_eq!((legal.len(), illegal.len()), (12, 19), "{mask:?}");
        for (device, cut) in devices().iter().flat_map(|d| illegal.iter().map(move |c| (d, *c))) {
            let grow = |cache: &mut KvCache| -> Result<[QueryRows; 2], Error> {
                let view = cache.create();
                cache.append(view, TEXT, 5)?;
                cache.append(view, IMAGE, cut - 5)?;
                Ok([cache.extend(view, 25 - cut)?.into(), cache.append(view, TEXT, 7)?.into()])
            };
            let mut cache = KvCache::new(16, 8).unwrap();
            for rows in grow(&mut cache).unwrap() {
                let problem = AttentionProblem { spec: &scene.spec(), cache: &cache, rows: &[rows] };
                let refused = AttentionPlan::new(device, &problem).err();
                assert!(
                    matches!(refused, Some(Error::SplitSpan { modality: IMAGE, .. })),
                    "{mask:?} {cut}: {refused:?}"
                );
            }
            let mut atomic = KvCache::new(16, 8).unwrap().with_atomic(&[IMAGE]);
            let refused = grow(&mut atomic).err();
            let expected = Error::SplitSpan { op: "extend", modality: IMAGE, have: cut - 5, more: 25 - cut };
            assert_eq!(refused, Some(expected), "{mask:?} {cut}");
        }
    }
    // Where images are causal, the same cuts are legal.
    let scene = Scene { mask: Mask::Window(12), spans, seed: 1 };
    assert!(scene.cuts().1.is_empty());
}
