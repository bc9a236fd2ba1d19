//! Every CUDA variant, those of every preset included, compiles for every architecture, on a machine without any GPU: no
//! errors, no spills, no local memory, no warnings of the assembler about what it could not do (C75xx). Prints a table of
//! registers and shared memory. Needs NVRTC; its absence is a printed skip, and a failure when `COLATENT_REQUIRE` names
//! `nvrtc`.
//! Planted and seen red: a local array indexed at run time (local memory); a misspelt function (error).
#![cfg(feature = "cuda")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use colatent::DType;
use colatent::layer::LayerSpec;

/// Ampere (server and desktop), Ada, Hopper, Blackwell (server and desktop); `COLATENT_NVRTC_TARGETS` narrows the list.
fn targets() -> Vec<String> {
    let all = "sm_80,sm_86,sm_89,sm_90a,sm_100a,sm_120a";
    std::env::var("COLATENT_NVRTC_TARGETS").unwrap_or(all.into()).split(',').map(str::to_string).collect()
}

/// What the assembler says of a kernel.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    registers: usize,
    stack: usize,
    spills: usize,
}

/// The number in front of `what`, summed over the log.
fn number_before(log: &str, what: &str) -> usize {
    let before = log.match_indices(what).map(|(at, _)| log[..at].trim_end());
    before.filter_map(|text| text.rsplit([' ', '\n', ',']).next()?.parse::<usize>().ok()).sum()
}

fn usage(log: &str) -> Usage {
    let registers = log.split("Used ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
    Usage {
        registers,
        stack: number_before(log, "bytes stack frame"),
        spills: number_before(log, "bytes spill stores") + number_before(log, "bytes spill loads"),
    }
}

fn lint(name: &str, source: &str, target: &str) -> Result<Usage, String> {
    let kernel = name.split([' ', '.']).next().unwrap_or(name);
    // `COLATENT_CACHE_DIR` keeps what was compiled, for a machine that is to run it.
    let folder = std::env::var_os("COLATENT_CACHE_DIR").map(std::path::PathBuf::from);
    let log = colatent::compile_offline(kernel, source, target, folder.as_deref());
    let log = log.map_err(|e| format!("{name} {target}: {e}"))?;
    let used = usage(&log);
    let mut faults = Vec::new();
    if used.registers == 0 {
        faults.push("the log names no registers".to_string());
    }
    if used.stack > 0 || used.spills > 0 {
        faults.push(format!("{} bytes of stack, {} bytes spilled", used.stack, used.spills));
    }
    faults.extend(log.lines().filter(|l| l.contains("C75") || l.contains("warning")).map(str::to_string));
    if faults.is_empty() { Ok(used) } else { Err(format!("{name} {target}: {}", faults.join("; "))) }
}

#[test]
fn every_variant_compiles_for_every_architecture() {
    let required = std::env::var("COLATENT_REQUIRE").unwrap_or_default();
    if let Err(e) = colatent::compile_offline("probe", "extern \"C\" __global__ void probe() {}", "sm_80", None) {
        assert!(!required.split(',').any(|r| r == "nvrtc"), "COLATENT_REQUIRE=nvrtc, but {e}");
        eprintln!("SKIPPED: {e}");
        return;
    }
    let mut variants = colatent::attention::cuda_variants();
    variants.extend(colatent::kv_append::cuda_variants());
    variants.extend(colatent::merge::cuda_variants());
    variants.extend(colatent::sampling::cuda_variants());
    // Published layer kinds as they are served: 16-bit storage. Many share a variant, with each other or with the above.
    for preset in LayerSpec::presets().iter().filter(|p| p.validate("preset").is_ok()) {
        let spec = LayerSpec { dtype: DType::BF16, kv_dtype: DType::BF16, ..preset.clone() };
        for variant in [colatent::attention::cuda_variant_of(&spec), colatent::kv_append::cuda_variant_of(&spec)] {
            if variants.iter().all(|known| known.0 != variant.0) {
                variants.push(variant);
            }
        }
    }
    // Warpgroups exist on Hopper only.
    let hopper = colatent::attention::cuda_variants_sm90();
    variants.extend(hopper.iter().cloned());
    // `COLATENT_NVRTC_VARIANTS` narrows the variants to those with one of these words.
    if let Ok(words) = std::env::var("COLATENT_NVRTC_VARIANTS") {
        variants.retain(|v| words.split(',').any(|word| v.0.contains(word)));
    }
    let targets = targets();
    let is_for = |v: &(String, String), target: &str| target == "sm_90a" || !hopper.contains(v);
    let all = variants.iter().flat_map(|v| targets.iter().map(move |t| (v, t.as_str())));
    let jobs: Vec<(&(String, String), &str)> = all.filter(|(v, target)| is_for(v, target)).collect();

    let (next, results) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        while let Some(((name, source), target)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = lint(name, source, target);
            results.lock().unwrap().insert((name.as_str(), *target), result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });

    let results = results.into_inner().unwrap();
    println!("registers of {} variants", variants.len());
    println!("{}  variant", targets.iter().map(|t| format!("{t:>8}")).collect::<String>());
    for (name, _) in &variants {
        let cell = |t: &String| match results.get(&(name.as_str(), t.as_str())) {
            Some(Ok(used)) => format!("{:>8}", used.registers),
            _ => format!("{:>8}", "-"),
        };
        println!("{}  {name}", targets.iter().map(cell).collect::<String>());
    }
    let faults: Vec<&String> = results.values().filter_map(|r| r.as_ref().err()).collect();
    assert!(
        faults.is_empty(),
        "{} of {} failed:\n{}",
        faults.len(),
        jobs.len(),
        faults.iter().map(|f| f.as_str()).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn the_log_is_read_right() {
    let log = "ptxas info    : 0 bytes gmem\nptxas info    : Function properties for k\n    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers";
    assert_eq!(usage(log), Usage { registers: 40, stack: 8, spills: 16 });
}
