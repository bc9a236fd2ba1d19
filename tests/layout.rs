//! The shape of the source tree: one word per operation, the same in every folder, and the fences between the parts.
//! No device and no crate code is needed: it reads the files.

use std::fs;
use std::path::{Path, PathBuf};

/// The operations. An operation is complete when every file of [`op_files`] exists.
const OPS: [&str; 9] = ["attention", "kv_append", "lm_head", "merge", "rebase", "sampling", "select", "stop", "verify"];

/// Kernels of no operation: the counter of steps.
const OTHER_KERNELS: [&str; 1] = ["advance"];

/// Longer files hide a second idea.
const MOST_LINES: usize = 500;

/// A kernel that names a vendor is tuned to one machine and misleads on the others.
const VENDORS: [&str; 12] = [
    "adreno", "amd", "apple", "intel", "lavapipe", "llvmpipe", "mali", "mesa", "nvidia", "qualcomm", "radeon",
    "samsung",
];

fn op_files(op: &str) -> Vec<String> {
    let host = ["mod", "problem", "plan", "params", "reference", "webgpu"];
    let mut files: Vec<String> = host.iter().map(|f| format!("src/{op}/{f}.rs")).collect();
    files.push(format!("shaders/{op}.wgsl"));
    files.push(format!("tests/{op}.rs"));
    files.push(format!("benches/{op}.rs"));
    files.push(format!("docs/{op}.md"));
    files
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with the extension, as (path from the root, text).
fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The text without line comments: rules about code must not forbid explaining it.
fn code(text: &str) -> String {
    text.lines().map(|l| l.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Lower-case words; `_` and digits belong to a word.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_lowercase).collect()
}

#[track_caller]
fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_operation_has_all_its_files() {
    let missing = OPS.iter().flat_map(|op| op_files(op)).filter(|f| !root().join(f).is_file());
    assert_none(missing.map(|f| format!("missing: {f}")).collect());
}

#[test]
fn every_shader_and_op_folder_is_a_listed_operation() {
    let mut found = Vec::new();
    for (name, _) in files("shaders", "wgsl") {
        let stem = name.trim_start_matches("shaders/").trim_end_matches(".wgsl");
        // An operation may have more kernels than one: `<op>_<what differs>`.
        let op = OPS.iter().any(|op| stem == *op || stem.strip_prefix(op).is_some_and(|rest| rest.starts_with('_')));
        if !stem.starts_with("common/") && !op && !OTHER_KERNELS.contains(&stem) {
            found.push(format!("{name} belongs to no operation of this test's list"));
        }
    }
    for (name, _) in files("src", "rs") {
        let op = name.strip_prefix("src/").and_then(|n| n.strip_suffix("/plan.rs"));
        if let Some(op) = op.filter(|op| !OPS.contains(op)) {
            found.push(format!("{name}: operation {op} is not in this test's list"));
        }
    }
    assert_none(found);
}

#[test]
fn the_backend_names_no_operation() {
    let mut found = Vec::new();
    for (name, text) in files("src/backend", "rs") {
        let words = words(&code(&text));
        for op in OPS.iter().filter(|op| words.iter().any(|w| w.contains(**op))) {
            found.push(format!("{name} names {op}"));
        }
    }
    assert_none(found);
}

#[test]
fn unsafe_stays_in_the_backend() {
    // The one other place: constructors from raw CUDA handles.
    let with_raw_handles = ["src/device.rs", "src/tensor.rs"];
    let outside = files("src", "rs").into_iter().filter(|(name, _)| !name.starts_with("src/backend/"));
    let outside = outside.filter(|(name, _)| !with_raw_handles.contains(&name.as_str()));
    let found = outside.filter(|(_, text)| words(&code(text)).iter().any(|w| w == "unsafe"));
    assert_none(found.map(|(name, _)| format!("{name} has unsafe code")).collect());
}

#[test]
fn the_reference_shares_nothing_with_plans_and_kernels() {
    let mut found = Vec::new();
    for op in OPS {
        let name = format!("src/{op}/reference.rs");
        // A missing file is the first test's business.
        let Ok(text) = fs::read_to_string(root().join(&name)) else { continue };
        let code = code(&text);
        for other in ["params::", "webgpu::", "worklist", "wgsl", "backend::", "plan::*", "plan as "] {
            if code.contains(other) {
                found.push(format!("{name} mentions {other}"));
            }
        }
        // A plan's types say what was planned; its functions would share their mistakes.
        for after in code.split("plan::").skip(1) {
            let names = match after.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or(""),
                None => after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""),
            };
            let functions = names.split(',').map(str::trim).filter(|n| n.starts_with(|c: char| c.is_lowercase()));
            found.extend(functions.map(|n| format!("{name} uses plan::{n}")));
        }
    }
    assert_none(found);
}

#[test]
fn shaders_name_no_vendor() {
    let mut found = Vec::new();
    for (name, text) in files("shaders", "wgsl") {
        let words = words(&text);
        for vendor in VENDORS.iter().filter(|v| words.iter().any(|w| w == **v)) {
            found.push(format!("{name} names {vendor}"));
        }
    }
    assert_none(found);
}

#[test]
fn files_are_short() {
    let kinds = [("src", "rs"), ("shaders", "wgsl"), ("tests", "rs")];
    let all = kinds.into_iter().flat_map(|(folder, extension)| files(folder, extension));
    let long = all.map(|(name, text)| (name, text.lines().count())).filter(|(_, n)| *n > MOST_LINES);
    assert_none(long.map(|(name, n)| format!("{name} has {n} lines, at most {MOST_LINES}")).collect());
}

#[test]
fn the_table_of_laws_names_tests_that_exist() {
    let (laws, tests) = (fs::read_to_string(root().join("docs/laws.md")).unwrap(), files("tests", "rs"));
    let is_test = |word: &str| tests.iter().any(|(_, text)| text.contains(&format!("fn {word}(")));
    let is_part = |word: &str| tests.iter().any(|(name, _)| name.ends_with(&format!("/{word}.rs")));
    let paths = laws.split('`').skip(1).step_by(2).filter(|quoted| quoted.contains("::") && !quoted.contains("DType"));
    let unknown = paths.flat_map(words).filter(|w| !w.is_empty() && w != "a" && w != "b" && !is_test(w) && !is_part(w));
    assert_none(unknown.map(|w| format!("docs/laws.md names {w}, which is no test")).collect());
}
