//! Reads the recorded attention layers of `tests/golden` (see its README). What kind of layer each is of says
//! `recorded.rs`.

use std::collections::BTreeMap;

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

/// Every recording, by the name of its file.
pub fn recordings() -> Vec<(&'static str, Golden)> {
    macro_rules! load {
        ($($name:literal)*) => {
            vec![$(($name, Golden::load(include_bytes!(concat!("../golden/", $name, ".safetensors"))))),*]
        };
    }
    load!("bagel.0" "deepseek_v3.0" "deepseek_v32.0" "deepseek_yarn.0" "flux.0" "flux.1" "gemma2.0" "gemma2.1"
        "gemma3.0" "gemma3.1" "gemma3n.0" "gemma3n.1" "gemma4.0" "gemma4.1" "glm4v.0" "glm4v_moe.0" "gpt_oss.0"
        "gpt_oss.1" "kimi_linear.0" "llama3.0" "llama4.0" "llama4.1" "mimo_v2.0" "mimo_v2.1" "ministral3.0"
        "mistral.0" "mllama.0" "mllama.1" "modernbert.0" "modernbert.1" "muse_glimmer.0" "muse_glimmer.1"
        "muse_glimmer_assistant.0" "muse_spark.0" "muse_spark.1" "muse_vision.0" "muse_vision.1" "paligemma.0"
        "paligemma2.0" "paligemma2.1" "qwen25vl.0" "qwen3_5.0" "qwen3_vl.0" "siglip.0")
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
                Dtype::I64 => view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as f32).collect(),
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

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The model's family.
    pub fn case(&self) -> &str {
        self.info["case"].as_str().expect("a case name")
    }

    /// Keys of the recording. Its queries are the last ones of them: all but for a drafter.
    pub fn tokens(&self) -> usize {
        self.shape("attn.k")[2]
    }

    /// Queries of the recording.
    pub fn queries(&self) -> usize {
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

    /// Whether each query sees each key, `[queries, keys]`. A recording without a mask saw everything.
    pub fn visible(&self) -> Vec<bool> {
        match self.tensors.get("attn.visible") {
            Some(mask) => mask.values.iter().map(|&x| x != 0.0).collect(),
            None => vec![true; self.queries() * self.tokens()],
        }
    }

    /// What entered the output projection. Where there are several, for some tokens each, and nothing between them and the
    /// attention, it is the attention's output.
    pub fn projected(&self) -> &[f32] {
        if ["flux", "bagel"].contains(&self.case()) {
            return self.values("attn.out");
        }
        let names = ["raw.o_proj.in", "raw.proj.in", "raw.Wo.in", "raw.out_proj.in"];
        let name = names.into_iter().find(|&n| self.tensors.contains_key(n)).expect("an output projection's input");
        self.values(name)
    }

    /// The config of the model, or of the decoder in it.
    pub fn decoder(&self) -> &Value {
        let config = &self.info["config"];
        config.get("text_config").unwrap_or(config)
    }

    /// A number of it.
    pub fn config(&self, name: &str) -> f64 {
        self.decoder()[name].as_f64().unwrap_or_else(|| panic!("the recording's config has no {name}"))
    }
}
