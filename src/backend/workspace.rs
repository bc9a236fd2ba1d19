//! What a plan needs on a device: its tables and its scratch memory. One idea for every operation.

use crate::{Device, Result};

/// Device memory for one plan at a time. [`Workspace::new`] is empty; the first `run` of a plan uploads the plan's
/// tables and grows the scratch memory if it is too small. Later runs of the same plan allocate nothing.
///
/// Work that was *encoded* with a workspace must be submitted before the workspace is given another plan. A CUDA graph that
/// was captured with one keeps addresses of it, of the tensors and of the device's kernels: it must not be launched after any
/// of them is gone or the workspace holds another plan, nor beside other work with the same workspace.
pub struct Workspace {
    plan_id: u64,
    #[cfg(feature = "webgpu")]
    pub(crate) webgpu: Option<GpuWorkspace>,
    #[cfg(feature = "cuda")]
    cuda: Option<CudaWorkspace>,
}

#[cfg(feature = "cuda")]
struct CudaWorkspace {
    gpu: std::sync::Arc<super::cuda::Gpu>,
    tables: super::cuda::Block,
    scratch: super::cuda::Block,
}

/// Where a plan's tables (u32 words) and its scratch memory lie.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy)]
pub(crate) struct CudaSpace {
    pub tables: u64,
    pub scratch: u64,
}

#[cfg(feature = "webgpu")]
pub(crate) struct GpuWorkspace {
    pub gpu: std::sync::Arc<super::webgpu::Gpu>,
    /// The plan's tables: u32 words.
    pub tables: wgpu::Buffer,
    /// Scratch memory.
    pub scratch: wgpu::Buffer,
    /// Stands in for an optional buffer that the caller left out: never written, never read.
    pub absent: [wgpu::Buffer; 2],
    pub bindings: super::webgpu::Bindings,
}

impl Workspace {
    /// An empty workspace on `device`.
    pub fn new(device: &Device) -> Result<Self> {
        match device {
            Device::Reference => Ok(Workspace {
                plan_id: 0,
                #[cfg(feature = "webgpu")]
                webgpu: None,
                #[cfg(feature = "cuda")]
                cuda: None,
            }),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => Ok(Workspace {
                plan_id: 0,
                #[cfg(feature = "webgpu")]
                webgpu: None,
                cuda: Some(CudaWorkspace {
                    gpu: gpu.clone(),
                    tables: super::cuda::Block::new(gpu, 16)?,
                    scratch: super::cuda::Block::new(gpu, 16)?,
                }),
            }),
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => Ok(Workspace {
                plan_id: 0,
                webgpu: Some(GpuWorkspace {
                    tables: gpu.create_buffer(16)?,
                    scratch: gpu.create_buffer(16)?,
                    absent: [gpu.create_buffer(16)?, gpu.create_buffer(16)?],
                    bindings: Default::default(),
                    gpu: gpu.clone(),
                }),
                #[cfg(feature = "cuda")]
                cuda: None,
            }),
        }
    }

    /// Bytes of device memory held now.
    pub fn bytes(&self) -> usize {
        #[cfg(feature = "webgpu")]
        if let Some(w) = &self.webgpu {
            return (w.tables.size() + w.scratch.size()) as usize;
        }
        #[cfg(feature = "cuda")]
        if let Some(w) = &self.cuda {
            return w.tables.bytes() + w.scratch.bytes();
        }
        0
    }

    /// Makes the workspace hold the tables and scratch of plan `plan_id`. `tables` is rendered only when it is not
    /// the plan of last time.
    #[cfg(feature = "webgpu")]
    pub(crate) fn load(
        &mut self,
        op: &'static str,
        gpu: &std::sync::Arc<super::webgpu::Gpu>,
        plan_id: u64,
        scratch_bytes: usize,
        tables: impl FnOnce() -> Vec<u32>,
    ) -> Result<&mut GpuWorkspace> {
        let Some(w) = self.webgpu.as_mut().filter(|w| std::sync::Arc::ptr_eq(&w.gpu, gpu)) else {
            let expected = "one made for the plan's device";
            return Err(crate::Error::invalid(op, "workspace", expected, "one made for another device"));
        };
        let grow = |have: &wgpu::Buffer, need: usize| (have.size() as usize) < need;
        // One plan may need scratch memory for some arguments alone.
        if grow(&w.scratch, scratch_bytes) {
            w.scratch = w.gpu.create_buffer(scratch_bytes.next_multiple_of(16))?;
        }
        if self.plan_id != plan_id {
            let tables = tables();
            let bytes: &[u8] = bytemuck::cast_slice(&tables);
            // Until everything has succeeded, what the workspace holds is no plan's.
            self.plan_id = 0;
            if grow(&w.tables, bytes.len()) {
                w.tables = w.gpu.create_buffer((bytes.len() * 3 / 2).next_multiple_of(16))?;
            }
            w.gpu.write_buffer(&w.tables, 0, bytes);
            self.plan_id = plan_id;
        }
        Ok(w)
    }
}

#[cfg(feature = "cuda")]
impl Workspace {
    /// What the workspace holds is no plan's any more: the next run uploads its tables again.
    pub(crate) fn forget(&mut self) {
        self.plan_id = 0;
    }

    /// As [`Workspace::load`], on a CUDA device. While the stream is being captured nothing can be uploaded: a plan is
    /// warmed up before.
    pub(crate) fn load_cuda(
        &mut self,
        op: &'static str,
        gpu: &std::sync::Arc<super::cuda::Gpu>,
        plan_id: u64,
        scratch_bytes: usize,
        tables: impl FnOnce() -> Vec<u32>,
    ) -> Result<CudaSpace> {
        use super::cuda::Block;
        let Some(w) = self.cuda.as_mut().filter(|w| std::sync::Arc::ptr_eq(&w.gpu, gpu)) else {
            let expected = "one made for the plan's device";
            return Err(crate::Error::invalid(op, "workspace", expected, "one made for another device"));
        };
        if self.plan_id != plan_id {
            if gpu.is_capturing()? {
                return Err(super::cuda::not_warmed_up(op, "one that holds another plan"));
            }
            let tables = tables();
            let bytes: &[u8] = bytemuck::cast_slice(&tables);
            // Until everything has succeeded, what the workspace holds is no plan's.
            self.plan_id = 0;
            if w.tables.bytes() < bytes.len() {
                w.tables = Block::new(gpu, (bytes.len() * 3 / 2).next_multiple_of(16))?;
            }
            if w.scratch.bytes() < scratch_bytes {
                w.scratch = Block::new(gpu, scratch_bytes.next_multiple_of(16))?;
            }
            w.tables.write(0, bytes)?;
            self.plan_id = plan_id;
        }
        Ok(CudaSpace { tables: w.tables.address(), scratch: w.scratch.address() })
    }
}

/// A number that no other plan of this process has.
pub(crate) fn next_plan_id() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
