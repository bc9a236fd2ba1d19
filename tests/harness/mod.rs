//! Shared by all tests: the devices, the comparison, deterministic inputs, poison.
#![allow(dead_code, missing_docs)] // every test binary uses its own part of it

pub mod choice;
pub mod codes;
pub mod golden;
pub mod kinds;
pub mod memory;
pub mod recorded;
pub mod scene;
pub mod visible;

use std::sync::OnceLock;

#[cfg(feature = "webgpu")]
use colatent::wgpu;
use colatent::{DType, Device, Tensor};

/// Devices under test: the reference and whatever else there is. One device of a kind per process. An absent device is a
/// printed skip, and a failure when `COLATENT_REQUIRE` names it; `COLATENT_DEVICES` narrows the list.
pub fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let mut found = vec![Device::reference()];
        #[cfg(feature = "webgpu")]
        find("webgpu", Device::webgpu, &mut found);
        #[cfg(feature = "cuda")]
        find("cuda", Device::cuda, &mut found);
        #[cfg(feature = "cuda-sim")]
        find("cuda-sim", Device::cuda_sim, &mut found);
        #[cfg(feature = "cuda-sim")]
        find("cuda-sim-90", || Device::cuda_sim_arch(9, 0), &mut found);
        found
    })
}

fn find(kind: &str, make: fn() -> colatent::Result<Device>, found: &mut Vec<Device>) {
    let names = |variable: &str| {
        let list = std::env::var(variable).ok()?;
        Some(list.split(',').any(|name| name.trim() == kind))
    };
    if names("COLATENT_DEVICES") == Some(false) {
        return;
    }
    match make() {
        Ok(device) => found.push(device),
        Err(e) => {
            assert!(names("COLATENT_REQUIRE") != Some(true), "COLATENT_REQUIRE={kind}, but {e}");
            eprintln!("SKIPPED on {kind}: {e}");
        }
    }
}

/// The first adapter as a caller may open it: WebGPU's default limits (8 storage buffers, 16 KiB of workgroup memory, 256
/// invocations) and no optional features.
#[cfg(feature = "webgpu")]
pub fn wgpu_device() -> Option<(wgpu::Device, wgpu::Queue, wgpu::AdapterInfo)> {
    let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
    desc.backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(desc);
    let adapter = block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY)).into_iter().next()?;
    let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).ok()?;
    Some((device, queue, adapter.get_info()))
}

/// The futures of `wgpu` on native back-ends are ready at once or after a poll of their own.
#[cfg(feature = "webgpu")]
fn block_on<F: std::future::Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

/// [`devices`], and the GPU device once more without optional features, where a kernel may be another one.
pub fn bare_devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        #[cfg_attr(not(feature = "webgpu"), allow(unused_mut))]
        let mut all = devices().to_vec();
        // Its kernels know no subgroups, and compiling them takes minutes: once, at the driver's own width, is enough.
        #[cfg(feature = "webgpu")]
        if std::env::var_os("LP_NATIVE_VECTOR_WIDTH").is_none()
            && let Some((device, queue, info)) = wgpu_device()
        {
            all.push(Device::from_wgpu(device, queue, &info).expect("WebGPU's default limits suffice"));
        }
        all
    })
}

/// A small deterministic generator (SplitMix64), so that a case is a row of numbers.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// Uniform in `-1..1`, with one outlier in 16 up to +-4 so that softmaxes are not flat.
    pub fn value(&mut self) -> f32 {
        let x = (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        if self.next().is_multiple_of(16) { 4.0 * x } else { x }
    }
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// Per-element comparison: NaN and infinities exact, then the table of tolerances; names the worst element.
pub fn compare(what: &str, got: &[f32], want: &[f32], dtype: DType) -> Result<(), String> {
    compare_within(what, got, want, dtype.tolerance())
}

/// [`compare`] with a tolerance derived by the caller.
pub fn compare_within(what: &str, got: &[f32], want: &[f32], tol: colatent::Tolerance) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} elements, expected {}", got.len(), want.len()));
    }
    let mut worst = None;
    let mut bad = 0;
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        if !tol.accepts(g, w) {
            bad += 1;
            let size = if g.is_finite() && w.is_finite() { (g - w).abs() } else { f32::INFINITY };
            if worst.is_none_or(|(s, _)| size > s) {
                worst = Some((size, i));
            }
        }
    }
    match worst {
        None => Ok(()),
        Some((_, i)) => Err(format!(
            "{what}: {bad} of {} elements differ; worst at {i}: got {}, want {}, allowed {tol:?}",
            got.len(),
            got[i],
            want[i]
        )),
    }
}

/// A tensor filled with NaN: outputs start like this, and so do pages.
pub fn poisoned(device: &Device, dtype: DType, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    Tensor::from_f32(device, dtype, shape, &vec![f32::NAN; n]).expect("allocation of a small tensor")
}
