//! Scenes: caches with agents in them, and the memory around one attention call.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Birth, Death, Join, KvCache, Lifetime, Lifetimes, Modality, ViewId};
use colatent::layer::{Gate, Indexer, KvScale, LayerConstants, LayerSpec, LayerWeights, Norm, Pairing, Rope};
use colatent::{Buffer, DType, Device, Tensor, Workspace};

use super::Rng;
use super::memory::{choose, kv_tensors, pages, sign, spoil, values_of};

/// Masks of published families, by the row of lifetimes that makes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mask {
    Causal,
    Window(i32),
    Chunked(i32),
    /// Causal or same image.
    ImageOrCausal,
    /// (Causal or same image) within a window.
    ImageInWindow(i32),
    /// (Causal within a window) or same image.
    WindowOrImage(i32),
    /// Images seen by nobody outside themselves.
    HiddenImage,
    /// Everything sees the first tokens; no causality for them.
    Prefix,
    /// |q - k| <= r.
    TwoSided(i32),
    /// Entry j stands for m tokens.
    Compressed(i32),
    /// Seen until a fixed slot.
    Until(i32),
}

impl Mask {
    pub fn lifetimes(self) -> Lifetimes {
        let all = |birth, death| Lifetimes::all(Lifetime { birth, death });
        match self {
            Mask::Causal => Lifetimes::causal(),
            Mask::Window(w) => Lifetimes::window(w),
            Mask::Chunked(c) => all(Birth::Causal, Death::ChunkEnd(c)),
            Mask::ImageOrCausal => Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::Never),
            Mask::ImageInWindow(w) => Lifetimes::window(w).with(Modality::Image, Birth::SpanStart, Death::Window(w)),
            Mask::WindowOrImage(w) => {
                Lifetimes::window(w).with(Modality::Image, Birth::SpanStart, Death::WindowOrSpan(w))
            }
            Mask::HiddenImage => Lifetimes::causal().with(Modality::Image, Birth::SpanStart, Death::SpanEnd),
            Mask::Prefix => Lifetimes::causal().with(Modality::Image, Birth::At(0), Death::Never),
            Mask::TwoSided(r) => all(Birth::Affine { num: 1, den: 1, off: -r }, Death::Window(r + 1)),
            Mask::Compressed(m) => all(Birth::Affine { num: m, den: 1, off: m - 1 }, Death::Never),
            Mask::Until(s) => Lifetimes::causal().with(Modality::Audio, Birth::Causal, Death::At(s)),
        }
    }
    /// Whether text would have to be appended at once.
    pub fn text_looks_ahead(self) -> bool {
        matches!(self, Mask::TwoSided(_))
    }
}

/// What happens before the call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// All tokens of a mixed stream are rows.
    Prefill,
    /// N agents with ragged thoughts decode a token each.
    Decode,
    /// A block of draft tokens per agent.
    Draft,
    /// Prefill, decode, a crop in the middle of one agent's decode and a draft block in one call.
    Mixed,
    /// Agents are joined, keeping positions; the synthesiser decodes.
    Parallel,
    /// Agents are joined one behind the other; the synthesiser decodes.
    Sequential,
}

/// Signs of V's lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Signs {
    Any,
    /// None: V's sizes.
    Positive,
    /// Another one for each token, so that outputs are small beside what they are sums of.
    Opposed,
}

