//! Device memory and strided views of it.

mod tail;

use std::sync::{Arc, RwLock};

use crate::{DType, Device, Error, Result};

/// A block of memory on one device. Cloning clones the handle, not the bytes.
#[derive(Clone)]
pub struct Buffer {
    pub(crate) memory: Memory,
    bytes: usize,
}

#[derive(Clone)]
pub(crate) enum Memory {
    Host(Arc<RwLock<Vec<u8>>>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<crate::backend::cuda::Block>),
    #[cfg(feature = "webgpu")]
    WebGpu(Arc<crate::backend::webgpu::Gpu>, wgpu::Buffer),
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = match &self.memory {
            Memory::Host(_) => "reference",
            #[cfg(feature = "cuda")]
            Memory::Cuda(_) => "cuda",
            #[cfg(feature = "webgpu")]
            Memory::WebGpu(..) => "webgpu",
        };
        write!(f, "Buffer({device}, {} bytes)", self.bytes)
    }
}

impl Buffer {
    /// Allocates `bytes` zero bytes on `device`, rounded up to 16.
    pub fn zeros(device: &Device, bytes: usize) -> Result<Self> {
        let bytes = bytes.next_multiple_of(16).max(16);
        let memory = match device {
            Device::Reference => Memory::Host(Arc::new(RwLock::new(vec![0; bytes]))),
            #[cfg(feature = "cuda")]
            Device::Cuda(gpu) => {
                let block = crate::backend::cuda::Block::new(gpu, bytes)?;
                block.clear()?;
                Memory::Cuda(Arc::new(block))
            }
            #[cfg(feature = "webgpu")]
            Device::WebGpu(gpu) => Memory::WebGpu(gpu.clone(), gpu.create_buffer(bytes)?),
        };
        Ok(Buffer { memory, bytes })
    }

    /// Wraps a buffer that the caller owns on the caller's `wgpu` device. It needs the usages `STORAGE`, and
    /// `COPY_SRC` / `COPY_DST` for [`Buffer::read`] / [`Buffer::write`].
    #[cfg(feature = "webgpu")]
    pub fn from_wgpu(device: &Device, buffer: wgpu::Buffer) -> Result<Self> {
        let bytes = buffer.size() as usize;
        match device {
            Device::WebGpu(gpu) => Ok(Buffer { memory: Memory::WebGpu(gpu.clone(), buffer), bytes }),
            other => Err(Error::invalid("buffer", "device", "a WebGPU device", other)),
        }
    }

    /// The `wgpu` buffer behind the handle, which must be one of `gpu`'s.
    #[cfg(feature = "webgpu")]
    pub(crate) fn on(
        &self,
        gpu: &Arc<crate::backend::webgpu::Gpu>,
        op: &'static str,
        argument: &'static str,
    ) -> Result<&wgpu::Buffer> {
        match &self.memory {
            Memory::WebGpu(owner, buffer) if Arc::ptr_eq(owner, gpu) => Ok(buffer),
            _ => Err(Error::invalid(op, argument, "memory of the plan's device", "memory of another device")),
        }
    }

