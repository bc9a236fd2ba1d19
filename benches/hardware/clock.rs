//! Time on a device: events on CUDA, the host's clock elsewhere.

use std::sync::Arc;
use std::time::Instant;

use colatent::cudarc::driver::{CudaContext, CudaStream, DriverError, sys};
use colatent::{Buffer, Device, Error, Result};

use super::shapes::Ready;

/// Runs in one captured graph: enough that its launch does not count.
const RUNS_PER_GRAPH: usize = 10;

/// Of a run from here on its launch does not count anyhow, and fewer of them are enough.
const LONG_US: f64 = 2000.0;

/// Overwrites the level-2 cache of any GPU of today.
const FLUSH_BYTES: usize = 256 << 20;

/// A device with the means to time it.
pub struct Clock {
    pub device: Device,
    stream: Option<Arc<CudaStream>>,
    flush: Buffer,
}

fn failed(e: DriverError) -> Error {
    Error::Device { op: "clock", message: e.to_string() }
}

impl Clock {
    pub fn new(kind: &str) -> Result<Clock> {
        let (device, stream) = match kind {
            "webgpu" => (Device::webgpu()?, None),
            #[cfg(feature = "cuda-sim")]
            "cuda-sim" => (Device::cuda_sim()?, None),
            #[cfg(feature = "cuda-sim")]
            "cuda-sim-90" => (Device::cuda_sim_arch(9, 0)?, None),
            _ => {
                Device::cuda()?; // an absent driver is an error here; cudarc would panic
                let stream = CudaContext::new(0).and_then(|c| c.new_stream()).map_err(failed)?;
                (Device::from_cuda_stream(stream.clone())?, Some(stream))
            }
        };
        let flush = Buffer::zeros(&device, if stream.is_some() { 2 * FLUSH_BYTES } else { 16 })?;
        Ok(Clock { device, stream, flush })
    }

    /// Median of `n` times of `run` in microseconds, each after `before`, which is not timed.
    pub fn median_us(
        &self,
        n: usize,
        mut before: impl FnMut() -> Result<()>,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<f64> {
        let mut times = Vec::with_capacity(n);
        for i in 0..=n {
            before()?;
            let us = match &self.stream {
                Some(stream) => {
                    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
                    let event = || stream.context().new_event(timed).map_err(failed);
                    let (start, end) = (event()?, event()?);
                    start.record(stream).map_err(failed)?;
                    run()?;
                    end.record(stream).map_err(failed)?;
                    f64::from(start.elapsed_ms(&end).map_err(failed)?) * 1e3
                }
                None => {
                    self.device.synchronize()?;
                    let start = Instant::now();
                    run()?;
                    self.device.synchronize()?;
                    start.elapsed().as_secs_f64() * 1e6
                }
            };
            if i > 0 {
                times.push(us); // the first one warms up
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// A run whose data may lie in the level-2 cache: on CUDA one of a captured graph's.
    pub fn warm_us(&self, ready: &mut Ready) -> Result<f64> {
        let Some(stream) = &self.stream else { return self.median_us(5, || Ok(()), || ready.run()) };
        // It warms up, too, what is captured then.
        let alone = self.median_us(1, || Ok(()), || ready.run())?;
        if alone > LONG_US {
            return self.median_us(5, || Ok(()), || ready.run());
        }
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(failed)?;
        let captured = (0..RUNS_PER_GRAPH).try_for_each(|_| ready.run());
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        captured?;
        let graph = graph.map_err(failed)?;
        let graph = graph.ok_or_else(|| Error::Device { op: "clock", message: "nothing was captured".into() })?;
        // Small copies are queued ahead, so that the graph is there when its turn comes.
        let small = [Buffer::zeros(&self.device, 1 << 20)?, Buffer::zeros(&self.device, 1 << 20)?];
        let ahead = || (0..8).try_for_each(|_| small[0].copy_from(&small[1]));
        Ok(self.median_us(20, ahead, || graph.launch().map_err(failed))? / RUNS_PER_GRAPH as f64)
    }

    /// A run after the level-2 cache was overwritten. What overwrites it takes longer than the host needs to queue the
    /// run behind it.
    pub fn cold_us(&self, ready: &mut Ready) -> Result<f64> {
        let Some(_) = &self.stream else { return Ok(f64::NAN) };
        let half = Buffer::zeros(&self.device, self.flush.bytes())?;
        self.median_us(10, || half.copy_from(&self.flush), || ready.run())
    }
}
