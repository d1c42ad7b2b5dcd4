//! Components before and after a rewrite, in Node: real programs with real adapters, and small components
//! whose core modules share a memory. One named test for each program and each file in
//! `fixtures/components/linked`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wasm_prealloc::{Growth, GrowthHandling, MAX_PAGES, Options, Report, rewrite, verify};
use wasm_prealloc_tests::{install_packages, memory_lock, repository};

/// The heap that the programs allocate, in blocks of 1 MiB.
const BLOCKS: u64 = 500;

/// The place of the counter of a program's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Global,
    LastPage,
}

/// A test ends early with the reason for which this machine cannot run it.
type Outcome<T> = Result<Result<T, String>>;

fn main() -> std::process::ExitCode {
    let mut trials = vec![
        trial("rust", || program("rust", rust, Home::LastPage)),
        trial("c", || program("c", c, Home::LastPage)),
        trial("javascript", || {
            program("javascript", javascript, Home::Global)
        }),
        trial("python", || program("python", python, Home::Global)),
        trial("heap-without-emulation", without_emulation),
    ];
    match linked_files() {
        Ok(files) => trials.extend(files.into_iter().map(|file| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            trial(&format!("linked/{name}"), move || linked(&file))
        })),
        Err(error) => trials.push(trial("linked", move || Err(error))),
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, test: impl FnOnce() -> Outcome<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, || match test() {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(why)) => Ok(Completion::ignored_with(format!("skipped: {why}"))),
        Err(error) => Err(Failed::from(format!("{error:?}"))),
    })
}

fn folder() -> PathBuf {
    repository().join("tests/fixtures/components")
}

fn linked_files() -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder().join("linked"))?;
    let mut files: Vec<_> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(files.len() >= 7, "too few files: {files:?}");
    Ok(files)
}

/// A folder for the output of one test.
fn output_folder(name: &str) -> Result<PathBuf> {
    let folder = repository().join("target/tests/components").join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Starts a program, and returns what it prints. The inner error means that the program is not
/// installed.
fn output(command: &mut Command, input: &str) -> Outcome<Output> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Ok(Err(format!("cannot start {command:?}: {error}"))),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(Ok(child.wait_with_output()?))
}

/// Starts a program that must succeed.
fn run(command: &mut Command) -> Outcome<()> {
    Ok(match output(command, "")? {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{command:?}: {stderr}");
            Ok(())
        }
        Err(why) => Err(why),
    })
}

/// Installs the packages of npm, once for all tests.
fn prepare() -> Outcome<()> {
    static PREPARED: LazyLock<Result<Option<String>, String>> =
        LazyLock::new(|| install_packages(&folder()).map_err(|error| format!("{error:?}")));
    match PREPARED.clone() {
        Ok(None) => Ok(Ok(())),
        Ok(Some(why)) => Ok(Err(why)),
        Err(error) => anyhow::bail!(error),
    }
}

fn node(arguments: &[&str], paths: &[&Path]) -> Command {
    let mut node = Command::new("node");
    node.current_dir(folder()).args(arguments).args(paths);
    node
}

/// Runs a component: calls its exports, and returns what it prints.
fn call(component: &Path, calls: &[&str], input: &str) -> Result<Output> {
    let mut node = node(&["run.mjs"], &[component, &component.with_extension("")]);
    let output = output(node.args(calls), input)?;
    output.map_err(anyhow::Error::msg)
}

/// Compares what a component prints before and after a rewrite.
fn compare(original: &Path, calls: &[&str], input: &str) -> Result<(String, Report)> {
    let wasm = std::fs::read(original)?;
    let rewritten = rewrite(&wasm, &Options::default())?;
    verify(&rewritten.wasm, MAX_PAGES)?;
    let after = original.with_file_name("rewritten.wasm");
    std::fs::write(&after, &rewritten.wasm)?;

    let [before, after] = [original, &after].map(|component| call(component, calls, input));
    let (before, after) = (before?, after?);
    let stderr = String::from_utf8_lossy(&before.stderr);
    ensure!(before.status.success(), "the original failed: {stderr}");
    ensure!(
        before.status == after.status && before.stdout == after.stdout,
        "before: {before:?}\nafter: {after:?}"
    );
    Ok((String::from_utf8(before.stdout)?, rewritten.report))
}

/// Makes a program's component, and checks that it fills its heap after a rewrite as before.
fn program(name: &str, make: fn(&Path) -> Outcome<Call>, home: Home) -> Outcome<()> {
    if let Err(why) = prepare()? {
        return Ok(Err(why));
    }
    let component = output_folder(name)?.join("original.wasm");
    let kind = match make(&component)? {
        Ok(kind) => kind,
        Err(why) => return Ok(Err(why)),
    };
    let _lock = memory_lock()?;
    let (call, input) = kind.arguments();
    let (printed, report) = compare(&component, &[&call], &input)?;
    ensure!(printed.trim() == expected().to_string(), "{printed}");
    let homes = report
        .memories
        .iter()
        .filter_map(|memory| match memory.growth {
            GrowthHandling::Emulated { address, .. } => Some(match address {
                Some(_) => Home::LastPage,
                None => Home::Global,
            }),
            _ => None,
        });
    let homes: Vec<_> = homes.collect();
    ensure!(homes.contains(&home), "{name} counts in {homes:?}");
    Ok(Ok(()))
}

