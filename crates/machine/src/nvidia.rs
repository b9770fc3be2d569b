//! NVIDIA cards that the driver of the system knows, whether or not anything here can use them.

use crate::nvidia_unix;

/// A card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// `NVIDIA RTX A2000`.
    pub name: String,
    /// Version of the loaded driver.
    pub driver: String,
}

/// All cards, in the driver's order; none where no driver is loaded.
#[must_use]
pub fn cards() -> Vec<Card> {
    nvidia_unix::cards(std::path::Path::new("/proc/driver/nvidia"))
}
