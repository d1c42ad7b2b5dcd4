//! Headroom read from recorded trees: exact numbers, and the exact file that is named.
//!
//! A tree under `trees/` is a root directory with the relevant files of `/proc` and `/sys`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wasm_prealloc_host::{Files, Headroom, Limit, Need, Reading, SecureError, Visibility};

const MIB: u64 = 1 << 20;
/// The values in every tree's `/proc/meminfo`.
const MEM_TOTAL: u64 = 24_684_084 * 1024;
const MEM_FREE: u64 = 22_711_904 * 1024;
const MEM_AVAILABLE: u64 = 24_027_080 * 1024;

fn read(case: &str) -> Result<Headroom, SecureError> {
    let root = format!("{}/tests/trees/{case}", env!("CARGO_MANIFEST_DIR"));
    Headroom::read_from(&Files::under(root))
}

/// Reads the cgroup limits of a tree: name, and limit, in use, reclaimable and available in MiB.
fn cgroups(case: &str) -> Vec<(String, [u64; 4])> {
    read(case)
        .unwrap()
        .readings
        .iter()
        .filter_map(|reading| {
            let name = match &reading.limit {
                Limit::Cgroup { version, file } => format!("{version} {}", file.display()),
                Limit::CgroupHidden { file } => format!("hidden {}", file.display()),
                _ => return None,
            };
            Some((name, in_mib(reading)))
        })
        .collect()
}

fn in_mib(reading: &Reading) -> [u64; 4] {
    [
        reading.limit_bytes,
        reading.in_use_bytes,
        reading.reclaimable_bytes,
        reading.available_bytes,
    ]
    .map(|bytes| {
        assert_eq!(bytes % MIB, 0, "{bytes}");
        bytes / MIB
    })
}

#[track_caller]
fn expect(case: &str, expected: &[(&str, [u64; 4])]) {
    let expected = expected
        .iter()
        .map(|&(name, sizes)| (name.to_owned(), sizes));
    assert_eq!(cgroups(case), expected.collect::<Vec<_>>(), "{case}");
}

