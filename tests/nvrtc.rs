//! Every CUDA variant, those of every preset included, compiles for every architecture, on a machine without any GPU: no
//! errors, no spills, no local memory, no warnings of the assembler about what it could not do (C75xx). Prints a table of
//! registers and shared memory. Where `COLATENT_NVDISASM` names a disassembler, the machine code of attention's kernels has
//! the instructions that they are written for. Needs NVRTC; the absence of either is a printed skip, and a failure when
//! `COLATENT_REQUIRE` names `nvrtc` or `nvdisasm`.
//! Planted and seen red: a local array indexed at run time (local memory); a misspelt function (error); an instruction that a
//! kernel does not use asked for.
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

/// What attention's machine code must have and does not. Hopper: products of a warpgroup with f32 sums, V transposed by its
/// descriptor, copies that arrive at barriers, registers handed from the producer to consumers. The portable kernel in
/// matrix units: products, matrix loads and asynchronous copies.
fn missing_instructions(name: &str, target: &str, cubin: &[u8]) -> Result<Vec<&'static str>, String> {
    let expected: &[&str] = match target {
        "sm_90a" if name.starts_with("attention_sm90 ") => {
            if name.contains(" BOX=0u ") {
                &["HGMMA.64x", ".F32", ".tnspB", "LDGSTS.E.BYPASS.128", "ARRIVES.LDGSTSBAR", "USETMAXREG"]
            } else {
                &["HGMMA.64x", ".F32", ".tnspB", "LDGSTS.E.BYPASS.128", "ARRIVES.LDGSTSBAR", "USETMAXREG", "UTMALDG.4D"]
            }
        }
        "sm_80" if name.starts_with("attention ") && name.contains("USES_MATRIX_UNITS=true") => {
            &["HMMA.16816.F32", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128", "LDGDEPBAR"]
        }
        _ => &[],
    };
    let Some(disassembler) = std::env::var_os("COLATENT_NVDISASM").filter(|_| !expected.is_empty()) else {
        return Ok(Vec::new());
    };
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("colatent-{}-{number}.cubin", std::process::id()));
    std::fs::write(&path, cubin).map_err(|e| e.to_string())?;
    let output = std::process::Command::new(disassembler).arg("-c").arg(&path).output();
    let _ = std::fs::remove_file(&path);
    let code = output.map_err(|e| format!("nvdisasm: {e}"))?;
    if !code.status.success() {
        return Err(format!("{name} {target}: nvdisasm: {}", String::from_utf8_lossy(&code.stderr)));
    }
    let code = String::from_utf8_lossy(&code.stdout);
    let mut missing: Vec<&str> = expected.iter().copied().filter(|instruction| !code.contains(instruction)).collect();
    if target == "sm_90a" && weights_beside_products(&code) < keys(name) / 2 {
        missing.push("weights between the waits for scores and for outputs");
    }
    Ok(missing)
}

/// Keys of a tile, as the variant's name has them.
fn keys(name: &str) -> usize {
    let digits = name.split(" KEYS=").nth(1).and_then(|rest| rest.split('u').next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(usize::MAX)
}

/// Weights that a thread computes while the outputs of the tile before are on their way. A wait has no operands: an assembler
/// that moves it up makes products and softmax take turns, and nothing is wrong but the time.
fn weights_beside_products(code: &str) -> usize {
    let lines = code.lines().skip_while(|line| !line.contains("DEPBAR.LE gsb0, 0x1"));
    lines.take_while(|line| !line.contains("DEPBAR.LE gsb0, 0x0")).filter(|line| line.contains("MUFU.EX2")).count()
}

fn lint(name: &str, source: &str, target: &str) -> Result<Usage, String> {
    let kernel = name.split([' ', '.']).next().unwrap_or(name);
    // `COLATENT_CACHE_DIR` keeps what was compiled, for a machine that is to run it.
    let folder = std::env::var_os("COLATENT_CACHE_DIR").map(std::path::PathBuf::from);
    let log = colatent::compile_offline(kernel, source, target, folder.as_deref());
    let (log, cubin) = log.map_err(|e| format!("{name} {target}: {e}"))?;
    let used = usage(&log);
    let mut faults = Vec::new();
    if used.registers == 0 {
        faults.push("the log names no registers".to_string());
    }
    if used.stack > 0 || used.spills > 0 {
        faults.push(format!("{} bytes of stack, {} bytes spilled", used.stack, used.spills));
    }
    faults.extend(log.lines().filter(|l| l.contains("C75") || l.contains("warning")).map(str::to_string));
    faults.extend(missing_instructions(name, target, &cubin)?.iter().map(|i| format!("no {i} in the machine code")));
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
    if std::env::var_os("COLATENT_NVDISASM").is_none() {
        assert!(!required.split(',').any(|r| r == "nvdisasm"), "COLATENT_REQUIRE=nvdisasm, but no COLATENT_NVDISASM");
        eprintln!("SKIPPED the machine code: no COLATENT_NVDISASM");
    }
    let mut variants = colatent::attention::cuda_variants();
    variants.extend(colatent::kv_append::cuda_variants());
    variants.extend(colatent::lm_head::cuda_variants());
    variants.extend(colatent::merge::cuda_variants());
    variants.extend(colatent::rebase::cuda_variants());
    variants.extend(colatent::sampling::cuda_variants());
    variants.extend(colatent::steps_cuda_variants());
    variants.extend(colatent::stop::cuda_variants());
    variants.extend(colatent::verify::cuda_variants());
    variants.extend(colatent::select::cuda_variants());
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
