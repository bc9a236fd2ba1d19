//! The CUDA device itself: its absence, an engine's own memory, warm-up, and what is refused.
//! Planted and seen red: an address that forgot the tensor's offset (an engine's memory).
#![cfg(feature = "cuda")]
mod harness;

use std::sync::Arc;

use colatent::layer::{LayerConstants, LayerSpec};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{DType, Device, Error, Tensor, Workspace};
use harness::devices;

/// The CUDA devices of the harness, simulated or real.
fn cuda_devices() -> impl Iterator<Item = &'static Device> {
    devices().iter().filter(|d| d.kind().starts_with("cuda"))
}

#[test]
fn an_absent_driver_is_an_error_that_says_what_was_looked_for() {
    let Err(e) = Device::cuda() else { return };
    assert!(matches!(&e, Error::CudaUnavailable { looked_for, .. } if looked_for.contains("libcuda")), "{e}");
    assert!(Device::cuda_at(7).is_err());
    // Whatever else there is, is taken.
    assert_ne!(Device::detect().kind(), "cuda");
}

#[test]
#[allow(unsafe_code)]
fn raw_handles_without_a_driver_are_an_error() {
    if Device::cuda().is_ok() {
        return;
    }
    let null = std::ptr::null_mut;
    for stream in [0usize, 1, 2] {
        // SAFETY: there is no driver to use the handles.
        let made = unsafe { Device::from_cuda_raw(null(), stream as *mut _, Arc::new(())) };
        assert!(matches!(made, Err(Error::CudaUnavailable { .. })));
    }
}

#[test]
fn a_missing_compiler_names_where_it_was_looked_for() {
    if let Err(e) = Device::cuda_compiler() {
        assert!(e.to_string().contains("COLATENT_NVRTC_DIR") || e.to_string().contains("libnvrtc"), "{e}");
    }
}

fn merge_problem() -> (LayerSpec, [u32; 3], [u32; 4]) {
    (LayerSpec::new(2, 1, 8), [0, 2, 4], [0, 1, 2, 3])
}

/// An engine's allocation: bytes at an address that the crate did not choose, kept alive by the engine's own type.
#[cfg(feature = "cuda-sim")]
#[test]
#[allow(unsafe_code)]
fn an_engines_memory_is_used_where_it_lies() {
    use colatent::Buffer;

    /// 16-byte aligned, as device memory is.
    #[repr(align(256))]
    struct Engine([u8; 4096]);
    let Some(device) = cuda_devices().find(|d| d.kind() == "cuda-sim") else { return };
    let (spec, indptr, index) = merge_problem();
    let values: Vec<f32> = (0..64).map(|i| i as f32 / 7.0).collect();
    let ours = Tensor::from_f32(device, DType::F32, &[4, 2, 8], &values).unwrap();

    let engine = Arc::new(std::sync::Mutex::new(Engine([0xff; 4096])));
    let address = engine.lock().unwrap().0.as_mut_ptr() as u64;
    // SAFETY: the range is the engine's, which the buffer keeps; the simulated device's memory is the host's.
    let buffer = unsafe { Buffer::from_cuda_raw(device, address, 4096, engine.clone()) }.unwrap();
    let strided = Tensor::with_strides(buffer, DType::F32, 64, &[4, 2, 8], &[32, 12, 1]).unwrap();
    strided.write_f32(&values).unwrap();

    let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
    let lse = zeros(&[4, 2]);
    let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
    let problem = MergeProblem { spec: &spec, indptr: &indptr, index: &index, num_states: 4 };
    let plan = MergePlan::new(device, &problem).unwrap();
    let mut outs = Vec::new();
    for states in [&ours, &strided] {
        let out = zeros(&[2, 2, 8]);
        let args = MergeArgs { states, state_lse: &lse, constants: &constants, gate: None, out: &out, lse: None };
        plan.run(&args, &mut Workspace::new(device).unwrap()).unwrap();
        outs.push(out.read_f32().unwrap());
    }
    assert_eq!(outs[0], outs[1]);
    assert!(Arc::strong_count(&engine) > 1, "the tensor keeps the engine's memory");
}

#[test]
fn a_run_after_a_warm_up_only_launches() {
    for device in cuda_devices() {
        let (spec, indptr, index) = merge_problem();
        let problem = MergeProblem { spec: &spec, indptr: &indptr, index: &index, num_states: 4 };
        let plan = MergePlan::new(device, &problem).unwrap();
        let mut workspace = Workspace::new(device).unwrap();
        plan.warm_up(&mut workspace).unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (states, lse, out) = (zeros(&[4, 2, 8]), zeros(&[4, 2]), zeros(&[2, 2, 8]));
        let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
        let args =
            MergeArgs { states: &states, state_lse: &lse, constants: &constants, gate: None, out: &out, lse: None };
        let (launches, bytes) = (device.launches(), workspace.bytes());
        plan.run(&args, &mut workspace).unwrap();
        plan.run(&args, &mut workspace).unwrap();
        assert_eq!(workspace.bytes(), bytes);
        if device.kind() == "cuda-sim" {
            assert!(device.launches() >= launches + 2);
        }
    }
}

#[test]
fn memory_and_workspaces_of_another_device_are_refused() {
    for device in cuda_devices() {
        let (spec, indptr, index) = merge_problem();
        let problem = MergeProblem { spec: &spec, indptr: &indptr, index: &index, num_states: 4 };
        let plan = MergePlan::new(device, &problem).unwrap();
        let zeros = |device: &Device, shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
        let (states, lse, out) = (zeros(device, &[4, 2, 8]), zeros(device, &[4, 2]), zeros(device, &[2, 2, 8]));
        let elsewhere = zeros(&Device::reference(), &[4, 2, 8]);
        let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
        let args =
            MergeArgs { states: &states, state_lse: &lse, constants: &constants, gate: None, out: &out, lse: None };
        let mut workspace = Workspace::new(device).unwrap();
        let refused = plan.run(&MergeArgs { states: &elsewhere, ..args }, &mut workspace).unwrap_err();
        assert!(refused.to_string().contains("another device"), "{refused}");
        let mut other = Workspace::new(&Device::reference()).unwrap();
        let refused = plan.run(&args, &mut other).unwrap_err();
        assert!(refused.to_string().contains("workspace"), "{refused}");
    }
}