/// One attention call, small enough to be a row of a table.
#[derive(Debug, Clone)]
pub struct Case {
    pub seed: u64,
    /// Changes which pages are used, and nothing else.
    pub scramble: u64,
    pub kind: Kind,
    pub mask: Mask,
    /// KV heads, query heads per KV head.
    pub heads: (usize, usize),
    /// Dims of q and k, and of v.
    pub dims: (usize, usize),
    /// V is in K, and K's lanes behind it, which turn, are a tail behind codes.
    pub tail: bool,
    pub page_size: usize,
    /// Storage of q and out, and of K and V.
    pub dtypes: (DType, DType),
    pub tokens: usize,
    /// Most tokens of a span of the prompt.
    pub span: usize,
    pub agents: usize,
    pub soft_cap: bool,
    pub sinks: bool,
    pub rounded_weights: bool,
    pub gate: bool,
    pub norm: bool,
    /// Outputs are turned back by their row's slot.
    pub v_rope: bool,
    /// Pages as [page, slot, head, dim], at an offset, q inside a wider row.
    pub engine_layout: bool,
    pub signs: Signs,
    /// One lane of V of every so many tokens is one of these in turn; 0 is never.
    pub spoiled: (usize, &'static [f32]),
    /// K and V that codes stand for, as f32.
    pub decoded: bool,
    /// Which keys a row chooses; `None` is a layer that sees all.
    pub chosen: Option<Chosen>,
    /// Outputs are e4m3 codes under this scale.
    pub out_scale: Option<f32>,
}

/// A row chooses so many of 16 runs of `run` slots.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    pub keep: u64,
    pub run: i32,
}

impl Chosen {
    /// Of the row at `slot` of view number `view`.
    pub fn has(self, view: usize, slot: i32, key: i32) -> bool {
        let row = ((view as u64) << 32) + slot as u64;
        Rng(row.wrapping_mul(0x9e37) ^ ((key / self.run) as u64) << 20).next() % 16 < self.keep
    }
}

/// What a row that sees it must get, and no other.
pub const WILD: &[f32] = &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// The seed picks one.
const GATES: [Gate; 4] = [Gate::HeadSoftplus, Gate::Sigmoid, Gate::Softplus, Gate::HeadSigmoid];

impl Case {
    pub const PLAIN: Case = Case {
        seed: 1,
        scramble: 0,
        kind: Kind::Prefill,
        mask: Mask::Causal,
        heads: (2, 4),
        dims: (64, 64),
        tail: false,
        page_size: 16,
        dtypes: (DType::F32, DType::F32),
        tokens: 70,
        span: 40,
        agents: 4,
        soft_cap: false,
        sinks: false,
        rounded_weights: false,
        gate: false,
        norm: false,
        v_rope: false,
        engine_layout: false,
        signs: Signs::Any,
        spoiled: (0, &[]),
        decoded: false,
        chosen: None,
        out_scale: None,
    };

    pub fn spec(&self) -> LayerSpec {
        let (kv, group) = self.heads;
        let lanes = if self.tail { self.dims.0 - self.dims.1 } else { (self.dims.0 / 2 / 2 * 2).max(2) };
        let pairing = if self.seed.is_multiple_of(2) { Pairing::Half } else { Pairing::Adjacent };
        LayerSpec {
            head_dim_v: self.dims.1,
            soft_cap: self.soft_cap.then_some(3.0),
            sinks: self.sinks,
            rounded_weights: self.rounded_weights,
            rope: Some(Rope { first_lane: self.dims.0 - lanes, ..Rope::plain(lanes, 1e4, pairing) }),
            v_in_k: self.tail,
            v_rope: self.v_rope,
            gate: if self.gate { GATES[(self.seed % 4) as usize] } else { Gate::None },
            out_norm: if self.norm { Norm::RmsScaled { eps: 1e-5 } } else { Norm::None },
            lifetimes: self.mask.lifetimes(),
            indexer: self.chosen.map(|_| Indexer { heads: 1, dim: 8, count: 1, block: 1 }),
            dtype: self.dtypes.0,
            out_code: self.out_scale.map(|_| DType::E4M3),
            kv_dtype: self.dtypes.1,
            kv_scale: self.kv_scale(),
            tail_dtype: self.tail.then_some(DType::BF16),
            ..LayerSpec::new(kv * group, kv, self.dims.0)
        }
    }

    fn kv_scale(&self) -> KvScale {
        match self.dtypes.1 {
            DType::E4M3 if self.seed.is_multiple_of(2) => {
                KvScale::Tensor { k: 0.02, v: if self.tail { 0.02 } else { 0.03 } }
            }
            DType::E4M3 | DType::I8 => KvScale::Token,
            _ => KvScale::None,
        }
    }

