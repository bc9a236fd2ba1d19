//! `--plot`: the forest over time as an SVG. A lane per agent behind the prompt that all share, a column per step, a colour
//! per modality, a tick where a page begins; curves say who reads whom.

use std::fmt::Write;

use colatent::ensemble::{AgentId, Batch, Ensemble, Input};
use colatent::kv::Modality;

use crate::engine::PAGE;

const LANE: usize = 18;
const STEP: usize = 12;
const LEFT: usize = 12;
const TOP: usize = 60;
/// Width of the prompt.
const PROMPT: usize = 240;
const READS: &str = "#8d6cab";

/// What happened when.
pub struct History {
    /// Modality and tokens of the prompt's parts.
    prompt: Vec<(Modality, usize)>,
    /// Per step and agent with rows in it: tokens of text, and of pictures.
    steps: Vec<Vec<(AgentId, usize, usize)>>,
    /// In order of appearance.
    lanes: Vec<Lane>,
    /// Whether the agents read each other while they thought.
    pub is_collaborating: bool,
    /// Pages in use when all had thought.
    pub pages: usize,
}

struct Lane {
    id: AgentId,
    parent: Option<AgentId>,
    began: usize,
    stopped: Option<usize>,
}

impl History {
    /// Nothing but a prompt.
    pub fn new(prompt: Vec<(Modality, usize)>) -> History {
        History { prompt, steps: Vec::new(), lanes: Vec::new(), is_collaborating: false, pages: 0 }
    }

    /// Writes down one step.
    pub fn record(&mut self, batch: &Batch, ensemble: &Ensemble) {
        let mut step: Vec<(AgentId, usize, usize)> = Vec::new();
        let mut inputs = batch.inputs.iter();
        for (rows, &id) in batch.rows.iter().zip(&batch.agents) {
            let own: Vec<&Input> = inputs.by_ref().take(rows.len as usize).collect();
            let pictures = own.iter().filter(|i| matches!(i, Input::Inserted { .. })).count();
            match step.iter_mut().find(|s| s.0 == id) {
                Some(known) => *known = (id, known.1 + own.len() - pictures, known.2 + pictures),
                None => step.push((id, own.len() - pictures, pictures)),
            }
        }
        let now = self.steps.len();
        for agent in ensemble.agents() {
            if !self.lanes.iter().any(|l| l.id == agent.id) {
                self.lanes.push(Lane { id: agent.id, parent: agent.parent, began: now, stopped: None });
            }
            if let Some(lane) = self.lanes.iter_mut().find(|l| l.id == agent.id && !agent.is_alive()) {
                lane.stopped.get_or_insert(now);
            }
        }
        self.steps.push(step);
    }
}

fn colour(modality: Modality) -> &'static str {
    match modality {
        Modality::Text => "#4878cf",
        Modality::Image | Modality::Video => "#d9883a",
        Modality::Audio => "#5aa469",
        Modality::Tool => "#8d6cab",
        Modality::Draft => "#9aa5b1",
        Modality::Noise => "#c44e52",
    }
}

/// The picture.
pub fn svg(history: &History) -> String {
    let mut out = String::new();
    draw(history, &mut out).ok(); // writing to a string does not fail
    out
}

fn lane_y(lane: usize) -> usize {
    TOP + (lane + 1) * LANE
}

fn step_x(step: usize) -> usize {
    LEFT + PROMPT + (step + 1) * STEP
}

fn draw(h: &History, out: &mut String) -> std::fmt::Result {
    let (width, height) = (step_x(h.steps.len()) + 60, lane_y(h.lanes.len()) + 50);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">"
    )?;
    writeln!(out, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>")?;
    draw_prompt(h, out)?;
    for step in (0..h.steps.len()).step_by(4) {
        let (x, y) = (step_x(step), TOP + 10);
        writeln!(out, "<text x=\"{x}\" y=\"{y}\" font-size=\"9\" fill=\"#777\">{step}</text>")?;
    }
    (0..h.lanes.len()).try_for_each(|lane| draw_lane(h, lane, out))?;
    draw_readers(h, out)?;
    let legend = [Modality::Text, Modality::Image, Modality::Audio];
    for (i, modality) in legend.into_iter().enumerate() {
        let (x, y, fill) = (LEFT + i * 64, height - 20, colour(modality));
        writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{fill}\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"{}\">{modality}</text>", x + 14, y + 9)?;
    }
    let (x, y) = (LEFT + legend.len() * 64 + 8, height - 11);
    writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\"><tspan fill=\"{READS}\">lines: reads</tspan>; ticks: a page begins; <tspan fill=\"#c44e52\">dots: stopped</tspan>; numbers: steps</text>"
    )?;
    writeln!(out, "</svg>")
}

