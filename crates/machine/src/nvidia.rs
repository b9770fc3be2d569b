//! NVIDIA cards that the driver of the system knows, whether or not anything here can use them.

use std::path::Path;

use serde::Serialize;

use crate::nvidia_unix;

/// A card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// `NVIDIA RTX A2000`.
    pub name: String,
    /// Version of the loaded driver.
    pub driver: String,
    /// Slices that the card is split into (MIG), each with its own part of memory, processors and bandwidth; 0 of a card
    /// that is whole.
    pub slices: usize,
}

/// All cards, in the driver's order; none where no driver is loaded.
#[must_use]
pub fn cards() -> Vec<Card> {
    nvidia_unix::cards(Path::new("/proc/driver/nvidia"))
}

/// Addresses of cards in the machine, whether or not a driver is loaded for them: `0000:01:00.0`.
#[must_use]
pub fn in_the_machine() -> Vec<String> {
    nvidia_unix::in_the_machine(Path::new("/sys/bus/pci/devices"))
}
