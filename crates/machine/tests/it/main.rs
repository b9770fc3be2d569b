//! What this machine is, through the public interface.

mod roof;
mod verdict;
