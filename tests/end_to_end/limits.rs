//! Hosts under real limits: a memory cgroup around their need, `ulimit -v`, `-d` and `-l`, an empty
//! pool of huge pages. They succeed or name the limit; none is killed.
//!
//! Each host is the program `commit`. `cargo xtask memory-test --full` tries many more limits.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use wasm_prealloc_host::Backing;
use wasm_prealloc_tests::limits::{BACKINGS, Cached, Host, Stats, cannot_hide};
use wasm_prealloc_tests::{MIB, MemoryGroup, memory_lock, skipped};

use crate::processes::{expect_parts, expect_status};

const PAGES: u64 = 1024;
const NEEDED_BYTES: u64 = (PAGES << 16) + (PAGES << 16) / 512;
const KIB: u64 = 1 << 10;

pub(crate) const SECURED: i32 = 0;
pub(crate) const REFUSED: i32 = 1;

/// The program `commit`.
fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| wasm_prealloc_tests::commit().unwrap());
    &BINARY
}

/// Returns a host of 64 MiB, without a margin.
fn host(backing: Backing) -> Host {
    Host {
        program: binary().to_owned(),
        pages: PAGES,
        also: None,
        backing,
        hidden: false,
    }
}

/// Runs a host in a shell. `prefix` is the start of its command line.
pub(crate) fn commit(prefix: &str, arguments: &[&str]) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(format!("{prefix} \"$0\" \"$@\""))
        .arg(binary())
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn no_host_was_killed(what: &str, stats: &Stats) {
    println!(
        "{what}: {} tried, {} secured, {} refused, in {:.1?}",
        stats.tried, stats.secured, stats.refused, stats.elapsed
    );
    assert_eq!(stats.judge(), Ok(()), "{what}: {stats:?}");
}

/// Limits from too little to enough, in small steps and without a margin.
#[test]
fn around_a_cgroup_limit_no_host_is_killed() {
    let _lock = memory_lock().unwrap();
    if MemoryGroup::create_or_skip(MIB).is_none() {
        return;
    }
    for backing in BACKINGS {
        let host = host(backing);
        let coarse = (0..64).map(|step| NEEDED_BYTES - 4 * MIB + step * (256 * KIB));
        no_host_was_killed(&format!("{backing}, 256 KiB"), &host.sweep(coarse).unwrap());
        let fine = host.limits_around_break_even(64, 16 * KIB).unwrap();
        no_host_was_killed(&format!("{backing}, 16 KiB"), &host.sweep(fine).unwrap());
    }
}

/// The same, with an empty directory over all groups. A child process may be killed, no host.
#[test]
fn around_a_hidden_limit_no_host_is_killed() {
    let _lock = memory_lock().unwrap();
    if MemoryGroup::create_or_skip(MIB).is_none() {
        return;
    }
    if let Some(why) = cannot_hide() {
        return skipped(&why);
    }
    for backing in BACKINGS {
        let host = Host {
            hidden: true,
            ..host(backing)
        };
        let coarse = (0..24).map(|step| NEEDED_BYTES - 8 * MIB + step * MIB);
        let stats = host.sweep(coarse).unwrap();
        no_host_was_killed(&format!("{backing}, hidden, 1 MiB"), &stats);
        let fine = host.limits_around_break_even(32, 32 * KIB).unwrap();
        let stats = host.sweep(fine).unwrap();
        no_host_was_killed(&format!("{backing}, hidden, 32 KiB"), &stats);
    }
}

/// Two pools that are secured together are one need: at every limit both are there or none, also in
/// huge pages and where the limit is hidden.
#[test]
fn around_a_limit_two_pools_are_secured_together_or_not_at_all() {
    let _lock = memory_lock().unwrap();
    if MemoryGroup::create_or_skip(MIB).is_none() {
        return;
    }
    for backing in BACKINGS {
        for hidden in [false, true] {
            if let (true, Some(why)) = (hidden, cannot_hide()) {
                skipped(&why);
                continue;
            }
            let host = Host {
                pages: 512,
                also: Some((16, 32)),
                hidden,
                ..host(backing)
            };
            let limits = (0..20).map(|step| NEEDED_BYTES - 8 * MIB + step * 2 * MIB);
            let stats = host.sweep(limits).unwrap();
            no_host_was_killed(&format!("{backing}, two pools, hidden: {hidden}"), &stats);
        }
    }
}

