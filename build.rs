//! Expands `// #include "common/x.wgsl"` in `shaders/*.wgsl` into one name -> source table. No network, no probing.

use std::{env, fs, path::Path};

fn expand(path: &Path, seen: &mut Vec<String>) -> String {
    println!("cargo::rerun-if-changed={}", path.display());
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut out = String::new();
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("// #include \"").and_then(|l| l.strip_suffix('"')) {
            if !seen.iter().any(|s| s == name) {
                seen.push(name.to_string());
                out += &expand(&path.parent().unwrap_or(Path::new(".")).join(name), seen);
            }
        } else {
            out += line;
            out += "\n";
        }
    }
    out
}

fn main() {
    println!("cargo::rerun-if-changed=shaders");
    let mut table = String::from("pub(crate) const SHADERS: &[(&str, &str)] = &[\n");
    let mut files: Vec<_> = fs::read_dir("shaders")
        .expect("the package carries its shaders")
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "wgsl"))
        .collect();
    files.sort();
    for path in files {
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("shader names are ASCII");
        table += &format!("    ({stem:?}, {:?}),\n", expand(&path, &mut Vec::new()));
    }
    table += "];\n";
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("shaders.rs");
    fs::write(out, table).expect("OUT_DIR is writable");
}
