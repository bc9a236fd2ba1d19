//! The `wgpu` context: adapter, pipeline cache, buffers, dispatch. The only place that launches.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};

use super::source::Variant;
use crate::{Error, Result};

/// How a kernel uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// A compiled kernel with its layout: binding 0 is the uniform params struct, the storage buffers follow.
pub(crate) struct Kernel {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    access: Vec<Access>,
    name: &'static str,
}

/// A device, its queue and what it has compiled so far.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    name: String,
    is_software: bool,
    subgroup: usize,
    limits: wgpu::Limits,
    kernels: Mutex<HashMap<Variant, Arc<Kernel>>>,
}

/// One launch: params, buffers in binding order, number of workgroups.
pub(crate) struct Launch<'a> {
    pub kernel: &'a Arc<Kernel>,
    pub params: &'a [u8],
    pub buffers: &'a [&'a wgpu::Buffer],
    pub groups: usize,
}

/// Bind groups made so far. A params struct is uploaded once and never changed, so nothing in flight is overwritten.
#[derive(Default)]
pub(crate) struct Bindings {
    /// By the hash of what they bind, so that a lookup allocates nothing.
    groups: HashMap<u64, Vec<Binding>>,
}

struct Binding {
    kernel: Arc<Kernel>,
    params: Vec<u8>,
    buffers: Vec<wgpu::Buffer>,
    group: wgpu::BindGroup,
}

/// Bind groups kept before the cache starts over: an engine has one per operation, layer and layer kind.
const MAX_BIND_GROUPS: usize = 1024;

