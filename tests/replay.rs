//! Steps that were planned once and repeated with growing lengths: the bits of a plan made anew for every step, on every
//! device; the same launches every time, nothing uploaded; what is refused.
//! Planted and seen red: runs that end where the first step ends, or a token before it (masks, tiles, layers, capture);
//! tiles called full that are full in the first step only (tiles and splits, layers); a row that stays at its slot, or at the
//! position of the first step (masks and others); a place past the room written (past the room); noise of the first step
//! (draws). Outputs turned back by the positions of the first step (layers).
//! Rows that end (ended): states of ended rows still merged (CUDA, both kernels); what a tile of rows makes of one that has
//! ended while others go on kept (WebGPU, both kernels; hidden as long as nothing but NaN was left in q); keys and queries of
//! ended rows written (CUDA, WebGPU); draws of ended rows not passed over (CUDA `sampling`, WebGPU `lm_head_combine`); a
//! block of `lm_head` that ends with its first row (CUDA); noise of the first step in `lm_head` (WebGPU).
#[cfg(feature = "cuda")]
#[path = "replay/capture.rs"]
mod capture;
#[path = "replay/ended.rs"]
mod ended;
mod harness;

use colatent::attention::{AttentionArgs, AttentionPlan, AttentionProblem, QueryRows};
use colatent::kv::{Appended, KvCache, Modality, ViewId};
use colatent::kv_append::{KvAppendArgs, KvAppendPlan, KvAppendProblem};
use colatent::layer::{LayerConstants, LayerSpec, Norm, Temperature};
use colatent::sampling::{SamplingArgs, SamplingOutput, SamplingPlan, SamplingProblem, SamplingRow};
use colatent::{Buffer, DType, Device, Error, Result, Steps, Tensor, Workspace};
use harness::memory::{kv_tensors, pages};
use harness::scene::{Case, Kind, Mask};
use harness::{Rng, devices, poisoned};
use proptest::prelude::*;

/// A team that decodes: the scene before its first step, and the memory of a layer.
struct Team {
    spec: LayerSpec,
    cache: KvCache,
    views: Vec<ViewId>,
    modality: Modality,
    seed: u64,
    k: Tensor,
    v: Tensor,
    packed: Tensor,
    gate: Option<Tensor>,
    q: Tensor,
    out: Tensor,
    lse: Tensor,
    constants: LayerConstants,
    workspaces: [Workspace; 2],
}

/// What a step leaves: bits of q, of the output and of its lse.
type Bits = Vec<u32>;

fn bits(tensors: &[&Tensor]) -> Bits {
    tensors.iter().flat_map(|t| t.read_f32().unwrap()).map(f32::to_bits).collect()
}

impl Team {
    fn new(case: &Case, device: &Device) -> Team {
        let spec = LayerSpec {
            q_norm: Norm::Rms { eps: 1e-5 },
            q_temperature: case.sinks.then_some(Temperature { beta: 0.1, interval: 3, offset: 1 }),
            ..case.spec()
        };
        let (cache, rows) = case.scene();
        let mut views: Vec<ViewId> = rows.iter().map(|r| r.view).collect();
        let data = |dim, salt| pages(case, &cache, &views, dim, case.seed ^ salt);
        let shape = |dim| [cache.num_pages(), case.heads.0, cache.page_size(), dim];
        let (dim, dim_v) = case.dims;
        let kv = [(shape(dim), &data(dim, 1)[..]), (shape(dim_v), &data(dim_v, 2)[..])];
        let [k, v] = kv_tensors(device, &spec, case.engine_layout, kv);
        views.sort_unstable();
        views.dedup();
        let n = views.len();
        let in_rows = |dim| poisoned(device, spec.dtype, &[n, spec.num_q_heads, dim]);
        let gate = case.gate.then(|| in_rows(case.dims.1));
        if let Some(gate) = &gate {
            gate.write_f32(&Rng(case.seed ^ 3).values(gate.len())).unwrap();
        }
        Team {
            packed: poisoned(device, spec.dtype, &[n, spec.packed().width]),
            q: in_rows(case.dims.0),
            out: poisoned(device, spec.out_dtype(), &[n, spec.num_q_heads, case.dims.1]),
            lse: poisoned(device, DType::F32, &[n, spec.num_q_heads]),
            constants: LayerConstants::new(device, &spec, case.weights()).unwrap(),
            workspaces: [Workspace::new(device).unwrap(), Workspace::new(device).unwrap()],
            modality: [Modality::Text, Modality::Tool, Modality::Draft][case.seed as usize % 3],
            seed: case.seed,
            spec,
            cache,
            views,
            k,
            v,
            gate,
        }
    }

