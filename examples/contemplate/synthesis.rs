//! The ways from many thoughts to one answer.

use clap::ValueEnum;
use colatent::ensemble::{AgentId, Ensemble, Spawn, Tally};
use colatent::kv::Join;
use colatent::sampling::Sampled;

use crate::Result;
use crate::engine::Engine;
use crate::flow::{Task, counting_pages, drawn_rows, embed, sampling};
use crate::live::Live;
use crate::plot::History;

/// What the synthesiser starts its answer with.
pub const ANSWER: &[u8] = b"Answer: ";

/// `--synthesis`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Synthesis {
    /// A synthesiser reads every thought where it lies and answers
    Join,
    /// The majority of the agents' answers
    Vote,
    /// The agent whose tokens were likeliest in the mean
    Best,
    /// All agents answer with one voice, from the mean of their distributions
    Mix,
}

impl std::fmt::Display for Synthesis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Synthesis::Join => "join",
            Synthesis::Vote => "vote",
            Synthesis::Best => "best",
            Synthesis::Mix => "mix",
        })
    }
}

/// An answer, and what it took.
#[derive(Default)]
pub struct Answered {
    /// Bytes of pages that the join took from the pool.
    pub join_bytes: usize,
    /// Tokens the synthesiser sees before its answer.
    pub joined_tokens: usize,
    /// What was decided, in words.
    pub verdict: String,
    /// The answer.
    pub answer: Vec<u8>,
}

/// One answer of all.
pub fn answer(
    engine: &mut Engine,
    ensemble: &mut Ensemble,
    ids: &[AgentId],
    task: &Task,
    live: &mut Live,
    history: &mut History,
) -> Result<Answered> {
    let spawn = Spawn {
        suffix: ANSWER.iter().map(|&b| u32::from(b)).collect(),
        sampling: sampling(),
        max_tokens: task.tokens as u32,
        ..Spawn::default()
    };
    let said = |ensemble: &Ensemble, id: AgentId| -> Result<Vec<u8>> {
        Ok(ensemble.agent(id)?.tokens.iter().map(|&t| t as u8).collect())
    };
    match task.synthesis {
        Synthesis::Join => {
            let (one, join_bytes) =
                counting_pages(engine, |e| Ok(ensemble.join(&mut e.cache, ids, Join::Parallel, &spawn)?))?;
            let view = ensemble.agent(one)?.view.ok_or("a synthesiser has a view")?;
            let joined_tokens = engine.cache.view(view)?.len();
            speak(engine, ensemble, live, history, false)?;
            let verdict = format!("{joined_tokens} tokens read where they lie");
            Ok(Answered { join_bytes, joined_tokens, verdict, answer: said(ensemble, one)? })
        }
        Synthesis::Best => {
            let best = ensemble.best().ok_or("every agent said something")?;
            let mean = ensemble.agent(best)?.mean_log_prob();
            let verdict = format!("agent {}, mean log-probability {mean:.3}", best.0);
            Ok(Answered { verdict, answer: said(ensemble, best)?, ..Answered::default() })
        }
        Synthesis::Vote => {
            // What an answer is, the caller knows: of an untrained model the last byte will do.
            let mut tally = Tally::default();
            for &id in ids {
                let agent = ensemble.agent(id)?;
                let sure = agent.group_confidence(agent.confidences.len()).unwrap_or(0.0);
                tally.cast(id, agent.tokens.last().map_or(0, |&t| u64::from(t)), f64::from(sure))?;
            }
            let (winner, weight) = tally.winner().ok_or("there is a vote")?;
            let voter = ids.iter().find(|&&id| {
                ensemble.agent(id).is_ok_and(|a| a.tokens.last().is_some_and(|&t| u64::from(t) == winner))
            });
            let total: f64 = tally.totals().iter().map(|t| t.1).sum();
            let verdict = format!("{weight:.1} of {total:.1} votes, {:.1} ahead", tally.margin());
            let answer = voter.map(|&id| said(ensemble, id)).transpose()?.unwrap_or_default();
            Ok(Answered { verdict, answer, ..Answered::default() })
        }
        Synthesis::Mix => {
            let mut voices = Vec::new();
            for &id in ids {
                voices.extend(ensemble.spawn_from(&mut engine.cache, id, std::slice::from_ref(&spawn))?);
            }
            speak(engine, ensemble, live, history, true)?;
            let verdict = format!("{} agents with one voice", voices.len());
            let first = voices.first().ok_or("there is an agent")?;
            Ok(Answered { verdict, answer: said(ensemble, *first)?, ..Answered::default() })
        }
    }
}

/// Whoever is alive goes on until it stops; with one voice, all say the token of their mean.
fn speak(
    engine: &mut Engine,
    ensemble: &mut Ensemble,
    live: &mut Live,
    history: &mut History,
    with_one_voice: bool,
) -> Result<()> {
    while ensemble.alive().next().is_some() {
        let batch = ensemble.step(&mut engine.cache)?;
        let hidden = engine.forward(&batch, embed(engine, &batch, &[]))?;
        let last = drawn_rows(&batch, &hidden);
        let drawn: Vec<Sampled> = match batch.draws.first() {
            Some(first) if with_one_voice => vec![engine.sample_mixed(&last, first.sampling)?; batch.draws.len()],
            _ => engine.sample(&last, &batch.sampling_rows())?,
        };
        ensemble.accept(&mut engine.cache, &drawn)?;
        history.record(&batch, ensemble);
        live.show(ensemble);
    }
    Ok(())
}