    pub fn weights(&self) -> LayerWeights {
        let mut rng = Rng(self.seed ^ 77);
        LayerWeights {
            out_norm: if self.norm { rng.values(self.dims.1) } else { vec![] },
            sinks: if self.sinks { rng.values(self.heads.0 * self.heads.1) } else { vec![] },
            out_scale: self.out_scale,
            ..Default::default()
        }
    }

    /// Builds the cache and says which rows attend.
    pub fn scene(&self) -> (KvCache, Vec<QueryRows>) {
        let mut rng = Rng(self.seed);
        let own_pages = 1 + 64usize.div_ceil(self.page_size);
        let num_pages = self.tokens.div_ceil(self.page_size) + (self.agents + 2) * own_pages;
        let mut cache = KvCache::new(self.page_size, num_pages).expect("a pool");
        scramble(&mut cache, &mut Rng(self.seed ^ self.scramble));
        let root = cache.create();
        let mut prompt = Vec::new();
        let mut left = self.tokens;
        let mut next = 0;
        while left > 0 {
            let len = (1 + rng.below(self.tokens.min(self.span))).min(left);
            let modality = [Modality::Text, Modality::Image, Modality::Audio, Modality::Image][next % 4];
            next += 1 + rng.below(2);
            prompt.push(QueryRows::from(cache.append(root, modality, len).expect("room")));
            left -= len;
        }
        if self.kind == Kind::Prefill {
            return (cache, prompt);
        }
        let agents: Vec<ViewId> = (0..self.agents)
            .map(|i| match (i + self.seed as usize) % 3 {
                0 => cache.fork_at(root, 1 + rng.below(self.tokens) as i32).expect("a slot of the prompt"),
                _ => cache.fork(root).expect("a child"),
            })
            .collect();
        let mut own_rows = Vec::new();
        for (i, &agent) in agents.iter().enumerate() {
            let own = if self.mask.text_looks_ahead() { 1 } else { 1 + rng.below(20) };
            for _ in 0..own {
                own_rows.push(QueryRows::from(cache.append(agent, Modality::Text, 1).expect("room")));
            }
            if i == 1 && self.tokens > 8 && !self.mask.text_looks_ahead() {
                cache.drop_range(agent, 2..5).ok();
                let shift = if self.v_rope { [0; 4] } else { [3, 0, 0, 0] };
                cache.share(agents[0], last_slot(&cache, agents[0]), agent, shift).expect("a slot of agent 0");
            }
        }
        let mut rows = Vec::new();
        match self.kind {
            Kind::Prefill => {}
            Kind::Decode | Kind::Draft => {
                for (i, &agent) in agents.iter().enumerate() {
                    let (modality, len) = match self.kind {
                        Kind::Decode => (Modality::Tool, 1),
                        _ => (Modality::Draft, 1 + (i * 5) % 16),
                    };
                    rows.push(QueryRows::from(cache.append(agent, modality, len).expect("room")));
                }
            }
            Kind::Mixed => {
                for (i, &agent) in agents.iter().enumerate() {
                    let (modality, len) = [(Modality::Tool, 1), (Modality::Image, 21), (Modality::Draft, 7)][i % 3];
                    let mut r = QueryRows::from(cache.append(agent, modality, len).expect("room"));
                    r.gap = (i % 4 == 3).then_some(3..9);
                    rows.push(r);
                }
                rows.extend(prompt);
            }
            Kind::Parallel | Kind::Sequential => {
                let how = if self.kind == Kind::Parallel { Join::Parallel } else { Join::Sequential };
                let joined = cache.join(&agents, how).expect("a join");
                rows.push(QueryRows::from(cache.append(joined, Modality::Tool, 1 + rng.below(3)).expect("room")));
                rows.extend(own_rows.into_iter().rev().take(3));
            }
        }
        (cache, rows)
    }
}

fn last_slot(cache: &KvCache, view: ViewId) -> std::ops::Range<i32> {
    let end = cache.view(view).expect("a view").next_slot();
    end - 1..end
}

