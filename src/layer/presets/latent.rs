//! Multi-head latent attention: DeepSeek V3 and V3.2, Kimi.

use crate::layer::{Indexer, Latent, LayerSpec, Norm, Pairing, Rope, Yarn};

impl LayerSpec {
    /// DeepSeek V3, expanded form: 128 heads of 192/128. The last 64 lanes of q and k turn (adjacent pairs, YaRN by 40)
    /// and are the same for all heads of k. The square of YaRN's factor is in the softmax scale.
    pub fn deepseek_v3() -> Self {
        let yarn = Yarn::new(40.0, 4096.0).with_mscale(1.0, 1.0);
        LayerSpec {
            name: "deepseek_v3".into(),
            softmax_scale: latent_scale(192, Yarn::mscale(40.0, 1.0)),
            head_dim_v: 128,
            rope: Some(Rope::yarn(64, 1e4, Pairing::Adjacent, &yarn).at_lane(128)),
            ..LayerSpec::new(128, 128, 192)
        }
    }

    /// DeepSeek V3, absorbed form: all 128 query heads over one latent of 512 lanes and the 64 that turn.
    pub fn deepseek_v3_absorbed() -> Self {
        Latent::deepseek_v3().absorbed(&LayerSpec::deepseek_v3())
    }

    /// DeepSeek V3.2, expanded form: a layer of V3 whose rows see 2048 keys that an indexer of 64 heads of 128 lanes chose.
    pub fn deepseek_v32() -> Self {
        let indexer = Some(Indexer { heads: 64, dim: 128, count: 2048, block: 1 });
        LayerSpec { name: "deepseek_v32".into(), indexer, ..LayerSpec::deepseek_v3() }
    }

    /// DeepSeek V3.2, absorbed form.
    pub fn deepseek_v32_absorbed() -> Self {
        Latent::deepseek_v3().absorbed(&LayerSpec::deepseek_v32())
    }

    /// Kimi K2, expanded form: 64 heads of 192/128, YaRN by 64, theta 5e4.
    pub fn kimi_k2() -> Self {
        let yarn = Yarn::new(64.0, 4096.0).with_mscale(1.0, 1.0);
        LayerSpec {
            name: "kimi_k2".into(),
            num_q_heads: 64,
            num_kv_heads: 64,
            softmax_scale: latent_scale(192, Yarn::mscale(64.0, 1.0)),
            rope: Some(Rope::yarn(64, 5e4, Pairing::Adjacent, &yarn).at_lane(128)),
            ..LayerSpec::deepseek_v3()
        }
    }

    /// Kimi K2, absorbed form: its 64 heads over a latent as that of DeepSeek V3.
    pub fn kimi_k2_absorbed() -> Self {
        Latent::deepseek_v3().absorbed(&LayerSpec::kimi_k2())
    }

    /// Kimi Linear 48B, latent layer, expanded form: 32 heads of 192/128, nothing turns. The model's other layers are
    /// linear attention, which is out of scope.
    pub fn kimi_linear_latent() -> Self {
        LayerSpec { name: "kimi_linear.latent".into(), head_dim_v: 128, ..LayerSpec::new(32, 32, 192) }
    }

    /// Kimi Linear 48B, latent layer, absorbed form: 32 heads over a latent as that of DeepSeek V3; nothing turns.
    pub fn kimi_linear_absorbed() -> Self {
        Latent::deepseek_v3().absorbed(&LayerSpec::kimi_linear_latent())
    }
}

impl Latent {
    /// That of DeepSeek V3 and the Kimi models: a latent of 512 lanes, 128 own and 64 shared ones of k, 128 of v.
    pub fn deepseek_v3() -> Self {
        Latent { rank: 512, own: 128, shared: 64, values: 128, norm: Norm::RmsScaled { eps: 1e-6 } }
    }
}

/// `mscale^2 / sqrt(head_dim)`.
pub(in crate::layer) fn latent_scale(head_dim: usize, mscale: f64) -> f32 {
    (mscale * mscale / (head_dim as f64).sqrt()) as f32
}