/// The parts of the prompt, with their pages.
fn draw_prompt(h: &History, out: &mut String) -> std::fmt::Result {
    let tokens: usize = h.prompt.iter().map(|p| p.1).sum();
    let (pages, lanes) = (tokens.div_ceil(PAGE), h.lanes.len());
    writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"18\">prompt: {tokens} tokens in {pages} pages, shared by {lanes} views; {} pages in all</text>",
        h.pages
    )?;
    let (mut at, y) = (0, 30);
    for &(modality, len) in &h.prompt {
        let (x, w) = (LEFT + at * PROMPT / tokens.max(1), (len * PROMPT / tokens.max(1)).max(1));
        let fill = colour(modality);
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"14\" fill=\"{fill}\"><title>{modality}: {len} tokens</title></rect>"
        )?;
        at += len;
    }
    for page in 0..pages {
        let x = LEFT + page * PAGE * PROMPT / tokens.max(1);
        writeln!(out, "<path d=\"M{x} {} v4\" stroke=\"#333\" stroke-width=\"0.5\"/>", y + 14)?;
    }
    Ok(())
}

/// Where an agent begins, what it was fed when, where it stops, and the pages that it has for itself.
fn draw_lane(h: &History, lane: usize, out: &mut String) -> std::fmt::Result {
    let (y, Lane { id, parent, began, stopped }) = (lane_y(lane), &h.lanes[lane]);
    let of = parent.map_or_else(String::new, |parent| format!(" of {}", parent.0));
    let parent = parent.and_then(|p| h.lanes.iter().position(|l| l.id == p));
    // From the prompt, or from an agent; the name stands on the line.
    let (from_x, from_y) = parent.map_or((LEFT + PROMPT, 44), |p| (step_x(*began) - 1, lane_y(p) + 6));
    let (to_x, middle) = (step_x(*began), y + 6);
    writeln!(out, "<path d=\"M{from_x} {from_y} V{middle} H{to_x}\" fill=\"none\" stroke=\"#999\"/>")?;
    let (mut tokens, mut end) = (0, to_x);
    for (step, fed) in h.steps.iter().enumerate() {
        let Some(&(_, text, pictures)) = fed.iter().find(|f| f.0 == *id) else { continue };
        let (before, x) = (tokens, step_x(step));
        tokens += text + pictures;
        end = x + STEP;
        if before.div_ceil(PAGE) < tokens.div_ceil(PAGE) {
            writeln!(out, "<path d=\"M{x} {} v4\" stroke=\"#333\"/>", y + 12)?;
        }
        for (modality, n, up) in [(Modality::Text, text, 0), (Modality::Image, pictures, 6)] {
            if n > 0 {
                let (w, h) = (STEP - 2, if pictures > 0 && text > 0 { 6 } else { 12 });
                let fill = colour(modality);
                writeln!(
                    out,
                    "<rect x=\"{x}\" y=\"{}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"><title>{modality}: {n} tokens in step {step}</title></rect>",
                    y + up
                )?;
            }
        }
    }
    if stopped.is_some() {
        writeln!(out, "<circle cx=\"{}\" cy=\"{middle}\" r=\"3\" fill=\"#c44e52\"/>", end + 3)?;
    }
    let (x, y, own) = (from_x - 6, y + 10, tokens.div_ceil(PAGE));
    writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">agent {}{of}, own pages: {own}</text>", id.0)
}

/// Who reads whom: all agents in a step, or whoever has joined them when it begins.
fn draw_readers(h: &History, out: &mut String) -> std::fmt::Result {
    let thinkers: Vec<AgentId> = h.lanes.iter().filter(|l| l.began == 0).map(|l| l.id).collect();
    if h.is_collaborating {
        let think = |step: &[(AgentId, usize, usize)]| step.iter().filter(|fed| thinkers.contains(&fed.0)).count();
        for (step, _) in h.steps.iter().enumerate().skip(1).filter(|(_, fed)| think(fed) > 1) {
            let (x, bottom) = (step_x(step) - 1, lane_y(thinkers.len() - 1) + 12);
            writeln!(out, "<path d=\"M{x} {} V{bottom}\" stroke=\"{READS}\" stroke-width=\"1.5\"/>", lane_y(0))?;
        }
    }
    for (i, lane) in h.lanes.iter().enumerate().filter(|(_, l)| l.began > 0 && l.parent.is_none()) {
        let (x, to) = (step_x(lane.began) + 16, lane_y(i) - 1);
        for thinker in 0..thinkers.len() {
            let from = lane_y(thinker) + 6;
            writeln!(out, "<path d=\"M{} {from} H{x} V{to}\" fill=\"none\" stroke=\"{READS}\"/>", x - 9)?;
        }
        writeln!(out, "<path d=\"M{} {} h6 l-3 5 z\" fill=\"{READS}\"/>", x - 3, to - 4)?;
    }
    Ok(())
}