/// The answer to two pools has the sum, and its advice is enough for both.
#[test]
fn the_limit_that_two_pools_are_advised_is_enough_for_both() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(32 * MIB) else {
        return;
    };
    let prefix = format!("{} exec", group.enter());
    let arguments = [
        "--preflight",
        "--pages",
        "512",
        "--slots",
        "2",
        "--also",
        "16x64",
    ];
    let text = expect_status(&commit(&prefix, &arguments), REFUSED);
    // 2 x 32 and 16 x 4 MiB, their page tables, tables of 18 modules, and one margin of 32 MiB.
    let sum = (128 * MIB + 128 * MIB / 512) + 18 * MIB + 32 * MIB;
    let parts = [
        &format!("needed {sum} bytes"),
        "raise this limit to at least",
    ];
    expect_parts(&text, &parts);
    let (_, advised) = text.split_once("at least ").unwrap();
    let digits: String = advised.chars().take_while(char::is_ascii_digit).collect();
    let advised: u64 = digits.parse().unwrap();
    group.set_limit(advised).unwrap();
    let text = expect_status(&commit(&prefix, &arguments), SECURED);
    assert_eq!(text.matches("secured: 67108864 bytes").count(), 2, "{text}");
    // The advice allows for the process. Less than the sum is too little without it.
    group.set_limit(sum - MIB).unwrap();
    expect_status(&commit(&prefix, &arguments), REFUSED);
    assert_eq!(group.oom_kills().unwrap(), 0);
}

#[test]
fn a_linear_memory_in_512_mib_is_refused_by_name() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(512 * MIB) else {
        return;
    };
    let prefix = format!("{} exec", group.enter());
    let limit_file = group.limit_file().display().to_string();
    for backing in BACKINGS {
        let output = commit(&prefix, &["--backing", &backing.to_string()]);
        let parts = [
            &format!("cgroup {} {limit_file}", group.version()),
            "limit 536870912 bytes (512 MiB)",
            // 4096 MiB, 8 MiB of page tables and 32 MiB of margin.
            "needed 4337958912 bytes (4137 MiB)",
            "raise this limit to at least",
        ];
        expect_parts(&expect_status(&output, REFUSED), &parts);
    }
    assert_eq!(group.oom_kills().unwrap(), 0);
}

/// Runs `before` and then the host in a new mount namespace, in a group. Returns `None` if there
/// are no such namespaces here.
fn unshared(group: &MemoryGroup, before: &str, arguments: &[&str]) -> Option<Output> {
    let probe = Command::new("unshare")
        .args(["-m", "sh", "-c", &format!("{before} true")])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skipped("a child cannot have a mount namespace here");
        return None;
    }
    let enter = group.enter();
    let prefix = format!("{enter} exec unshare -m sh -c '{before} exec \"$0\" \"$@\"'");
    Some(commit(&prefix, arguments))
}

/// If the check cannot see the limit, the kernel itself refuses.
#[test]
fn an_invisible_cgroup_refuses_without_a_kill() {
    let _lock = memory_lock().unwrap();
    let Some(group) = MemoryGroup::create_or_skip(NEEDED_BYTES) else {
        return;
    };
    let hide = format!("umount -l {} &&", group.mount());
    let pages = PAGES.to_string();
    for step in 0..48 {
        group.set_limit(16 * MIB + step * (1000 << 10)).unwrap();
        let arguments = ["--pages", &pages, "--margin-bytes", "0"];
        let Some(output) = unshared(&group, &hide, &arguments) else {
            return;
        };
        let text = expect_status(&output, REFUSED);
        let parts = [
            "a memory cgroup refused after",
            "no limit is visible from here",
        ];
        expect_parts(&text, &parts);
    }
    assert_eq!(group.oom_kills().unwrap(), 0);
}

