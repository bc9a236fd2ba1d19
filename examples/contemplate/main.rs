//! One stream of picture, sound and text; many agents; one synthesis.
//!
//! A small untrained decoder reads a picture, a sound and a prompt into one cache, once. N agents fork from it and think
//! side by side, each step one launch per operation and layer; one of them looks at the picture again in the middle of
//! its thought. With `--mode collaborate` each reads all others while they think. A synthesiser joins all their caches and
//! answers without running any of it again; votes, the best agent and a mixture are other ways to one answer.
//!
//! Read `flow.rs` for what happens, `synthesis.rs` for the ways to one answer, `engine.rs` for how the operations are
//! driven, `model.rs` for the decoder. `docs/contemplating.md` has each mode in a few lines.
//!
//! ```text
//! cargo run --release --example contemplate
//! cargo run --release --example contemplate -- --agents 16 --tokens 32 --verify
//! cargo run --release --example contemplate -- --mode collaborate --synthesis vote --budget 8 --plot forest.svg
//! ```

mod engine;
mod flow;
mod input;
mod live;
mod model;
mod plot;
mod report;
mod synthesis;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use colatent::Device;

/// Errors here are sentences for people.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Many agents think about a picture, a sound and a prompt; one synthesiser answers from their joined cache.
#[derive(Parser)]
#[command(name = "contemplate")]
struct Options {
    /// PNG or JPEG; a built-in picture without it
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// WAV; a built-in sound without it
    #[arg(long, value_name = "FILE")]
    audio: Option<PathBuf>,
    /// What to think about
    #[arg(long, value_name = "TEXT", default_value = input::PROMPT)]
    prompt: String,
    /// Agents that think side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    agents: u32,
    /// Tokens of each thought, and of the answer
    #[arg(long, value_name = "T", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=4096))]
    tokens: u32,
    /// What agents see of each other
    #[arg(long, value_enum, default_value_t = flow::Together::Isolated)]
    mode: flow::Together,
    /// How thoughts become one answer
    #[arg(long, value_enum, default_value_t = synthesis::Synthesis::Join)]
    synthesis: synthesis::Synthesis,
    /// Tokens after which a thought is closed; the rest of an agent's tokens are its answer, and the thought is forgotten
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=4096))]
    budget: Option<u32>,
    /// Tokens that each agent drafts per step by looking up what followed its last one before
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=15))]
    draft: u32,
    /// Draw the forest over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Where attention runs
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    device: Choice,
    /// Draws the weights and the samples
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Pages of the pool, 16 tokens each; as many as the run needs without it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=131_072))]
    pages: Option<u32>,
    /// Repeat every attention call on the reference and print the worst error
    #[arg(long)]
    verify: bool,
    /// Print one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// `--device`.
#[derive(Clone, Copy, ValueEnum)]
enum Choice {
    /// WebGPU if there is an adapter, else the reference
    Auto,
    /// The definition on the CPU
    Reference,
    /// WebGPU or nothing
    Webgpu,
}

impl Choice {
    fn open(self) -> Result<Device> {
        match self {
            Choice::Auto => Ok(Device::detect()),
            Choice::Reference => Ok(Device::reference()),
            #[cfg(feature = "webgpu")]
            Choice::Webgpu => Ok(Device::webgpu()?),
            #[cfg(not(feature = "webgpu"))]
            Choice::Webgpu => Err("this program was built without the feature `webgpu`".into()),
        }
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("contemplate: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let inputs = input::Inputs::load(options.image.as_deref(), options.audio.as_deref(), &options.prompt)?;
    let (agents, tokens) = (options.agents as usize, options.tokens as usize);
    let task = flow::Task {
        agents,
        tokens,
        mode: options.mode,
        synthesis: options.synthesis,
        budget: options.budget,
        draft: options.draft as usize,
    };
    let pages = options.pages.map_or_else(|| flow::pages_needed(&inputs, &task), |p| p as usize);
    let device = options.device.open()?;
    let mut engine = engine::Engine::new(&device, options.seed, pages, options.verify)?;
    let mut live = live::Live::new(agents, tokens);
    let outcome = flow::contemplate(&mut engine, &inputs, &task, &mut live).map_err(|e| {
        live.clear();
        match e.downcast_ref() {
            Some(colatent::Error::PoolFull { .. }) => format!("{e}; --pages sets its size, it has {pages}").into(),
            _ => e,
        }
    })?;
    let max_abs_error = engine.verifier.as_ref().map(|v| v.worst);
    if let Some(file) = &options.plot {
        std::fs::write(file, plot::svg(&outcome.history)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let report = report::Report { device: &device, task: &task, max_abs_error, outcome: &outcome };
    let mut out = std::io::stdout().lock();
    let printed = if options.json { report.json(&mut out) } else { report.table(&mut out) };
    // Whoever closed the pipe has read enough.
    printed.and_then(|()| out.flush()).ok();
    match max_abs_error.filter(|&e| e > verify::ALLOWED) {
        Some(e) => {
            eprintln!("contemplate: attention is off by {e:.2e}, more than {:.0e}", verify::ALLOWED);
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}