    /// The rows of the projection's output at a step.
    fn project(&self, step: usize) {
        let mut rng = Rng(self.seed ^ (step as u64 + 1) << 32);
        self.packed.write_f32(&rng.values(self.packed.len())).unwrap();
    }

    /// Plans of rows that were appended: of the steps of a counter, or of one.
    fn plan(&self, device: &Device, appended: &[Appended], steps: Option<&Steps>) -> (KvAppendPlan, AttentionPlan) {
        let (mut places, mut positions) = (Vec::new(), Vec::new());
        for step in 0..steps.map_or(1, Steps::room) as i32 {
            for a in appended {
                let slot = a.first_slot + step;
                places.extend(self.cache.places(a.view, slot..slot + 1).unwrap());
                positions.push([a.first_position + step; 4]);
            }
        }
        let (spec, cache) = (&self.spec, &self.cache);
        let problem = KvAppendProblem {
            spec,
            layout: spec.packed(),
            page_size: cache.page_size(),
            num_pages: cache.num_pages(),
            places: &places,
            positions: &positions,
        };
        let row = |a: &Appended| QueryRows { view: a.view, first_slot: a.first_slot, len: 1, gap: None };
        let rows: Vec<QueryRows> = appended.iter().map(row).collect();
        let attention = AttentionProblem { spec, cache, rows: &rows };
        let (append, attention) = match steps {
            None => (KvAppendPlan::new(device, &problem).unwrap(), AttentionPlan::new(device, &attention).unwrap()),
            Some(steps) => (
                KvAppendPlan::over(device, &problem, steps).unwrap(),
                AttentionPlan::over(device, &attention, steps).unwrap(),
            ),
        };
        (append, if spec.v_rope { attention.with_positions(&positions).unwrap() } else { attention })
    }

    fn args(&self) -> (KvAppendArgs<'_>, AttentionArgs<'_>) {
        let Team { packed, constants, q, k, v, out, .. } = self;
        let (gate, lse) = (self.gate.as_ref(), Some(&self.lse));
        (
            KvAppendArgs { packed, constants, q, k, v },
            AttentionArgs { q, k, v, constants, selection: None, gate, out, lse },
        )
    }

    fn run(&mut self, (append, attention): &(KvAppendPlan, AttentionPlan)) -> Result<()> {
        let mut workspaces = std::mem::replace(&mut self.workspaces, [0; 2].map(|_| none()));
        let (append_args, attention_args) = self.args();
        let done = append.run(&append_args, &mut workspaces[0]);
        let done = done.and_then(|()| attention.run(&attention_args, &mut workspaces[1]));
        self.workspaces = workspaces;
        done
    }

    fn answer(&self) -> Bits {
        bits(&[&self.q, &self.out, &self.lse])
    }

    /// K and V of everything that the views see, and how many elements of the pages hold no number.
    fn pages(&self) -> (Bits, usize) {
        let (mut seen, mut poison) = (Vec::new(), 0);
        for t in [&self.k, &self.v] {
            let (all, [_, heads, size, dim]) = (t.read_f32().unwrap(), *t.shape().first_chunk().unwrap());
            poison += all.iter().filter(|x| x.is_nan()).count();
            for view in &self.views {
                let entries = self.cache.view(*view).unwrap().entries();
                for slots in entries.iter().map(|e| e.slot_base..e.slot_end()) {
                    for place in self.cache.places(*view, slots).unwrap() {
                        let (page, slot) = (place as usize / size, place as usize % size);
                        let at = |head| ((page * heads + head) * size + slot) * dim;
                        seen.extend((0..heads).flat_map(|h| all[at(h)..at(h) + dim].iter().map(|x| x.to_bits())));
                    }
                }
            }
        }
        (seen, poison)
    }
}

