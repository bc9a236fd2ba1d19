//! A small Muse-like decoder: three window layers with RoPE, one full layer without, SwiGLU between them.
//!
//! Its weights are drawn from a seed and trained on nothing: it shows how a model drives the operations, not how a
//! model talks. Attention runs on the device; what is here runs on the CPU.

use colatent::kv::Lifetimes;
use colatent::layer::{LayerSpec, Pairing, Rope};

/// Width of the residual stream: the latent space that all modalities share.
pub const D_MODEL: usize = 256;
/// One token per byte.
pub const VOCAB: usize = 256;
/// Pixels along each side of a patch.
pub const PATCH: usize = 8;
/// Numbers of a patch: RGB.
pub const PATCH_LANES: usize = PATCH * PATCH * 3;
/// Numbers of an audio frame.
pub const FRAME_LANES: usize = 64;
/// Multiplies the logits before the cap; untrained logits are of order one, this spreads them a little.
pub const OUTPUT_MULTIPLIER: f32 = 2.0;
/// Bounds the logits, as in the model this one imitates.
pub const LOGIT_CAP: f32 = 20.0;

/// The layer kinds are these two places of [`Model::kinds`].
pub const WINDOW: usize = 0;
/// See [`WINDOW`].
pub const FULL: usize = 1;

const D_MLP: usize = 512;
const PATTERN: [usize; 4] = [WINDOW, WINDOW, WINDOW, FULL];

