//! Masks that are easily taken for one another, each against the rule in its model's own words, on every device.
//!
//! Planted and seen red: the two compositions of an image and a window swapped in `Death::of`; a window that does not count
//! the query's own slot for one that does (gpt-oss), and the reverse (MiMo); a side of `local_attention` instead of half
//! of it (ModernBERT).
mod harness;

use colatent::attention::QueryRows;
use colatent::kv::{Birth, Death, KvCache, Lifetimes, Modality};
use colatent::layer::LayerSpec;
use harness::devices;
use harness::visible::visible;

const TEXT: Modality = Modality::Text;
const IMAGE: Modality = Modality::Image;

/// Holds what the layer kind sees of a stream against a rule over `(query, key, same span)`.
fn check(kind: &LayerSpec, spans: &[(Modality, usize)], rule: &dyn Fn(i32, i32, bool) -> bool) -> Result<(), String> {
    let tokens: usize = spans.iter().map(|s| s.1).sum();
    let mut cache = KvCache::new(4, tokens).expect("a pool");
    let view = cache.create();
    let append = |&(modality, len): &(Modality, usize)| cache.append(view, modality, len).expect("room");
    let rows: Vec<QueryRows> = spans.iter().map(append).map(QueryRows::from).collect();
    let span_of: Vec<usize> = spans.iter().enumerate().flat_map(|(i, s)| vec![i; s.1]).collect();
    for device in devices() {
        let seen = visible(device, kind, (&cache, &rows), None, tokens);
        for (i, &seen) in seen.iter().enumerate() {
            let (q, k) = (i / tokens, i % tokens);
            if seen != rule(q as i32, k as i32, span_of[q] == span_of[k] && spans[span_of[q]].0 == IMAGE) {
                return Err(format!("{} on {device}: query {q} and key {k}: {seen}", kind.name));
            }
        }
    }
    Ok(())
}

/// The kind with another window, so that a few keys show its ends.
fn with_window(kind: LayerSpec, text: Death, image: Death) -> LayerSpec {
    let row = |modality| kind.lifetimes.get(modality).birth;
    let lifetimes = Lifetimes::all(colatent::kv::Lifetime { birth: row(TEXT), death: text });
    LayerSpec { lifetimes: lifetimes.with(IMAGE, row(IMAGE), image), ..kind }
}

/// An image of 12 keys and a window of 7. Gemma 3 and 4: `(causal or same image) and within the window`, so that the end of
/// the image does not see its start. DeepSeek-V4-Vision: `(causal and within the window) or same image`.
#[test]
fn an_image_longer_than_the_window_is_cut_or_whole() {
    let spans = [(TEXT, 5), (IMAGE, 12), (TEXT, 9), (IMAGE, 3), (TEXT, 4)];
    let in_window = |q: i32, k: i32| k > q - 7;
    let cut = move |q: i32, k: i32, same: bool| (k <= q || same) && in_window(q, k);
    let whole = move |q: i32, k: i32, same: bool| (k <= q && in_window(q, k)) || same;
    let gemma = with_window(LayerSpec::gemma3_window(), Death::Window(7), Death::Window(7));
    let other = with_window(LayerSpec::gemma3_window(), Death::Window(7), Death::WindowOrSpan(7));
    assert_eq!(check(&gemma, &spans, &cut), Ok(()));
    assert_eq!(check(&other, &spans, &whole), Ok(()));
    assert!(check(&gemma, &spans, &whole).is_err() && check(&other, &spans, &cut).is_err(), "they are not the same");
    // The published kinds are of the first sort.
    for kind in [LayerSpec::gemma3_window(), LayerSpec::gemma4_window()] {
        assert_eq!(
            (kind.lifetimes.get(IMAGE).birth, kind.lifetimes.get(IMAGE).death),
            (Birth::SpanStart, Death::Window(1024))
        );
    }
}

