//! A capture on the simulated device, as a graph of the driver: launches are kept instead of done, uploads and
//! allocations are errors, and a replay does the launches again with the arguments they had.

use std::sync::{Arc, Mutex};

use super::{Gpu, Kernel, Launch, Runtime};
use crate::{Error, Result};

/// What a capture under way has kept so far.
#[derive(Default)]
pub(super) struct Capture(Mutex<Option<Vec<Kept>>>);

struct Kept {
    kernel: Arc<Kernel>,
    groups: usize,
    threads: usize,
    shared_bytes: usize,
    /// Of 8 bytes, for their alignment.
    args: Vec<u64>,
}

/// Launches to be repeated.
pub struct SimGraph {
    gpu: Arc<Gpu>,
    launches: Vec<Kept>,
}

impl Capture {
    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Vec<Kept>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn is_under_way(&self) -> bool {
        self.kept().is_some()
    }

    /// Keeps the launch if a capture is under way.
    pub fn keep(&self, launch: &Launch<'_>) -> bool {
        let mut kept = self.kept();
        let Some(kept) = kept.as_mut() else { return false };
        let Launch { kernel, groups, threads, shared_bytes, args } = *launch;
        let args = args.chunks(8).map(|c| c.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b))).collect();
        kept.push(Kept { kernel: kernel.clone(), groups, threads, shared_bytes, args });
        true
    }
}

impl SimGraph {
    /// Captures what `step` launches on the simulated device.
    pub(crate) fn capture(gpu: &Arc<Gpu>, step: impl FnOnce() -> Result<()>) -> Result<SimGraph> {
        let Runtime::Sim(sim) = &gpu.runtime else {
            return Err(Error::invalid("capture", "device", "a simulated one", gpu.name()));
        };
        *sim.capture.kept() = Some(Vec::new());
        let done = step();
        let launches = sim.capture.kept().take().unwrap_or_default();
        done.map(|()| SimGraph { gpu: gpu.clone(), launches })
    }

    /// The kernels of its launches, in order.
    pub fn kernels(&self) -> Vec<&'static str> {
        self.launches.iter().map(|kept| kept.kernel.name).collect()
    }

    /// Does the launches again.
    pub fn replay(&self) -> Result<()> {
        self.launches.iter().try_for_each(|Kept { kernel, groups, threads, shared_bytes, args }| {
            let (groups, threads, shared_bytes) = (*groups, *threads, *shared_bytes);
            self.gpu.launch(&Launch { kernel, groups, threads, shared_bytes, args: bytemuck::cast_slice(args) })
        })
    }
}
