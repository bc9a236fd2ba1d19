//! `select` against its definition. Scores of small integers are exact, so every device chooses the same bits, ties
//! included; of real numbers the chosen ones are those of the greatest scores, up to rounding.
//! Planted and seen red: all units of the least chosen score taken (CUDA kernel: table, ties); no clamp of products at 0
//! (shader: table). In the CUDA kernel's blocks: arrivals not put back (table, a second run), one arrival too few waited for
//! (table), slots of the next block scored by nobody (table).
//! In the CUDA kernel of attention: bits counted from the segment's token instead of the view's slot, the first row of an
//! item choosing for all (both: table, any views, layers; the latter also the siblings' law); a tile skipped by the choice
//! of the next one (five tests of attention). In the shaders: the bit of the neighbouring slot
//! (table, any views, layers, siblings' law, choosing every key); a tile that the first row did not choose skipped
//! (`attention`: table); a step that the first lane did not choose skipped (`attention_subgroup`: layers, siblings' law).
#[path = "select/attend.rs"]
mod attend;
mod harness;
#[path = "select/layers.rs"]
mod layers;

use colatent::attention::QueryRows;
use colatent::kv::{Birth, Death, KvCache, Lifetimes, Modality};
use colatent::select::{SelectArgs, SelectPlan, SelectProblem, SelectSpec};
use colatent::{Buffer, DType, Device, Error, Tensor, Workspace};
use harness::{Rng, devices};

#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    heads: usize,
    dim: usize,
    count: usize,
    block: usize,
    lifetimes: Lifetimes,
    dtypes: (DType, DType),
    page_size: usize,
    tokens: usize,
    agents: usize,
    /// Small integers: exact, and full of ties.
    is_exact: bool,
}

impl Case {
    const PLAIN: Case = Case {
        seed: 1,
        heads: 4,
        dim: 16,
        count: 7,
        block: 1,
        lifetimes: Lifetimes::causal(),
        dtypes: (DType::F32, DType::F32),
        page_size: 16,
        tokens: 70,
        agents: 2,
        is_exact: true,
    };

    fn spec(&self) -> SelectSpec {
        SelectSpec {
            heads: self.heads,
            dim: self.dim,
            count: self.count,
            block: self.block,
            lifetimes: self.lifetimes,
            dtype: self.dtypes.0,
            k_dtype: self.dtypes.1,
        }
    }

    /// A prompt with an image in it, and agents that go on; all rows of the prompt and of the agents choose, some of them
    /// with a gap.
    fn scene(&self) -> (KvCache, Vec<QueryRows>) {
        let mut cache =
            KvCache::new(self.page_size, self.tokens.div_ceil(self.page_size) + 4 * self.agents + 3).unwrap();
        let root = cache.create();
        let image = self.tokens / 3;
        let mut rows = Vec::new();
        for (modality, len) in
            [(Modality::Text, self.tokens - 2 * image), (Modality::Image, image), (Modality::Text, image)]
        {
            if len > 0 {
                rows.push(QueryRows::from(cache.append(root, modality, len).unwrap()));
            }
        }
        for i in 0..self.agents {
            let agent = cache.fork(root).unwrap();
            cache.append(agent, Modality::Text, 3 + i).unwrap();
            let mut last = QueryRows::from(cache.append(agent, Modality::Tool, 1).unwrap());
            last.gap = (i % 2 == 1).then_some(2..9);
            rows.push(last);
        }
        (cache, rows)
    }

    /// `n` numbers of a tensor.
    fn values(&self, salt: u64, n: usize) -> Vec<f32> {
        let mut rng = Rng(self.seed ^ salt << 32);
        match self.is_exact {
            true => (0..n).map(|_| rng.below(5) as f32 - 2.0).collect(),
            false => rng.values(n),
        }
    }
}