impl Gpu {
    /// The first adapter of the native back-ends, real GPUs first.
    pub(crate) fn detect() -> Result<Self> {
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle();
        desc.backends = wgpu::Backends::PRIMARY;
        let instance = wgpu::Instance::new(desc);
        let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        adapters.sort_by_key(|a| match a.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        });
        let looked_for = || "a Vulkan, Metal or DX12 adapter".to_string();
        let adapter = adapters.first().ok_or_else(|| Error::WebGpuUnavailable {
            looked_for: looked_for(),
            reason: "the system has none".into(),
        })?;
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("colatent"),
            required_limits: adapter.limits(),
            required_features: adapter.features() & wgpu::Features::SUBGROUP,
            ..Default::default()
        }))
        .map_err(|e| Error::WebGpuUnavailable { looked_for: looked_for(), reason: e.to_string() })?;
        Gpu::from_parts(device, queue, &adapter.get_info())
    }

    pub(crate) fn from_parts(device: wgpu::Device, queue: wgpu::Queue, info: &wgpu::AdapterInfo) -> Result<Self> {
        let limits = device.limits();
        if limits.max_storage_buffers_per_shader_stage < 8 || limits.max_compute_workgroup_storage_size < 16384 {
            return Err(Error::WebGpuUnavailable {
                looked_for: "8 storage buffers per stage and 16 KiB of workgroup memory (WebGPU's defaults)".into(),
                reason: format!(
                    "the device has {} and {} bytes",
                    limits.max_storage_buffers_per_shader_stage, limits.max_compute_workgroup_storage_size
                ),
            });
        }
        let has_subgroups = device.features().contains(wgpu::Features::SUBGROUP);
        let subgroup =
            if has_subgroups && info.subgroup_min_size == info.subgroup_max_size { info.subgroup_min_size } else { 0 };
        Ok(Gpu {
            name: info.name.clone(),
            subgroup: subgroup as usize,
            is_software: info.device_type == wgpu::DeviceType::Cpu,
            limits,
            device,
            queue,
            kernels: Mutex::default(),
        })
    }

    /// What the adapter calls itself.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the adapter is a driver that computes on the CPU.
    pub(crate) fn is_software(&self) -> bool {
        self.is_software
    }

    /// Lanes of a subgroup where the device has subgroup operations and all its subgroups are of one size, else 0.
    pub(crate) fn subgroup(&self) -> usize {
        self.subgroup
    }

    pub(crate) fn create_buffer(&self, bytes: usize) -> Result<wgpu::Buffer> {
        if bytes as u64 > self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size) {
            let most = self.limits.max_buffer_size.min(self.limits.max_storage_buffer_binding_size);
            return Err(Error::unsupported(
                "buffer",
                format!("{bytes} bytes in one buffer"),
                format!("at most {most} on {}", self.name),
            ));
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            Some(e) => Err(Error::Device { op: "buffer", message: e.to_string() }),
            None => Ok(buffer),
        }
    }

    pub(crate) fn write_buffer(&self, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) {
        self.queue.write_buffer(buffer, offset as u64, bytes);
    }

    pub(crate) fn copy_buffer(&self, to: &wgpu::Buffer, from: &wgpu::Buffer) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
        self.queue.submit([encoder.finish()]);
    }

    pub(crate) fn read_buffer(&self, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
        let failed = |message: String| Error::Device { op: "readback", message };
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("readback"),
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        let (send, receive) = std::sync::mpsc::channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |r| {
            let _ = send.send(r);
        });
        self.synchronize()?;
        receive.recv().map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        let range = staging.slice(..).get_mapped_range().map_err(|e| failed(e.to_string()))?;
        Ok(range.to_vec())
    }

    pub(crate) fn synchronize(&self) -> Result<()> {
        match self.device.poll(wgpu::PollType::wait_indefinitely()) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Device { op: "synchronize", message: e.to_string() }),
        }
    }

    /// Compiles a variant, or finds it compiled.
    pub(crate) fn kernel(&self, variant: &Variant, access: &[Access]) -> Result<Arc<Kernel>> {
        if let Some(kernel) = self.kernels().get(variant) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(self.compile(variant, access)?);
        self.kernels().insert(variant.clone(), kernel.clone());
        Ok(kernel)
    }

    fn kernels(&self) -> MutexGuard<'_, HashMap<Variant, Arc<Kernel>>> {
        self.kernels.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn compile(&self, variant: &Variant, access: &[Access]) -> Result<Kernel> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let text = variant.wgsl();
        let desc = wgpu::ShaderModuleDescriptor {
            label: Some(variant.kernel),
            source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
        };
        let checks = wgpu::ShaderRuntimeChecks::unchecked();
        // SAFETY: every index a kernel forms is bounded by the params and plan tables that the host validated, and
        // every loop by a count in them. Tests run the same kernels on buffers with guard bands.
        let module = unsafe { self.device.create_shader_module_trusted(desc, checks) };
        let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
        for (i, a) in access.iter().enumerate() {
            entries.push(entry(i + 1, wgpu::BufferBindingType::Storage { read_only: *a == Access::Read }));
        }
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(variant.kernel),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(variant.kernel),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(variant.kernel),
            layout: Some(&pipeline_layout),
            module: &module,
            // The only one: its name is the file's, but where that is a word of the language.
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        match pollster::block_on(scope.pop()) {
            Some(e) => {
                Err(Error::Compile { kernel: variant.kernel.into(), options: variant.options(), log: e.to_string() })
            }
            None => Ok(Kernel { pipeline, layout, access: access.to_vec(), name: variant.kernel }),
        }
    }

    /// Encodes one launch. Workgroups are folded to two dimensions; kernels drop the surplus by their own count.
    pub(crate) fn encode(
        &self,
        bindings: &mut Bindings,
        pass: &mut wgpu::ComputePass<'_>,
        launch: &Launch<'_>,
    ) -> Result<()> {
        if launch.groups == 0 {
            return Ok(());
        }
        let most = self.limits.max_compute_workgroups_per_dimension as usize;
        if launch.groups > most * most {
            return Err(Error::unsupported(launch.kernel.name, format!("{} workgroups", launch.groups), most * most));
        }
        let width = launch.groups.min(most);
        pass.set_pipeline(&launch.kernel.pipeline);
        pass.set_bind_group(0, bindings.get(self, launch)?, &[]);
        pass.dispatch_workgroups(width as u32, launch.groups.div_ceil(width) as u32, 1);
        Ok(())
    }

    /// Encodes and submits, without waiting; submits nothing if the encoding fails.
    pub(crate) fn run(&self, encode: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>) -> Result<()> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encode(&mut encoder)?;
        self.queue.submit([encoder.finish()]);
        Ok(())
    }
}

