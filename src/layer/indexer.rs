//! [`Indexer`]: what chooses the keys of a sparse layer.

use crate::{Error, Result};

/// How a layer kind whose rows see chosen keys comes to its choice: index heads score every key, and the keys, or blocks
/// of keys, of the greatest scores are chosen ([`crate::select`]). Layers may share a choice: which layer has an indexer
/// of its own is the engine's business, and attention asks for nothing but the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indexer {
    /// Index heads: `index_n_heads`.
    pub heads: usize,
    /// Lanes of an index query and of the one index key of a token: `index_head_dim`.
    pub dim: usize,
    /// Units that a row chooses: `index_topk`.
    pub count: usize,
    /// Slots of a unit: 1 chooses keys, more chooses blocks.
    pub block: usize,
}

impl Indexer {
    /// # Errors
    /// [`Error::Invalid`] for numbers that make no indexer.
    pub(crate) fn validate(&self, op: &'static str) -> Result<()> {
        let (heads, count, block) = (self.heads, self.count, self.block);
        if heads == 0 || count == 0 || block == 0 || count.max(block) > 1 << 20 {
            let got = format!("{heads}, {count} and {block}");
            return Err(Error::invalid(op, "heads, count and block", "1 or more, and 2^20 at most", got));
        }
        Ok(())
    }
}
