//! The shapes by which devices and other libraries are compared, one JSON row each on stdout.
//!
//! ```text
//! cargo bench --bench hardware -- [--device cuda|cuda-sim|cuda-sim-90|webgpu] [--scale N] [--only TEXT]
//! ```
//! On CUDA times come from events around launches that are queued behind other work: `warm_us` is a run of a captured
//! graph, `cold_us` a run after the level-2 cache was overwritten; both are medians and include the merge. `plan_us` is
//! the host's planning. Elsewhere times are the host's, the wait included. `--scale N` divides every length by N, for a
//! look at whether it runs; such rows say so. Some shapes have a second row, with `way`: `rounded_weights`
//! (`LayerSpec::rounded_weights`). `--only` takes what it finds in a shape's name, or in a way's.

mod clock;
mod shapes;

use clock::Clock;
use colatent::{Buffer, Result};
use serde_json::json;
use shapes::{Ready, Shape, Way};

struct Options {
    device: String,
    scale: usize,
    only: String,
}

fn options() -> Options {
    let mut options = Options { device: "cuda".into(), scale: 1, only: String::new() };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        match (name.as_str(), args.next()) {
            ("--device", Some(value)) => options.device = value,
            ("--scale", Some(value)) => options.scale = value.parse().unwrap_or(1).max(1),
            ("--only", Some(value)) => options.only = value,
            // cargo passes `--bench`.
            _ => {}
        }
    }
    options
}

fn main() {
    let options = options();
    let clock = match Clock::new(&options.device) {
        Ok(clock) => clock,
        Err(e) => {
            eprintln!("SKIPPED: {e}");
            return;
        }
    };
    println!("{}", json!({ "row": "device", "device": clock.device.to_string(), "scale": options.scale }));
    match copy(&clock, options.scale) {
        Ok(rate) => println!("{}", json!({ "row": "copy", "bytes_per_s": rate })),
        Err(e) => println!("{}", json!({ "row": "copy", "error": e.to_string() })),
    }
    for (shape, way) in Shape::all().iter().flat_map(|shape| shape.ways().iter().map(move |way| (shape, *way))) {
        // Other devices round no weights.
        if way == Way::RoundedWeights && !clock.device.kind().starts_with("cuda") {
            continue;
        }
        let words = [Some(shape.name()), way.name().map(String::from)];
        if !words.iter().flatten().any(|word| word.contains(&options.only)) {
            continue;
        }
        let mut row = match measure(&clock, shape, way, options.scale) {
            Ok(row) => row,
            Err(e) => json!({ "shape": shape.name(), "error": e.to_string() }),
        };
        if let Some(way) = way.name() {
            row["way"] = way.into();
        }
        println!("{row}");
    }
}

fn measure(clock: &Clock, shape: &Shape, way: Way, scale: usize) -> Result<serde_json::Value> {
    let mut ready = Ready::new(&clock.device, shape, way, scale)?;
    let plan_us = ready.plan_us()?;
    let warm_us = clock.warm_us(&mut ready)?;
    let cold_us = clock.cold_us(&mut ready)?;
    Ok(json!({
        "shape": shape.name(),
        "plan_us": plan_us,
        "warm_us": warm_us,
        "cold_us": cold_us,
        "bytes": ready.bytes,
        "flops": ready.flops,
        "tiles": ready.tiles,
        "launches": ready.launches()?,
        "plan": ready.describe(),
    }))
}

/// Bytes read and written per second by a copy of 1 GiB on the device.
fn copy(clock: &Clock, scale: usize) -> Result<f64> {
    let bytes = ((1 << 30) / scale).next_multiple_of(16);
    let (from, to) = (Buffer::zeros(&clock.device, bytes)?, Buffer::zeros(&clock.device, bytes)?);
    let us = clock.median_us(7, || Ok(()), || to.copy_from(&from))?;
    Ok(2e6 * bytes as f64 / us)
}
