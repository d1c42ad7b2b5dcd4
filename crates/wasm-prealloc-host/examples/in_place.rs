//! Memory as engines map it themselves: untouched, only read, or a private image of a file. It is
//! secured in place, or refused by name, and then all of it is written.
//!
//! ```console
//! $ cargo run --example in_place -- image 64
//! ```

// `secure_in_place` takes a range of addresses that the caller must vouch for.
#![allow(unsafe_code)]

use std::process::ExitCode;

/// The byte that an image is full of.
#[cfg(target_os = "linux")]
const IMAGE: u8 = 7;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let mib = arguments.next().and_then(|mib| mib.parse::<usize>().ok());
    let (Some(mib), "fresh" | "read" | "image" | "shared") = (mib, kind.as_str()) else {
        eprintln!("usage: in_place fresh|read|image|shared MIB");
        return ExitCode::from(2);
    };
    match run(&kind, mib << 20) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("error: this example maps memory in ways that only Linux has");
    ExitCode::from(2)
}

#[cfg(target_os = "linux")]
fn run(kind: &str, bytes: usize) -> anyhow::Result<()> {
    use wasm_prealloc_host::{Requirements, resident_bytes, secure_in_place};

    let memory = map(kind, bytes)?;
    let expected = if kind == "image" { IMAGE } else { 0 };
    if kind != "fresh" {
        // What a scan or a checksum of the memory does.
        let different = memory.iter().step_by(4096).find(|&&byte| byte != expected);
        anyhow::ensure!(different.is_none(), "{different:?}");
    }
    println!("resident before: {} bytes", resident_bytes(memory)?);
    let mut requirements = Requirements::default();
    requirements.margin_bytes = 0;
    // SAFETY: the memory is mapped, readable and writable until the end of the process.
    let secured = unsafe { secure_in_place(memory.as_mut_ptr(), bytes, &requirements) }?;
    println!("secured: {secured}");
    let different = memory.iter().find(|&&byte| byte != expected);
    anyhow::ensure!(different.is_none(), "{different:?}");
    memory.fill(1);
    println!("written");
    Ok(())
}

/// Maps memory that is readable and writable, and never unmapped.
#[cfg(target_os = "linux")]
fn map(kind: &str, bytes: usize) -> anyhow::Result<&'static mut [u8]> {
    use std::io::Write as _;
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    let file = match kind {
        "image" => {
            // SAFETY: the call takes a constant name, and returns a new descriptor or -1.
            let file = unsafe { libc::memfd_create(c"image".as_ptr(), 0) };
            anyhow::ensure!(file >= 0, std::io::Error::last_os_error());
            // SAFETY: the descriptor is new, and only this value owns it.
            let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(file) });
            for _ in 0..bytes >> 20 {
                (&file).write_all(&[IMAGE; 1 << 20])?;
            }
            Some(file)
        }
        _ => None,
    };
    let sharing = match kind {
        "shared" => libc::MAP_SHARED,
        _ => libc::MAP_PRIVATE,
    };
    let anonymous = match &file {
        Some(_) => 0,
        None => libc::MAP_ANONYMOUS,
    };
    // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            sharing | anonymous | libc::MAP_NORESERVE,
            file.as_ref().map_or(-1, |file| file.as_raw_fd()),
            0,
        )
    };
    anyhow::ensure!(memory != libc::MAP_FAILED, std::io::Error::last_os_error());
    // SAFETY: the mapping has this size, is readable and writable, and is never unmapped.
    Ok(unsafe { std::slice::from_raw_parts_mut(memory.cast(), bytes) })
}
