//! Limits that follow from rules of the kernel: strict overcommit, protected page cache, NUMA
//! nodes, mappings and addresses. Read from recorded trees, because a test cannot change these
//! settings of the whole machine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use wasm_prealloc_host::{
    Files, Headroom, Limit, MemoryPool, Need, Reading, SecureError, Visibility,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The values in every tree's `/proc/meminfo`.
const MEM_TOTAL: u64 = 24_684_084 * KIB;
const MEM_AVAILABLE: u64 = 24_027_080 * KIB;
const COMMIT_LIMIT: u64 = 12_342_040 * KIB;
const COMMITTED: u64 = 52_516 * KIB;

fn tree(case: &str) -> String {
    format!("{}/tests/trees/{case}", env!("CARGO_MANIFEST_DIR"))
}

fn read(root: impl AsRef<Path>) -> Headroom {
    Headroom::read_from(&Files::under(root.as_ref())).unwrap()
}

/// Returns a copy of a tree, for a test that changes its files.
fn copy(case: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = format!("{}/.", tree(case));
    let copied = std::process::Command::new("cp")
        .args(["-r", &from, folder.path().to_str().unwrap()])
        .status();
    assert!(copied.unwrap().success());
    folder
}

fn find(headroom: &Headroom, wanted: impl Fn(&Limit) -> bool) -> Reading {
    let mut readings = headroom.readings.iter();
    let found = readings.find(|reading| wanted(&reading.limit));
    found.unwrap().clone()
}

/// The part that the kernel keeps for an administrator from a process that is none, with the page
/// by which a commit must stay below the limit.
fn kept_bytes(root: &Path) -> u64 {
    find(&read(root), |limit| *limit == Limit::Overcommit).kept_bytes
}

#[test]
fn strict_overcommit_keeps_a_reserve_for_the_user_and_for_the_administrator() {
    let headroom = read(tree("strict-overcommit"));
    let reading = find(&headroom, |limit| *limit == Limit::Overcommit);
    assert_eq!(reading.kept_bytes, 8 * MIB + 4 * KIB);
    let available = COMMIT_LIMIT - COMMITTED - reading.kept_bytes;
    assert_eq!(reading.available_bytes, available);
    // The process has 80 MiB of address space. A 32nd of all its address space is kept, and 128 MiB
    // at most.
    for (reserved, kept) in [(16 * MIB, 97 * MIB / 32), (64 * GIB, 128 * MIB)] {
        let need = Need::commit(8 * MIB, reserved, 0);
        assert_eq!(need.against(&reading), 9 * MIB + kept, "{reserved}");
    }
    let largest = available - MIB - 128 * MIB;
    let need = |bytes| Need::commit(bytes, 64 * GIB, 0);
    headroom.check(&need(largest)).unwrap();
    let shortfall = headroom.shortfall(&need(largest + 1)).unwrap();
    assert_eq!(shortfall.limit, Limit::Overcommit);
    assert_eq!(shortfall.missing_bytes(), 1);
}

#[test]
fn the_administrators_reserve_is_kept_unless_the_capability_is_of_the_whole_machine() {
    let folder = copy("strict-overcommit");
    let root = folder.path();
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
    let status = std::fs::read_to_string(root.join("proc/self/status")).unwrap();
    write(
        "proc/self/status",
        &format!("{status}CapEff:\t000001ffffffffff\n"),
    );
    assert_eq!(kept_bytes(root), 4 * KIB);
    // A user namespace has its own capabilities.
    write("proc/self/uid_map", "0 1000 1\n");
    assert_eq!(kept_bytes(root), 8 * MIB + 4 * KIB);
}