/// A container sees only its own group; the pod around it may have less.
#[test]
fn a_parents_limit_outside_of_the_mount_is_found_or_refuses_by_itself() {
    let _lock = memory_lock().unwrap();
    let Some(parent) = MemoryGroup::create_or_skip(NEEDED_BYTES) else {
        return;
    };
    let group = match parent.create_below() {
        Ok(group) => group,
        Err(why) => return skipped(&why),
    };
    let (own, mount) = (group.path().display(), parent.mount());
    let narrow = format!("mount --bind {own} {mount} &&");
    let pages = PAGES.to_string();
    let visible = parent.version() == "v1";
    let named = match visible {
        true => [
            &format!("a parent cgroup outside this mount, reported by {mount}/memory.stat"),
            "limit of the parent group",
        ],
        false => ["a memory cgroup refused after"; 2],
    };
    for backing in BACKINGS {
        if backing == Backing::Base && !visible {
            // Version 2 does not report such a parent, and populating cannot be refused.
            skipped("version 2 does not report a hidden parent to a host with base pages");
            continue;
        }
        let name = backing.to_string();
        let (mut secured, mut refused) = (0, 0);
        for step in 0..24 {
            parent.set_limit(16 * MIB + step * 3 * MIB).unwrap();
            let arguments = ["--pages", &pages, "--margin-bytes", "0", "--backing", &name];
            let Some(output) = unshared(&group, &narrow, &arguments) else {
                return;
            };
            if output.status.code() == Some(SECURED) {
                secured += 1;
            } else {
                refused += 1;
                expect_parts(&expect_status(&output, REFUSED), &named);
            }
        }
        println!("hidden parent, {backing}: {secured} secured, {refused} refused");
        assert!(secured > 0 && refused > 0, "{backing}: {secured} secured");
    }
    assert_eq!(parent.oom_kills().unwrap() + group.oom_kills().unwrap(), 0);
}

/// Four hosts start at once in room for two. The lock lets each see what the others have taken, so
/// two always succeed and two are refused.
#[test]
fn hosts_that_start_together_do_not_take_the_same_room() {
    let _lock = memory_lock().unwrap();
    if MemoryGroup::create_or_skip(MIB).is_none() {
        return;
    }
    for backing in BACKINGS {
        let stats = host(backing).race(4, 2, 2 * NEEDED_BYTES + 32 * MIB, 5);
        no_host_was_killed(&format!("{backing}, 4 at once"), &stats.unwrap());
    }
}

#[test]
fn page_cache_of_the_group_makes_room() {
    let _lock = memory_lock().unwrap();
    if MemoryGroup::create_or_skip(MIB).is_none() {
        return;
    }
    // tmpfs has no page cache, so this uses the directory of the build.
    let folder = env!("CARGO_TARGET_TMPDIR").as_ref();
    for backing in BACKINGS {
        for cached in [Cached::Written, Cached::Read] {
            let stats = host(backing).in_page_cache(cached, folder).unwrap();
            no_host_was_killed(&format!("{backing}, {cached:?}"), &stats);
        }
    }
}

#[test]
fn ulimit_v_is_named_as_the_address_space() {
    ulimit_is_named("ulimit -v ", ["RLIMIT_AS", "limit: AddressSpace"]);
}

#[test]
fn ulimit_d_is_named_as_the_data_segment() {
    ulimit_is_named("ulimit -d ", ["RLIMIT_DATA", "limit: DataSegment"]);
}

#[track_caller]
fn ulimit_is_named(ulimit: &str, names: [&str; 2]) {
    let _lock = memory_lock().unwrap();
    let run = |kib: u64| commit(&format!("{ulimit}{kib} && exec"), &["--pages", "8192"]);
    let text = expect_status(&run(300_000), REFUSED);
    expect_parts(&text, &names);
    // Follows the advice of the message, with room for differences between runs.
    expect_status(&run(advised(&text, ulimit) + 4096), SECURED);
}