/// Leaves the free list in a random order, so that neighbours in a view are not neighbours in memory.
fn scramble(cache: &mut KvCache, rng: &mut Rng) {
    let mut held: Vec<ViewId> = (0..cache.num_pages())
        .map(|_| {
            let v = cache.create();
            cache.append(v, Modality::Text, 1).expect("a page");
            v
        })
        .collect();
    while !held.is_empty() {
        let v = held.swap_remove(rng.below(held.len()));
        cache.release(v).expect("a live view");
    }
}

/// Outputs of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub out: Vec<f32>,
    pub lse: Vec<f32>,
}

fn hash(s: &str) -> u64 {
    s.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Runs the case on a device. Outputs start as NaN between guards, which must stay NaN.
pub fn run(case: &Case, device: &Device) -> Result<Answer, String> {
    let (cache, rows) = case.scene();
    let views: Vec<ViewId> = rows.iter().map(|r| r.view).collect();
    run_rows(case, device, &cache, &views, &rows)
}

/// Runs these rows of a cache. Rows have the same query in any batch, and `views` decides what lies in the pages.
pub fn run_rows(
    case: &Case,
    device: &Device,
    cache: &KvCache,
    views: &[ViewId],
    rows: &[QueryRows],
) -> Result<Answer, String> {
    run_for(case, device, (cache, views, rows), true)
}

/// The same without the optional lse, which leaves `lse` empty.
pub fn run_without_lse(case: &Case, device: &Device) -> Result<Answer, String> {
    let (cache, rows) = case.scene();
    let views: Vec<ViewId> = rows.iter().map(|r| r.view).collect();
    run_for(case, device, (&cache, &views, &rows), false)
}

fn run_for(
    case: &Case,
    device: &Device,
    (cache, views, rows): (&KvCache, &[ViewId], &[QueryRows]),
    with_lse: bool,
) -> Result<Answer, String> {
    let stored = case.spec();
    let decoded = LayerSpec { kv_dtype: DType::F32, kv_scale: KvScale::None, tail_dtype: None, ..stored.clone() };
    let spec = if case.decoded { decoded } else { stored.clone() };
    let fail = |e: colatent::Error| e.to_string();
    let mut plan = AttentionPlan::new(device, &AttentionProblem { spec: &spec, cache, rows }).map_err(fail)?;
    if spec.v_rope {
        let slots = rows.iter().flat_map(|r| r.first_slot..r.first_slot + r.len as i32);
        plan = plan.with_positions(&slots.map(|slot| [slot; 4]).collect::<Vec<_>>()).map_err(fail)?;
    }
    let n = plan.num_rows();
    let (heads, (dim, dim_v)) = (spec.num_q_heads, case.dims);
    let shape = |d| [cache.num_pages(), case.heads.0, cache.page_size(), d];
    let k = pages(case, cache, views, dim, case.seed ^ 1);
    let v = pages(case, cache, views, dim_v, case.seed ^ 2);
    let (mut k, mut v) = (k, spoil(case, cache, views, sign(case, cache.page_size(), v)));
    let selection = case.chosen.map(|_| {
        let (words, some) = choose(case, cache, views, rows, plan.selection_words());
        for (data, dim) in [(&mut k, dim), (&mut v, dim_v)] {
            for (vector, x) in data.chunks_mut(dim).enumerate() {
                let (page, token) = (vector / cache.page_size() / case.heads.0, vector % cache.page_size());
                if !some[page * cache.page_size() + token] {
                    x.fill(f32::NAN);
                }
            }
        }
        let buffer = Buffer::zeros(device, (words.len() * 4).next_multiple_of(16)).expect("a selection");
        buffer.write(0, bytemuck::cast_slice(&words)).expect("a write");
        buffer
    });
    let [mut k, mut v] =
        kv_tensors(device, &stored, case.engine_layout, [(shape(dim), &k[..]), (shape(dim_v), &v[..])]);
    if case.decoded {
        k = values_of(&stored, &k, 0); // on the reference
        v = if case.tail { k.first_lanes(dim_v).expect("v") } else { values_of(&stored, &v, 1) };
    }
    // Queries are keyed by view and slot, so that a row has the same query in any batch.
    let mut queries = Vec::new();
    let mut gates = Vec::new();
    for r in rows {
        for i in 0..r.len as i32 {
            let view = views.iter().position(|v| *v == r.view);
            let mut rng = Rng(case.seed ^ hash(&format!("{view:?} {}", r.first_slot + i)));
            queries.extend(rng.values(heads * dim));
            gates.extend(rng.values(heads * spec.gate.lanes(dim_v)));
        }
    }
    let in_rows = |d: usize, data: &[f32]| {
        let pad = if case.engine_layout { 24 } else { 0 };
        let whole = super::poisoned(device, spec.dtype, &[n + 1, heads * d + pad]);
        let strides = [heads * d + pad, d, 1];
        let t =
            Tensor::with_strides(whole.buffer().clone(), spec.dtype, pad / 3, &[n, heads, d], &strides).expect("rows");
        t.write_f32(data).expect("rows");
        t
    };
    let q = in_rows(dim, &queries);
    let gate = case.gate.then(|| in_rows(spec.gate.lanes(dim_v), &gates));
    let whole = super::poisoned(device, spec.out_dtype(), &[n + 2, heads, dim_v]);
    let out = Tensor::with_strides(
        whole.buffer().clone(),
        spec.out_dtype(),
        heads * dim_v,
        &[n, heads, dim_v],
        &[heads * dim_v, dim_v, 1],
    )
    .map_err(fail)?;
    let lse = with_lse.then(|| super::poisoned(device, DType::F32, &[n, heads]));
    let constants = LayerConstants::new(device, &spec, case.weights()).map_err(fail)?;
    let args = AttentionArgs {
        q: &q,
        k: &k,
        v: &v,
        constants: &constants,
        selection: selection.as_ref(),
        gate: gate.as_ref(),
        out: &out,
        lse: lse.as_ref(),
    };
    let mut workspace = Workspace::new(device).map_err(fail)?;
    plan.run(&args, &mut workspace).map_err(fail)?;
    let all = whole.read_f32().map_err(fail)?;
    let guards = all[..heads * dim_v].iter().chain(&all[(n + 1) * heads * dim_v..]);
    if !guards.clone().all(|x| x.is_nan()) {
        return Err("a guard around the output was written".into());
    }
    let lse = lse.map_or(Ok(Vec::new()), |lse| lse.read_f32()).map_err(fail)?;
    Ok(Answer { out: out.read_f32().map_err(fail)?, lse })
}

/// Compares every device with the reference.
pub fn check(case: &Case) -> Result<(), String> {
    check_on(super::bare_devices(), case)
}

/// [`check`] of a list, on these devices.
pub fn check_all<'a>(devices: &[Device], cases: impl IntoIterator<Item = &'a Case>) -> Result<(), String> {
    check_each(cases, |case| check_on(devices, case))
}

/// Most of the time goes to compiling kernels, so cases take turns on all cores.
pub fn check_each<'a>(
    cases: impl IntoIterator<Item = &'a Case>,
    check: impl Fn(&Case) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let cases: Vec<&Case> = cases.into_iter().collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failure = check(case).err(); // before the lock, which other cores wait for
                    failures.lock().unwrap().extend(failure);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    if failures.is_empty() { Ok(()) } else { Err(format!("{} failed:\n{}", failures.len(), failures.join("\n"))) }
}

fn check_on(devices: &[Device], case: &Case) -> Result<(), String> {
    let want = run(case, &Device::Reference).map_err(|e| format!("reference: {e}\n{case:?}"))?;
    for device in devices.iter().filter(|d| d.kind() != "reference") {
        let got = run(case, device)?;
        let fail = |e| format!("{device}: {e}\n{case:?}");
        super::compare("out", &got.out, &want.out, case.spec().out_dtype()).map_err(fail)?;
        super::compare("lse", &got.lse, &want.lse, DType::F32).map_err(fail)?;
    }
    Ok(())
}

/// Bytes of a tensor's buffer, for guards.
pub fn bytes(buffer: &Buffer) -> Vec<u8> {
    buffer.read().expect("readback")
}