/// The kernel's own count differs from the one that it reports by up to a 256th of the memory.
#[test]
fn the_advised_commit_limit_is_enough_when_set_exactly() {
    let headroom = read(tree("strict-overcommit"));
    let need = Need::commit(12 * GIB, 14 * GIB, 0);
    let shortfall = headroom.shortfall(&need).unwrap();
    assert_eq!(shortfall.needed_bytes, 12 * GIB + MIB + 128 * MIB);
    let message = SecureError::Shortfall(shortfall.clone()).to_string();
    let kib = shortfall.sufficient_bytes() / KIB;
    for part in [
        "vm.overcommit_memory = 2",
        "kept by the kernel 8392704 bytes",
        &format!("sysctl vm.overcommit_kbytes={kib})"),
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(shortfall.sufficient_bytes() > COMMITTED + shortfall.needed_bytes + MEM_TOTAL / 256);
    let folder = copy("strict-overcommit");
    let meminfo = std::fs::read_to_string(folder.path().join("proc/meminfo")).unwrap();
    let raised = meminfo.replace("12342040 kB", &format!("{kib} kB"));
    std::fs::write(folder.path().join("proc/meminfo"), raised).unwrap();
    let headroom = read(folder.path());
    headroom.check(&need).unwrap();
    // Also if every processor's batch and the allowance are used up.
    let mut worse = find(&headroom, |limit| *limit == Limit::Overcommit);
    worse.available_bytes -= MEM_TOTAL / 256;
    assert!(need.against(&worse) <= worse.available_bytes, "{worse:?}");
}

/// The slice has 300 MiB of page cache. Of the 200 MiB of `db.service`, whose usage is 100 MiB
/// above its protection, 100 are kept; of `cache.service`, all 80. `memory.low`, and the protection
/// of a group inside an unprotected one, do not count.
#[test]
fn page_cache_that_memory_min_protects_is_not_available() {
    let headroom = read(tree("v2-protected"));
    let slice = find(&headroom, |limit| {
        limit.to_string().ends_with("/system.slice/memory.max")
    });
    assert_eq!(slice.reclaimable_bytes, (300 - 100 - 80) * MIB);
    assert_eq!(slice.available_bytes, (1024 - 900 + 120) * MIB);
    // At the group's own limit, its own page cache can be reclaimed.
    let own = find(&headroom, |limit| limit.to_string().contains("indexer"));
    assert_eq!(own.reclaimable_bytes, 8 * MIB);
    // `user.slice` protects its 750 MiB from the whole machine.
    let machine = find(&headroom, |limit| *limit == Limit::Machine);
    assert_eq!(machine.available_bytes, MEM_AVAILABLE - 750 * MIB);
    assert_eq!(headroom.visibility, Visibility::Complete);
}

#[test]
fn a_file_that_cannot_be_read_hides_its_limit_and_does_not_refuse() {
    let group = "sys/fs/cgroup/system.slice/indexer.service";
    for (name, reads) in [("memory.max", 1), ("memory.high", 2), ("memory.current", 2)] {
        let folder = copy("v2-ancestor");
        let path = folder.path().join(group).join(name);
        // Reading a directory fails for root too.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let headroom = read(folder.path());
        let why = headroom.visibility.to_string();
        assert!(
            matches!(headroom.visibility, Visibility::Partial(_)),
            "{why}"
        );
        assert!(
            why.contains(&format!("{group}/{name} cannot be read")),
            "{why}"
        );
        let limits = headroom.readings.iter();
        let cgroups = limits.filter(|reading| reading.limit.kind() == "cgroup-v2");
        assert_eq!(cgroups.count(), reads, "{name}");
    }
    // Without the usage, the limit still refuses what is larger than all of it.
    let folder = copy("v2-plain");
    let usage = folder.path().join(group).join("memory.current");
    std::fs::remove_file(&usage).unwrap();
    std::fs::create_dir(&usage).unwrap();
    let headroom = read(folder.path());
    headroom.check(&Need::populate(400 * MIB, 0)).unwrap();
    headroom.check(&Need::populate(600 * MIB, 0)).unwrap_err();
}

/// At these settings the kernel refuses without a kill, so a host need not know them.
#[test]
fn settings_that_cannot_be_read_do_not_refuse() {
    for (case, path, kind) in [
        (
            "strict-overcommit",
            "proc/sys/vm/overcommit_memory",
            "overcommit",
        ),
        (
            "huge-pages",
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "huge-pages",
        ),
        ("mappings", "proc/sys/vm/max_map_count", "mappings"),
    ] {
        let folder = copy(case);
        let of_kind = |root: &Path| {
            let readings = read(root).readings.into_iter();
            readings
                .filter(|reading| reading.limit.kind() == kind)
                .count()
        };
        let before = of_kind(folder.path());
        let path = folder.path().join(path);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(of_kind(folder.path()), before - 1, "{case}");
    }
    // Without the machine's memory a kill cannot be ruled out.
    let folder = copy("v2-plain");
    std::fs::remove_file(folder.path().join("proc/meminfo")).unwrap();
    let error = Headroom::read_from(&Files::under(folder.path())).unwrap_err();
    let message = error.to_string();
    let parts = ["/proc/meminfo", "ProcSubset=pid"];
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn the_process_may_use_one_of_two_nodes() {
    let headroom = read(tree("numa"));
    let node = find(&headroom, |limit| limit.kind() == "numa");
    assert_eq!(node.limit.to_string(), "the memory of the NUMA nodes 1");
    assert_eq!(node.limit_bytes, 8 * GIB);
    assert_eq!(node.in_use_bytes, 6 * GIB);
    // The page cache up to the low watermarks of 10,272 pages stays; 12,800 pages are kept.
    assert_eq!(node.reclaimable_bytes, 1536 * MIB - 10_272 * 4 * KIB);
    assert_eq!(node.kept_bytes, 50 * MIB);
    let available = 2 * GIB + node.reclaimable_bytes - 50 * MIB;
    assert_eq!(node.available_bytes, available);
    let shortfall = headroom.shortfall(&Need::populate(4 * GIB, 0)).unwrap();
    assert_eq!(shortfall.limit, node.limit);
    let advice = shortfall.advice();
    assert!(advice.contains("cpuset.mems"), "{advice}");
}

#[test]
fn the_pool_of_huge_pages_is_that_of_the_only_node() {
    let folder = copy("numa");
    let write = |path: &str, number: u64| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{number}\n")).unwrap();
    };
    let machine = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let node = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
    for (name, of_machine, of_node) in [
        ("nr_hugepages", 1000, Some(100)),
        ("free_hugepages", 900, Some(90)),
        ("surplus_hugepages", 0, Some(0)),
        ("resv_hugepages", 5, None),
        ("nr_overcommit_hugepages", 0, None),
    ] {
        write(&format!("{machine}/{name}"), of_machine);
        if let Some(number) = of_node {
            write(&format!("{node}/{name}"), number);
        }
    }
    let pool = find(&read(folder.path()), |limit| limit.kind() == "huge-pages");
    assert_eq!(pool.available_bytes, 85 * 2 * MIB);
    assert!(pool.limit.to_string().contains(node), "{pool}");
}

#[test]
fn a_process_that_may_use_every_node_has_no_limit_of_nodes() {
    let folder = copy("numa");
    let status = folder.path().join("proc/self/status");
    let text = std::fs::read_to_string(&status).unwrap();
    let all = text.replace("Mems_allowed_list:\t1", "Mems_allowed_list:\t0-1");
    std::fs::write(&status, all).unwrap();
    let headroom = read(folder.path());
    let mut limits = headroom.readings.iter().map(|reading| reading.limit.kind());
    assert!(limits.all(|kind| kind != "numa"));
}

#[test]
fn mappings_are_counted_and_the_advised_number_is_enough() {
    let folder = copy("mappings");
    let headroom = read(folder.path());
    let reading = find(&headroom, |limit| *limit == Limit::Mappings);
    // The kernel does not count [vsyscall].
    assert_eq!((reading.limit_bytes, reading.in_use_bytes), (65_530, 6));
    let need = |count| Need::populate(0, 0).mappings(count);
    headroom.check(&need(64_500)).unwrap();
    let shortfall = headroom.shortfall(&need(64_501)).unwrap();
    assert_eq!(shortfall.limit, Limit::Mappings);
    let message = shortfall.to_string();
    let advice = format!("sysctl vm.max_map_count={}", shortfall.sufficient_bytes());
    assert!(message.contains("needed 65525 mappings"), "{message}");
    assert!(message.contains(&advice), "{message}");
    let enough = shortfall.sufficient_bytes().to_string();
    std::fs::write(folder.path().join("proc/sys/vm/max_map_count"), enough).unwrap();
    read(folder.path()).check(&need(64_501)).unwrap();
}

#[test]
fn addresses_are_those_of_the_processor() {
    let headroom = read(tree("mappings"));
    let reading = find(&headroom, |limit| *limit == Limit::Addresses);
    assert_eq!(reading.limit_bytes, 1 << 47);
    let need = |reserved| Need::commit(0, reserved, 0);
    headroom.check(&need(127 << 40)).unwrap();
    let shortfall = headroom.shortfall(&need(128 << 40)).unwrap();
    assert_eq!(shortfall.limit, Limit::Addresses);
    assert!(shortfall.advice().contains("fewer memories"), "{shortfall}");
}

/// Kubernetes limits the huge pages of a pod in this way.
#[test]
fn limits_of_cgroups_on_huge_pages_are_read() {
    let folder = copy("v2-ancestor");
    let group = folder.path().join("sys/fs/cgroup/system.slice");
    for (name, text) in [
        ("hugetlb.2MB.max", "2147483648"),
        ("hugetlb.2MB.current", "4194304"),
        ("hugetlb.2MB.rsvd.max", "max"),
        ("hugetlb.2MB.rsvd.current", "0"),
        ("hugetlb.1GB.max", "0"),
        ("hugetlb.1GB.current", "0"),
    ] {
        std::fs::write(group.join(name), format!("{text}\n")).unwrap();
    }
    let headroom = read(folder.path());
    let need = |bytes| Need::commit(bytes, bytes, 0).in_huge_pages(2 * MIB, bytes, 0);
    headroom.check(&need(2044 * MIB)).unwrap();
    let shortfall = headroom.shortfall(&need(2046 * MIB)).unwrap();
    assert_eq!(shortfall.limit.kind(), "huge-pages-cgroup");
    let message = shortfall.to_string();
    assert!(
        message.contains("system.slice/hugetlb.2MB.max (limit"),
        "{message}"
    );
    assert_eq!(shortfall.sufficient_bytes(), 2050 * MIB);
}

/// An option of the mount, which new versions of systemd set.
#[test]
fn cgroups_that_count_huge_pages_of_the_pool_are_checked_for_them() {
    let folder = copy("v2-ancestor");
    let need = Need::commit(GIB, GIB, 0).in_huge_pages(2 * MIB, GIB, 0);
    read(folder.path()).check(&need).unwrap();
    let mounts = folder.path().join("proc/self/mountinfo");
    let text = std::fs::read_to_string(&mounts).unwrap();
    let counting = text.replace("nsdelegate", "nsdelegate,memory_hugetlb_accounting");
    std::fs::write(&mounts, counting).unwrap();
    let shortfall = read(folder.path()).shortfall(&need).unwrap();
    assert_eq!(shortfall.limit.kind(), "cgroup-v2");
    assert_eq!(shortfall.needed_bytes, GIB);
}

/// Nothing is mapped and no lock is waited for, so this takes no time.
#[test]
#[cfg(target_os = "linux")]
fn more_memories_than_a_process_has_addresses_for_are_refused_at_once() {
    let start = std::time::Instant::now();
    let mut expected = vec![(1_000_000, Limit::Addresses)];
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count");
    if most.is_ok_and(|most| most.trim() == "65530") {
        expected.push((14_000, Limit::Mappings));
    }
    for (slots, limit) in expected {
        match MemoryPool::builder().slots(slots).pages(1).secure() {
            Err(SecureError::Shortfall(shortfall)) => assert_eq!(shortfall.limit, limit),
            other => panic!("{slots}: {other:?}"),
        }
    }
    assert!(start.elapsed().as_secs() < 5);
    let need = MemoryPool::builder().slots(usize::MAX).need().unwrap();
    assert_eq!(need.address_space_bytes, u64::MAX);
}
