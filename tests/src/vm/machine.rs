//! Machines: a kernel, a first file system with the programs under test, and one scenario, whose
//! answers are read from the console.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::archive::Archive;
use super::packages::{BUSYBOX, USER_MODE_LINUX, run};
use super::qemu::{self, Qemu};
use super::scenario::{Answer, Scenario};
use crate::programs::{Profile, command, commit, example, repository};

/// The folder of the scenarios and of what the machines need to run them.
pub(super) fn fixtures() -> PathBuf {
    repository().join("tests/fixtures/vm")
}

/// The kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// User-mode Linux: starts in a second and runs at the speed of the host. It has one processor,
    /// and neither huge pages nor write tracking.
    UserMode,
    /// qemu without hardware support: slow, with a kernel of a distribution.
    Qemu,
}

/// Everything that machines are started from.
#[derive(Debug)]
pub struct Machines {
    kernel: Kernel,
    busybox: PathBuf,
    /// Programs without their debug information, by name.
    programs: BTreeMap<&'static str, Vec<u8>>,
    libraries: BTreeMap<String, Vec<u8>>,
    scratch: TempDir,
}

#[derive(Debug)]
enum Kernel {
    UserMode { program: PathBuf, memory: PathBuf },
    Qemu(Qemu),
}

/// The outcome of one scenario.
#[derive(Clone, Debug)]
pub struct Run {
    /// The answers of the programs, in the order of the scenario.
    pub answers: Vec<Answer>,
    /// The time from the start of the machine to its end.
    pub elapsed: Duration,
    /// The text on the console.
    pub console: String,
}

/// Programs of the machine on which the tests run: those of busybox have fewer options.
const TOOLS: [&str; 2] = ["setpriv", "unshare"];

impl Machines {
    /// Builds and downloads what machines of a kind need. The inner error is the reason why there
    /// are none here, which is a reason to skip a test.
    pub fn prepare(kind: Kind, scenarios: &[Scenario]) -> Result<Result<Machines, String>> {
        let found = Kernel::find(kind).and_then(|kernel| Ok((kernel, BUSYBOX.unpacked()?)));
        let (kernel, busybox) = match found {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let mut machines = Machines {
            kernel,
            busybox: busybox.join("bin/busybox"),
            programs: BTreeMap::new(),
            libraries: BTreeMap::new(),
            scratch: tempfile::tempdir()?,
        };
        for tool in TOOLS {
            let Ok(path) = run(Command::new("which").arg(tool)) else {
                return Ok(Err(format!("this machine has no program {tool}")));
            };
            machines.add(tool, Path::new(path.trim()))?;
        }
        machines.add("commit", &commit()?)?;
        machines.add("filter", &machines.seccomp_filter()?)?;
        let needed = |name| scenarios.iter().any(|scenario| scenario.needs(name));
        if needed("wasm-prealloc") {
            machines.add("wasm-prealloc", &command(Profile::Dev)?)?;
        }
        if needed("indexer") {
            machines.add("indexer", &example("indexer")?)?;
        }
        Ok(Ok(machines))
    }

    /// Compiles the program that runs another one with a system call denied.
    fn seccomp_filter(&self) -> Result<PathBuf> {
        let path = self.scratch.path().join("filter");
        let source = fixtures().join("filter.c");
        run(Command::new("cc").arg("-o").arg(&path).arg(source)).map_err(anyhow::Error::msg)?;
        Ok(path)
    }

    /// Adds a program and the libraries that it is linked with.
    fn add(&mut self, name: &'static str, path: &Path) -> Result<()> {
        // Debug information is larger than a small machine's memory.
        let stripped = self.scratch.path().join(name).with_extension("stripped");
        run(Command::new("strip").arg("-o").arg(&stripped).arg(path))
            .map_err(anyhow::Error::msg)?;
        self.programs.insert(name, fs::read(&stripped)?);
        // A static program has none, which is an error of ldd.
        let libraries = run(Command::new("ldd").arg(path)).unwrap_or_default();
        for library in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            if !self.libraries.contains_key(library) {
                let content = fs::read(library).with_context(|| library.to_owned())?;
                self.libraries.insert(library.to_owned(), content);
            }
        }
        Ok(())
    }

