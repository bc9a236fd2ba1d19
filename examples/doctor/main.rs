//! What is on this machine, what the crate would do with it, and whether it computes the right numbers there. Run it
//! first, and attach what it prints to a report of a fault:
//!
//! ```text
//! cargo run --release --example doctor
//! cargo run --release --example doctor -- --json
//! ```
//! The exit code is 1 if a device computes something else than the reference.

mod check;
mod machine;

use clap::Parser;
use colatent::Device;
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "What is on this machine, what colatent would do with it, and whether it is right")]
struct Options {
    /// One JSON object on stdout and nothing else.
    #[arg(long)]
    json: bool,
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let mut devices = Vec::new();
    for (kind, device) in machine::devices() {
        devices.push(match device {
            Ok(device) => report(kind, &device),
            Err(e) => json!({ "kind": kind, "absent": e.to_string() }),
        });
    }
    let chosen = Device::detect().to_string();
    let all = json!({
        "crate": env!("CARGO_PKG_VERSION"),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "adapters": machine::adapters(),
        "cuda": machine::cuda(),
        "chosen": chosen,
        "devices": devices,
    });
    if options.json {
        println!("{all}");
    } else {
        print(&all, "", 0);
    }
    let is_wrong = |d: &Value| d["parity"].as_array().is_some_and(|p| p.iter().any(|c| c["ok"] == false));
    u8::from(devices.iter().any(is_wrong)).into()
}

/// One device: time to the first outputs, plans, parity, bandwidth.
fn report(kind: &str, device: &Device) -> Value {
    let first_outputs = check::first_outputs(device); // in front of all others
    json!({
        "kind": kind,
        "device": device.to_string(),
        "first_outputs_ms": first_outputs,
        "plans": check::plans(device),
        "parity": check::parity(device),
        "copy": check::copy(device),
    })
}

/// Indented lines; an array of objects repeats its name.
fn print(value: &Value, name: &str, depth: usize) {
    let pad = "  ".repeat(depth.saturating_sub(1));
    match value {
        Value::Object(map) => {
            if !name.is_empty() {
                println!("{pad}{name}");
            }
            map.iter().for_each(|(name, value)| print(value, name, depth + 1));
        }
        Value::Array(list) => list.iter().for_each(|value| print(value, name, depth)),
        Value::String(text) => println!("{pad}{name}: {text}"),
        other => println!("{pad}{name}: {other}"),
    }
}