    /// Wraps a slice of a cudarc stream's memory, which the buffer owns from now on.
    #[cfg(feature = "cuda")]
    pub fn from_cuda_slice<T: Send + Sync + 'static>(
        device: &Device,
        slice: cudarc::driver::CudaSlice<T>,
    ) -> Result<Self> {
        use cudarc::driver::DevicePtr;
        let bytes = slice.num_bytes();
        let stream = slice.stream().clone();
        let address = slice.device_ptr(&stream).0;
        // SAFETY: the slice owns the range and is kept as its owner.
        unsafe { Buffer::from_cuda_raw(device, address, bytes, Arc::new(slice)) }
    }

    /// Wraps device memory that the caller has: a raw `CUdeviceptr` and what keeps it alive.
    ///
    /// # Safety
    /// `address .. address + bytes` is memory of the device's context and stays valid as long as `owner`, which the
    /// buffer holds. Work of other streams on it is ordered by the caller.
    #[cfg(feature = "cuda")]
    pub unsafe fn from_cuda_raw(
        device: &Device,
        address: cudarc::driver::sys::CUdeviceptr,
        bytes: usize,
        owner: Arc<dyn std::any::Any + Send + Sync>,
    ) -> Result<Self> {
        match device {
            Device::Cuda(gpu) => {
                // SAFETY: the caller's promise.
                let block = unsafe { crate::backend::cuda::Block::from_raw(gpu, address, bytes, owner) };
                Ok(Buffer { memory: Memory::Cuda(Arc::new(block)), bytes })
            }
            other => Err(Error::invalid("buffer", "device", "a CUDA device", other)),
        }
    }

    /// The device memory behind the handle, which must be of `gpu`'s.
    #[cfg(feature = "cuda")]
    pub(crate) fn block(
        &self,
        gpu: &Arc<crate::backend::cuda::Gpu>,
        op: &'static str,
        argument: &'static str,
    ) -> Result<&crate::backend::cuda::Block> {
        match &self.memory {
            Memory::Cuda(block) if Arc::ptr_eq(block.gpu(), gpu) => Ok(block),
            _ => Err(Error::invalid(op, argument, "memory of the plan's device", "memory of another device")),
        }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks an operation's argument: so many bytes, or more.
    pub(crate) fn expect_bytes(&self, op: &'static str, argument: &'static str, bytes: usize) -> Result<()> {
        if self.bytes < bytes {
            return Err(Error::invalid(op, argument, format!("{bytes} bytes"), format!("{} bytes", self.bytes)));
        }
        Ok(())
    }

    /// Whether two handles name the same memory; on CUDA, whether they have a byte in common.
    pub fn is_same(&self, other: &Buffer) -> bool {
        match (&self.memory, &other.memory) {
            (Memory::Host(a), Memory::Host(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "cuda")]
            (Memory::Cuda(a), Memory::Cuda(b)) => a.overlaps(b),
            #[cfg(feature = "webgpu")]
            (Memory::WebGpu(_, a), Memory::WebGpu(_, b)) => a == b,
            #[cfg(any(feature = "webgpu", feature = "cuda"))]
            _ => false,
        }
    }

    /// Copies bytes into the buffer. `offset` and the length are multiples of 4.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if !offset.is_multiple_of(4) || !bytes.len().is_multiple_of(4) || offset + bytes.len() > self.bytes {
            let got = format!("{} bytes at {offset}", bytes.len());
            return Err(Error::invalid(
                "buffer write",
                "range",
                format!("multiples of 4 within {} bytes", self.bytes),
                got,
            ));
        }
        match &self.memory {
            Memory::Host(m) => {
                lock_write(m)[offset..offset + bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Memory::Cuda(block) => block.write(offset, bytes),
            #[cfg(feature = "webgpu")]
            Memory::WebGpu(gpu, b) => {
                gpu.write_buffer(b, offset, bytes);
                Ok(())
            }
        }
    }

    /// Copies `from`, which is as large, on the device. Does not wait.
    pub fn copy_from(&self, from: &Buffer) -> Result<()> {
        if from.bytes != self.bytes || self.is_same(from) {
            let expected = format!("another buffer of {} bytes", self.bytes);
            return Err(Error::invalid("buffer copy", "from", expected, format!("{from:?}")));
        }
        match (&self.memory, &from.memory) {
            (Memory::Host(to), Memory::Host(from)) => lock_write(to).copy_from_slice(&lock_read(from)),
            #[cfg(feature = "cuda")]
            (Memory::Cuda(to), Memory::Cuda(from)) if Arc::ptr_eq(to.gpu(), from.gpu()) => to.copy_from(from)?,
            #[cfg(feature = "webgpu")]
            (Memory::WebGpu(gpu, to), Memory::WebGpu(owner, from)) if Arc::ptr_eq(gpu, owner) => {
                gpu.copy_buffer(to, from)
            }
            #[cfg(any(feature = "webgpu", feature = "cuda"))]
            _ => return Err(Error::invalid("buffer copy", "from", "memory of the same device", format!("{from:?}"))),
        }
        Ok(())
    }

    /// Copies the whole buffer out. Waits for the device.
    pub fn read(&self) -> Result<Vec<u8>> {
        match &self.memory {
            Memory::Host(m) => Ok(lock_read(m).clone()),
            #[cfg(feature = "cuda")]
            Memory::Cuda(block) => block.read(),
            #[cfg(feature = "webgpu")]
            Memory::WebGpu(gpu, b) => gpu.read_buffer(b),
        }
    }
}

// A poisoned lock only means that another thread panicked between two whole-element writes: the bytes are still bytes.
pub(crate) fn lock_read(m: &RwLock<Vec<u8>>) -> std::sync::RwLockReadGuard<'_, Vec<u8>> {
    m.read().unwrap_or_else(|e| e.into_inner())
}

pub(crate) fn lock_write(m: &RwLock<Vec<u8>>) -> std::sync::RwLockWriteGuard<'_, Vec<u8>> {
    m.write().unwrap_or_else(|e| e.into_inner())
}

/// A strided view of a [`Buffer`]: element type, offset, shape and strides, all in elements, bounds checked when made.
#[derive(Clone, Debug)]
pub struct Tensor {
    buffer: Buffer,
    dtype: DType,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// What codes are multiplied by: f32, without the last dimension.
    scales: Option<Box<Tensor>>,
    /// The last lanes, where they are stored behind the codes.
    tail: Option<Box<Tensor>>,
}

