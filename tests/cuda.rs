//! The CUDA device itself: its absence, an engine's own memory, warm-up, and what is refused.
//! Planted and seen red: an address that forgot the tensor's offset (an engine's memory). On the stand-in driver: a context
//! that is not popped, and calls without making it current (an engine's threads).
#![cfg(feature = "cuda")]
mod harness;

use std::sync::{Arc, Mutex};

use colatent::cudarc::driver::{CudaContext, DevicePtr, result, sys};
use colatent::layer::{LayerConstants, LayerSpec};
use colatent::merge::{MergeArgs, MergePlan, MergeProblem};
use colatent::{Buffer, DType, Device, Error, Tensor, Workspace};
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

/// The bits of a merge whose states lie in `states`.
fn merged(device: &Device, states: &Tensor) -> Vec<u32> {
    let (spec, indptr, index) = merge_problem();
    let zeros = |shape: &[usize]| Tensor::zeros(device, DType::F32, shape).unwrap();
    let (lse, out) = (zeros(&[4, 2]), zeros(&[2, 2, 8]));
    let constants = LayerConstants::new(device, &spec, Default::default()).unwrap();
    let problem = MergeProblem { spec: &spec, indptr: &indptr, index: &index, num_states: 4 };
    let args = MergeArgs { states, state_lse: &lse, constants: &constants, gate: None, out: &out, lse: None };
    MergePlan::new(device, &problem).unwrap().run(&args, &mut Workspace::new(device).unwrap()).unwrap();
    out.read_f32().unwrap().into_iter().map(f32::to_bits).collect()
}

fn values() -> Vec<f32> {
    (0..64).map(|i| i as f32 / 7.0).collect()
}

fn states(device: &Device) -> Tensor {
    Tensor::from_f32(device, DType::F32, &[4, 2, 8], &values()).unwrap()
}

/// An engine's allocation: bytes at an address that the crate did not choose, kept alive by the engine's own type.
#[test]
#[allow(unsafe_code)]
fn an_engines_memory_is_used_where_it_lies() {
    /// Aligned as device memory is.
    #[repr(align(256))]
    struct Simulated([u8; 4096]);
    for device in cuda_devices() {
        let (address, engine): (u64, Arc<dyn std::any::Any + Send + Sync>) = if device.kind() == "cuda" {
            let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
            let slice = stream.alloc_zeros::<u8>(4096).unwrap();
            stream.synchronize().unwrap();
            let address = slice.device_ptr(&stream).0;
            (address, Arc::new(slice))
        } else {
            let memory = Arc::new(Mutex::new(Simulated([0xff; 4096])));
            let address = memory.lock().unwrap().0.as_mut_ptr() as u64;
            (address, memory)
        };
        // SAFETY: the range is the engine's, which the buffer keeps; the simulated device's memory is the host's.
        let buffer = unsafe { Buffer::from_cuda_raw(device, address, 4096, engine.clone()) }.unwrap();
        let strided = Tensor::with_strides(buffer, DType::F32, 64, &[4, 2, 8], &[32, 12, 1]).unwrap();
        strided.write_f32(&values()).unwrap();
        assert_eq!(merged(device, &states(device)), merged(device, &strided), "{device}");
        assert!(Arc::strong_count(&engine) > 1, "the tensor keeps the engine's memory");
    }
}

/// Of the driver: default streams by their numbers, and one that an engine made; from a thread that has no context current,
/// and none afterwards either, and from one that has.
#[test]
#[allow(unsafe_code)]
fn an_engines_streams_are_used_and_its_threads_left_as_they_were() {
    let Some(device) = cuda_devices().find(|d| d.kind() == "cuda") else { return };
    let want = merged(device, &states(device));
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let raw = [0usize, 1, 2].map(|number| number as sys::CUstream).into_iter().chain([stream.cu_stream()]);
    for raw in raw.map(|raw| raw as usize) {
        let on_this_thread = || {
            let before = result::ctx::get_current().unwrap();
            // SAFETY: the context has these streams, and stays alive.
            let made =
                unsafe { Device::from_cuda_raw(context.cu_ctx(), raw as sys::CUstream, Arc::new(stream.clone())) };
            let device = made.unwrap();
            assert_eq!(merged(&device, &states(&device)), want, "stream {raw:#x}");
            device.synchronize().unwrap();
            drop(device);
            assert!(result::ctx::get_current().unwrap() == before, "stream {raw:#x}");
            before
        };
        std::thread::scope(|threads| {
            assert!(threads.spawn(|| on_this_thread().is_none()).join().unwrap());
        });
        assert_eq!(on_this_thread(), Some(context.cu_ctx()));
    }
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
