//! What was measured, as a table for people or as one JSON object for programs.

use std::io::{self, Write};
use std::time::Duration;

use colatent::Device;

use crate::flow::{Outcome, Task};

/// Bytes of a thought that the table shows.
const SHOWN: usize = 48;

/// An outcome with what it was asked for.
pub struct Report<'a> {
    /// Where attention ran.
    pub device: &'a Device,
    /// What was asked for.
    pub task: &'a Task,
    /// Worst error of `--verify`.
    pub max_abs_error: Option<f32>,
    /// What happened.
    pub outcome: &'a Outcome,
}

impl Report<'_> {
    fn prefill_per_s(&self) -> f64 {
        per_second(self.outcome.prompt_tokens, self.outcome.prefill)
    }

    fn decode_per_s(&self) -> f64 {
        per_second(self.outcome.thoughts.iter().map(Vec::len).sum(), self.outcome.thinking)
    }

    /// One object on one line.
    pub fn json(&self, to: &mut impl Write) -> io::Result<()> {
        let o = self.outcome;
        let object = serde_json::json!({
            "device": self.device.to_string(),
            "agents": self.task.agents,
            "tokens": self.task.tokens,
            "mode": self.task.mode.to_string(),
            "synthesis": self.task.synthesis.to_string(),
            "steps": o.steps,
            "drafts_kept": o.drafts_kept,
            "forgotten_bytes": o.forgotten_bytes,
            "prompt_tokens": o.prompt_tokens,
            "prefill_tokens_per_s": self.prefill_per_s(),
            "decode_tokens_per_s": self.decode_per_s(),
            "kv_bytes": o.kv_bytes,
            "kv_bytes_unshared": o.kv_bytes_unshared,
            "kv_tiles_loaded": o.tiles.loaded,
            "kv_tiles_unshared": o.tiles.unshared,
            "fork_bytes_copied": o.fork_bytes,
            "join_bytes_copied": o.join_bytes,
            "max_abs_error": self.max_abs_error,
        });
        writeln!(to, "{object}")
    }

    /// The closing table.
    pub fn table(&self, to: &mut impl Write) -> io::Result<()> {
        let o = self.outcome;
        writeln!(
            to,
            "The weights are random and trained on nothing: what follows is noise, its book-keeping is not.\n"
        )?;
        for (agent, thought) in o.thoughts.iter().enumerate() {
            let looks = if agent == 0 { " (looked again)" } else { "" };
            writeln!(to, "  agent {agent:<3} {}{looks}", escaped(thought))?;
        }
        writeln!(to, "  answer    {}\n", escaped(&o.answer))?;
        let tiles = match o.tiles.unshared {
            0 => "not counted: the reference loads no tiles".into(),
            _ => compare(o.tiles.loaded, o.tiles.unshared, "if nothing were shared"),
        };
        let kv = compare(o.kv_bytes as u64, o.kv_bytes_unshared as u64, "in separate caches");
        let mut row = |name: &str, value: String| writeln!(to, "  {name:<18} {value}");
        row("device", self.device.to_string())?;
        row("prompt", format!("{} tokens of picture, sound and text", o.prompt_tokens))?;
        row(
            "agents",
            format!(
                "{} x {} tokens in {} steps, {}, {} more for the second look",
                self.task.agents, self.task.tokens, o.steps, self.task.mode, o.crop_tokens
            ),
        )?;
        row("synthesis", format!("{}: {}", self.task.synthesis, o.verdict))?;
        if self.task.draft > 0 {
            row("drafts", format!("{} tokens kept, none of which changed an answer", o.drafts_kept))?;
        }
        if self.task.budget.is_some() {
            row("forgotten", format!("{} bytes of thoughts went back to the pool", o.forgotten_bytes))?;
        }
        row("prefill", format!("{:.0} tokens/s", self.prefill_per_s()))?;
        row("decode", format!("{:.0} tokens/s over all agents", self.decode_per_s()))?;
        row("K/V bytes", kv)?;
        row("K/V tiles loaded", tiles)?;
        row("copied by fork", format!("{} bytes", o.fork_bytes))?;
        row("copied by join", format!("{} bytes, {} tokens read without a prefill", o.join_bytes, o.joined_tokens))?;
        if let Some(error) = self.max_abs_error {
            row("worst error", format!("{error:.2e} against the reference, over every attention call"))?;
        }
        Ok(())
    }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

fn compare(have: u64, other: u64, what: &str) -> String {
    format!("{have} against {other} {what} ({:.1} times)", other as f64 / have.max(1) as f64)
}

/// Bytes of untrained text rarely are characters.
fn escaped(bytes: &[u8]) -> String {
    let rest = if bytes.len() > SHOWN { " ..." } else { "" };
    format!("\"{}\"{rest}", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}
