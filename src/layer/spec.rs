//! [`LayerSpec`] and the constants of one layer.

use super::{Gate, Indexer, KvScale, Norm, Rope, Rotation, Temperature};
use crate::kv::{Lifetimes, Modality};
use crate::{Buffer, DType, Device, Error, Result};

/// Most lanes of a head: a latent of 512 and 64 that turn.
pub(crate) const MOST_LANES: usize = 576;

/// One layer kind: heads, dims, scale, cap, sinks, rotation, norms, gate, lifetimes, storage.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// A name for messages and plans.
    pub name: String,
    /// Query heads: a multiple of `num_kv_heads`.
    pub num_q_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Lanes of q and k: a multiple of 8, at most 576.
    pub head_dim: usize,
    /// Lanes of v and of the output: a multiple of 8 up to 256, a multiple of 16 up to 512.
    pub head_dim_v: usize,
    /// Multiplies the scores.
    pub softmax_scale: f32,
    /// Multiplies q after norm and rotation, before it is stored (Muse's QK scale factor); 1 otherwise.
    pub q_scale: f32,
    /// Multiplies q by a function of its position as well.
    pub q_temperature: Option<Temperature>,
    /// Multiplies v after its norm, before it is stored (MiMo); 1 otherwise.
    pub v_scale: f32,
    /// Whether V is the first `head_dim_v` lanes of K as they are stored: latent attention in its absorbed form. Then only
    /// K is stored, `v` is a [view](crate::Tensor::first_lanes) of it, and the norm of k is over those lanes alone.
    pub v_in_k: bool,
    /// `cap * tanh(score / cap)` on the scaled scores.
    pub soft_cap: Option<f32>,
    /// Whether each query head has a sink: a logit that takes part in the softmax and carries no value.
    pub sinks: bool,
    /// Whether a device may round softmax weights to V's type before they multiply V, once, as FlashAttention
    /// (arXiv 2205.14135) and its successors do; their sums, and so the lse, are those of weights that are not rounded.
    ///
    /// It is a permission, off unless given. CUDA uses it where attention runs in matrix units, on Hopper's kernel and on
    /// the portable one: q, K and V of one 16-bit type, but not values above 256 lanes that [turn](LayerSpec::v_rope).
    /// There it saves a third of the products. Everything else has the bits that it has without: the reference, WebGPU,
    /// f32, mixed types, codes. Before the epilogue outputs are then off by at most [`DType::rounded_weights_bound`]
    /// beside the tolerance. As part of the layer kind it is the same for every row of a launch.
    pub rounded_weights: bool,
    /// Rotation of q and k; `None` is NoPE.
    pub rope: Option<Rope>,
    /// Whether V turns too, as K does, after its norm. Then outputs are turned back by their own row's position, before
    /// the output norm, so that they depend on distances alone (DeepSeek V4). With `v_in_k`, V may have the lanes that turn.
    pub v_rope: bool,
    /// Norm of q, before rotation.
    pub q_norm: Norm,
    /// Norm of k, before rotation: over all its lanes, or those that are V too.
    pub k_norm: Norm,
    /// Norm of v.
    pub v_norm: Norm,
    /// Norm of each head's output.
    pub out_norm: Norm,
    /// Gate of the output, after the norm.
    pub gate: Gate,
    /// Who sees what.
    pub lifetimes: Lifetimes,
    /// What chooses the keys that a row sees, of those that the lifetimes let it see; `None` where it sees them all.
    pub indexer: Option<Indexer>,
    /// Storage of q, of the packed projection, of the gate, and of the output where it is values.
    pub dtype: DType,
    /// Storage of the output as codes under the layer's [scale](LayerWeights::out_scale): [`DType::E4M3`]. `None` where
    /// it is values.
    pub out_code: Option<DType>,
    /// Storage of K and V.
    pub kv_dtype: DType,
    /// What they are multiplied by where they are stored as codes.
    pub kv_scale: KvScale,
    /// Storage of K's lanes behind V, the *tail*, where V is in K as codes: as values behind the codes of the row, without a
    /// scale. `None`: as the others.
    pub tail_dtype: Option<DType>,
}