impl Tensor {
    /// A row-major view of the start of `buffer`.
    pub fn new(buffer: Buffer, dtype: DType, shape: &[usize]) -> Result<Self> {
        let mut strides = vec![1; shape.len()];
        for i in (0..shape.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * shape[i + 1];
        }
        Tensor::with_strides(buffer, dtype, 0, shape, &strides)
    }

    /// A view with an offset and strides in elements.
    ///
    /// # Errors
    /// [`Error::Invalid`] if shape and strides differ in rank or the last element lies outside the buffer.
    pub fn with_strides(
        buffer: Buffer,
        dtype: DType,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self> {
        if shape.len() != strides.len() {
            return Err(Error::invalid("tensor", "strides", format!("{} of them", shape.len()), strides.len()));
        }
        let last: usize = shape.iter().zip(strides).map(|(&n, &s)| n.saturating_sub(1) * s).sum();
        let end = if shape.contains(&0) { offset } else { offset + last + 1 };
        if end * dtype.size() > buffer.bytes() {
            let need = format!("at least {} bytes", end * dtype.size());
            return Err(Error::invalid("tensor", "buffer", need, format!("{} bytes", buffer.bytes())));
        }
        Ok(Tensor { buffer, dtype, offset, shape: shape.to_vec(), strides: strides.to_vec(), scales: None, tail: None })
    }

    /// A new zeroed row-major tensor.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Tensor::new(Buffer::zeros(device, bytes)?, dtype, shape)
    }

    /// A new row-major tensor with the given values, rounded to `dtype`.
    pub fn from_f32(device: &Device, dtype: DType, shape: &[usize], values: &[f32]) -> Result<Self> {
        let t = Tensor::zeros(device, dtype, shape)?;
        t.write_f32(values)?;
        Ok(t)
    }

