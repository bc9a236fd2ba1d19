//! What the machine has: adapters, drivers, compilers.

use colatent::{Device, Error, Result};
use serde_json::{Value, json};

/// Every kind of device with the device, or why there is none.
pub fn devices() -> Vec<(&'static str, Result<Device>)> {
    vec![("reference", Ok(Device::reference())), ("cuda", Device::cuda()), ("webgpu", Device::webgpu())]
}

/// What `wgpu` finds, with the features and limits that decide what kernels may do.
pub fn adapters() -> Vec<Value> {
    use colatent::wgpu;
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(desc);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    adapters
        .iter()
        .map(|adapter| {
            let (info, features, limits) = (adapter.get_info(), adapter.features(), adapter.limits());
            json!({
                "name": info.name,
                "type": format!("{:?}", info.device_type),
                "backend": info.backend.to_string(),
                "driver": format!("{} {}", info.driver, info.driver_info),
                "subgroups": features.contains(wgpu::Features::SUBGROUP),
                "f16": features.contains(wgpu::Features::SHADER_F16),
                "largest_binding": limits.max_storage_buffer_binding_size,
                "storage_buffers": limits.max_storage_buffers_per_shader_stage,
                "workgroup_memory": limits.max_compute_workgroup_storage_size,
                "workgroups_per_dimension": limits.max_compute_workgroups_per_dimension,
            })
        })
        .collect()
}

/// The CUDA driver, its devices, the compiler and where kernels are kept.
pub fn cuda() -> Value {
    let text = |r: Result<String>| r.unwrap_or_else(|e| e.to_string());
    json!({
        "devices": cuda_devices(),
        "compiler": text(Device::cuda_compiler()),
        "kernels_kept_in": Device::cuda_cache().map_or("nowhere".into(), |p| p.display().to_string()),
    })
}

fn cuda_devices() -> Value {
    let mut found = Vec::new();
    for ordinal in 0.. {
        match Device::cuda_at(ordinal) {
            Ok(device) => found.push(json!(device.to_string())),
            // The first one that is not there says why there is none at all.
            Err(Error::CudaUnavailable { reason, .. }) if ordinal == 0 => return json!(format!("none: {reason}")),
            Err(_) => break,
        }
    }
    json!(found)
}
