//! `wasm-prealloc preflight` in memory cgroups: its answer agrees with a commit.

use std::process::Output;

use serde_json::Value;
use wasm_prealloc_tests::{MIB, MemoryGroup, Profile, command, memory_lock};

use crate::processes::{expect_parts, expect_status};

fn preflight(group: &MemoryGroup, arguments: &[&str]) -> Output {
    let mut command = group.command(command(Profile::Dev).unwrap());
    command.arg("preflight").args(arguments).output().unwrap()
}

fn json(group: &MemoryGroup, arguments: &[&str], status: i32) -> Value {
    let output = preflight(group, &[&["--json"], arguments].concat());
    let stderr = expect_status(&output, status);
    let answer = serde_json::from_slice(&output.stdout);
    answer.unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// Returns the entry of the group's limit.
fn entry(answer: &Value, group: &MemoryGroup) -> Value {
    let file = group.limit_file().display().to_string();
    let limits = answer["limits"].as_array().unwrap();
    let is_own = |limit: &&Value| limit["limit"].as_str().unwrap().contains(&file);
    let own = limits.iter().find(is_own);
    own.unwrap_or_else(|| panic!("no {file} in {answer}"))
        .clone()
}

#[test]
fn the_limit_of_the_group_decides_the_answer() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(512 * MIB) else {
        return;
    };
    let answer = json(&group, &["--commit"], 1);
    let own = entry(&answer, &group);
    assert_eq!(own["sufficient"], false);
    assert_eq!(own["limit_bytes"], 512 * MIB);
    // 4 GiB, their page tables, and a margin of 32 MiB.
    assert_eq!(own["needed_bytes"], (4096 + 8 + 32) * MIB);
    assert_eq!(answer["secured"], Value::Null);
    assert_eq!(answer["error"]["kind"], "not-secured");

    // The same limit is enough for smaller memories, and they are committed.
    let small = ["--commit", "--pages", "2048", "--instances", "3"];
    let answer = json(&group, &small, 0);
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
    let limit_file = group.limit_file();
    let limit_file = limit_file.to_str().unwrap();
    let output = preflight(&group, &[]);
    expect_status(&output, 0);
    let stdout = String::from_utf8_lossy(&output.stdout);
    expect_parts(&stdout, &[limit_file, "can be secured now"]);
    let peak = group.peak_bytes().unwrap();
    assert!(peak < 64 * MIB, "{peak}");
    // A margin that does not fit is refused too.
    let margin = (1024 * MIB).to_string();
    let output = preflight(&group, &["--quiet", "--margin-bytes", &margin]);
    let stderr = expect_status(&output, 1);
    assert!(output.stdout.is_empty());
    expect_parts(&stderr, &[limit_file]);
}
