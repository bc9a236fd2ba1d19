//! Steps in graphs of CUDA's driver, or in what stands for them on the simulated device.
//! Planted and seen red, on the stand-in driver: uploads and reads that are not refused while the stream is captured.

use std::sync::Arc;

use super::*;
use colatent::cudarc::driver::{CudaContext, CudaGraph, CudaStream, sys};

/// A device of its own, since a capture takes whatever is launched on it; of the driver with its stream.
struct Captured {
    device: Device,
    stream: Option<Arc<CudaStream>>,
}

enum Graph {
    Driver(CudaGraph),
    #[cfg(feature = "cuda-sim")]
    Sim {
        kernels: Vec<&'static str>,
        replay: Box<dyn Fn()>,
    },
}

impl Captured {
    /// Beside each CUDA device of the harness.
    fn all() -> Vec<Captured> {
        let beside = |device: &Device| match device.kind() {
            "cuda" => {
                let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
                Some(Captured { device: Device::from_cuda_stream(stream.clone()).unwrap(), stream: Some(stream) })
            }
            #[cfg(feature = "cuda-sim")]
            "cuda-sim" => Some(Captured { device: Device::cuda_sim().unwrap(), stream: None }),
            #[cfg(feature = "cuda-sim")]
            "cuda-sim-90" => Some(Captured { device: Device::cuda_sim_arch(9, 0).unwrap(), stream: None }),
            _ => None,
        };
        devices().iter().filter_map(beside).collect()
    }

    /// What `step` launches, and whether it succeeded.
    fn capture(&self, step: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let Some(stream) = &self.stream else {
            #[cfg(feature = "cuda-sim")]
            return self.device.sim_capture(step).map(|graph| Graph::Sim {
                kernels: graph.kernels(),
                replay: Box::new(move || graph.replay().unwrap()),
            });
            #[cfg(not(feature = "cuda-sim"))]
            unreachable!("a device without a stream is simulated");
        };
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let done = step();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        // What is refused has left the capture whole.
        let graph = stream.end_capture(flags).unwrap();
        done.map(|()| Graph::Driver(graph.expect("a capture")))
    }
}

impl Graph {
    fn replay(&self) {
        match self {
            Graph::Driver(graph) => graph.launch().unwrap(),
            #[cfg(feature = "cuda-sim")]
            Graph::Sim { replay, .. } => replay(),
        }
    }
}

/// A captured step is three launches, uploads nothing, and its replays are the steps: no code of the host runs between.
#[test]
fn a_captured_step_is_the_same_launches_every_time() {
    use DType::{BF16, F32};
    for captured in Captured::all() {
        let device = &captured.device;
        for (dtype, dims) in [(F32, (32, 32)), (BF16, (64, 64))] {
            let case = Case { dtypes: (dtype, dtype), dims, ..decode(1, Mask::Window(37)) };
            let (_, want) = anew(&case, device, 0..5);
            let (mut team, plans, steps) = ahead(&case, device, 5);
            let mut workspaces = [0; 2].map(|_| Workspace::new(device).unwrap());
            let refused = captured.capture(|| team.run(&plans)).err().expect("a capture without a warm-up");
            assert!(matches!(&refused, Error::Invalid { argument: "workspace", .. }), "{refused}");
            plans.0.warm_up(&mut workspaces[0]).unwrap();
            plans.1.warm_up(&mut workspaces[1]).unwrap();
            steps.warm_up().unwrap();
            team.workspaces = workspaces;
            let graph = captured.capture(|| team.run(&plans).and_then(|()| steps.advance())).unwrap();
            #[cfg(feature = "cuda-sim")]
            if let Graph::Sim { kernels, .. } = &graph {
                let is_hopper = device.kind().ends_with("90") && dtype == BF16;
                let kernel = if is_hopper { "attention_sm90" } else { "attention" };
                assert_eq!(*kernels, ["kv_append", kernel, "advance"]);
            }
            drop(plans);
            for (step, want) in want.iter().enumerate() {
                team.project(step);
                let launches = device.launches();
                graph.replay();
                // The driver does not say how many a graph has.
                assert_eq!(device.launches() - launches, if captured.stream.is_some() { 0 } else { 3 });
                assert!(team.answer() == *want, "{device}: step {step}");
            }
        }
    }
}

/// Memory of the host that a graph would come back to is not there any more.
#[test]
fn copies_of_the_hosts_memory_are_refused_in_a_capture() {
    for captured in Captured::all() {
        let device = &captured.device;
        let (steps, buffer) = (Steps::new(device, 3).unwrap(), Buffer::zeros(device, 64).unwrap());
        let is_refused =
            |done: Result<()>| matches!(done, Err(Error::Device { message, .. }) if message.contains("captured"));
        let calls: [&dyn Fn() -> Result<()>; 4] =
            [&|| steps.restart(), &|| buffer.write(0, &[1; 64]), &|| buffer.read().map(drop), &|| {
                Buffer::zeros(device, 64).map(drop)
            }];
        for call in calls {
            assert!(is_refused(captured.capture(call).map(drop)), "{device}");
        }
        assert_eq!(buffer.read().unwrap(), [0; 64], "{device}");
    }
}
