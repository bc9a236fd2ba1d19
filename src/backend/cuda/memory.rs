//! Blocks of device memory: ours, or a caller's.

use std::sync::Arc;

use super::{Gpu, Owner, Runtime};
use crate::{Error, Result};

/// A range of device memory. Memory of our own goes back when the last handle drops.
pub(crate) struct Block {
    gpu: Arc<Gpu>,
    address: u64,
    bytes: usize,
    /// The caller's owner of memory that is not ours.
    borrowed: Option<Owner>,
}

impl Block {
    /// Memory whose content is anything.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self> {
        gpu.refuse_in_capture("allocation")?;
        let address = match &gpu.runtime {
            Runtime::Driver(driver) => driver.allocate(bytes)?,
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(sim) => sim.allocate(bytes)?,
        };
        Ok(Block { gpu: gpu.clone(), address, bytes, borrowed: None })
    }

    /// Memory of a caller.
    ///
    /// # Safety
    /// `address .. address + bytes` is memory of the device's context that stays valid as long as `owner` lives.
    pub unsafe fn from_raw(gpu: &Arc<Gpu>, address: u64, bytes: usize, owner: Owner) -> Self {
        Block { gpu: gpu.clone(), address, bytes, borrowed: Some(owner) }
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(&self, other: &Block) -> bool {
        self.address < other.address + other.bytes as u64 && other.address < self.address + self.bytes as u64
    }

    /// Fills the block with zeros, on the stream.
    pub fn clear(&self) -> Result<()> {
        match &self.gpu.runtime {
            Runtime::Driver(driver) => driver.clear(self.address, self.bytes),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => self.write(0, &vec![0; self.bytes]),
        }
    }

    /// Copies bytes in, on the stream.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check("write", offset, bytes.len())?;
        self.gpu.refuse_in_capture("write")?;
        match &self.gpu.runtime {
            Runtime::Driver(driver) => driver.write(self.address + offset as u64, bytes),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => {
                // SAFETY: the range lies within the block, which is host memory, and launches are over when they return.
                unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), (self.address as *mut u8).add(offset), bytes.len())
                };
                Ok(())
            }
        }
    }

    /// Copies a block of the same size, on the stream.
    pub fn copy_from(&self, from: &Block) -> Result<()> {
        self.check("copy", 0, from.bytes)?;
        match &self.gpu.runtime {
            Runtime::Driver(driver) => driver.copy(self.address, from.address, from.bytes),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(_) => self.write(0, &from.read()?),
        }
    }

    /// Copies the block out. Waits for the stream.
    pub fn read(&self) -> Result<Vec<u8>> {
        self.gpu.refuse_in_capture("read")?;
        let mut bytes = vec![0; self.bytes];
        match &self.gpu.runtime {
            Runtime::Driver(driver) => driver.read(self.address, &mut bytes)?,
            #[cfg(feature = "cuda-sim")]
            // SAFETY: the block is `bytes` long, and nothing runs on it: launches are over when they return.
            Runtime::Sim(_) => unsafe {
                std::ptr::copy_nonoverlapping(self.address as *const u8, bytes.as_mut_ptr(), self.bytes)
            },
        }
        Ok(bytes)
    }

    fn check(&self, op: &'static str, offset: usize, bytes: usize) -> Result<()> {
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let got = format!("{bytes} bytes at {offset}");
            return Err(Error::invalid(op, "range", format!("within {} bytes", self.bytes), got));
        }
        Ok(())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.borrowed.is_some() {
            return;
        }
        match &self.gpu.runtime {
            Runtime::Driver(driver) => driver.free(self.address),
            #[cfg(feature = "cuda-sim")]
            Runtime::Sim(sim) => sim.free(self.address, self.bytes),
        }
    }
}
