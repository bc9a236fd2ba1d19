//! Where the parts of a row of the fused projection lie.

use super::{Gate, LayerSpec};

/// One part (q, k, v or gate) of a row of the packed projection: head `h`, lane `d` is element
/// `offset + h * head_stride + d` of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First element.
    pub offset: usize,
    /// Distance between heads.
    pub head_stride: usize,
}

/// Where q, k, v and gate lie in a row of the packed projection, in elements. Parts may share elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedLayout {
    /// Queries, `num_q_heads` of `head_dim`.
    pub q: Part,
    /// Keys, `num_kv_heads` of `head_dim`.
    pub k: Part,
    /// Values, `num_kv_heads` of `head_dim_v`; not read where V is in K.
    pub v: Part,
    /// Gates, `num_q_heads` of `head_dim_v`, or of one where a head has one gate.
    pub gate: Option<Part>,
    /// Elements of a row.
    pub width: usize,
}

impl LayerSpec {
    /// q, k, v (unless it is in K) and, if the layer has one, gate, one after the other, heads contiguous.
    pub fn packed(&self) -> PackedLayout {
        let (q, kv) = (self.num_q_heads, self.num_kv_heads);
        let (d, dv) = (self.head_dim, self.head_dim_v);
        let v = if self.v_in_k { q * d } else { (q + kv) * d };
        let gate = (q + kv) * d + if self.v_in_k { 0 } else { kv * dv };
        let lanes = self.gate.lanes(dv);
        PackedLayout {
            q: Part { offset: 0, head_stride: d },
            k: Part { offset: q * d, head_stride: d },
            v: Part { offset: v, head_stride: if self.v_in_k { d } else { dv } },
            gate: (lanes > 0).then_some(Part { offset: gate, head_stride: lanes }),
            width: gate + q * lanes,
        }
    }

    /// Every query head's lanes and then its gate, from one projection, then k and v (Qwen3.5). As
    /// [`LayerSpec::packed`] for a layer without a gate.
    pub fn packed_gate_by_head(&self) -> PackedLayout {
        if self.gate == Gate::None {
            return self.packed();
        }
        let (q, kv, d, dv) = (self.num_q_heads, self.num_kv_heads, self.head_dim, self.head_dim_v);
        let pair = d + self.gate.lanes(dv);
        let k = q * pair;
        PackedLayout {
            q: Part { offset: 0, head_stride: pair },
            k: Part { offset: k, head_stride: d },
            v: Part { offset: k + kv * d, head_stride: dv },
            gate: Some(Part { offset: d, head_stride: pair }),
            width: k + kv * (d + dv),
        }
    }

    /// As [`LayerSpec::packed`], but k and v are one projection, which each of them norms and turns in its own way
    /// (Gemma 4's global layers). Needs `head_dim_v` lanes within `head_dim`.
    pub fn packed_shared_kv(&self) -> PackedLayout {
        let packed = self.packed();
        let saved = self.num_kv_heads * self.head_dim_v;
        let gate = packed.gate.map(|g| Part { offset: g.offset - saved, ..g });
        PackedLayout { v: packed.k, gate, width: packed.width - saved, ..packed }
    }

    /// q and, if the layer has one, gate alone: rows of a layer that reads another layer's K and V
    /// ([`ModelLayer`](super::ModelLayer)). For places that are all [`PADDING`](crate::kv_append::PADDING), as nothing is
    /// stored; k and v are read from nowhere and stand at the row's start.
    pub fn packed_q(&self) -> PackedLayout {
        let packed = self.packed();
        let start = Part { offset: 0, head_stride: 0 };
        let q = self.num_q_heads * self.head_dim;
        let gate = packed.gate.map(|g| Part { offset: q, ..g });
        PackedLayout {
            k: start,
            v: start,
            gate,
            width: q + self.num_q_heads * self.gate.lanes(self.head_dim_v),
            ..packed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tile_the_row() {
        let spec = LayerSpec { head_dim_v: 24, gate: Gate::Sigmoid, ..LayerSpec::new(4, 2, 16) };
        let part = |offset: usize, head_stride: usize| Part { offset, head_stride };
        assert_eq!(
            spec.packed(),
            PackedLayout { q: part(0, 16), k: part(64, 16), v: part(96, 24), gate: Some(part(144, 24)), width: 240 }
        );
        assert_eq!(
            spec.packed_gate_by_head(),
            PackedLayout { q: part(0, 40), k: part(160, 16), v: part(192, 24), gate: Some(part(16, 40)), width: 240 }
        );
        let spec = LayerSpec { head_dim_v: 16, gate: Gate::None, ..spec };
        assert_eq!(spec.packed_gate_by_head(), spec.packed());
        assert_eq!(
            spec.packed_shared_kv(),
            PackedLayout { q: part(0, 16), k: part(64, 16), v: part(64, 16), gate: None, width: 96 }
        );
        assert_eq!(
            spec.packed_q(),
            PackedLayout { q: part(0, 16), k: part(0, 0), v: part(0, 0), gate: None, width: 64 }
        );
    }
}
