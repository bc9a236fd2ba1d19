//! Reads the recorded attention layers of `tests/golden` (see its README) and builds the layer kinds they are of.

use std::collections::BTreeMap;

use colatent::kv::{Birth, Death, Lifetimes, Modality};
use colatent::layer::{Gate, LayerSpec, LayerWeights, Norm, Pairing, Rope};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Shape and values, row-major; bytes (masks) become 0 and 1.
pub struct Recorded {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// One recorded layer.
pub struct Golden {
    pub tensors: BTreeMap<String, Recorded>,
    pub info: Value,
}

impl Golden {
    pub fn load(bytes: &[u8]) -> Golden {
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a safetensors header");
        let info = header.metadata().as_ref().and_then(|m| m.get("info")).expect("the recording's metadata");
        let file = SafeTensors::deserialize(bytes).expect("a safetensors file");
        let read = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            let values = match view.dtype() {
                Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
                Dtype::U8 => view.data().iter().map(|&b| f32::from(b)).collect(),
                other => panic!("{name} is stored as {other:?}"),
            };
            (name, Recorded { shape: view.shape().to_vec(), values })
        };
        Golden {
            tensors: file.tensors().into_iter().map(read).collect(),
            info: serde_json::from_str(info).expect("JSON"),
        }
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("the recording has no {name}")).values
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("the recording has no {name}")).shape
    }

    /// Tokens of the recording.
    pub fn tokens(&self) -> usize {
        self.shape("attn.q")[2]
    }

    /// A recorded `[1, heads, tokens, dim]` as `[tokens, heads, dim]`.
    pub fn by_token(&self, name: &str) -> Vec<f32> {
        let s = self.shape(name);
        let (heads, tokens, dim) = (s[1], s[2], s[3]);
        let x = self.values(name);
        let at = |i: usize| ((i / dim % heads) * tokens + i / (dim * heads)) * dim + i % dim;
        (0..x.len()).map(|i| x[at(i)]).collect()
    }

    /// The projections as rows of [`LayerSpec::packed`]: q, k, v and, if the layer has one, gate.
    pub fn packed(&self) -> Vec<f32> {
        let tokens = self.tokens();
        let parts: Vec<&[f32]> = ["q_proj", "k_proj", "v_proj", "gate_proj"]
            .iter()
            .filter_map(|p| self.tensors.get(&format!("raw.{p}.out")))
            .map(|t| t.values.as_slice())
            .collect();
        let row = |t: usize| {
            parts.iter().flat_map(move |p| {
                let width = p.len() / tokens;
                p[t * width..(t + 1) * width].iter().copied()
            })
        };
        (0..tokens).flat_map(row).collect()
    }

    /// Position of each token: one axis, 0, 1, 2, ...
    pub fn positions(&self) -> Vec<[i32; 4]> {
        (0..self.tokens() as i32).map(|t| [t, 0, 0, 0]).collect()
    }

    /// The norm weights of the layer.
    pub fn weights(&self) -> LayerWeights {
        let weight = |n: &str| self.tensors.get(&format!("weight.{n}.weight")).map_or(vec![], |t| t.values.clone());
        LayerWeights { q_norm: weight("q_norm"), k_norm: weight("k_norm"), ..Default::default() }
    }

    fn config(&self, name: &str) -> f64 {
        self.info["config"][name].as_f64().unwrap_or_else(|| panic!("the recording's config has no {name}"))
    }
}

/// The layer kind of a recording of Muse Spark, Muse Glimmer or Gemma 3.
pub fn spec(golden: &Golden) -> LayerSpec {
    let (q, k, v) = (golden.shape("attn.q"), golden.shape("attn.k"), golden.shape("attn.v"));
    let case = golden.info["case"].as_str().expect("a case name");
    let eps = golden.config("rms_norm_eps") as f32;
    let window = golden.info["kwargs"]["sliding_window"].as_i64().map(|w| w as i32);
    let lifetimes = window.map_or(Lifetimes::causal(), Lifetimes::window);
    let spec = LayerSpec {
        name: format!("{case} {}", golden.info["layer"].as_str().unwrap_or("")),
        head_dim_v: v[3],
        softmax_scale: golden.info["scaling"].as_f64().expect("a scaling") as f32,
        lifetimes,
        ..LayerSpec::new(q[1], k[1], q[3])
    };
    let rope = |parameters: &Value| {
        assert_eq!(parameters["rope_type"], "default", "the recordings have no other kind");
        let theta = parameters["rope_theta"].as_f64().expect("a theta");
        // The recorded checkpoints are in the converted pairing.
        golden.tensors.contains_key("rope.cos").then(|| Rope::plain(q[3], theta, Pairing::Half))
    };
    let parameters = &golden.info["config"]["rope_parameters"];
    match case {
        // The norm of the output has the eps of the other norms, not `post_norm_eps`: with 1e-5 the recorded
        // `raw.o_proj.in` is met to 4e-7, with 1e-8 to 6e-5.
        "muse_spark" | "muse_glimmer" => LayerSpec {
            rope: rope(parameters),
            q_scale: golden.config("qk_scale_factor") as f32,
            q_norm: Norm::Rms { eps },
            k_norm: Norm::Rms { eps },
            out_norm: if case == "muse_spark" { Norm::Rms { eps } } else { Norm::None },
            gate: Gate::Sigmoid,
            ..spec
        },
        "gemma3" => {
            let (kind, death) = match window {
                Some(w) => ("sliding_attention", Death::Window(w)),
                None => ("full_attention", Death::Never),
            };
            LayerSpec {
                rope: rope(&parameters[kind]),
                q_norm: Norm::RmsOnePlus { eps },
                k_norm: Norm::RmsOnePlus { eps },
                lifetimes: lifetimes.with(Modality::Image, Birth::SpanStart, death),
                ..spec
            }
        }
        other => panic!("no layer kind for recordings of {other}"),
    }
}
