//! Children under real limits: a memory cgroup around what they need, `ulimit -v` and
//! `ulimit -d`. They succeed or say which limit it was; none is killed.
//!
//! Each child is this test binary again, running [`child`] alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use wasm_prealloc_host::{Backing, Requirements, SecuredRegion};
use wasm_prealloc_tests::{MemoryGroup, skipped};

const PAGES: u64 = 1024;
const NEEDED_BYTES: u64 = (PAGES << 16) + (PAGES << 16) / 512;
const MIB: u64 = 1 << 20;

const SECURED: i32 = 0;
const REFUSED: i32 = 1;

/// Not a test: what the children run. It commits as the environment says and exits.
#[test]
fn child() {
    let Ok(pages) = std::env::var("COMMIT_PAGES") else {
        return;
    };
    let mut requirements = Requirements::of_pages(pages.parse().unwrap());
    requirements.margin_bytes = std::env::var("COMMIT_MARGIN_BYTES")
        .unwrap()
        .parse()
        .unwrap();
    requirements.backing = match std::env::var("COMMIT_BACKING").unwrap().as_str() {
        "auto" => Backing::Auto,
        "base" => Backing::Base,
        other => panic!("no backing {other:?}"),
    };
    std::process::exit(match SecuredRegion::secure(&requirements) {
        Ok(region) => {
            eprintln!("{}", region.secured());
            if std::env::var_os("COMMIT_HOLD").is_some() {
                // Until the parent closes its end.
                std::io::stdin().read_line(&mut String::new()).unwrap();
            }
            SECURED
        }
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("debug: {error:?}");
            REFUSED
        }
    });
}

/// The child in a shell, after `before`.
fn command(before: &str, pages: u64, backing: &str, margin_bytes: u64) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{before} exec \"$0\" --exact child --nocapture"))
        .arg(std::env::current_exe().unwrap())
        .env("COMMIT_PAGES", pages.to_string())
        .env("COMMIT_BACKING", backing)
        .env("COMMIT_MARGIN_BYTES", margin_bytes.to_string());
    command
}

fn commit(before: &str, pages: u64, backing: &str, margin_bytes: u64) -> Output {
    command(before, pages, backing, margin_bytes)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn refused(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(
        output.status.code(),
        Some(REFUSED),
        "{:?}: {text}",
        output.status
    );
    text
}

/// Limits from where it cannot fit to where it must, in small steps and without a margin.
fn sweep(backing: &str) {
    let Some(group) = MemoryGroup::create_or_skip(NEEDED_BYTES) else {
        return;
    };
    let (mut secured, mut refusals) = (0, 0);
    for step in 0..64 {
        group
            .set_limit(NEEDED_BYTES - 4 * MIB + step * (256 << 10))
            .unwrap();
        let output = commit(&group.enter(), PAGES, backing, 0);
        let text = stderr(&output);
        assert_eq!(output.status.signal(), None, "step {step}: {text}");
        match output.status.code() {
            Some(SECURED) => secured += 1,
            Some(REFUSED) => {
                refusals += 1;
                let file = group.limit_file();
                assert!(text.contains(file.to_str().unwrap()), "{text}");
            }
            other => panic!("step {step}: exit {other:?}: {text}"),
        }
    }
    println!("{backing}: {secured} secured, {refusals} refused");
    assert!(secured > 0 && refusals > 0);
    assert_eq!(group.oom_kills().unwrap(), 0);
}

#[test]
fn around_a_cgroup_limit_nobody_is_killed_with_huge_pages() {
    sweep("auto");
}

#[test]
fn around_a_cgroup_limit_nobody_is_killed_with_base_pages() {
    sweep("base");
}

#[test]
fn a_linear_memory_in_512_mib_is_refused_by_name() {
    let Some(group) = MemoryGroup::create_or_skip(512 * MIB) else {
        return;
    };
    for backing in ["auto", "base"] {
        let text = refused(&commit(&group.enter(), 65_536, backing, 32 * MIB));
        let named = format!(
            "cgroup {} {}",
            group.version(),
            group.limit_file().display()
        );
        assert!(text.contains(&named), "{text}");
        assert!(text.contains("limit 536870912 bytes (512 MiB)"), "{text}");
        // 4096 MiB, 8 MiB of page tables and 32 MiB of margin.
        assert!(
            text.contains("needed 4336910336 bytes (4136 MiB)"),
            "{text}"
        );
        assert!(text.contains("raise this limit to at least"), "{text}");
    }
    assert_eq!(group.oom_kills().unwrap(), 0);
}

/// Where the check cannot see the limit, the kernel's own refusal is what is left.
#[test]
fn a_cgroup_that_cannot_be_seen_still_refuses_and_nobody_is_killed() {
    let Some(group) = MemoryGroup::create_or_skip(NEEDED_BYTES) else {
        return;
    };
    let hide = format!("umount -l {} &&", group.mount());
    let probe = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{hide} true")])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skipped("the memory cgroup's mount cannot be hidden from a child");
    }
    let child = "exec \"$0\" --exact child --nocapture";
    let before = format!(
        "{} exec unshare -m sh -c '{hide} {child}' \"$0\";",
        group.enter()
    );
    for step in 0..48 {
        group.set_limit(16 * MIB + step * (1000 << 10)).unwrap();
        let output = commit(&before, PAGES, "auto", 0);
        assert_eq!(output.status.signal(), None, "step {step}");
        let text = refused(&output);
        assert!(text.contains("a memory cgroup refused after"), "{text}");
        assert!(text.contains("no limit is visible from here"), "{text}");
    }
    assert_eq!(group.oom_kills().unwrap(), 0);
}