/// The chosen slots of every row, and the words of the selection. What no row sees is NaN.
fn run(case: &Case, device: &Device) -> Result<Vec<Vec<u32>>, Error> {
    let (spec, (cache, rows)) = (case.spec(), case.scene());
    let plan = SelectPlan::new(device, &SelectProblem { spec: &spec, cache: &cache, rows: &rows })?;
    let (n, pages) = (plan.num_rows(), cache.num_pages());
    let mut keys = vec![f32::NAN; pages * case.page_size * case.dim];
    let all = case.values(2, keys.len());
    for rows in &rows {
        let slots = 0..cache.view(rows.view)?.next_slot();
        for place in cache.places(rows.view, slots)? {
            let at = place as usize * case.dim..(place as usize + 1) * case.dim;
            keys[at.clone()].copy_from_slice(&all[at]);
        }
    }
    let q =
        Tensor::from_f32(device, spec.dtype, &[n, case.heads, case.dim], &case.values(1, n * case.heads * case.dim))?;
    let k = Tensor::from_f32(device, spec.k_dtype, &[pages, case.page_size, case.dim], &keys)?;
    let weights = Tensor::from_f32(device, DType::F32, &[n, case.heads], &case.values(3, n * case.heads))?;
    let selection = Buffer::zeros(device, n * plan.words() * 4 + 16)?;
    selection.write(0, &vec![0xff; selection.bytes()])?;
    let args = SelectArgs { q: &q, k: &k, weights: &weights, selection: &selection };
    let mut workspace = Workspace::new(device)?;
    plan.warm_up(&mut workspace)?;
    plan.run(&args, &mut workspace)?;
    let chosen = plan.read(&selection)?;
    let behind = selection.read()?[n * plan.words() * 4..].iter().all(|&byte| byte == 0xff);
    assert!(behind, "{device}: written behind the selection");
    selection.write(0, &vec![0xff; selection.bytes()])?;
    plan.run(&args, &mut workspace)?;
    assert_eq!(plan.read(&selection)?, chosen, "{device}: a second run");
    Ok(chosen)
}

/// The score of every slot that a row sees, in f64, from the values as they are stored.
fn scores(case: &Case) -> Vec<Vec<(u32, f64)>> {
    // Everything is chosen.
    let seen = run(&Case { count: 1 << 20, block: 1, ..case.clone() }, &Device::Reference).unwrap();
    let (cache, rows) = case.scene();
    let stored = |dtype: DType, x: Vec<f32>| {
        let t = Tensor::from_f32(&Device::Reference, dtype, &[x.len()], &x).unwrap();
        t.read_f32().unwrap()
    };
    let n: usize = rows.iter().map(|r| r.len as usize).sum();
    let (heads, dim) = (case.heads, case.dim);
    let q = stored(case.dtypes.0, case.values(1, n * heads * dim));
    let k = stored(case.dtypes.1, case.values(2, cache.num_pages() * case.page_size * dim));
    let weights = case.values(3, n * heads);
    let views = rows.iter().flat_map(|r| std::iter::repeat_n(r.view, r.len as usize));
    let of_row = |(row, (view, seen)): (usize, (_, &Vec<u32>))| {
        let score = |slot: u32| {
            let place = cache.places(view, slot as i32..slot as i32 + 1).unwrap()[0] as usize;
            let head = |h: usize| {
                let pairs = q[(row * heads + h) * dim..][..dim].iter().zip(&k[place * dim..][..dim]);
                f64::from(weights[row * heads + h]) * pairs.map(|(a, b)| f64::from(a * b)).sum::<f64>().max(0.0)
            };
            (slot, (0..heads).map(head).sum::<f64>())
        };
        seen.iter().map(|&slot| score(slot)).collect()
    };
    views.zip(&seen).enumerate().map(of_row).collect()
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    let p = Case::PLAIN;
    let images = Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never);
    vec![
        p.clone(),
        Case { count: 1, ..p.clone() },
        Case { count: 1000, ..p.clone() },
        Case { tokens: 1, agents: 0, ..p.clone() },
        Case { tokens: 600, heads: 2, count: 64, agents: 3, page_size: 64, ..p.clone() },
        Case { lifetimes: Lifetimes::window(20), page_size: 1, ..p.clone() },
        Case { lifetimes: images, seed: 4, ..p.clone() },
        Case { block: 8, count: 3, ..p.clone() },
        Case { block: 5, count: 2, lifetimes: Lifetimes::window(33), seed: 2, ..p.clone() },
        Case { dtypes: (BF16, BF16), dim: 64, heads: 3, seed: 5, ..p.clone() },
        Case { dtypes: (F16, BF16), dim: 8, heads: 1, ..p.clone() },
        Case { dtypes: (BF16, F32), is_exact: false, seed: 7, ..p.clone() },
        Case { dtypes: (F32, F16), is_exact: false, dim: 128, heads: 8, tokens: 300, count: 40, ..p.clone() },
        Case { is_exact: false, block: 16, count: 2, tokens: 200, ..p.clone() },
    ]
}