/// Elements of a chunk: what a kernel loads at once, whatever the type.
pub(crate) const CHUNK: usize = 4;

/// Offset and strides of a tensor in chunks, without the last dimension's; a dimension of one element has no stride.
///
/// # Errors
/// [`Error::Unsupported`] where a chunk would not be aligned or 32 bits cannot count the elements.
pub(crate) fn chunks<const N: usize>(
    op: &'static str,
    argument: &'static str,
    tensor: &crate::Tensor,
) -> Result<[u32; N]> {
    let dims = tensor.shape().iter().zip(tensor.strides());
    let last: usize = tensor.offset() + dims.clone().map(|(&n, &s)| n.saturating_sub(1) * s).sum::<usize>();
    let steps = || dims.clone().map(|(&n, &s)| if n > 1 { s } else { 0 }).take(N - 1);
    if last > u32::MAX as usize {
        let what = format!("{argument} with element {last} on WebGPU");
        return Err(Error::unsupported(op, what, "elements below 2^32"));
    }
    if !tensor.offset().is_multiple_of(CHUNK) || steps().any(|s| !s.is_multiple_of(CHUNK)) {
        let what = format!("{argument} with offset {} and strides {:?} on WebGPU", tensor.offset(), tensor.strides());
        return Err(Error::unsupported(op, what, "offsets and strides that are multiples of 4 elements"));
    }
    let mut place = [(tensor.offset() / CHUNK) as u32; N];
    place[1..].iter_mut().zip(steps()).for_each(|(p, s)| *p = (s / CHUNK) as u32);
    Ok(place)
}

impl Bindings {
    fn get(&mut self, gpu: &Gpu, launch: &Launch<'_>) -> Result<&wgpu::BindGroup> {
        let kernel = launch.kernel;
        let written = |b: &wgpu::Buffer| {
            launch.buffers.iter().zip(&kernel.access).any(|(x, a)| *a == Access::ReadWrite && *x == b)
        };
        let read_too = launch.buffers.iter().zip(&kernel.access).find(|(b, a)| **a == Access::Read && written(b));
        if read_too.is_some() {
            return Err(Error::invalid(
                kernel.name,
                "buffers",
                "separate buffers for what is read and what is written",
                "one buffer for both",
            ));
        }
        let mut hasher = DefaultHasher::new();
        (Arc::as_ptr(kernel), launch.params, launch.buffers).hash(&mut hasher);
        let hash = hasher.finish();
        if self.groups.len() >= MAX_BIND_GROUPS && !self.groups.contains_key(&hash) {
            self.groups.clear();
        }
        let same_hash = self.groups.entry(hash).or_default();
        let found = same_hash.iter().position(|b| {
            Arc::ptr_eq(&b.kernel, kernel)
                && b.params == launch.params
                && b.buffers.iter().eq(launch.buffers.iter().copied())
        });
        let at = found.unwrap_or_else(|| {
            let params = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size: launch.params.len().next_multiple_of(16) as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            gpu.queue.write_buffer(&params, 0, launch.params);
            let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: params.as_entire_binding() }];
            for (i, b) in launch.buffers.iter().enumerate() {
                entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource: b.as_entire_binding() });
            }
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.name),
                layout: &kernel.layout,
                entries: &entries,
            });
            let buffers = launch.buffers.iter().map(|b| (*b).clone()).collect();
            same_hash.push(Binding { kernel: kernel.clone(), params: launch.params.to_vec(), buffers, group });
            same_hash.len() - 1
        });
        Ok(&same_hash[at].group)
    }
}
