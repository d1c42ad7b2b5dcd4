//! The indexer as a service: messages to systemd, the ready file, blocks that are appended, and
//! signals.
#![cfg(unix)]

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Case, RECORDER, expect, stderr};

const PATIENCE: Duration = Duration::from_secs(30);

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn new(folder: &Path) -> Manager {
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager(socket)
    }

    /// Returns the messages that arrived since the last call.
    fn messages(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let mut messages = Vec::new();
        while let Ok(length) = self.0.recv(&mut bytes) {
            let message = String::from_utf8_lossy(&bytes[..length]);
            messages.extend(message.lines().map(str::to_owned));
        }
        messages
    }
}

#[test]
fn systemd_is_told_when_memory_is_secured_and_not_when_it_is_refused() {
    let case = Case::new(RECORDER);
    let manager = Manager::new(case.0.path());
    let index = |arguments: &[&str]| {
        let common = ["guest.wasm", "--pages", "16", "--block", "00"];
        let mut command = case.command(&[&common, arguments].concat());
        command.env("NOTIFY_SOCKET", "notify").output().unwrap()
    };
    let margin = (1_u64 << 60).to_string();
    let refused = index(&["--margin-bytes", &margin]);
    expect(&refused, 1, &["memory not secured"]);
    let messages = manager.messages();
    assert!(
        messages.iter().all(|message| message != "READY=1"),
        "{messages:?}"
    );

    expect(&index(&[]), 0, &["secured: 1048576 bytes"]);
    let messages = manager.messages();
    let position = |start: &str| {
        let at = messages
            .iter()
            .position(|message| message.starts_with(start));
        at.unwrap_or_else(|| panic!("no {start} in {messages:?}"))
    };
    let secured = position("STATUS=secured: 1048576 bytes");
    assert!(secured < position("READY=1"));
    assert!(position("READY=1") < position("STOPPING=1"));
}

#[test]
fn a_host_that_waits_for_another_one_says_so() {
    let case = Case::new(RECORDER);
    let manager = Manager::new(case.0.path());
    let lock = fs::File::create(case.0.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let mut command = case.command(&["guest.wasm", "--pages", "16", "--block", "00"]);
    command
        .args(["--lock", "lock"])
        .env("NOTIFY_SOCKET", "notify");
    let waiting = command.stderr(Stdio::piped()).stdout(Stdio::null());
    let waiting = waiting.spawn().unwrap();
    let text = "waiting for another host that commits memory (lock lock)";
    let mut messages = Vec::new();
    wait_until(|| {
        messages.extend(manager.messages());
        messages.contains(&format!("STATUS={text}"))
    });
    assert!(!messages.contains(&"READY=1".to_owned()), "{messages:?}");
    lock.unlock().unwrap();
    let output = waiting.wait_with_output().unwrap();
    expect(&output, 0, &[text, "for other committers"]);
    assert_eq!(stderr(&output).matches(text).count(), 1);
    assert!(manager.messages().contains(&"READY=1".to_owned()));

    lock.lock().unwrap();
    let refused = command.args(["--lock-timeout", "0"]).output().unwrap();
    expect(
        &refused,
        1,
        &["another host was committing memory (lock on lock)"],
    );
}

/// An indexer that follows `chain.txt`.
struct Follower {
    process: Child,
    stdout: BufReader<ChildStdout>,
}

impl Follower {
    fn start(case: &Case) -> Follower {
        let mut command = case.command(&["guest.wasm", "--pages", "16"]);
        command.args(["--chain", "chain.txt", "--follow", "--ready-file", "ready"]);
        command.args(["--check-interval", "1"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Follower { process, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends SIGTERM, expects these texts on stderr, and returns the last line on stdout.
    fn stop(mut self, texts: &[&str]) -> String {
        let id = self.process.id().to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(killed.success());
        let last = self.line();
        let output = self.process.wait_with_output().unwrap();
        expect(&output, 0, texts);
        last
    }
}

fn append(path: &Path, text: &str) {
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "it did not happen");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_followed_chain_is_indexed_once_also_after_a_restart() {
    let case = Case::new(RECORDER);
    let chain = case.0.path().join("chain.txt");
    let ready = case.0.path().join("ready");
    // The file of a process that was killed.
    fs::write(&ready, "").unwrap();

    // The chain does not exist yet.
    let mut first = Follower::start(&case);
    append(&chain, "6869\n79");
    assert_eq!(first.line(), "block 0: 2 values stored");
    assert!(ready.exists());
    append(&chain, "6f\n");
    assert_eq!(first.line(), "block 1: 2 values stored");
    // Memory is checked also while there is no block.
    thread::sleep(Duration::from_millis(1300));
    first.stop(&["; 1 checks of residency"]);
    assert!(!ready.exists());

    append(&chain, "00\n");
    let mut second = Follower::start(&case);
    assert_eq!(second.line(), "block 2: 2 values stored");
    wait_until(|| ready.exists());
    let root = second.stop(&["resets: "]);

    // The same blocks, all at once.
    let whole = Case::new(RECORDER);
    let output = whole.index(&["--block", "6869", "--block", "796f", "--block", "00"]);
    assert!(String::from_utf8_lossy(&output.stdout).ends_with(&format!("{root}\n")));
    assert_eq!(case.dump(), whole.dump());
}

#[test]
fn a_ready_file_that_cannot_be_made_is_an_error_before_memory_is_secured() {
    let case = Case::new(RECORDER);
    let output = case.index(&["--block", "00", "--ready-file", "none/ready"]);
    expect(&output, 2, &["cannot create none/ready.new"]);
    assert!(!stderr(&output).contains("secured"));
}

#[test]
fn a_block_that_traps_ends_a_follower_and_its_readiness() {
    let case = Case::new(&RECORDER.replace("(call $log (i32.const 104))", "unreachable"));
    append(&case.0.path().join("chain.txt"), "00\n");
    let follower = Follower::start(&case);
    let output = follower.process.wait_with_output().unwrap();
    expect(&output, 1, &["block 0 was not indexed", "unreachable"]);
    assert!(!case.0.path().join("ready").exists(), "{}", stderr(&output));
}
