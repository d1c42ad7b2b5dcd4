//! The ledger guests of `fixtures/indexer`, their chain, and the load of views on an indexer that
//! indexes it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use escargot::CargoBuild;
use wasm_prealloc_build::WASM_TARGET;

use crate::memory_group::MemoryGroup;
use crate::npm::install_packages;
use crate::programs::{DIAGNOSTICS, repository};

/// A ledger guest in one language, as its own tools build it.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The name of the language.
    pub language: &'static str,
    /// The module, which declares no maximum.
    pub unbounded: PathBuf,
    /// The module with a maximum of [`Ledger::MAXIMUM_PAGES`].
    pub bounded: PathBuf,
}

fn folder() -> PathBuf {
    repository().join("tests/fixtures/indexer")
}

fn scratch() -> Result<PathBuf> {
    let folder = repository().join("target/tests/ledger");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

impl Ledger {
    /// The maximum of the bounded module, in pages of 64 KiB.
    pub const MAXIMUM_PAGES: u64 = 256;

    /// Builds the guest in Rust.
    pub fn rust() -> Result<Ledger> {
        let build = |name: &str, flags: &str| -> Result<PathBuf> {
            let target_dir = scratch()?.join(name);
            let build = CargoBuild::new()
                .manifest_path(folder().join("rust/Cargo.toml"))
                .release()
                .target(WASM_TARGET)
                .target_dir(&target_dir)
                .env("CARGO_ENCODED_RUSTFLAGS", flags)
                .args(DIAGNOSTICS);
            for message in build.exec()? {
                message?;
            }
            Ok(target_dir.join(WASM_TARGET).join("release/ledger.wasm"))
        };
        let maximum = Self::MAXIMUM_PAGES << 16;
        Ok(Ledger {
            language: "Rust",
            unbounded: build("rust-unbounded", "")?,
            bounded: build(
                "rust-bounded",
                &format!("-Clink-arg=--max-memory={maximum}"),
            )?,
        })
    }

    /// Builds the guest in AssemblyScript. The inner error is the reason why this machine cannot.
    pub fn assemblyscript() -> Result<Result<Ledger, String>> {
        let folder = folder().join("assemblyscript");
        if let Some(why) = install_packages(&folder)? {
            return Ok(Err(why));
        }
        let build = |name: &str, arguments: &[&str]| -> Result<PathBuf> {
            let module = scratch()?.join(name);
            let output = Command::new("node")
                .args(["node_modules/assemblyscript/bin/asc.js", "ledger.ts", "-O"])
                .args(arguments)
                .arg("-o")
                .arg(&module)
                .current_dir(&folder)
                .output()
                .context("cannot start node")?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "asc: {stderr}");
            Ok(module)
        };
        let maximum = Self::MAXIMUM_PAGES.to_string();
        Ok(Ok(Ledger {
            language: "AssemblyScript",
            unbounded: build("assemblyscript-unbounded.wasm", &[])?,
            bounded: build(
                "assemblyscript-bounded.wasm",
                &["--maximumMemory", &maximum],
            )?,
        }))
    }
}

/// Writes a chain of blocks, and returns the file. Every fifth block has forty times as many
/// transactions as the others.
pub fn write_chain(blocks: u64) -> Result<PathBuf> {
    let mut random = numbers(11);
    let mut text = String::new();
    for height in 0..blocks {
        let transactions = if height % 5 == 4 { 2000 } else { 50 };
        for number in 0..transactions {
            // A third of the transactions creates money. Account 0 does not pay.
            let payer = if number % 3 == 0 { 0 } else { random(200) };
            let payees = if number % 2 == 0 { 300 } else { 20_000 };
            let (payee, amount) = (1 + random(payees), random(1000) as u32);
            let fields = [
                &payer.to_le_bytes()[..],
                &payee.to_le_bytes(),
                &amount.to_le_bytes(),
            ];
            text.extend(fields.concat().iter().map(|byte| format!("{byte:02x}")));
        }
        text.push('\n');
    }
    let path = scratch()?.join(format!("chain-{blocks}.txt"));
    fs::write(&path, text)?;
    Ok(path)
}

