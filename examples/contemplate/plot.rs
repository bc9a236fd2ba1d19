//! `--plot`: the forest over time as an SVG. A lane per agent behind the prompt that all share, a column per step, a colour
//! per modality, a tick where a page begins; curves say who reads whom.

use std::fmt::Write;

use colatent::ensemble::{AgentId, Batch, Ensemble, Input};
use colatent::kv::Modality;

use crate::engine::PAGE;

const LANE: usize = 18;
const STEP: usize = 12;
const LEFT: usize = 90;
const TOP: usize = 56;
/// Width of the prompt.
const PROMPT: usize = 240;

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

fn draw(h: &History, out: &mut String) -> std::fmt::Result {
    let (width, height) = (LEFT + PROMPT + (h.steps.len() + 2) * STEP + 30, TOP + (h.lanes.len() + 1) * LANE + 40);
    let lane_y = |lane: usize| TOP + (lane + 1) * LANE;
    let step_x = |step: usize| LEFT + PROMPT + (step + 1) * STEP;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">"
    )?;
    writeln!(out, "<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>")?;
    let tokens: usize = h.prompt.iter().map(|p| p.1).sum();
    let (pages, lanes) = (tokens.div_ceil(PAGE), h.lanes.len());
    writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"18\">prompt: {tokens} tokens in {pages} pages, shared by {lanes} views; {} pages in all</text>",
        h.pages
    )?;

    // The prompt, with its pages.
    let (mut at, y) = (0, TOP - LANE / 2);
    for &(modality, len) in &h.prompt {
        let (x, w) = (LEFT + at * PROMPT / tokens.max(1), (len * PROMPT / tokens.max(1)).max(1));
        let fill = colour(modality);
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"14\" fill=\"{fill}\"><title>{modality}: {len} tokens</title></rect>"
        )?;
        at += len;
    }
    for page in 0..=pages {
        let x = LEFT + (page * PAGE).min(tokens) * PROMPT / tokens.max(1);
        writeln!(out, "<path d=\"M{x} {} v4\" stroke=\"#333\" stroke-width=\"0.5\"/>", y + 14)?;
    }

    // Lanes: where they begin, what was fed when, where they stop.
    for (i, lane) in h.lanes.iter().enumerate() {
        let y = lane_y(i);
        let stop = lane.stopped.map_or("", |_| " (stopped)");
        writeln!(out, "<text x=\"4\" y=\"{}\">agent {}{stop}</text>", y + 9, lane.id.0)?;
        let parent = lane.parent.and_then(|p| h.lanes.iter().position(|l| l.id == p));
        let (from_x, from_y) = parent.map_or((LEFT + PROMPT, TOP), |p| (step_x(lane.began), lane_y(p) + 6));
        let to_x = step_x(lane.began);
        writeln!(
            out,
            "<path d=\"M{from_x} {from_y} C{from_x} {m} {from_x} {m} {to_x} {m}\" fill=\"none\" stroke=\"#999\"/>",
            m = y + 6
        )?;
        let mut tokens = 0;
        for (step, fed) in h.steps.iter().enumerate() {
            let Some(&(_, text, pictures)) = fed.iter().find(|f| f.0 == lane.id) else { continue };
            let before = tokens;
            tokens += text + pictures;
            if before == 0 || before.div_ceil(PAGE) < tokens.div_ceil(PAGE) {
                writeln!(out, "<path d=\"M{} {} v4\" stroke=\"#333\"/>", step_x(step), y + 12)?;
            }
            for (modality, n, up) in [(Modality::Text, text, 0), (Modality::Image, pictures, 6)] {
                if n > 0 {
                    let (x, h) = (step_x(step), if pictures > 0 && text > 0 { 6 } else { 12 });
                    let fill = colour(modality);
                    writeln!(
                        out,
                        "<rect x=\"{x}\" y=\"{}\" width=\"{}\" height=\"{h}\" fill=\"{fill}\"><title>{modality}: {n} tokens in step {step}</title></rect>",
                        y + up,
                        STEP - 2
                    )?;
                }
            }
        }
        if let Some(step) = lane.stopped {
            writeln!(out, "<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"#c44e52\"/>", step_x(step) + STEP, y + 6)?;
        }
    }

    // Who reads whom: everybody in the next step, or a synthesiser when it begins.
    let thinkers = h.lanes.iter().filter(|l| l.began == 0).count();
    if h.is_collaborating && thinkers > 1 {
        let bottom = lane_y(thinkers - 1) + 12;
        for step in (1..h.steps.len()).step_by(4) {
            let x = step_x(step);
            writeln!(out, "<path d=\"M{x} {} V{bottom}\" stroke=\"#8d6cab\" stroke-dasharray=\"1 2\"/>", lane_y(0))?;
        }
    }
    for (i, lane) in h.lanes.iter().enumerate().filter(|(_, l)| l.began > 0 && l.parent.is_none()) {
        for thinker in 0..thinkers {
            let (x, from, to) = (step_x(lane.began), lane_y(thinker) + 6, lane_y(i) + 6);
            let bend = x + STEP * 2;
            writeln!(
                out,
                "<path d=\"M{x} {from} C{bend} {from} {bend} {to} {x} {to}\" fill=\"none\" stroke=\"#8d6cab\"/>"
            )?;
        }
    }
    let legend = [Modality::Text, Modality::Image, Modality::Audio];
    for (i, modality) in legend.into_iter().enumerate() {
        let (x, y, fill) = (LEFT + i * 80, height - 20, colour(modality));
        writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{fill}\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"{}\">{modality}</text>", x + 14, y + 9)?;
    }
    let x = LEFT + legend.len() * 80;
    writeln!(
        out,
        "<text x=\"{x}\" y=\"{}\"><tspan fill=\"#8d6cab\">reads</tspan>, ticks: pages begin, dots: stopped</text>",
        height - 11
    )?;
    writeln!(out, "</svg>")
}