/// Uniform numbers (SplitMix64): the same seed gives the same weights on every machine.
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each `(seed, name)`.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: streams must differ, nothing more.
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Rng(seed ^ hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `n` numbers with mean 0 and the given standard deviation.
    pub fn draw(&mut self, n: usize, deviation: f32) -> Vec<f32> {
        // A uniform number in -1..1 has a deviation of 1/sqrt(3).
        let scale = deviation * 3f32.sqrt();
        (0..n).map(|_| ((self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale).collect()
    }
}

/// The matrices of one layer, `[in, out]` row-major.
pub struct Layer {
    /// [`WINDOW`] or [`FULL`].
    pub kind: usize,
    /// `[D_MODEL, packed width]`: q, k, v and gate in one projection.
    pub qkv_gate: Vec<f32>,
    /// `[heads * lanes, D_MODEL]`.
    pub out: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

/// Two layer kinds, four layers, and a door into the latent space per modality.
pub struct Model {
    /// The layer kinds; plans are made per kind.
    pub kinds: [LayerSpec; 2],
    /// The layers.
    pub layers: Vec<Layer>,
    seed: u64,
    patches: Vec<f32>,
    frames: Vec<f32>,
    bytes: Vec<f32>,
    head: Vec<f32>,
}

impl Model {
    /// Draws the weights.
    pub fn new(seed: u64) -> Self {
        let window = shrink("window", LayerSpec::muse_spark_window());
        let window = LayerSpec {
            rope: Some(Rope::plain(window.head_dim, 5e5, Pairing::Adjacent)),
            lifetimes: Lifetimes::window(256),
            ..window
        };
        let full = shrink("full", LayerSpec::muse_spark_full());
        let kinds = [window, full];
        let matrix = |name: &str, from: usize, to: usize, gain: f32| {
            Rng::new(seed, name).draw(from * to, gain / (from as f32).sqrt())
        };
        // Each layer adds to the stream twice: smaller outputs keep it from growing with depth.
        let residual = 1.0 / (2.0 * PATTERN.len() as f32).sqrt();
        let layers = PATTERN.iter().enumerate().map(|(i, &kind)| {
            let spec = &kinds[kind];
            let attended = spec.num_q_heads * spec.head_dim_v;
            Layer {
                kind,
                qkv_gate: matrix(&format!("{i}.qkv_gate"), D_MODEL, spec.packed().width, 1.0),
                out: matrix(&format!("{i}.out"), attended, D_MODEL, residual),
                up: matrix(&format!("{i}.up"), D_MODEL, 2 * D_MLP, 1.0),
                down: matrix(&format!("{i}.down"), D_MLP, D_MODEL, residual),
            }
        });
        Model {
            layers: layers.collect(),
            kinds,
            seed,
            patches: matrix("patches", PATCH_LANES, D_MODEL, 2.0),
            frames: matrix("frames", FRAME_LANES, D_MODEL, 2.0),
            bytes: Rng::new(seed, "bytes").draw(VOCAB * D_MODEL, 1.0),
            head: matrix("head", D_MODEL, VOCAB, 1.0),
        }
    }

    /// Patches `[n, PATCH_LANES]` to the latent space.
    pub fn embed_patches(&self, patches: &[f32]) -> Vec<f32> {
        linear(patches, &self.patches, PATCH_LANES, D_MODEL)
    }

    /// Frames `[n, FRAME_LANES]` to the latent space.
    pub fn embed_frames(&self, frames: &[f32]) -> Vec<f32> {
        linear(frames, &self.frames, FRAME_LANES, D_MODEL)
    }

    /// Bytes to the latent space.
    pub fn embed_text(&self, text: &[u8]) -> Vec<f32> {
        text.iter().flat_map(|&b| &self.bytes[usize::from(b) * D_MODEL..][..D_MODEL]).copied().collect()
    }

    /// A small vector that tells the agents apart; added to every byte an agent thinks.
    pub fn agent_mark(&self, agent: usize) -> Vec<f32> {
        Rng::new(self.seed, &format!("agent {agent}")).draw(D_MODEL, 0.3)
    }

    /// The stream `[rows, D_MODEL]` to logits `[rows, VOCAB]`; multiplier and cap are the sampler's.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        linear(&rms_norm(x), &self.head, D_MODEL, VOCAB)
    }
}

/// A published layer kind with 8/2 heads of 32 lanes.
fn shrink(name: &str, spec: LayerSpec) -> LayerSpec {
    let lanes = 32;
    LayerSpec {
        name: format!("contemplate.{name}"),
        num_q_heads: 8,
        num_kv_heads: 2,
        head_dim: lanes,
        head_dim_v: lanes,
        softmax_scale: 1.0 / (lanes as f32).sqrt(),
        ..spec
    }
}

impl Layer {
    /// `down(silu(gate) * up)` (SwiGLU, arXiv 2002.05202).
    pub fn mlp(&self, x: &[f32]) -> Vec<f32> {
        let up = linear(x, &self.up, D_MODEL, 2 * D_MLP);
        let rows = up.chunks_exact(2 * D_MLP).map(|row| row.split_at(D_MLP));
        let hidden: Vec<f32> =
            rows.flat_map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u)).collect();
        linear(&hidden, &self.down, D_MLP, D_MODEL)
    }
}

/// Each row of `D_MODEL` numbers divided by its root mean square.
pub fn rms_norm(x: &[f32]) -> Vec<f32> {
    let row = |row: &[f32]| {
        let mean = row.iter().map(|v| v * v).sum::<f32>() / D_MODEL as f32;
        1.0 / (mean + 1e-5).sqrt()
    };
    x.chunks_exact(D_MODEL)
        .flat_map(|r| {
            let scale = row(r);
            r.iter().map(move |v| v * scale)
        })
        .collect()
}

/// `x [rows, from] * w [from, to]`, row-major.
pub fn linear(x: &[f32], w: &[f32], from: usize, to: usize) -> Vec<f32> {
    assert!(from > 0 && x.len().is_multiple_of(from) && w.len() == from * to, "matrices must fit each other");
    let rows = x.len() / from;
    let mut out = vec![0.0; rows * to];
    let (m, n, k) = (rows, to, from);
    // SAFETY: with column stride 1 and row strides `to`, `from` and `to`, the product of an m x k and a k x n matrix
    // touches m * n elements of `out`, m * k of `x` and k * n of `w`: their lengths, asserted or allocated above.
    // `out` is borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            to as isize,
            false,
            x.as_ptr(),
            1,
            from as isize,
            w.as_ptr(),
            1,
            to as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    out
}