impl LayerSpec {
    /// A plain causal layer: scale `1/sqrt(head_dim)`, no norms, no rotation, f32.
    pub fn new(num_q_heads: usize, num_kv_heads: usize, head_dim: usize) -> Self {
        LayerSpec {
            name: "plain".into(),
            num_q_heads,
            num_kv_heads,
            head_dim,
            head_dim_v: head_dim,
            softmax_scale: 1.0 / (head_dim as f32).sqrt(),
            q_scale: 1.0,
            q_temperature: None,
            v_scale: 1.0,
            v_in_k: false,
            soft_cap: None,
            sinks: false,
            rounded_weights: false,
            rope: None,
            v_rope: false,
            q_norm: Norm::None,
            k_norm: Norm::None,
            v_norm: Norm::None,
            out_norm: Norm::None,
            gate: Gate::None,
            lifetimes: Lifetimes::causal(),
            indexer: None,
            dtype: DType::F32,
            out_code: None,
            kv_dtype: DType::F32,
            kv_scale: KvScale::None,
            tail_dtype: None,
        }
    }

    /// How the output's elements are stored.
    pub fn out_dtype(&self) -> DType {
        self.out_code.unwrap_or(self.dtype)
    }

    /// Lanes of k that its norm is over.
    pub(crate) fn k_norm_lanes(&self) -> usize {
        if self.v_in_k { self.head_dim_v } else { self.head_dim }
    }

    /// Query heads per KV head.
    pub fn group(&self) -> usize {
        self.num_q_heads / self.num_kv_heads.max(1)
    }

    /// The norms of q, k and v with their heads and lanes.
    fn norms(&self) -> [(Norm, usize, usize); 3] {
        let kv = self.num_kv_heads;
        let (k, v) = ((self.k_norm, kv, self.k_norm_lanes()), (self.v_norm, kv, self.head_dim_v));
        [(self.q_norm, self.num_q_heads, self.head_dim), k, v]
    }

    /// Whether a row that has been merged is not the output yet.
    pub(crate) fn has_epilogue(&self) -> bool {
        self.v_rope || self.out_norm != Norm::None || self.gate != Gate::None
    }