/// The check before a commit gives the same answer as the commit, also where the cgroup is hidden and
/// the margin is mapped too.
#[test]
fn a_preflight_under_ulimits_answers_as_the_commit_does() {
    const STEP_KIB: u64 = 512;
    let _lock = memory_lock().unwrap();
    let hide = match cannot_hide() {
        None => "unshare -m sh -c 'mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" \"$@\"'",
        Some(why) => {
            skipped(&why);
            ""
        }
    };
    for backing in BACKINGS {
        for (ulimit, prefix) in [("-d", ""), ("-d", hide), ("-v", ""), ("-v", hide)] {
            let run = |kib: u64| {
                let prefix = format!("ulimit {ulimit} {kib} && exec {prefix}");
                let backing = backing.to_string();
                let arguments = ["--preflight", "--pages", "256", "--backing", &backing];
                let output = commit(&prefix, &arguments);
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!text.contains("differs"), "{prefix} {backing}: {text}");
                assert!(
                    matches!(output.status.code(), Some(SECURED | REFUSED)),
                    "{text}"
                );
                output.status.code() == Some(SECURED)
            };
            let (mut refused, mut secured) = (8 << 10, 16 << 20);
            while secured - refused > STEP_KIB {
                let middle = u64::midpoint(refused, secured);
                match run(middle) {
                    true => secured = middle,
                    false => refused = middle,
                }
            }
            for step in 0..16 {
                run(secured - 8 * STEP_KIB + step * STEP_KIB);
            }
        }
    }
}

/// Locked memory counts against a limit, unless the process has CAP_IPC_LOCK.
#[test]
fn ulimit_l_is_named_as_locked_memory() {
    const DROP: [&str; 4] = ["--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"];
    let probe = Command::new("setpriv").args(DROP).arg("true").output();
    let before = match probe.is_ok_and(|output| output.status.success()) {
        true => format!("setpriv {}", DROP.join(" ")),
        false => {
            // An ordinary user has no such capability to drop.
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
            if effective.map(str::trim) != Some("0000000000000000") {
                return skipped("CAP_IPC_LOCK cannot be dropped here: there is no setpriv");
            }
            String::new()
        }
    };
    let locked = |kib: u64| {
        let prefix = format!("ulimit -l {kib} && exec {before}");
        commit(&prefix, &["--pages", "32", "--lock-memory"])
    };
    let text = expect_status(&locked(1024), REFUSED);
    expect_parts(&text, &["RLIMIT_MEMLOCK", "limit: LockedMemory"]);
    let kib = advised(&text, "ulimit -l ");
    assert_eq!(kib, 2 << 10);
    expect_status(&locked(kib), SECURED);
}

#[test]
fn a_pool_of_huge_pages_without_enough_of_them_is_named() {
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let free = std::fs::read_to_string(format!("{pool}/free_hugepages"));
    match free.map(|free| free.trim().parse::<u64>()) {
        Ok(Ok(..2048)) => {}
        Ok(_) => return skipped("the pool of huge pages has 4 GiB free"),
        Err(why) => return skipped(&format!("{pool}: {why}")),
    }
    let output = commit("exec", &["--backing", "hugetlb-2m"]);
    let parts = [
        "limit: HugePages",
        &format!("the pool of huge pages {pool}"),
        "needed 4294967296 bytes",
        &format!("> {pool}/nr_hugepages"),
    ];
    expect_parts(&expect_status(&output, REFUSED), &parts);
}

/// Under RLIMIT_DATA, memory counts when it becomes accessible, so growth could be refused although
/// its pages are committed.
#[test]
fn growth_is_not_promised_if_a_limit_could_refuse_it() {
    let _lock = memory_lock().unwrap();
    let arguments = ["--pages", "1024", "--policy", "commit-maximum"];
    // More than enough: the limit matters because it counts at all.
    let limited = "ulimit -d 8388608 && exec";
    let parts = [
        "growth cannot be assured under",
        "RLIMIT_DATA",
        "GrowthNotAssured { limit: DataSegment }",
    ];
    let text = expect_status(&commit(limited, &arguments), REFUSED);
    expect_parts(&text, &parts);
    // Both remedies that the message names.
    expect_status(&commit("exec", &arguments), SECURED);
    expect_status(&commit(limited, &["--pages", "1024"]), SECURED);
}

/// Returns the number that a message advises.
#[track_caller]
fn advised(text: &str, command: &str) -> u64 {
    let (_, rest) = text.split_once(&format!(": {command}")).unwrap();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}
