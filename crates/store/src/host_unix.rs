//! What the operating system knows about the place a library stands in. Linux.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Name of this machine.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A path of any bytes.
pub(crate) fn path_of(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// Bytes an ordinary user can still write where `path` stands.
pub(crate) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let facts = rustix::fs::statvfs(path)?;
    Ok(facts.f_bavail * facts.f_frsize)
}

/// Name of the network file system that holds `folder`, if one does.
///
/// # Errors
/// The system does not say: the folder is not there, or cannot be reached.
pub fn network_file_system(folder: &Path) -> std::io::Result<Option<&'static str>> {
    let magic = rustix::fs::statfs(folder)?.f_type as u32;
    if magic == FUSE_MAGIC {
        let folder = folder.canonicalize()?;
        let mounts = std::fs::read("/proc/self/mountinfo")?;
        return Ok(remote_fuse(&mounts, &folder));
    }
    Ok(NETWORK_MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name))
}

const FUSE_MAGIC: u32 = 0x6573_5546;

/// `f_type` of statfs(2), from linux/magic.h and the file systems' own sources.
const NETWORK_MAGICS: [(u32, &str); 11] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00c3_6400, "Ceph"),
    (0x0102_1997, "9P"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
];

/// FUSE file systems that reach over a network, by their type in mountinfo. Local ones (ntfs-3g, mergerfs,
/// bindfs) are not refused.
const REMOTE_FUSE: [&str; 14] = [
    "fuse.sshfs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.goofys",
    "fuse.gcsfuse",
    "fuse.blobfuse2",
    "fuse.mount-s3",
    "fuse.juicefs",
    "fuse.glusterfs",
    "fuse.ceph-fuse",
    "fuse.davfs",
    "fuse.curlftpfs",
    "fuse.smbnetfs",
    "fuse.gvfsd-fuse",
];

/// The type of the deepest mount above `folder`, if it is a remote FUSE.
fn remote_fuse(mountinfo: &[u8], folder: &Path) -> Option<&'static str> {
    let (_, kind) = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(mount_point_and_type)
        .filter(|(point, _)| folder.starts_with(Path::new(OsStr::from_bytes(point))))
        .max_by_key(|(point, _)| point.len())?;
    REMOTE_FUSE.into_iter().find(|remote| remote.as_bytes() == kind)
}

/// proc(5): `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`; blanks in a path are `\040`.
fn mount_point_and_type(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let separator = line.windows(3).position(|three| three == b" - ")?;
    let kind = line[separator + 3..].split(|byte| *byte == b' ').next()?;
    let point = line.split(|byte| *byte == b' ').nth(4)?;
    Some((unescape(point), kind))
}

fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_decides() {
        let mounts = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 0:50 / /home/me/far\\040away rw,nosuid shared:5 - fuse.sshfs me@there:/ rw\n\
            41 22 0:51 / /home/me/near rw - fuse.mergerfs pool rw\n";
        assert_eq!(remote_fuse(mounts, Path::new("/home/me/far away/books")), Some("fuse.sshfs"));
        assert_eq!(remote_fuse(mounts, Path::new("/home/me/far awayX")), None);
        assert_eq!(remote_fuse(mounts, Path::new("/home/me/near/x")), None);
        assert_eq!(remote_fuse(b"", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_facts() {
        let here = std::env::temp_dir();
        assert!(!host_name().is_empty());
        assert!(free_bytes(&here).unwrap() > 0);
        assert_eq!(network_file_system(&here).unwrap(), None);
    }
}