/// One test for each recorded tree: the exact cgroup limits that are read from it.
macro_rules! trees {
    ($($(#[$meta:meta])* $name:ident: $tree:literal [$($file:literal $sizes:expr),*];)*) => {$(
        $(#[$meta])*
        #[test]
        fn $name() {
            expect($tree, &[$(($file, $sizes)),*]);
        }
    )*};
}

trees! {
    version_2_own_group: "v2-plain" [
        "v2 /sys/fs/cgroup/system.slice/indexer.service/memory.max" [512, 20, 8, 500]
    ];
    version_2_high_is_a_limit_because_it_throttles_for_ever: "v2-high" [
        "v2 /sys/fs/cgroup/system.slice/indexer.service/memory.max" [8192, 20, 0, 8172],
        "v2 /sys/fs/cgroup/system.slice/indexer.service/memory.high" [256, 20, 0, 236]
    ];
    version_2_without_limits: "v2-unlimited" [];
    version_2_container_with_its_own_namespace: "v2-container" [
        "v2 /sys/fs/cgroup/memory.max" [512, 20, 8, 500]
    ];
    /// A group above the namespace's root is not below the mount, so the mount's limits do not
    /// bind.
    version_2_group_outside_of_the_namespace_has_unknown_limits: "v2-sibling" [];
    version_2_mount_above_the_namespace_shows_an_ancestor: "v2-old-mount" [];
    version_2_group_without_the_controller_has_the_limits_of_its_ancestor: "v2-no-controller" [
        "v2 /sys/fs/cgroup/system.slice/memory.max" [1024, 900, 300, 424]
    ];
    blanks_and_colons_in_paths: "v2-escaped" [
        "v2 /sys/fs/c group/my group:1/memory.max" [512, 20, 0, 492]
    ];
    version_1_nested_with_limits_on_ancestors: "v1-nested" [
        "v1 /sys/fs/cgroup/memory/a/b/memory.limit_in_bytes" [600, 100, 40, 540],
        "v1 /sys/fs/cgroup/memory/a/memory.limit_in_bytes" [2048, 1000, 0, 1048],
        "v1 /sys/fs/cgroup/memory/a/memory.memsw.limit_in_bytes" [2048, 1000, 0, 1048]
    ];
    version_1_container_whose_mount_shows_its_own_group: "v1-docker" [
        "v1 /sys/fs/cgroup/memory/memory.limit_in_bytes" [512, 20, 8, 500],
        "v1 /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes" [1024, 20, 8, 1012]
    ];
    version_1_group_inside_a_container: "v1-docker-nested" [
        "v1 /sys/fs/cgroup/memory/memory.limit_in_bytes" [512, 20, 8, 500]
    ];
    /// The group's own directory is mounted over the whole hierarchy: both mounts are still listed.
    version_1_mount_that_is_covered_by_another: "v1-covered-mount" [
        "hidden /sys/fs/cgroup/memory/memory.stat" [512, 20, 8, 500]
    ];
    version_1_ancestor_that_does_not_account_for_its_children: "v1-detached-ancestor" [
        "v1 /sys/fs/cgroup/memory/a/b/memory.limit_in_bytes" [1024, 10, 0, 1014]
    ];
    version_1_without_statistics_has_nothing_to_reclaim: "v1-no-stat" [
        "v1 /sys/fs/cgroup/memory/indexer/memory.limit_in_bytes" [512, 100, 0, 412]
    ];
    version_1_beside_a_version_2_mount_without_controllers: "hybrid" [
        "v1 /sys/fs/cgroup/memory/process_api/59e45f469162b10b/memory.limit_in_bytes"
            [512, 6, 0, 506]
    ];
}

/// A limit that is not visible is not a limit that does not exist.
#[test]
fn hidden_limits_are_unknown_or_partial_and_never_unlimited() {
    let complete = [
        "v2-plain",
        "v2-ancestor",
        "v2-escaped",
        "v2-no-controller",
        "v1-nested",
        "v1-hidden-parent",
        "v1-docker",
        "hybrid",
        "no-cgroups",
        "disabled-controller",
    ];
    for case in complete {
        let visibility = read(case).unwrap().visibility;
        assert_eq!(visibility, Visibility::Complete, "{case}");
    }
    for (case, part) in [
        (
            "v2-container",
            "/sys/fs/cgroup is not the root of the cgroup v2",
        ),
        ("v1-no-stat", "does not report the limits of parent groups"),
    ] {
        let visibility = read(case).unwrap().visibility;
        assert!(matches!(visibility, Visibility::Partial(_)), "{case}");
        let why = visibility.to_string();
        assert!(why.contains(part), "{case}: {why}");
    }
    for (case, part) in [
        (
            "v2-hidden-mount",
            "cgroup v2 /system.slice/indexer.service cannot be found",
        ),
        ("v2-covered", "cgroup v2 / cannot be found"),
        ("v2-sibling", "cgroup v2 /../x cannot be found"),
        ("v2-old-mount", "cgroup v2 / cannot be found"),
        ("no-proc-cgroup", "there is no /proc/self/cgroup"),
    ] {
        let visibility = read(case).unwrap().visibility;
        assert!(matches!(visibility, Visibility::Unknown(_)), "{case}");
        let why = visibility.to_string();
        assert!(why.contains(part), "{case}: {why}");
    }
}

#[test]
fn version_2_limit_on_an_ancestor() {
    let own = "v2 /sys/fs/cgroup/system.slice/indexer.service/memory.max";
    let slice = "v2 /sys/fs/cgroup/system.slice/memory.max";
    expect(
        "v2-ancestor",
        &[(own, [8192, 20, 8, 8180]), (slice, [1024, 900, 300, 424])],
    );
    let headroom = read("v2-ancestor").unwrap();
    let shortfall = headroom.shortfall(&Need::populate(512 * MIB, 0)).unwrap();
    assert_eq!(shortfall.limit.to_string(), format!("cgroup {slice}"));
    assert_eq!(shortfall.needed_bytes, 513 * MIB);
    assert_eq!(shortfall.missing_bytes(), 89 * MIB);
    // 600 in use, 513 needed, and an allowance of 4 MiB and of 512 KiB for each of 2 processors.
    assert_eq!(shortfall.sufficient_bytes(), 1118 * MIB);
}

#[test]
fn version_1_parent_outside_of_the_mount() {
    let own = "hidden /sys/fs/cgroup/memory/memory.stat";
    expect("v1-hidden-parent", &[(own, [512, 20, 8, 500])]);
    let headroom = read("v1-hidden-parent").unwrap();
    let shortfall = headroom.shortfall(&Need::populate(4096 * MIB, 0)).unwrap();
    let advice = shortfall.advice();
    assert!(advice.contains("parent group"), "{advice}");
}

#[test]
fn page_cache_counts_as_available() {
    let own = "v1 /sys/fs/cgroup/memory/indexer/memory.limit_in_bytes";
    expect("v1-page-cache", &[(own, [5120, 5000, 4900, 5020])]);
    let headroom = read("v1-page-cache").unwrap();
    headroom.check(&Need::populate(4096 * MIB, 0)).unwrap();
}

#[test]
fn the_machine_is_always_read() {
    let headroom = read("v2-unlimited").unwrap();
    let [machine] = headroom.readings.as_slice() else {
        panic!("{headroom:?}");
    };
    assert_eq!(machine.limit, Limit::Machine);
    assert_eq!(machine.limit_bytes, MEM_TOTAL);
    assert_eq!(machine.in_use_bytes, MEM_TOTAL - MEM_FREE);
    assert_eq!(machine.reclaimable_bytes, MEM_AVAILABLE - MEM_FREE);
    assert_eq!(machine.available_bytes, MEM_AVAILABLE);
}

#[test]
fn a_system_without_cgroups_has_the_process_limits_and_strict_overcommit() {
    let headroom = read("no-cgroups").unwrap();
    let readings = headroom.readings.into_iter();
    let found: Vec<_> = readings
        .map(|reading| (reading.limit, reading.limit_bytes, reading.in_use_bytes))
        .collect();
    assert_eq!(
        found,
        [
            (Limit::Machine, MEM_TOTAL, MEM_TOTAL - MEM_FREE),
            (Limit::AddressSpace, 4096 * MIB, 80 * MIB),
            (Limit::DataSegment, 1024 * MIB, 20 * MIB),
            (Limit::Overcommit, 12_342_040 * 1024, 52_516 * 1024),
        ]
    );
}

#[test]
fn each_limit_is_compared_with_its_own_part_of_the_need() {
    let headroom = read("no-cgroups").unwrap();
    // Committed, reserved and margin in MiB; the limit that is exceeded, and the need under it.
    for (need, expected) in [
        ([512, 1024, 0], None),
        ([512, 4096, 0], Some((Limit::AddressSpace, 4097))),
        ([1004, 1024, 0], Some((Limit::DataSegment, 1005))),
        ([512, 1024, 102_400], Some((Limit::Machine, 513 + 102_400))),
    ] {
        let [committed, reserved, margin] = need.map(|mib| mib * MIB);
        let shortfall = headroom.shortfall(&Need::commit(committed, reserved, margin));
        let found = shortfall.map(|short| (short.limit, short.needed_bytes));
        let expected = expected.map(|(limit, mib)| (limit, mib * MIB));
        assert_eq!(found, expected, "{need:?}");
    }
}

#[test]
fn a_malformed_file_is_named() {
    match read("unreadable") {
        Err(SecureError::Unreadable { path, .. }) => {
            assert_eq!(path, std::path::Path::new("/sys/fs/cgroup/memory.current"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_running_system_can_be_read() {
    let headroom = Headroom::read().unwrap();
    let mut limits = headroom.readings.iter().map(|reading| &reading.limit);
    assert!(limits.any(|limit| *limit == Limit::Machine));
}

#[test]
fn pools_of_huge_pages_and_the_locked_memory_limit() {
    let headroom = read("huge-pages").unwrap();
    let found: Vec<(String, [u64; 4])> = headroom
        .readings
        .iter()
        .filter(|reading| reading.limit != Limit::Machine)
        .map(|reading| (reading.limit.to_string(), in_mib(reading)))
        .collect();
    let pool = |kib| format!("the pool of huge pages /sys/kernel/mm/hugepages/hugepages-{kib}kB");
    assert_eq!(
        found,
        [
            (Limit::LockedMemory.to_string(), [8, 2, 0, 6]),
            // 90 pages of its own and 30 more on demand; 30 are used and 20 reserved.
            (pool(2048), [240, 100, 0, 140]),
            (pool(1 << 20), [0, 0, 0, 0]),
        ]
    );
    let need = |bytes: u64| Need::commit(bytes, bytes, 0).in_huge_pages(2 << 20, bytes, 0);
    headroom.check(&need(140 * MIB)).unwrap();
    let shortfall = headroom.shortfall(&need(142 * MIB)).unwrap();
    assert_eq!(shortfall.limit.to_string(), pool(2048));
    assert_eq!(
        shortfall.advice(),
        "have at least 121 of them: echo 121 > \
         /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    );
    let locked = Need::populate(MIB, 0).locked(7 * MIB);
    let shortfall = headroom.shortfall(&locked).unwrap();
    assert_eq!(shortfall.limit, Limit::LockedMemory);
    assert!(shortfall.advice().contains("ulimit -l 9216"), "{shortfall}");
}

/// The limit does not bind a process with the capability to lock memory.
#[test]
fn the_locked_memory_limit_is_left_out_if_it_does_not_bind() {
    let folder = tempfile::tempdir().unwrap();
    let tree = format!("{}/tests/trees/huge-pages", env!("CARGO_MANIFEST_DIR"));
    let copied = std::process::Command::new("cp")
        .args(["-r", &format!("{tree}/."), folder.path().to_str().unwrap()])
        .status();
    assert!(copied.unwrap().success());
    let status = folder.path().join("proc/self/status");
    let text = std::fs::read_to_string(&status).unwrap();
    let capable = text.replace("CapEff:\t000001ffffffbfff", "CapEff:\t000001ffffffffff");
    assert_ne!(text, capable);
    std::fs::write(&status, capable).unwrap();
    let headroom = Headroom::read_from(&Files::under(folder.path())).unwrap();
    let limits = headroom.readings.iter().map(|reading| &reading.limit);
    assert!(limits.clone().all(|limit| *limit != Limit::LockedMemory));
    assert_eq!(limits.count(), 3);
}