/// `k > q - w` counts the query's own slot among the `w` keys (gpt-oss, Gemma, Mistral, Muse); `q - k <= w` does not
/// (MiMo, whose config says 128 and means 128 keys before the query; the drafter of Muse Glimmer).
#[test]
fn a_window_counts_the_query_or_not() {
    let window = |kind: LayerSpec| match kind.lifetimes.get(TEXT).death {
        Death::Window(keys) => keys,
        other => panic!("{}: {other:?}", kind.name),
    };
    let counting = |w: i32| move |q: i32, k: i32, _: bool| k <= q && k > q - w;
    let not_counting = |w: i32| move |q: i32, k: i32, _: bool| k <= q && q - k <= w;
    for (kind, published, counts) in [
        (LayerSpec::gpt_oss_window(), 128, true),
        (LayerSpec::gemma2_window(), 4096, true),
        (LayerSpec::mistral_window(), 4096, true),
        (LayerSpec::muse_spark_window(), 2048, true),
        (LayerSpec::muse_glimmer_window(), 2048, true),
        (LayerSpec::mimo_v2_window(), 128, false),
        (LayerSpec::muse_glimmer_drafter(), 2048, false),
    ] {
        // The published window is long; one of 6 has the same ends.
        let extra = window(kind.clone()) - published;
        let small = with_window(kind, Death::Window(6 + extra), Death::Window(6 + extra));
        let (own, other) = (check(&small, &[(TEXT, 20)], &counting(6)), check(&small, &[(TEXT, 20)], &not_counting(6)));
        assert_eq!((own.is_ok(), other.is_ok()), (counts, !counts), "{}: {own:?} {other:?}", small.name);
    }
}

/// ModernBERT's `local_attention` of 128 is 64 keys on each side and the query's own: `|q - k| <= 64`.
#[test]
fn a_window_that_looks_both_ways_has_sides_of_half_its_length() {
    let lifetime = LayerSpec::modernbert_window().lifetimes.get(TEXT);
    assert_eq!(lifetime.birth, Birth::Affine { num: 1, den: 1, off: -64 });
    let sees = |q: i32, k: i32| {
        let (birth, death) = lifetime.of(k, 0, 1000);
        birth <= q && q < death
    };
    assert!((300..500).all(|k| sees(400, k) == ((400 - k).abs() <= 64)));
    let small = LayerSpec {
        lifetimes: Lifetimes::all(colatent::kv::Lifetime {
            birth: Birth::Affine { num: 1, den: 1, off: -5 },
            death: Death::Window(6),
        }),
        ..LayerSpec::modernbert_window()
    };
    assert_eq!(check(&small, &[(TEXT, 30)], &|q, k, _| (q - k).abs() <= 5), Ok(()));
}

/// A noise span is seen by itself alone; what follows sees around it (BAGEL).
#[test]
fn noise_is_hidden_from_what_follows() {
    let spans = [(TEXT, 5), (IMAGE, 6), (TEXT, 3), (Modality::Noise, 7), (TEXT, 4)];
    let noise = 14..21;
    let rule = move |q: i32, k: i32, same: bool| {
        if noise.contains(&k) { noise.contains(&q) } else { k <= q || same }
    };
    assert_eq!(check(&LayerSpec::bagel(), &spans, &rule), Ok(()));
}

/// The prefix of PaliGemma sees itself as a whole, its suffix is causal and sees the prefix.
#[test]
fn a_prefix_sees_itself() {
    let rule = |q: i32, k: i32, _: bool| k <= q || (q < 9 && k < 9);
    assert_eq!(check(&LayerSpec::paligemma(), &[(IMAGE, 9), (TEXT, 8)], &rule), Ok(()));
}

/// One view serves self-attention layers, which see no image, and cross-attention layers, which see nothing else; text
/// before the first image sees nothing there.
#[test]
fn cross_attention_sees_images_alone() {
    let spans = [(TEXT, 4), (IMAGE, 6), (TEXT, 7)];
    let image = 4..10;
    let is_image = |k: i32| image.contains(&k);
    assert_eq!(check(&LayerSpec::llama32_vision_self(), &spans, &|q, k, _| k <= q && !is_image(k)), Ok(()));
    assert_eq!(check(&LayerSpec::llama32_vision_cross(), &spans, &|q, k, _| k <= q && is_image(k)), Ok(()));
}
