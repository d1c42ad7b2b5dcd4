//! `wasm-prealloc preflight` in memory cgroups: its answer agrees with a commit.

use std::process::Output;

use serde_json::Value;
use wasm_prealloc_tests::{MemoryGroup, Profile, command, memory_lock};

const MIB: u64 = 1 << 20;

fn preflight(group: &MemoryGroup, arguments: &[&str]) -> Output {
    group
        .command(command(Profile::Dev).unwrap())
        .arg("preflight")
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {stderr}")
    })
}

/// Returns the entry of the group's limit.
fn entry(answer: &Value, group: &MemoryGroup) -> Value {
    let file = group.limit_file().display().to_string();
    let limits = answer["limits"].as_array().unwrap();
    let mut named = limits.iter();
    let own = named.find(|limit| limit["limit"].as_str().unwrap().contains(&file));
    own.unwrap_or_else(|| panic!("no {file} in {answer}"))
        .clone()
}

#[test]
fn the_limit_of_the_group_decides_the_answer() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(512 * MIB) else {
        return;
    };
    let output = preflight(&group, &["--json", "--commit"]);
    assert_eq!(output.status.code(), Some(1));
    let answer = json(&output);
    let own = entry(&answer, &group);
    assert_eq!(own["sufficient"], false);
    assert_eq!(own["limit_bytes"], 512 * MIB);
    // 4 GiB, their page tables, and a margin of 32 MiB.
    assert_eq!(own["needed_bytes"], (4096 + 8 + 32) * MIB);
    assert_eq!(answer["secured"], Value::Null);
    assert_eq!(answer["error"]["kind"], "not-secured");

    // The same limit is enough for smaller memories, and they are committed.
    let small = ["--json", "--commit", "--pages", "2048", "--instances", "3"];
    let output = preflight(&group, &small);
    assert_eq!(output.status.code(), Some(0));
    let answer = json(&output);
    assert_eq!(entry(&answer, &group)["sufficient"], true);
    assert_eq!(answer["secured"]["resident_bytes"], 3 * 128 * MIB);
    let peak = group.peak_bytes().unwrap();
    assert!(peak >= 384 * MIB, "{peak}");
    assert_eq!(group.oom_kills().unwrap(), 0);
}

#[test]
fn without_commit_nothing_is_committed() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(4608 * MIB) else {
        return;
    };
    let output = preflight(&group, &[]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    assert!(
        stdout.contains(&*group.limit_file().to_string_lossy()),
        "{stdout}"
    );
    assert!(stdout.contains("can be secured now"), "{stdout}");
    let peak = group.peak_bytes().unwrap();
    assert!(peak < 64 * MIB, "{peak}");
    // A margin that does not fit is refused too.
    let margin = (1024 * MIB).to_string();
    let output = preflight(&group, &["--quiet", "--margin-bytes", &margin]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains(&*group.limit_file().to_string_lossy()),
        "{stderr}"
    );
}
