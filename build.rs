//! Expands `// #include "common/x.wgsl"` in `shaders/*.wgsl`, and the same in `cuda/*.cu`, into one name -> source table
//! per language. No network, no probing.

use std::{env, fs, path::Path};

fn expand(path: &Path, seen: &mut Vec<String>) -> String {
    println!("cargo::rerun-if-changed={}", path.display());
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut out = String::new();
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("// #include \"").and_then(|l| l.strip_suffix('"')) {
            if !seen.iter().any(|s| s == name) {
                seen.push(name.to_string());
                // Names count from the language's folder, from wherever they are included.
                let root = path.ancestors().nth(1 + usize::from(path.parent().is_some_and(|p| p.ends_with("common"))));
                out += &expand(&root.unwrap_or(Path::new(".")).join(name), seen);
            }
        } else {
            out += line;
            out += "\n";
        }
    }
    out
}

fn table(name: &str, folder: &str, extension: &str) {
    println!("cargo::rerun-if-changed={folder}");
    let mut table = format!("pub(crate) const {name}: &[(&str, &str)] = &[\n");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("the package carries its kernels")
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    for path in files {
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("kernel names are ASCII");
        table += &format!("    ({stem:?}, {:?}),\n", expand(&path, &mut Vec::new()));
    }
    table += "];\n";
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join(format!("{folder}.rs"));
    fs::write(out, table).expect("OUT_DIR is writable");
}

fn main() {
    table("SHADERS", "shaders", "wgsl");
    table("CUDA", "cuda", "cu");
}