/// Returns a generator of numbers below a bound: an LCG with the constants of Knuth's MMIX. It is not
/// from a library, because another version could generate another chain.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |end| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    }
}

/// Views that are requested while a chain is indexed.
#[derive(Clone, Debug)]
pub struct Load {
    /// The program.
    pub indexer: PathBuf,
    /// The guest, and its memory's flags.
    pub arguments: Vec<String>,
    /// The number of blocks.
    pub blocks: u64,
    /// The number of clients, which is also the number of memories for views.
    pub views: usize,
}

/// The end of an indexer under load.
#[derive(Clone, Debug)]
pub struct Served {
    /// The exit status, or none if a signal ended it.
    pub status: Option<i32>,
    /// The state root that it printed.
    pub state_root: Option<String>,
    /// The number of views that were answered.
    pub answers: usize,
    /// Its stderr.
    pub stderr: String,
}

impl Load {
    /// Runs the indexer in a group, or in none: it indexes the whole chain while every client requests
    /// one view after the other, and then a signal stops it.
    pub fn run(&self, group: Option<&MemoryGroup>) -> Result<Served> {
        let chain = write_chain(self.blocks)?;
        let database = scratch()?.join("index.redb");
        if database.exists() {
            fs::remove_file(&database)?;
        }
        let mut command = match group {
            Some(group) => group.command(&self.indexer),
            None => Command::new(&self.indexer),
        };
        command
            .args(&self.arguments)
            .args(["--follow", "--listen", "127.0.0.1:0", "--chain"])
            .arg(chain)
            .args(["--views", &self.views.to_string(), "--db"])
            .arg(&database);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let stdout = BufReader::new(process.stdout.take().context("no stdout")?);
        let mut lines = stdout.lines().map_while(Result::ok);
        let mut answers = 0;
        if let Some(line) = lines.next() {
            let address = line.strip_prefix("listening at http://");
            let address = address.context(line.clone())?;
            let last = format!("block {}: ", self.blocks - 1);
            let done = AtomicBool::new(false);
            answers = thread::scope(|scope| -> Result<usize> {
                let clients: Vec<_> = (0..self.views as u64)
                    .map(|client| {
                        let done = &done;
                        scope.spawn(move || request_until(address, client, done))
                    })
                    .collect();
                let indexed = lines.any(|line| line.starts_with(&last));
                done.store(true, Ordering::Relaxed);
                let answers = clients.into_iter().map(|client| match client.join() {
                    Ok(answers) => answers,
                    Err(_) => Err(anyhow!("a client panicked")),
                });
                let answers: Result<usize> = answers.sum();
                ensure!(indexed, "the last block was not stored: {answers:?}");
                answers
            })?;
            let id = process.id().to_string();
            Command::new("kill").args(["-TERM", &id]).status()?;
        }
        let root = lines.filter_map(|line| line.strip_prefix("state root ").map(str::to_owned));
        let state_root = root.last();
        let output = process.wait_with_output()?;
        Ok(Served {
            status: output.status.code(),
            state_root,
            answers,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// Requests the balance of one account after the other until the chain is done, at least once. Returns
/// the number of answers.
fn request_until(address: &str, client: u64, done: &AtomicBool) -> Result<usize> {
    let mut answers = 0;
    for number in 0.. {
        let account = client * 100 + number % 100;
        let account: String = account
            .to_le_bytes()
            .map(|byte| format!("{byte:02x}"))
            .concat();
        let mut stream = TcpStream::connect(address)?;
        write!(
            stream,
            "GET /view/balance?input={account} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        if text.contains("no block is indexed yet") {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        ensure!(text.starts_with("HTTP/1.1 200 "), "the answer is {text}");
        answers += 1;
        if done.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(answers)
}
