//! The agents while they think: a line each on a terminal, nothing elsewhere.

use std::io::IsTerminal;

use colatent::ensemble::{Agent, Ensemble, Stopped};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Agents that have a line of their own.
const SHOWN: usize = 16;
/// Draws whose confidence is shown.
const WINDOW: usize = 8;

/// A line for what is going on, and one per agent.
pub struct Live {
    all: MultiProgress,
    head: ProgressBar,
    agents: Vec<ProgressBar>,
    tokens: u64,
}

impl Live {
    /// Lines for the first agents.
    pub fn new(agents: usize, tokens: usize) -> Live {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        let head = all.add(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            head.set_style(style);
        }
        let mut live = Live { all, head, agents: Vec::new(), tokens: tokens as u64 };
        (0..agents.min(SHOWN)).for_each(|_| live.add());
        live
    }

    fn add(&mut self) {
        let bar = self.all.add(ProgressBar::new(self.tokens));
        if let Ok(style) = ProgressStyle::with_template("{prefix:10} {bar:32} {pos:>4}/{len} {msg}") {
            bar.set_style(style);
        }
        self.agents.push(bar);
    }

    /// Says what is going on.
    pub fn say(&self, what: &str) {
        self.head.set_message(what.to_owned());
    }

    /// Shows every agent's progress, how sure it is, and why it stopped.
    pub fn show(&mut self, ensemble: &Ensemble) {
        for (i, agent) in ensemble.agents().iter().take(SHOWN).enumerate() {
            if i == self.agents.len() {
                self.add();
            }
            self.agents[i].set_prefix(format!("agent {}", agent.id.0));
            self.agents[i].set_position(agent.tokens.len() as u64);
            self.agents[i].set_message(state(agent));
        }
    }

    /// Takes all lines away.
    pub fn clear(&self) {
        self.agents.iter().for_each(ProgressBar::finish_and_clear);
        self.head.finish_and_clear();
    }
}

fn state(agent: &Agent) -> String {
    let sure = agent.group_confidence(agent.confidences.len().min(WINDOW));
    let sure = sure.map_or_else(String::new, |c| format!("confidence {c:.2}"));
    let phase = match agent.stopped {
        None if agent.is_answering() => "",
        None => ", thinking",
        Some(Stopped::EndToken) => ", stopped: said its end",
        Some(Stopped::Budget) => ", stopped: budget",
        Some(Stopped::Confidence) => ", stopped: not sure",
        Some(Stopped::Decided) => ", stopped: decided",
        Some(_) => ", stopped",
    };
    format!("{sure}{phase}")
}
