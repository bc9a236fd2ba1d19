//! The rotation of a config: `rope_parameters`, or in older ones `rope_theta` and `rope_scaling`.

use super::fields::Fields;
use crate::Result;
use crate::layer::{Llama3Scaling, Pairing, Rope, Yarn};

/// What a config says of a rotation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RopeConfig {
    pub theta: f64,
    /// Part of the head that turns; all of it unless a config says otherwise.
    pub part: Option<f64>,
    scheme: Scheme,
    /// Sections of M-RoPE, and whether their axes take turns.
    sections: Option<(Vec<usize>, bool)>,
    /// `0.1 weight ln(factor) + 1` with `mscale_all_dim` as the weight, which latent attention has squared in its scale.
    pub mscale_all_dim: f64,
    /// The temperature of the Mistral models: weight, and positions from step to step.
    pub temperature: Option<(f64, f64)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Scheme {
    Plain,
    Linear(f64),
    Llama3(Llama3Scaling),
    Yarn(Yarn),
    /// Exponents over the whole head, positions divided.
    Proportional(f64),
}

impl RopeConfig {
    /// Reads the rotation of layers of type `layer_type`, where a config has one for each, or of all layers. `theta` is for
    /// configs that leave it out.
    pub fn read(fields: &Fields, layer_type: Option<&str>, theta: Option<f64>) -> Result<RopeConfig> {
        let old_theta = fields.f64_if("rope_theta")?;
        let part = fields.f64_if("partial_rotary_factor")?;
        let theta = || old_theta.or(theta);
        let new = fields.object_if("rope_parameters")?;
        let own = match (&new, layer_type) {
            (Some(all), Some(layer_type)) => all.object_if(layer_type)?,
            _ => None,
        };
        let old = fields.object_if("rope_scaling")?;
        match own.or(new).or(old) {
            Some(parameters) => RopeConfig::of(&parameters, theta(), part),
            None => {
                let theta = theta().ok_or_else(|| fields.wrong("rope_theta", "given", "nothing"))?;
                Ok(RopeConfig { part, ..RopeConfig::plain(theta) })
            }
        }
    }

    fn of(p: &Fields, theta: Option<f64>, part: Option<f64>) -> Result<RopeConfig> {
        let theta = match p.f64_if("rope_theta")?.or(theta) {
            Some(theta) => theta,
            None => p.f64("rope_theta")?,
        };
        let part = p.f64_if("partial_rotary_factor")?.or(part);
        let (new, old) = (p.str_if("rope_type")?, p.str_if("type")?);
        let factor = || p.f64("factor");
        let context = || p.f64("original_max_position_embeddings");
        let mut mscale_all_dim = 1.0;
        let scheme = match new.or(old).unwrap_or("default") {
            "default" | "mrope" | "axial" => Scheme::Plain,
            "linear" => Scheme::Linear(factor()?),
            "proportional" => Scheme::Proportional(p.f64_if("factor")?.unwrap_or(1.0)),
            "llama3" => Scheme::Llama3(Llama3Scaling {
                factor: factor()?,
                low_freq_factor: p.f64("low_freq_factor")?,
                high_freq_factor: p.f64("high_freq_factor")?,
                original_context: context()?,
            }),
            "yarn" => {
                let plain = Yarn::new(factor()?, context()?);
                let (mscale, all_dim) = (p.f64_if("mscale")?, p.f64_if("mscale_all_dim")?);
                // A weight of 0 is no weight, in the published code too.
                let yarn = match (mscale.filter(|m| *m != 0.0), all_dim.filter(|m| *m != 0.0)) {
                    (Some(mscale), Some(all_dim)) => plain.with_mscale(mscale, all_dim),
                    _ => plain,
                };
                if let Some(weight) = all_dim.filter(|m| *m != 0.0) {
                    mscale_all_dim = Yarn::mscale(plain.factor, weight);
                }
                Scheme::Yarn(Yarn {
                    beta_fast: p.f64_if("beta_fast")?.unwrap_or(plain.beta_fast),
                    beta_slow: p.f64_if("beta_slow")?.unwrap_or(plain.beta_slow),
                    truncate: p.bool_if("truncate")?.unwrap_or(true),
                    attention_factor: p.f64_if("attention_factor")?.unwrap_or(yarn.attention_factor),
                    ..plain
                })
            }
            other => {
                let supported = "default, linear, llama3, yarn, proportional, mrope and axial";
                return Err(p.unsupported("rope_type", other, supported));
            }
        };
        let is_interleaved = p.bool_if("mrope_interleaved")?.unwrap_or(false);
        let sections = p.usizes_if("mrope_section")?.map(|sections| (sections, is_interleaved));
        let beta = p.f64_if("llama_4_scaling_beta")?;
        let temperature = beta.map(|beta| context().map(|interval| (beta, interval))).transpose()?;
        p.skip(&["max_position_embeddings"]); // repeated from outside by some configs
        p.finish_strictly()?;
        Ok(RopeConfig { theta, part, scheme, sections, mscale_all_dim, temperature })
    }

