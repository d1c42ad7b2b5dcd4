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
    // 4 GiB, their page tables, tables of the module, and a margin of 32 MiB.
    assert_eq!(own["needed_bytes"], (4096 + 8 + 1 + 32) * MIB);
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

#[test]
fn what_weakens_the_memory_is_told_apart_from_what_prevents_it() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(512 * MIB) else {
        return;
    };
    let small = ["--commit", "--pages", "1024", "--lock-memory=off"];
    let answer = json(&group, &small, 0);
    assert_eq!(answer["locks_memory"], false);
    assert_eq!(answer["secured"]["locked_bytes"], 0);
    let kinds = |answer: &Value| -> Vec<String> {
        let conditions = answer["conditions"].as_array().unwrap();
        let kinds = conditions.iter().map(|condition| {
            for field in ["message", "remedy"] {
                let text = condition[field].as_str().unwrap();
                // Flags, and no items of the library.
                assert!(!text.is_empty() && !text.contains("::"), "{text}");
            }
            condition["kind"].as_str().unwrap().to_owned()
        });
        kinds.collect()
    };
    let tracks_writes = answer["tracks_writes"].as_bool().unwrap();
    let untracked = "no-write-tracking".to_owned();
    assert_eq!(kinds(&answer).contains(&untracked), !tracks_writes);
    let complete = answer["visibility"]["complete"].as_bool().unwrap();
    assert_eq!(
        kinds(&answer).contains(&"hidden-limits".to_owned()),
        !complete
    );
    let reset = &answer["reset"];
    let method = if tracks_writes { "watermark" } else { "full" };
    assert_eq!(reset["method"], method);
    assert_eq!(reset["written_bytes"], MIB);
    assert!(reset["seconds"].as_f64().unwrap() > 0.0);

    // Up to the enforced size: write tracking does not matter.
    let enforced = [&small[..], &["--policy", "commit-maximum"]].concat();
    let answer = json(&group, &enforced, 0);
    assert_eq!(answer["reset"]["method"], "high-water");
    assert!(!kinds(&answer).contains(&untracked));
    // A lock of its own is not the one that every user can lock.
    let lock = tempfile::tempdir().unwrap();
    let lock = lock.path().join("lock");
    let named = ["--pages", "16", "--lock", lock.to_str().unwrap()];
    let answer = json(&group, &named, 0);
    assert!(!kinds(&answer).contains(&"shared-lock".to_owned()));
    assert!(!lock.exists(), "without --commit nothing is locked");
}