/// The sum that the programs compute.
fn expected() -> u64 {
    let blocks = 0..BLOCKS;
    let bytes = blocks.flat_map(|block| (0..256).map(move |page| (block * 31 + page) & 0xff));
    bytes.sum()
}

/// The way in which a program is called.
#[derive(Clone, Copy, Debug)]
enum Call {
    /// An export, with the number of blocks as its argument.
    Export,
    /// A command, with the number of blocks on its standard input.
    Command,
}

impl Call {
    fn arguments(self) -> (String, String) {
        match self {
            Self::Export => (format!("fill={BLOCKS}"), String::new()),
            Self::Command => ("run".to_owned(), format!("{BLOCKS}\n")),
        }
    }
}

fn rust(component: &Path) -> Outcome<Call> {
    const TARGET: &str = "wasm32-wasip1";
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    match output(&mut rustup, "")? {
        Ok(output) if output.status.success() => {}
        Ok(_) => return Ok(Err(format!("rustup cannot install {TARGET}"))),
        Err(why) => return Ok(Err(why)),
    }
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "--target", TARGET, "-Copt-level=2"]);
    adapt(&mut rustc, "heap.rs", component)
}

fn c(component: &Path) -> Outcome<Call> {
    let mut clang = Command::new("clang-14");
    clang.args(["--target=wasm32", "-O2", "-nostdlib", "-Wl,--no-entry"]);
    adapt(&mut clang, "heap.c", component)
}

/// Compiles a source, and adds the adapter of WASI preview 1 to the result.
fn adapt(compiler: &mut Command, source: &str, component: &Path) -> Outcome<Call> {
    let module = component.with_file_name("module.wasm");
    compiler
        .current_dir(folder())
        .arg(source)
        .arg("-o")
        .arg(&module);
    if let Err(why) = run(compiler)? {
        return Ok(Err(why));
    }
    let adapted = run(&mut node(&["make.mjs", "adapt"], &[&module, component]))?;
    Ok(adapted.map(|()| Call::Command))
}

fn javascript(component: &Path) -> Outcome<Call> {
    let made = run(&mut node(&["make.mjs", "javascript"], &[component]))?;
    Ok(made.map(|()| Call::Export))
}

fn python(component: &Path) -> Outcome<Call> {
    let environment = repository().join("target/tests/components/venv");
    let tool = environment.join("bin/componentize-py");
    let mut python = Command::new("python3");
    if let Err(why) = run(python.args(["-m", "venv"]).arg(&environment))? {
        return Ok(Err(why));
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--retries=1", "--requirement"]);
    let installed = output(pip.arg(folder().join("requirements.txt")), "")?;
    match installed {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let why = stderr.lines().last().unwrap_or_default();
            return Ok(Err(format!("pip cannot install componentize-py: {why}")));
        }
        Err(why) => return Ok(Err(why)),
    }
    let mut componentize = Command::new(tool);
    componentize
        .current_dir(folder())
        .args(["-d", "heap.wit", "-w", "heap", "componentize", "heap", "-o"])
        .arg(component);
    Ok(run(&mut componentize)?.map(|()| Call::Export))
}

/// Checks that a program fails if its growth is not emulated, so that the other tests can fail.
fn without_emulation() -> Outcome<()> {
    if let Err(why) = prepare()? {
        return Ok(Err(why));
    }
    let component = output_folder("without-emulation")?.join("original.wasm");
    if let Err(why) = rust(&component)? {
        return Ok(Err(why));
    }
    let mut options = Options::default();
    options.growth = Growth::Keep;
    let wasm = std::fs::read(&component)?;
    std::fs::write(&component, rewrite(&wasm, &options)?.wasm)?;
    let _lock = memory_lock()?;
    let (call_run, input) = Call::Command.arguments();
    let output = call(&component, &[&call_run], &input)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let has_failed = !output.status.success() && stderr.contains("unreachable");
    ensure!(has_failed, "{output:?}");
    Ok(Ok(()))
}

/// Compares the calls that the first line of a file names.
fn linked(file: &Path) -> Outcome<()> {
    if let Err(why) = prepare()? {
        return Ok(Err(why));
    }
    let text = std::fs::read_to_string(file)?;
    let calls = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(";; run: "));
    let calls: Vec<_> = calls.context("no `;; run:`")?.split(' ').collect();
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let component = output_folder(&name)?.join("original.wasm");
    std::fs::write(&component, wat::parse_str(&text)?)?;
    let _lock = memory_lock()?;
    let (printed, _) = compare(&component, &calls, "")?;
    ensure!(printed.lines().count() == calls.len(), "{printed}");
    Ok(Ok(()))
}