fn none() -> Workspace {
    Workspace::new(&Device::Reference).unwrap()
}

/// The answers of steps of which each is planned for itself; a step has the projection of its number.
fn anew(case: &Case, device: &Device, steps: impl IntoIterator<Item = usize>) -> (Team, Vec<Bits>) {
    let mut team = Team::new(case, device);
    let answers = steps.into_iter().map(|step| {
        let appended: Vec<Appended> =
            team.views.iter().map(|&view| team.cache.append(view, team.modality, 1).unwrap()).collect();
        team.project(step);
        let plans = team.plan(device, &appended, None);
        team.run(&plans).unwrap();
        team.answer()
    });
    let answers = answers.collect();
    (team, answers)
}

/// A team with room for `room` steps, and its plans over a counter.
fn ahead(case: &Case, device: &Device, room: usize) -> (Team, (KvAppendPlan, AttentionPlan), Steps) {
    let mut team = Team::new(case, device);
    let steps = Steps::of_rows(device, room as u32, team.views.len()).unwrap();
    let appended = team.cache.append_steps(&team.views, team.modality, room).unwrap();
    let plans = team.plan(device, &appended, Some(&steps));
    (team, plans, steps)
}

/// Of a room of steps all but the last are repeated; then the tokens that never came are given back.
fn check(case: &Case, room: usize) -> std::result::Result<(), String> {
    for device in devices() {
        let (want_team, want) = anew(case, device, 0..room - 1);
        let (mut team, plans, steps) = ahead(case, device, room);
        for (step, want) in want.iter().enumerate() {
            team.project(step);
            team.run(&plans).map_err(|e| e.to_string())?;
            if team.answer() != *want {
                return Err(format!("step {step} of {room}: {}\n{}\n{case:?}", plans.0, plans.1));
            }
            steps.advance().map_err(|e| e.to_string())?;
        }
        let grown = team.views.iter().map(|&view| want_team.cache.view(view).unwrap().next_slot());
        let ends: Vec<i32> = grown.collect();
        team.views.iter().zip(ends).for_each(|(&view, end)| team.cache.truncate(view, end).unwrap());
        if team.cache.free_pages() != want_team.cache.free_pages() || team.pages() != want_team.pages() {
            return Err(format!("pages on {device}: {case:?}"));
        }
    }
    Ok(())
}

/// Masks under which text does not look ahead.
const MASKS: [Mask; 11] = [
    Mask::Causal,
    Mask::Window(1),
    Mask::Window(37),
    Mask::Chunked(16),
    Mask::ImageOrCausal,
    Mask::ImageInWindow(20),
    Mask::WindowOrImage(33),
    Mask::HiddenImage,
    Mask::Prefix,
    Mask::Compressed(2),
    Mask::Until(80),
];

fn decode(seed: u64, mask: Mask) -> Case {
    Case { seed, mask, kind: Kind::Decode, heads: (1, 2), dims: (32, 32), ..Case::PLAIN }
}

#[test]
fn every_mask() {
    for (seed, mask) in MASKS.into_iter().enumerate() {
        check(&decode(seed as u64, mask), 6).unwrap();
    }
}

/// Lengths that cross tiles, splits and pages: a view that goes on in its own prompt, beside nobody.
#[test]
fn across_tiles_and_splits() {
    for (seed, tokens, mask) in
        [(3, 470, Mask::Causal), (4, 500, Mask::Window(300)), (5, 118, Mask::Chunked(64)), (6, 41, Mask::Causal)]
    {
        check(&Case { kind: Kind::Prefill, tokens, page_size: 7, ..decode(seed, mask) }, 17).unwrap();
    }
}

