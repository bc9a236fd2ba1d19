//! What is remembered of each agent between steps, on the device.

use super::OP;
use crate::{Buffer, Device, Error, Result};

/// Why an agent stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// Its logits had no distribution.
    NoDistribution,
    /// It drew an end token.
    EndToken,
    /// It drew as many tokens as it may.
    Budget,
    /// Its group confidence fell below the threshold.
    Confidence,
    /// The vote can no longer change: said by an [ensemble](crate::ensemble) alone.
    Decided,
    /// Its view was given up: said by an ensemble alone.
    Retired,
}

/// One slot, as the host reads it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// Why it stopped; `None` while it is alive.
    pub stopped: Option<Stopped>,
    /// Draws so far, the last included.
    pub draws: u32,
    /// Mean confidence of the last `window` draws; NaN before there are so many.
    pub group_confidence: f32,
}

/// The state of a number of slots on a device. A slot is an agent's for as long as it lives; the rows of a step name their
/// slots, so rows may move.
///
/// In memory, as u32 words: a flag per slot (1 alive, 0 not), rounded up to 4; per slot its draws, group confidence (f32),
/// reason and a spare word; per slot a ring of `window` f32.
#[derive(Debug, Clone)]
pub struct StopState {
    slots: usize,
    window: usize,
    buffer: Buffer,
}

impl StopState {
    /// `slots` slots, all alive, with rings of `window` draws.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no slot, an empty window or 2^31 words and more.
    pub fn new(device: &Device, slots: usize, window: usize) -> Result<Self> {
        let words = slots.checked_mul(window.saturating_add(5)).filter(|&n| n < (1 << 31) - 4);
        let Some(_) = words.filter(|_| slots > 0 && window > 0) else {
            let got = format!("{slots} slots with windows of {window}");
            return Err(Error::invalid(OP, "slots", "1 slot and 1 draw or more, below 2^31 words in all", got));
        };
        let buffer = Buffer::zeros(device, 4 * (flags(slots) + slots * (4 + window)))?;
        let state = StopState { slots, window, buffer };
        state.write_flags(&vec![1; slots])?;
        Ok(state)
    }

    /// Gives the slot to a new agent: alive, nothing drawn. An upload, in the order of the device's work. What the ring
    /// holds does not matter.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a slot that does not exist.
    pub fn start(&self, slot: usize) -> Result<()> {
        if slot >= self.slots {
            return Err(Error::invalid(OP, "slot", format!("less than {}", self.slots), slot));
        }
        self.buffer.write(4 * slot, &1u32.to_le_bytes())?;
        self.buffer.write(4 * (flags(self.slots) + 4 * slot), &[0; 16])
    }

    /// Slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Draws of a group.
    pub fn window(&self) -> usize {
        self.window
    }

    /// The device memory. Its first words are the flags, for kernels of the caller.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// All slots. Waits for the device.
    pub fn read(&self) -> Result<Vec<Slot>> {
        let bytes = self.buffer.read()?;
        let word = |i: usize| bytes.get(4 * i..4 * i + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let slot = |i: usize| {
            let record = flags(self.slots) + 4 * i;
            let draws = word(record);
            let stopped = match word(record + 2) {
                1 => Some(Stopped::NoDistribution),
                2 => Some(Stopped::EndToken),
                3 => Some(Stopped::Budget),
                4 => Some(Stopped::Confidence),
                _ => None,
            };
            let is_full = draws as usize >= self.window;
            let group_confidence = if is_full { f32::from_bits(word(record + 1)) } else { f32::NAN };
            Slot { stopped, draws, group_confidence }
        };
        Ok((0..self.slots).map(slot).collect())
    }

    fn write_flags(&self, alive: &[u32]) -> Result<()> {
        self.buffer.write(0, &alive.iter().flat_map(|flag| flag.to_le_bytes()).collect::<Vec<u8>>())
    }
}

/// Words of the flags.
pub(super) fn flags(slots: usize) -> usize {
    slots.next_multiple_of(4)
}