/// Four that start at once where there is room for two: the lock lets the second see what the
/// first has taken, so that always two succeed and two are told why not.
#[test]
fn hosts_that_start_together_do_not_take_the_same_room() {
    let Some(group) = MemoryGroup::create_or_skip(2 * NEEDED_BYTES + 32 * MIB) else {
        return;
    };
    for round in 0..6 {
        let backing = ["auto", "base"][round % 2];
        let children: Vec<_> = (0..4)
            .map(|_| {
                command(&group.enter(), PAGES, backing, 0)
                    .env("COMMIT_HOLD", "1")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        // Whoever succeeded holds its memory until all four have answered.
        let mut held = Vec::new();
        let mut secured = 0;
        for mut child in children {
            let mut answers = BufReader::new(child.stderr.take().unwrap());
            let mut answer = String::new();
            answers.read_line(&mut answer).unwrap();
            if answer.contains("resident, by") {
                secured += 1;
            } else {
                assert!(answer.contains("memory not secured: needed"), "{answer}");
            }
            held.push((child, answers));
        }
        assert_eq!(secured, 2, "round {round}, {backing}");
        for (mut child, _answers) in held {
            drop(child.stdin.take());
            assert_eq!(child.wait().unwrap().signal(), None);
        }
    }
    assert_eq!(group.oom_kills().unwrap(), 0);
}

#[test]
fn page_cache_of_the_group_makes_room() {
    let Some(group) = MemoryGroup::create_or_skip(NEEDED_BYTES) else {
        return;
    };
    // The file system must have page cache, which tmpfs has not: use the build's own directory.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("cached");
    group.set_limit(NEEDED_BYTES + 24 * MIB).unwrap();
    let fill = format!(
        "{} dd if=/dev/zero of='{}' bs=1M count=64 2>/dev/null && sync &&",
        group.enter(),
        file.display()
    );
    for backing in ["auto", "base"] {
        let output = commit(&fill, PAGES, backing, 0);
        assert_eq!(output.status.code(), Some(SECURED), "{}", stderr(&output));
    }
}

#[test]
fn ulimit_v_is_named_as_the_address_space() {
    let output = commit("ulimit -v 300000 &&", 8192, "auto", 0);
    let text = refused(&output);
    assert!(text.contains("RLIMIT_AS"), "{text}");
    assert!(text.contains("limit: AddressSpace"), "{text}");
    assert_advice_works(&text, "ulimit -v ", 8192);
}

#[test]
fn ulimit_d_is_named_as_the_data_segment() {
    let output = commit("ulimit -d 300000 &&", 8192, "auto", 0);
    let text = refused(&output);
    assert!(text.contains("RLIMIT_DATA"), "{text}");
    assert!(text.contains("limit: DataSegment"), "{text}");
    assert_advice_works(&text, "ulimit -d ", 8192);
}

/// What the message says to run is run, with room for what differs from run to run.
#[track_caller]
fn assert_advice_works(text: &str, command: &str, pages: u64) {
    let (_, rest) = text.split_once(&format!(": {command}")).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let kib: u64 = digits.parse().unwrap();
    let output = commit(&format!("{command}{} &&", kib + 4096), pages, "auto", 0);
    assert_eq!(output.status.code(), Some(SECURED), "{}", stderr(&output));
}
