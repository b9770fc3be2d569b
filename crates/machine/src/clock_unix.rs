//! The host's name, from `uname`.

/// The name of this host as the kernel knows it.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