    /// Checks what every operation relies on.
    ///
    /// # Errors
    /// [`Error::Invalid`] for numbers that make no layer, [`Error::Unsupported`] for layers that no kernel serves.
    pub fn validate(&self, op: &'static str) -> Result<()> {
        let (q, kv) = (self.num_q_heads, self.num_kv_heads);
        if kv == 0 || q == 0 || q % kv != 0 {
            return Err(Error::invalid(op, "num_q_heads", format!("a positive multiple of num_kv_heads = {kv}"), q));
        }
        let (d, dv) = (self.head_dim, self.head_dim_v);
        if d == 0 || d % 8 != 0 || d > MOST_LANES {
            return Err(Error::unsupported(op, format!("head_dim {d}"), "multiples of 8 from 8 to 576"));
        }
        if dv == 0 || dv > 512 || dv % if dv > 256 { 16 } else { 8 } != 0 {
            let can = "multiples of 8 from 8 to 256, multiples of 16 to 512";
            return Err(Error::unsupported(op, format!("head_dim_v {dv}"), can));
        }
        self.dtype.expect_values(op, "q")?;
        if let Some(other) = self.out_code.filter(|&code| code != DType::E4M3) {
            return Err(Error::unsupported(op, format!("an output of {other} codes"), "e4m3, or values"));
        }
        self.kv_scale.validate(op, self)?;
        self.validate_tail(op)?;
        if ![self.softmax_scale, self.q_scale, self.v_scale].iter().all(|scale| scale.is_finite()) {
            let got = format!("{}, {} and {}", self.softmax_scale, self.q_scale, self.v_scale);
            return Err(Error::invalid(op, "softmax_scale, q_scale and v_scale", "finite numbers", got));
        }
        if self.soft_cap.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
            return Err(Error::invalid(op, "soft_cap", "a positive number", format!("{:?}", self.soft_cap)));
        }
        if self.v_in_k {
            let first = self.rope.as_ref().filter(|_| !self.v_rope).map_or(d, |rope| rope.first_lane);
            if dv > first || self.v_norm != Norm::None || self.v_scale != 1.0 {
                let expected = "V of K's lanes in front of those that turn, without a norm or a factor of its own";
                return Err(Error::invalid(op, "v_in_k", expected, format!("{dv} lanes of {d}, turning from {first}")));
            }
        }
        if matches!(self.out_norm, Norm::Layer { .. } | Norm::Clip { .. }) {
            return Err(Error::unsupported(op, format!("out_norm {:?}", self.out_norm), "none or an RMS norm"));
        }
        if let Some(temperature) = &self.q_temperature {
            temperature.validate(op)?;
        }
        if let Some(indexer) = &self.indexer {
            indexer.validate(op)?;
        }
        for modality in Modality::ALL {
            let lifetime = self.lifetimes.get(modality);
            if !lifetime.is_valid() {
                let expected = "windows and chunks of 1 slot or more, slots from 0, num up to 1024, den from 1 to 1024";
                return Err(Error::invalid(op, "lifetimes", expected, format!("{modality}: {lifetime:?}")));
            }
        }
        if let Some(rope) = &self.rope {
            let end = rope.first_lane + rope.lanes();
            if rope.inv_freq.is_empty() || end > self.head_dim {
                let expected = format!("1 or more lane pairs within {} lanes", self.head_dim);
                return Err(Error::invalid(op, "rope", expected, format!("lanes {}..{end}", rope.first_lane)));
            }
            if rope.axis.len() != rope.inv_freq.len() || rope.axis.iter().any(|&a| a > 3) {
                let expected = format!("{} axes from 0 to 3", rope.inv_freq.len());
                return Err(Error::invalid(op, "rope.axis", expected, format!("{:?}", rope.axis)));
            }
            if rope.inv_freq.iter().any(|f| !f.is_finite() || *f < 0.0) || !rope.mscale.is_finite() {
                return Err(Error::invalid(op, "rope.inv_freq", "finite numbers >= 0", "something else"));
            }
        }
        if self.v_rope { self.validate_v_rope(op) } else { Ok(()) }
    }

    /// Outputs turn by chunks of 4 lanes, and by the angles alone.
    fn validate_v_rope(&self, op: &'static str) -> Result<()> {
        let Some(rope) = &self.rope else {
            return Err(Error::invalid(op, "v_rope", "a rotation that V has too", "none"));
        };
        let end = rope.first_lane + rope.lanes();
        if end > self.head_dim_v {
            let got = format!("lanes {}..{end}", rope.first_lane);
            return Err(Error::invalid(op, "v_rope", format!("turning lanes within {} of v", self.head_dim_v), got));
        }
        if !matches!(self.out_rotation(), Rotation::Half | Rotation::Adjacent) {
            let can = "a first lane and pairs by whole chunks of 4 lanes";
            return Err(Error::unsupported(op, format!("v_rope on lanes {}..{end}", rope.first_lane), can));
        }
        if rope.mscale != 1.0 {
            let what = format!("v_rope with an attention factor of {}", rope.mscale);
            return Err(Error::unsupported(op, what, "a factor of 1"));
        }
        Ok(())
    }

    /// How outputs turn back.
    pub(crate) fn out_rotation(&self) -> Rotation {
        Rotation::of(self.rope.as_ref().filter(|_| self.v_rope))
    }
}