/// Chosen by `got`, where `want` is the definition's: bit for bit if scores are exact, else with no unit left out whose
/// score is greater than a chosen one's by more than rounding.
fn check(case: &Case, got: &[Vec<u32>], want: &[Vec<u32>]) -> Result<(), String> {
    if case.is_exact {
        let wrong = got.iter().zip(want).position(|(a, b)| a != b);
        return wrong.map_or(Ok(()), |r| Err(format!("row {r}: {:?}, want {:?}", got[r], want[r])));
    }
    for (row, (seen, got)) in scores(case).iter().zip(got).enumerate() {
        let mut units = std::collections::BTreeMap::<u32, Vec<f64>>::new();
        seen.iter().for_each(|&(slot, score)| units.entry(slot / case.block as u32).or_default().push(score));
        let mean = |scores: &Vec<f64>| scores.iter().sum::<f64>() / scores.len() as f64;
        let chosen = |unit: &u32| got.iter().any(|slot| slot / case.block as u32 == *unit);
        let least = units.iter().filter(|(u, _)| chosen(u)).map(|(_, s)| mean(s)).fold(f64::INFINITY, f64::min);
        let most = units.iter().filter(|(u, _)| !chosen(u)).map(|(_, s)| mean(s)).fold(f64::NEG_INFINITY, f64::max);
        let slots: Vec<u32> = seen.iter().map(|s| s.0).filter(|s| chosen(&(s / case.block as u32))).collect();
        // Sums of heads * dim products of numbers up to 4, in f32.
        let room = 16.0 * 4.0 * (case.heads * case.dim) as f64 / f64::from(1 << 23);
        let count = units.keys().filter(|u| chosen(u)).count();
        if most > least + room || slots != *got || count != case.count.min(units.len()) {
            return Err(format!("row {row}: {count} units, {least} chosen, {most} left out: {got:?}"));
        }
    }
    Ok(())
}

#[test]
fn table_of_cases() {
    let mut failures = Vec::new();
    for case in cases() {
        let want = run(&case, &Device::Reference).unwrap();
        for device in devices() {
            let got = run(&case, device).unwrap();
            failures.extend(check(&case, &got, &want).err().map(|e| format!("{device}: {e}\n{case:?}")));
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Equal scores: the lowest slots, by hand.
#[test]
fn ties_go_to_the_lowest_slots() {
    let spec = SelectSpec { heads: 1, dim: 4, count: 3, ..Case::PLAIN.spec() };
    let mut cache = KvCache::new(4, 3).unwrap();
    let view = cache.create();
    cache.append(view, Modality::Text, 9).unwrap();
    let row = [QueryRows { view, first_slot: 8, len: 1, gap: None }];
    // Scores 1, 0, 2, 1, 1, 0 (relu of -1), 1, 1, 1.
    let keys = [1.0, 0.0, 2.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0];
    for device in devices() {
        let plan = SelectPlan::new(device, &SelectProblem { spec: &spec, cache: &cache, rows: &row }).unwrap();
        let mut k = vec![0.0; 3 * 4 * 4];
        for (place, key) in cache.places(view, 0..9).unwrap().into_iter().zip(keys) {
            k[place as usize * 4] = key;
        }
        let t = |shape: &[usize], x: &[f32]| Tensor::from_f32(device, DType::F32, shape, x).unwrap();
        let selection = Buffer::zeros(device, plan.words() * 4).unwrap();
        let (q, k, weights) = (t(&[1, 1, 4], &[1.0, 0.0, 0.0, 0.0]), t(&[3, 4, 4], &k), t(&[1, 1], &[1.0]));
        let args = SelectArgs { q: &q, k: &k, weights: &weights, selection: &selection };
        plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
        assert_eq!(plan.read(&selection).unwrap(), [[0, 2, 3]], "{device}");
    }
}

#[test]
fn what_it_does_not_do_is_refused() {
    let (cache, rows) = Case::PLAIN.scene();
    let good = Case::PLAIN.spec();
    let affine = Lifetimes::causal().with(Modality::Text, Birth::Affine { num: 1, den: 2, off: 0 }, Death::Never);
    for device in devices() {
        let plan = |spec: &SelectSpec| SelectPlan::new(device, &SelectProblem { spec, cache: &cache, rows: &rows });
        assert!(plan(&good).is_ok());
        for bad in [SelectSpec { count: 0, ..good.clone() }, SelectSpec { block: 0, ..good.clone() }] {
            assert!(matches!(plan(&bad), Err(Error::Invalid { .. })), "{bad:?}");
        }
        for bad in [SelectSpec { dim: 6, ..good.clone() }, SelectSpec { lifetimes: affine, ..good.clone() }] {
            assert!(matches!(plan(&bad), Err(Error::Unsupported { .. })), "{bad:?}");
        }
        let plan = plan(&good).unwrap();
        let n = plan.num_rows();
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (q, k, weights) = (zeros(&[n, 4, 16]), zeros(&[cache.num_pages(), 16, 16]), zeros(&[n, 4]));
        let small = Buffer::zeros(device, 16).unwrap();
        let args = SelectArgs { q: &q, k: &k, weights: &weights, selection: &small };
        let error = plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Invalid { argument: "selection", .. }), "{device}: {error}");
    }
}