    /// Returns the first file system of a machine.
    fn file_system(&self, scenario: &Scenario) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "run", "sys", "tmp", "mnt"] {
            archive.directory(directory);
        }
        archive.program("bin/busybox", &fs::read(&self.busybox)?);
        let applets = run(Command::new(&self.busybox).arg("--list")).map_err(anyhow::Error::msg)?;
        for applet in applets.lines().filter(|name| *name != "busybox") {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        for (name, content) in &self.programs {
            // The large ones only where they are needed: a file takes memory of the machine.
            if content.len() < 8 << 20 || scenario.needs(name) {
                // The shell of busybox takes its own programs for names without a path.
                let folder = if TOOLS.contains(name) {
                    "usr/bin"
                } else {
                    "bin"
                };
                archive.program(&format!("{folder}/{name}"), content);
            }
        }
        for (path, content) in &self.libraries {
            archive.program(path, content);
        }
        for wrapper in ["hidden", "unmounted", "covered"] {
            archive.program(
                &format!("bin/{wrapper}"),
                &fs::read(fixtures().join(wrapper))?,
            );
        }
        archive.program("init", &fs::read(fixtures().join("init.sh"))?);
        let mut script = fs::read(fixtures().join("guest.sh"))?;
        script.extend(scenario.script.as_bytes());
        archive.program("scenario.sh", &script);
        Ok(archive.finish())
    }

    /// Starts a machine, and waits for its end.
    pub fn run(&self, scenario: &Scenario) -> Result<Run> {
        let scratch = tempfile::tempdir_in(self.scratch.path())?;
        let files = MachineFiles {
            initrd: scratch.path().join("initrd"),
            disk: scratch.path().join("disk"),
            folder: scratch.path().to_owned(),
        };
        fs::write(&files.initrd, self.file_system(scenario)?)?;
        fs::File::create(&files.disk)?.set_len(scenario.disk_mib << 20)?;
        let mut command = self.kernel.command(scenario, &files);
        let since = Instant::now();
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .context("cannot start a machine")?;
        let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        Ok(Run {
            answers: Answer::parse_all(&console),
            elapsed: since.elapsed(),
            console,
        })
    }
}

/// The files of one machine.
pub(super) struct MachineFiles {
    pub(super) initrd: PathBuf,
    pub(super) disk: PathBuf,
    pub(super) folder: PathBuf,
}

impl Kernel {
    fn find(kind: Kind) -> Result<Kernel, String> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err("the kernels are those of Linux on x86-64".to_owned());
        }
        match kind {
            Kind::Qemu => Ok(Kernel::Qemu(qemu::find()?)),
            Kind::UserMode => {
                // It keeps the machine's memory in a file, and executes from it.
                let memory = Path::new("/dev/shm");
                let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
                let usable = mounts.lines().any(|line| {
                    let mut fields = line.split(' ').skip(1);
                    fields.next() == memory.to_str()
                        && !fields.any(|field| field.split(',').any(|option| option == "noexec"))
                });
                if !usable {
                    return Err("there is no /dev/shm without `noexec`".to_owned());
                }
                let program = USER_MODE_LINUX.unpacked()?.join("usr/bin/linux.uml");
                Ok(Kernel::UserMode {
                    program,
                    memory: memory.to_owned(),
                })
            }
        }
    }

    fn command(&self, scenario: &Scenario, files: &MachineFiles) -> Command {
        // `timeout` ends all processes of the machine.
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &scenario.timeout.as_secs().to_string()]);
        match self {
            Kernel::Qemu(qemu) => qemu.arguments(&mut command, scenario, files),
            Kernel::UserMode { program, memory } => {
                command
                    .env("TMPDIR", memory)
                    .arg(program)
                    .arg(format!("mem={}M", scenario.ram_mib))
                    .arg(format!("initrd={}", files.initrd.display()))
                    .arg(format!("uml_dir={}/", files.folder.display()))
                    .args(["con=null", "con0=null,fd:1", "quiet", "panic=1"]);
                if scenario.disk_mib > 0 {
                    command.arg(format!("ubd0={}", files.disk.display()));
                }
            }
        }
        if let Kernel::UserMode { .. } = self {
            command.args(scenario.append.split_whitespace());
        }
        command
    }
}
