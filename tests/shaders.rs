//! Every shader variant validates and writes SPIR-V, MSL and HLSL, on a machine without any GPU.
//! Planted and seen red: a function misspelt in one branch.
#![cfg(feature = "webgpu")]

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

fn translate(name: &str, wgsl: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| format!("{name}: {}", e.emit_to_string(wgsl)))?;
    let mut validator =
        Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP);
    let info = validator.validate(&module).map_err(|e| format!("{name}: {}", e.emit_to_string(wgsl)))?;
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
        .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
        .sum();
    if bytes > 16384 {
        return Err(format!("{name}: {bytes} bytes of workgroup memory"));
    }
    let storage = module.global_variables.iter().filter(|(_, v)| matches!(v.space, naga::AddressSpace::Storage { .. }));
    if storage.count() > 8 {
        return Err(format!("{name}: more than 8 storage buffers"));
    }
    spv::write_vec(&module, &info, &spv::Options::default(), None).map_err(|e| format!("{name}: SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .map_err(|e| format!("{name}: MSL: {e}"))?;
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &hlsl::Options::default(), &hlsl::PipelineOptions::default())
        .write(&module, &info, None)
        .map_err(|e| format!("{name}: HLSL: {e}"))?;
    Ok(())
}

fn check(variants: Vec<(String, String)>) {
    assert!(!variants.is_empty());
    let failures: Vec<String> = variants.iter().filter_map(|(n, text)| translate(n, text).err()).collect();
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), variants.len(), failures.join("\n"));
}

#[test]
fn attention_variants() {
    check(colatent::attention::shader_variants());
}

#[test]
fn merge_variants() {
    check(colatent::merge::shader_variants());
}

#[test]
fn kv_append_variants() {
    check(colatent::kv_append::shader_variants());
}

#[test]
fn lm_head_variants() {
    check(colatent::lm_head::shader_variants());
}

#[test]
fn rebase_variants() {
    check(colatent::rebase::shader_variants());
}

#[test]
fn steps_variants() {
    check(colatent::steps_shader_variants());
}

#[test]
fn select_variants() {
    check(colatent::select::shader_variants());
}

#[test]
fn sampling_variants() {
    check(colatent::sampling::shader_variants());
}

#[test]
fn stop_variants() {
    check(colatent::stop::shader_variants());
}

#[test]
fn verify_variants() {
    check(colatent::verify::shader_variants());
}