    /// The memory behind the view.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// First element, in elements from the start of the buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }
    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Distance between neighbours along each dimension, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether the view has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same view with its dimensions reordered: `axes[i]` is the old place of the new dimension `i`.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let mut seen = axes.to_vec();
        seen.sort_unstable();
        if seen != (0..self.shape.len()).collect::<Vec<_>>() {
            return Err(Error::invalid("tensor permute", "axes", "each dimension once", format!("{axes:?}")));
        }
        let mut t = self.clone();
        t.shape = axes.iter().map(|&a| self.shape[a]).collect();
        t.strides = axes.iter().map(|&a| self.strides[a]).collect();
        if (self.scales.is_some() || self.tail.is_some()) && axes.last() != Some(&(axes.len() - 1)) {
            let can = "lanes that stay the last dimension";
            return Err(Error::unsupported("tensor permute", "lanes of codes moved", can));
        }
        let before = &axes[..axes.len().saturating_sub(1)];
        t.scales = self.scales.as_ref().map(|scales| scales.permute(before).map(Box::new)).transpose()?;
        t.tail = self.tail.as_ref().map(|tail| tail.permute(axes).map(Box::new)).transpose()?;
        Ok(t)
    }

    /// These codes with a scale for each vector along the last dimension: f32, of the same shape without that dimension.
    /// Values are codes times scales: [`Tensor::read_f32`] reads these, and [`Tensor::write_f32`] works out both.
    ///
    /// # Errors
    /// [`Error::Invalid`] if these are no [codes](DType::is_code), or the scales have another type or shape.
    pub fn with_scales(&self, scales: &Tensor) -> Result<Self> {
        const OP: &str = "tensor with_scales";
        let [shape @ .., _] = self.shape.as_slice() else {
            return Err(Error::invalid(OP, "codes", "a dimension or more", "none"));
        };
        if !self.dtype.is_code() {
            return Err(Error::invalid(OP, "codes", "e4m3 or i8", self.dtype));
        }
        if scales.dtype != DType::F32 || scales.shape != shape || scales.buffer.is_same(&self.buffer) {
            let got = format!("{} {:?}", scales.dtype, scales.shape);
            return Err(Error::invalid(OP, "scales", format!("f32 {shape:?} in a buffer of their own"), got));
        }
        Ok(Tensor { scales: Some(Box::new(scales.clone())), ..self.clone() })
    }

    /// What these codes are multiplied by, if each vector has a scale of its own.
    pub fn scales(&self) -> Option<&Tensor> {
        self.scales.as_deref()
    }

    /// The same view at one index of its first dimension.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the dimension is not as long, or there is none.
    pub fn at(&self, index: usize) -> Result<Self> {
        let have = self.shape.first().copied().unwrap_or(0);
        if index >= have {
            return Err(Error::invalid("tensor at", "index", format!("less than {have}"), index));
        }
        if self.tail.is_some() && self.shape.len() == 1 {
            return Err(Error::unsupported("tensor at", "one lane of codes with a tail", "a vector of them"));
        }
        let mut t = self.clone();
        t.offset += index * t.strides.remove(0);
        t.shape.remove(0);
        t.scales = self.scales.as_ref().map(|scales| scales.at(index).map(Box::new)).transpose()?;
        t.tail = self.tail.as_ref().map(|tail| tail.at(index).map(Box::new)).transpose()?;
        Ok(t)
    }

    /// The same view with the first `lanes` of its last dimension: V in K, of [latent
    /// layers](crate::layer::LayerSpec::v_in_k).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the dimension is shorter, or there is none.
    pub fn first_lanes(&self, lanes: usize) -> Result<Self> {
        let have = self.shape.last().copied().unwrap_or(0);
        if lanes > have {
            return Err(Error::invalid("tensor first_lanes", "lanes", format!("{have} at most"), lanes));
        }
        let mut t = self.clone();
        t.shape.iter_mut().next_back().into_iter().for_each(|last| *last = lanes);
        let of_tail = lanes.saturating_sub(self.lanes_before_tail());
        let tail = self.tail.as_ref().filter(|_| of_tail > 0);
        t.tail = tail.map(|tail| tail.first_lanes(of_tail).map(Box::new)).transpose()?;
        Ok(t)
    }

    /// Checks that `self` is [`Tensor::first_lanes`] of `whole`.
    pub(crate) fn expect_first_lanes(&self, op: &'static str, argument: &'static str, whole: &Tensor) -> Result<()> {
        let place = |t: &Tensor| (t.offset, t.strides.clone());
        if !self.buffer.is_same(&whole.buffer) || place(self) != place(whole) {
            let got = format!("offset {}, strides {:?}", self.offset, self.strides);
            return Err(Error::invalid(op, argument, "the first lanes of k, as a view of it", got));
        }
        Ok(())
    }

    /// Checks an operation's argument: type, shape, and a contiguous last dimension.
    pub(crate) fn expect(&self, op: &'static str, argument: &'static str, dtype: DType, shape: &[usize]) -> Result<()> {
        if self.dtype != dtype || self.shape != shape {
            let got = format!("{} {:?}", self.dtype, self.shape);
            return Err(Error::invalid(op, argument, format!("{dtype} {shape:?}"), got));
        }
        if self.strides.last() != Some(&1) {
            return Err(Error::invalid(op, argument, "a contiguous last dimension", format!("{:?}", self.strides)));
        }
        Ok(())
    }

    /// Element offsets of the view in row-major order.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(move |mut i| {
            let mut o = self.offset;
            for d in (0..self.shape.len()).rev() {
                o += (i % self.shape[d]) * self.strides[d];
                i /= self.shape[d];
            }
            o
        })
    }

    /// Reads the view in row-major order. Waits for the device.
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        if let Some(tail) = &self.tail {
            return self.read_both(tail);
        }
        let (bytes, n) = (self.buffer.read()?, self.dtype.size());
        let mut values: Vec<f32> = self.offsets().map(|o| self.dtype.decode(&bytes[o * n..(o + 1) * n])).collect();
        if let Some(scales) = &self.scales {
            let lanes = self.shape.last().copied().unwrap_or(1).max(1);
            for (vector, scale) in values.chunks_mut(lanes).zip(scales.read_f32()?) {
                vector.iter_mut().for_each(|x| *x *= scale);
            }
        }
        Ok(values)
    }

    /// Writes the view in row-major order, rounding to its type. What lies between its elements stays as it was.
    pub fn write_f32(&self, values: &[f32]) -> Result<()> {
        if values.len() != self.len() {
            return Err(Error::invalid("tensor write", "values", self.len(), values.len()));
        }
        if let Some(tail) = &self.tail {
            return self.write_both(tail, values);
        }
        if let Some(scales) = &self.scales {
            let vectors = values.chunks(self.shape.last().copied().unwrap_or(1).max(1));
            let found: Vec<(f32, f32)> = vectors.clone().map(|lanes| self.dtype.scale_of(lanes)).collect();
            scales.write_f32(&found.iter().map(|s| s.0).collect::<Vec<_>>())?;
            let codes = vectors.zip(&found).flat_map(|(lanes, s)| lanes.iter().map(move |x| x * s.1));
            return Tensor { scales: None, ..self.clone() }.write_f32(&codes.collect::<Vec<_>>());
        }
        let n = self.dtype.size();
        let whole = self.len() * n == self.buffer.bytes();
        let mut bytes = if whole { vec![0; self.buffer.bytes()] } else { self.buffer.read()? };
        for (o, &x) in self.offsets().zip(values) {
            self.dtype.encode(x, &mut bytes[o * n..(o + 1) * n]);
        }
        self.buffer.write(0, &bytes)
    }
}
