//! The system's leave to use the tile unit: Linux gives a process room for tiles only when it asks for it.
#![expect(unsafe_code, reason = "a system call that the standard library does not have")]

/// Whether this process may use tiles, which it asks for. Later threads may too, those of now as well.
#[cfg(target_os = "linux")]
pub(crate) fn is_allowed() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) takes two numbers and touches no memory of ours; a
    // system call changes rax, rcx and r11 alone.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// No other system was seen with tiles here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_allowed() -> bool {
    false
}