/// The weights of one layer; empty where the layer kind has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayerWeights {
    /// `head_dim` weights of the q norm, `num_q_heads` times as many if each head has its own.
    pub q_norm: Vec<f32>,
    /// `head_dim` weights of the k norm, or `head_dim_v` where V is in K; `num_kv_heads` times as many if each head has its
    /// own.
    pub k_norm: Vec<f32>,
    /// `head_dim_v` weights of the v norm, `num_kv_heads` times as many if each head has its own.
    pub v_norm: Vec<f32>,
    /// Biases of the q norm, as many as weights.
    pub q_bias: Vec<f32>,
    /// Biases of the k norm, as many as weights.
    pub k_bias: Vec<f32>,
    /// Biases of the v norm, as many as weights.
    pub v_bias: Vec<f32>,
    /// `head_dim_v` weights of the output norm.
    pub out_norm: Vec<f32>,
    /// A sink logit per query head.
    pub sinks: Vec<f32>,
    /// What an output of [codes](LayerSpec::out_code) is multiplied by to be values, from 1e-30 to 1e30: what is stored
    /// is `round(x * (1 / scale))`.
    pub out_scale: Option<f32>,
}

/// The constants of one layer on a device, made once per layer.
///
/// The buffer holds, as 32-bit words: `q_norm[D] k_norm[D] v_norm[Dv] out_norm[Dv] sinks[Hq]` (f32; weights that the
/// layer lacks are zeros, and a norm with weights by head has them for all heads), then per rotated lane pair `turns_hi
/// turns_lo axis` (u32): `inv_freq / 2 pi` as a 64-bit fraction of a turn, so that `position * turns` modulo one is exact
/// in integers; then, if a norm has biases, `q_bias k_bias v_bias` as wide as the weights.
#[derive(Debug, Clone)]
pub struct LayerConstants {
    pub(crate) buffer: Buffer,
    pub(crate) weights: LayerWeights,
}

/// First words of the parts of a constants buffer that kernels look up, and its number of words.
pub(crate) struct ConstantPlaces {
    pub k_norm: usize,
    pub v_norm: usize,
    pub out_norm: usize,
    pub sinks: usize,
    pub rope: usize,
    /// The bias of the weight at word `w` is at `bias + w`.
    pub bias: usize,
    pub end: usize,
}

impl ConstantPlaces {
    pub(crate) fn of(spec: &LayerSpec) -> Self {
        let [q, k, v] = spec.norms().map(|(norm, heads, lanes)| norm.room(heads, lanes));
        let out_norm = q + k + v;
        let sinks = out_norm + spec.head_dim_v;
        let rope = sinks + spec.num_q_heads;
        let rope_end = rope + spec.rope.as_ref().map_or(0, |r| 3 * r.inv_freq.len());
        let bias = rope_end.next_multiple_of(4); // kernels read 4 at once
        let has_bias = spec.norms().iter().any(|(norm, ..)| norm.is_biased());
        let end = if has_bias { bias + out_norm } else { rope_end };
        ConstantPlaces { k_norm: q, v_norm: q + k, out_norm, sinks, rope, bias, end }
    }
}

/// A name, the numbers under it, how many the layer kind needs, and the room for them.
type Constants<'a> = (&'static str, &'a [f32], usize, usize);

