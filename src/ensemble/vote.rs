//! Votes over answers.

use super::{AgentId, OP};
use crate::{Error, Result};

/// A vote: of the majority if all weights are 1, else weighted, by confidence for instance.
///
/// What an answer is, and when two are the same, is the caller's; here it is a number. The order of casting changes nothing:
/// sums go by the voter's name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// By voter.
    votes: Vec<(AgentId, u64, f64)>,
}

impl Tally {
    /// Casts an agent's vote.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a second vote of an agent, and for a weight that is negative or not finite.
    pub fn cast(&mut self, voter: AgentId, answer: u64, weight: f64) -> Result<()> {
        if !(weight >= 0.0 && weight.is_finite()) {
            return Err(Error::invalid(OP, "weight", "0 or a positive finite number", weight));
        }
        match self.votes.binary_search_by_key(&voter, |v| v.0) {
            Ok(_) => Err(Error::invalid(OP, "voter", "one vote for each agent", format!("a second of {voter:?}"))),
            Err(at) => {
                self.votes.insert(at, (voter, answer, weight));
                Ok(())
            }
        }
    }

    /// Weight of each answer, by answer.
    pub fn totals(&self) -> Vec<(u64, f64)> {
        let mut totals: Vec<(u64, f64)> = Vec::new();
        for &(_, answer, weight) in &self.votes {
            match totals.iter_mut().find(|t| t.0 == answer) {
                Some(total) => total.1 += weight,
                None => totals.push((answer, weight)),
            }
        }
        totals.sort_by_key(|t| t.0);
        totals
    }

    /// The answer of most weight, the least number among equals, and its weight.
    pub fn winner(&self) -> Option<(u64, f64)> {
        let better = |a: (u64, f64), b: (u64, f64)| if b.1 > a.1 { b } else { a };
        self.totals().into_iter().reduce(better)
    }

    /// How far the winner is ahead of any other answer.
    pub fn margin(&self) -> f64 {
        let Some((winner, most)) = self.winner() else { return 0.0 };
        let next = self.totals().into_iter().filter(|t| t.0 != winner).map(|t| t.1).fold(0.0, f64::max);
        most - next
    }

    /// Whether votes of together at most `outstanding` weight cannot change the winner, whatever they are for: the run may
    /// end (agents [stop](super::Ensemble::stop) as [`Decided`](super::Stopped::Decided)).
    pub fn is_decided(&self, outstanding: f64) -> bool {
        self.winner().is_some() && self.margin() > outstanding
    }
}