/// Types of the matrix units, their head dims, and whatever else a layer has.
#[test]
fn other_layers() {
    use DType::{BF16, E4M3, F16, F32};
    let p = decode(9, Mask::Causal);
    for case in [
        Case { dtypes: (BF16, BF16), dims: (64, 64), soft_cap: true, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (64, 64), mask: Mask::Window(37), sinks: true, agents: 1, ..p.clone() },
        Case { dtypes: (BF16, BF16), dims: (192, 128), mask: Mask::ImageOrCausal, ..p.clone() },
        Case { v_rope: true, norm: true, ..p.clone() },
        Case { dtypes: (F32, F16), heads: (2, 3), gate: true, norm: true, engine_layout: true, ..p.clone() },
        Case { dtypes: (F16, F16), dims: (128, 128), kind: Kind::Parallel, mask: Mask::Chunked(16), ..p.clone() },
        Case { dtypes: (F32, E4M3), ..p.clone() },
        Case { dtypes: (BF16, E4M3), dims: (48, 32), tail: true, mask: Mask::Window(37), ..p.clone() },
        Case { dtypes: (F32, E4M3), dims: (48, 32), tail: true, kind: Kind::Parallel, seed: 10, ..p.clone() },
    ] {
        check(&case, 5).unwrap();
    }
}