    /// Plain RoPE over the whole head.
    pub fn plain(theta: f64) -> RopeConfig {
        RopeConfig { theta, part: None, scheme: Scheme::Plain, sections: None, mscale_all_dim: 1.0, temperature: None }
    }

    /// Proportional RoPE over a part of the head.
    pub fn proportional(theta: f64, part: f64) -> RopeConfig {
        RopeConfig { part: Some(part), scheme: Scheme::Proportional(1.0), ..RopeConfig::plain(theta) }
    }

    /// The part of the head that turns, for configs that leave it out.
    pub fn or_part(self, part: f64) -> Self {
        RopeConfig { part: self.part.or(Some(part)), ..self }
    }

    /// The axes of the sections take turns, whether the config says so or not.
    pub fn interleaved(mut self) -> Self {
        if let Some((_, is_interleaved)) = &mut self.sections {
            *is_interleaved = true;
        }
        self
    }

    /// Sections for configs that leave them out.
    pub fn or_sections(self, sections: &[usize], is_interleaved: bool) -> Self {
        let sections = self.sections.or_else(|| Some((sections.to_vec(), is_interleaved)));
        RopeConfig { sections, ..self }
    }

    /// The rotation of a head of `head_dim` lanes.
    pub fn rope(&self, fields: &Fields, head_dim: usize, pairing: Pairing) -> Result<Rope> {
        let part = self.part.unwrap_or(1.0);
        let lanes = (head_dim as f64 * part) as usize / 2 * 2;
        if !(part > 0.0 && part <= 1.0) || lanes == 0 {
            return Err(fields.wrong("partial_rotary_factor", "a part of the head of 2 lanes or more", part));
        }
        let plain = || Rope::plain(lanes, self.theta, pairing);
        let rope = match &self.scheme {
            Scheme::Plain => plain(),
            Scheme::Linear(factor) => plain().scaled_linear(*factor),
            Scheme::Llama3(scaling) => plain().scaled_llama3(scaling),
            Scheme::Yarn(yarn) => Rope::yarn(lanes, self.theta, pairing, yarn),
            Scheme::Proportional(factor) => Rope::proportional(head_dim, lanes, self.theta).scaled_linear(*factor),
        };
        let Some((sections, is_interleaved)) = &self.sections else { return Ok(rope) };
        match sections[..] {
            [t, h, w] if t + h + w == rope.inv_freq.len() => Ok(if *is_interleaved {
                rope.with_interleaved_sections([t, h, w])
            } else {
                rope.with_sections(sections)
            }),
            _ => {
                let expected = format!("three sections of {} pairs", rope.inv_freq.len());
                Err(fields.wrong("mrope_section", &expected, format!("{sections:?}")))
            }
        }
    }
}
