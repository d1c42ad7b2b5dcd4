//! Machines of qemu, with a kernel of Debian: huge pages, several processors, and a kernel with
//! write tracking. They are slow, because qemu translates all code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::MachineFiles;
use super::packages::{KERNEL, run};
use super::scenario::Scenario;

const PROGRAM: &str = "qemu-system-x86_64";

/// A kernel for qemu.
#[derive(Debug)]
pub(super) struct Qemu {
    kernel: PathBuf,
}

/// Finds qemu, and downloads a kernel for it.
pub(super) fn find() -> Result<Qemu, String> {
    run(Command::new(PROGRAM).arg("--version"))?;
    let boot = KERNEL.unpacked()?.join("boot");
    let files = fs::read_dir(&boot).map_err(|error| format!("{}: {error}", boot.display()))?;
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("vmlinuz"))
    };
    let mut files = files.filter_map(|entry| Some(entry.ok()?.path()));
    let kernel = files.find(is_kernel);
    let kernel = kernel.ok_or_else(|| format!("no kernel in {}", boot.display()))?;
    Ok(Qemu { kernel })
}

impl Qemu {
    /// Adds the command line of qemu to a command.
    pub(super) fn arguments(
        &self,
        command: &mut Command,
        scenario: &Scenario,
        files: &MachineFiles,
    ) {
        let append = format!("console=ttyS0 quiet panic=1 {}", scenario.append);
        command
            .arg(PROGRAM)
            .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2"])
            .args(["-m", &scenario.ram_mib.to_string()])
            .args(["-nic", "none", "-nographic", "-no-reboot"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&files.initrd)
            .args(["-append", &append]);
        if scenario.disk_mib > 0 {
            let drive = |disk: &Path| {
                format!(
                    "file={},if=none,id=d,format=raw,cache=unsafe",
                    disk.display()
                )
            };
            command
                .args(["-drive", &drive(&files.disk)])
                .args(["-device", "nvme,drive=d,serial=1"]);
        }
    }
}
