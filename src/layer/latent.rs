//! [`Latent`]: the two forms of multi-head latent attention, and which is cheaper.

use super::{LayerSpec, Norm};

/// How the K and V of a layer come from a latent: what the cache holds per token is `rank` lanes, normed, from which
/// every head's v and its own lanes of k are projected, and `shared` lanes of k that all heads have in common.
///
/// With up-projections `K_h: rank -> own` and `V_h: rank -> values`, latent `c` and shared lanes `r` of a key:
///
/// ```text
/// expanded   k_h = [K_h c | r], v_h = V_h c:  score = q_own . K_h c + q_shared . r      out_h = sum_k w_k V_h c_k
/// absorbed   k = [c | r], v = c:              score = (K_h^T q_own) . c + q_shared . r  out_h = V_h (sum_k w_k c_k)
/// ```
///
/// Both are the same sums (DeepSeek V2, arXiv 2405.04434). The engine multiplies by `K_h^T` in front of the absorbed form
/// and by `V_h` behind it; the shared lanes are where the layer rotates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latent {
    /// Lanes of the latent: `kv_lora_rank`.
    pub rank: usize,
    /// Lanes of a head's q and k that are projected from the latent: `qk_nope_head_dim`.
    pub own: usize,
    /// Lanes of k that all heads share, behind a head's own: `qk_rope_head_dim`.
    pub shared: usize,
    /// Lanes of a head's v: `v_head_dim`.
    pub values: usize,
    /// Norm of the latent.
    pub norm: Norm,
}

/// A form of latent attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatentForm {
    /// K and V of every head.
    Expanded,
    /// All heads over the latent.
    Absorbed,
}

impl Latent {
    /// The absorbed form of an expanded layer kind: all query heads over one row of the latent and the shared lanes, V
    /// its first lanes. Its softmax scale stays that of the expanded head.
    pub fn absorbed(&self, expanded: &LayerSpec) -> LayerSpec {
        let rope = expanded.rope.clone();
        LayerSpec {
            name: format!("{}.absorbed", expanded.name),
            num_kv_heads: 1,
            head_dim: self.rank + self.shared,
            head_dim_v: self.rank,
            v_in_k: true,
            k_norm: self.norm,
            rope: rope.map(|rope| {
                let lane = rope.first_lane + self.rank;
                rope.at_lane(lane.saturating_sub(self.own))
            }),
            ..expanded.clone()
        }
    }

    /// Multiplications and additions per head of `rows` queries over `keys` keys that all of them see, with what the form
    /// asks for beside the attention: up-projections of every key, or of every query and output.
    pub fn products(&self, form: LatentForm, rows: u64, keys: u64) -> u64 {
        let Latent { rank, own, shared, values, .. } = *self;
        let (per_pair, beside) = match form {
            LatentForm::Expanded => (own + shared + values, keys.saturating_mul((rank * (own + values)) as u64)),
            LatentForm::Absorbed => (2 * rank + shared, rows.saturating_mul((rank * (own + values)) as u64)),
        };
        rows.saturating_mul(keys).saturating_mul(per_pair as u64).saturating_add(beside)
    }

    /// The form with fewer [products](Latent::products): for a shared prefix, the rows of all agents that see it, over
    /// its keys. The expanded form pays for every key once, so it wins from a number of rows on: over long prefixes
    /// `rank (own + values) / (2 rank - own - values)`, 171 rows for DeepSeek V3. Where they are equal the absorbed form,
    /// which needs no memory for K and V.
    ///
    /// It counts products and not bytes: where keys are read from memory for few rows, as in decode, the absorbed form
    /// has fewer of both.
    pub fn cheaper(&self, rows: u64, keys: u64) -> LatentForm {
        let products = |form| self.products(form, rows, keys);
        match products(LatentForm::Expanded) < products(LatentForm::Absorbed) {
            true => LatentForm::Expanded,
            false => LatentForm::Absorbed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expanded_form_wins_from_a_number_of_rows_on() {
        let latent = Latent { rank: 512, own: 128, shared: 64, values: 128, norm: Norm::None };
        let far = 1 << 20;
        assert_eq!(latent.cheaper(170, far), LatentForm::Absorbed);
        assert_eq!(latent.cheaper(172, far), LatentForm::Expanded);
        // As many rows as keys: the projections beside the attention are the same.
        assert_eq!(latent.cheaper(40, 40), LatentForm::Expanded);
        assert_eq!(latent.cheaper(1, 1), LatentForm::Expanded);
        assert_eq!(latent.cheaper(1, 2), LatentForm::Absorbed);
        assert_eq!(latent.products(LatentForm::Absorbed, 2, 3), 6 * 1088 + 2 * 512 * 256);
        assert_eq!(latent.products(LatentForm::Expanded, 2, 3), 6 * 320 + 3 * 512 * 256);
    }
}
