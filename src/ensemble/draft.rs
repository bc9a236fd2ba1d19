//! Drafts of one agent: a tree of tokens that are verified in one step.

use super::{AgentId, Ensemble, Item, OP};
use crate::{Error, Result};

/// Tokens that may come next, in depth-first order: every branch is a view, what branches share is one run of tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    tokens: Vec<u32>,
    parents: Vec<Option<u32>>,
}

impl Tree {
    /// A tree from the token of each node and the node that it follows; `None` follows what the agent is fed.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the nodes are in depth-first order: a node follows the one before it, or an ancestor of
    /// that one, or nothing.
    pub fn new(tokens: Vec<u32>, parents: Vec<Option<u32>>) -> Result<Tree> {
        if tokens.len() != parents.len() {
            return Err(Error::invalid(OP, "parents", format!("{} nodes", tokens.len()), parents.len()));
        }
        let tree = Tree { tokens, parents };
        for (n, parent) in tree.parents.iter().enumerate() {
            let mut ancestor = n.checked_sub(1);
            while ancestor.is_some() && ancestor.map(|a| a as u32) != *parent {
                ancestor = ancestor.and_then(|a| tree.parent(a));
            }
            if ancestor.map(|a| a as u32) != *parent {
                return Err(Error::invalid(OP, "parents", "depth-first order", format!("node {n} after {parent:?}")));
            }
        }
        Ok(tree)
    }

    /// One branch.
    pub fn chain(tokens: Vec<u32>) -> Tree {
        let parents = (0..tokens.len() as u32).map(|n| n.checked_sub(1)).collect();
        Tree { tokens, parents }
    }

    /// The token of each node.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The node that node `n` follows.
    pub fn parent(&self, n: usize) -> Option<usize> {
        self.parents.get(n).copied().flatten().map(|p| p as usize)
    }

    /// How many nodes lead to node `n`, itself included.
    pub fn depth(&self, n: usize) -> u32 {
        1 + self.parent(n).map_or(0, |p| self.depth(p))
    }

    /// The first node with this token that follows `parent`.
    pub fn child(&self, parent: Option<usize>, token: u32) -> Option<usize> {
        (0..self.tokens.len()).find(|&n| self.parent(n) == parent && self.tokens.get(n) == Some(&token))
    }
}

impl Ensemble {
    /// Drafts to be verified with the agent's next step. They change which tokens come in one step, never which tokens
    /// come: [`Ensemble::accept`] keeps those that the agent draws itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an agent that has stopped, is fed nothing, closes its thought, or writes in vacant slots.
    pub fn propose(&mut self, id: AgentId, tree: Tree) -> Result<()> {
        self.check_landed("propose")?;
        let agent = self.agent_mut(id)?;
        let fit = agent.is_alive() && !agent.is_closing && agent.vacant.is_empty();
        if !fit || !matches!(agent.pending.last(), Some(Item::Token(_))) {
            let what = "an agent that goes on at the end of its view";
            return Err(Error::invalid(OP, "agent", what, format!("{id:?}")));
        }
        agent.proposal = Some(tree);
        Ok(())
    }
}