/// Codes under one scale, and under scales of tokens, which each step measures and stores beside them; and as outputs.
#[test]
fn codes_in_the_cache() {
    use DType::{BF16, E4M3, F32, I8};
    let p = decode(9, Mask::Causal);
    for case in [
        Case { dtypes: (F32, E4M3), seed: 8, ..p.clone() },
        Case { dtypes: (BF16, E4M3), mask: Mask::Window(37), engine_layout: true, out_scale: Some(0.01), ..p.clone() },
        Case { dtypes: (F32, I8), kind: Kind::Sequential, page_size: 7, sinks: true, ..p },
    ] {
        check(&case, 5).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_team(
        seed in 0u64..1 << 32, mask in prop::sample::select(&MASKS[..]), is_16_bit: bool, page_size in 1usize..40,
        tokens in 1usize..150, agents in 1usize..6, room in 2usize..9, joined: bool, sinks: bool,
    ) {
        let (dims, dtype) = if is_16_bit { ((64, 64), DType::BF16) } else { ((32, 32), DType::F32) };
        let kind = if joined { Kind::Sequential } else { Kind::Decode };
        let p = decode(seed, mask);
        let case = Case { page_size, tokens, agents, kind, sinks, dims, dtypes: (dtype, dtype), ..p };
        check(&case, room).map_err(TestCaseError::fail)?;
    }
}

/// Past the room nothing is stored, and the last step repeats.
#[test]
fn past_the_room_nothing_is_stored() {
    let plain = decode(2, Mask::Window(37));
    let codes = Case { dtypes: (DType::F32, DType::I8), ..plain.clone() };
    for (case, device) in [plain, codes].iter().flat_map(|case| devices().iter().map(move |device| (case, device))) {
        let (mut team, plans, steps) = ahead(case, device, 2);
        for step in 0..2 {
            team.project(step);
            team.run(&plans).unwrap();
            steps.advance().unwrap();
        }
        let (pages, answer) = (team.pages(), team.answer());
        for _ in 0..2 {
            team.run(&plans).unwrap();
            assert!(team.answer() == answer, "{device}");
            team.project(9);
            team.run(&plans).unwrap();
            assert!(team.pages() == pages, "{device}");
            team.project(1);
            steps.advance().unwrap();
        }
        assert_eq!(steps.count().unwrap(), 4);
        steps.restart().unwrap();
        assert_eq!(steps.count().unwrap(), 0);
    }
}

/// Draws take the counter into their noise.
#[test]
fn draws_are_those_of_their_step() {
    for device in devices() {
        let rows: Vec<SamplingRow> =
            (0..3).map(|agent| SamplingRow { agent, step: 40, ..Default::default() }).collect();
        let problem = SamplingProblem {
            logits_dtype: DType::F32,
            rows,
            vocab: 500,
            output_multiplier: 1.0,
            soft_cap: None,
            seed: 5,
        };
        let logits = Tensor::from_f32(device, DType::F32, &[3, 500], &Rng(1).values(1500)).unwrap();
        let out = Buffer::zeros(device, SamplingOutput::bytes(3)).unwrap();
        let args = SamplingArgs { logits: &logits, out: &out };
        let mut workspace = Workspace::new(device).unwrap();
        let steps = Steps::new(device, 4).unwrap();
        let over = SamplingPlan::over(device, &problem, &steps).unwrap();
        for step in 0..4 {
            over.run(&args, &mut workspace).unwrap();
            let got = out.read().unwrap();
            let mut problem = problem.clone();
            problem.rows.iter_mut().for_each(|row| row.step += step);
            let anew = SamplingPlan::new(device, &problem).unwrap();
            anew.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
            assert_eq!(got, out.read().unwrap(), "{device}: step {step}");
            steps.advance().unwrap();
        }
    }
}

/// Steps that are encoded one behind the other and submitted at once.
#[test]
#[cfg(feature = "webgpu")]
fn steps_in_one_encoder() {
    let case = decode(7, Mask::WindowOrImage(33));
    if devices().iter().any(|d| d.kind() == "webgpu") {
        // A device without subgroups, whose kernel is another one.
        let gpu = harness::wgpu_device().expect("the harness found one");
        let device = Device::from_wgpu(gpu.0.clone(), gpu.1.clone(), &gpu.2).expect("WebGPU's default limits suffice");
        let (team, plans, steps) = ahead(&case, &device, 4);
        team.project(0);
        let mut encoder = gpu.0.create_command_encoder(&Default::default());
        let mut workspaces = [0; 2].map(|_| Workspace::new(&device).unwrap());
        for _ in 0..3 {
            let (append, attention) = team.args();
            plans.0.encode(&append, &mut workspaces[0], &mut encoder).unwrap();
            plans.1.encode(&attention, &mut workspaces[1], &mut encoder).unwrap();
            steps.encode_advance(&mut encoder).unwrap();
        }
        gpu.1.submit([encoder.finish()]);
        assert!(team.answer() == anew(&case, &device, [0; 3]).1[2], "{device}");
    }
}

#[test]
fn refusals() {
    let case = decode(4, Mask::TwoSided(3));
    for device in devices() {
        let mut team = Team::new(&case, device);
        let steps = Steps::new(device, 3).unwrap();
        assert!(matches!(Steps::new(device, 0), Err(Error::Invalid { argument: "room", .. })));
        let spec = case.spec();
        let appended: Vec<Appended> =
            team.views.iter().map(|&view| team.cache.append(view, Modality::Text, 3).unwrap()).collect();
        let over = |cache: &KvCache, spec: &LayerSpec, first: i32| {
            let rows =
                [QueryRows { view: team.views[0], first_slot: appended[0].first_slot + first, len: 1, gap: None }];
            AttentionPlan::over(device, &AttentionProblem { spec, cache, rows: &rows }, &steps).err()
        };
        // Rows that would see what later steps bring, and rows without room.
        let split = over(&team.cache, &spec, 0);
        assert!(matches!(split, Some(Error::SplitSpan { modality: Modality::Text, .. })), "{split:?}");
        let causal = LayerSpec { lifetimes: Mask::Causal.lifetimes(), ..spec.clone() };
        assert_eq!(over(&team.cache, &causal, 0), None);
        let end = over(&team.cache, &causal, 1);
        assert!(matches!(end, Some(Error::Invalid { argument: "rows", .. })), "{end:?}");
        // A counter of another device; rows that are not the same for every step.
        let (places, positions) = ([0, 1, 2, 3], [[0; 4]; 4]);
        let problem = KvAppendProblem {
            spec: &spec,
            layout: spec.packed(),
            page_size: 16,
            num_pages: 1,
            places: &places,
            positions: &positions,
        };
        let ragged = KvAppendPlan::over(device, &problem, &steps).err();
        assert!(matches!(ragged, Some(Error::Invalid { argument: "places", .. })), "{ragged:?}");
        for other in devices().iter().filter(|d| d.kind() != device.kind()) {
            let refused = KvAppendPlan::over(other, &problem, &steps).err();
            assert!(matches!(refused, Some(Error::Invalid { argument: "steps", .. })), "{refused:?}");
        }
    }
}