impl LayerWeights {
    /// What the constants buffer holds before the rotation, and after it.
    fn parts<'a>(&'a self, spec: &LayerSpec) -> ([Constants<'a>; 5], [Constants<'a>; 3]) {
        let of = |name, have: &'a Vec<f32>, is_needed: bool, room: usize| -> Constants<'a> {
            (name, have, if is_needed { room } else { 0 }, room)
        };
        let [q, k, v] = spec.norms();
        let weights = |name, have, (norm, heads, lanes): (Norm, usize, usize)| {
            of(name, have, norm.is_weighted(), norm.room(heads, lanes))
        };
        let biases = |name, have, (norm, heads, lanes): (Norm, usize, usize)| {
            of(name, have, norm.is_biased(), norm.room(heads, lanes))
        };
        let first = [
            weights("q_norm", &self.q_norm, q),
            weights("k_norm", &self.k_norm, k),
            weights("v_norm", &self.v_norm, v),
            weights("out_norm", &self.out_norm, (spec.out_norm, 1, spec.head_dim_v)),
            of("sinks", &self.sinks, spec.sinks, spec.num_q_heads),
        ];
        let last =
            [biases("q_bias", &self.q_bias, q), biases("k_bias", &self.k_bias, k), biases("v_bias", &self.v_bias, v)];
        (first, last)
    }

    fn validate_out_scale(&self, op: &'static str, spec: &LayerSpec) -> Result<()> {
        let (expected, fits) = match spec.out_code {
            None => ("none, as outputs are values", self.out_scale.is_none()),
            // Its reciprocal is a normal number too.
            Some(_) => ("a number from 1e-30 to 1e30", self.out_scale.is_some_and(|s| (1e-30..=1e30).contains(&s))),
        };
        let wrong = || Error::invalid(op, "out_scale", expected, format!("{:?}", self.out_scale));
        if fits { Ok(()) } else { Err(wrong()) }
    }
}

impl LayerConstants {
    /// What outputs are multiplied by before they are rounded.
    pub(crate) fn out_factor(&self) -> f32 {
        self.weights.out_scale.map_or(1.0, |scale| 1.0 / scale)
    }

    /// Checks that these are constants of a layer of this kind. Frequencies of another layer cannot be told apart.
    pub(crate) fn validate(&self, op: &'static str, spec: &LayerSpec) -> Result<()> {
        let (first, last) = self.weights.parts(spec);
        let bytes = (self.buffer.bytes(), (ConstantPlaces::of(spec).end * 4).next_multiple_of(16));
        let numbers = first.iter().chain(&last).map(|&(_, have, need, _)| (have.len(), need));
        for (have, need) in numbers.chain([bytes]) {
            if have != need {
                let expected = format!("those of layer kind {}: {need} weights or bytes", spec.name);
                return Err(Error::invalid(op, "constants", expected, have));
            }
        }
        self.weights.validate_out_scale(op, spec)
    }

    /// Checks the weights against the layer kind and uploads them.
    pub fn new(device: &Device, spec: &LayerSpec, weights: LayerWeights) -> Result<Self> {
        const OP: &str = "layer constants";
        spec.validate(OP)?;
        let (first, last) = weights.parts(spec);
        let mut words: Vec<u32> = Vec::new();
        let push = |words: &mut Vec<u32>, (_, have, need, room): Constants<'_>| {
            words.extend(have.iter().map(|x| x.to_bits()));
            words.extend(std::iter::repeat_n(0, room - need));
        };
        if let Some((name, have, need, _)) = first.iter().chain(&last).find(|(_, have, need, _)| have.len() != *need) {
            return Err(Error::invalid(OP, name, format!("{need} numbers"), have.len()));
        }
        weights.validate_out_scale(OP, spec)?;
        first.into_iter().for_each(|part| push(&mut words, part));
        if let Some(rope) = &spec.rope {
            for (f, &axis) in rope.inv_freq.iter().zip(&rope.axis) {
                let turns = (f / std::f64::consts::TAU).fract();
                // 2^64 * turns in two steps, each exact in f64 up to its 53 bits.
                let hi = (turns * 4294967296.0).floor();
                let lo = (turns * 4294967296.0 - hi) * 4294967296.0;
                words.extend([hi as u32, lo as u32, u32::from(axis)]);
            }
        }
        let places = ConstantPlaces::of(spec);
        if words.len() < places.end {
            words.resize(places.bias, 0);
            last.into_iter().for_each(|part| push(&mut words, part));
        }
        let buffer = Buffer::zeros(device, words.len() * 4)?;
        buffer.write(0, bytemuck::cast_slice(&words))?;
        Ok(LayerConstants { buffer, weights })
    }
}
