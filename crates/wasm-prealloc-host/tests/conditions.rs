//! Conditions read from recorded trees, each with its sentence and remedy.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use wasm_prealloc_host::{Conditions, Files};

/// A copy of the tree `v2-plain`, in which a test changes files.
struct Tree(tempfile::TempDir);

impl Tree {
    fn copy(case: &str) -> Tree {
        let folder = tempfile::tempdir().unwrap();
        let from = format!("{}/tests/trees/{case}/.", env!("CARGO_MANIFEST_DIR"));
        let copied = std::process::Command::new("cp")
            .args(["-r", &from, folder.path().to_str().unwrap()])
            .status();
        assert!(copied.unwrap().success());
        Tree(folder)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn append(&self, path: &str, line: &str) {
        let text = std::fs::read_to_string(self.0.path().join(path)).unwrap();
        self.write(path, &format!("{text}{line}\n"));
    }

    /// Returns each condition's kind, and its sentence and remedy as one text.
    fn conditions(&self) -> Vec<(&'static str, String)> {
        let conditions = Conditions::read_from(&Files::under(self.0.path())).list;
        let text = conditions.iter().map(|condition| {
            let text = format!("{condition}; {}", condition.remedy());
            (condition.kind(), text)
        });
        text.collect()
    }
}

const OWN: &str = "sys/fs/cgroup/system.slice/indexer.service";
const HUGE_PAGES: &str = "sys/kernel/mm/transparent_hugepage";

#[track_caller]
fn expect(tree: &Tree, kind: &str, parts: &[&str]) {
    let found = tree.conditions();
    let [(found, text)] = found.as_slice() else {
        panic!("{kind}: {found:?}");
    };
    assert_eq!(*found, kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "{kind}: {part:?} is missing: {text}");
    }
}

#[test]
fn a_plain_machine_has_none() {
    assert_eq!(Tree::copy("v2-plain").conditions(), []);
}

#[test]
fn hidden_limits_are_said() {
    let tree = Tree::copy("v2-hidden-mount");
    expect(
        &tree,
        "hidden-limits",
        &["cannot be found", "limit of its own"],
    );
}

#[test]
fn swap_that_the_group_may_use_is_said_with_its_size() {
    let tree = Tree::copy("v2-plain");
    let meminfo = std::fs::read_to_string(tree.0.path().join("proc/meminfo")).unwrap();
    let without: Vec<&str> = meminfo
        .lines()
        .filter(|line| !line.starts_with("SwapTotal"))
        .collect();
    tree.write("proc/meminfo", &without.join("\n"));
    tree.append("proc/meminfo", "\nSwapTotal:        2097152 kB");
    expect(&tree, "swap", &["(2048 MiB) of swap", "MemorySwapMax=0"]);
    tree.write("sys/fs/cgroup/system.slice/memory.swap.max", "1073741824\n");
    tree.write(&format!("{OWN}/memory.swap.max"), "max\n");
    expect(&tree, "swap", &["(1024 MiB) of swap"]);
    tree.write(&format!("{OWN}/memory.swap.max"), "0\n");
    assert_eq!(tree.conditions(), []);
}

#[test]
fn merging_of_equal_pages_is_said_if_it_runs_and_the_process_asked_for_it() {
    let tree = Tree::copy("v2-plain");
    tree.write("sys/kernel/mm/ksm/run", "1\n");
    tree.write(&format!("{HUGE_PAGES}/enabled"), "always [madvise] never\n");
    assert_eq!(tree.conditions(), []);
    tree.write(
        "proc/self/ksm_stat",
        "ksm_rmap_items 0\nksm_merge_any: yes\n",
    );
    let parts = ["MADV_UNMERGEABLE", "MemoryKSM=no"];
    expect(&tree, "same-page-merging", &parts);
}

#[test]
fn the_shrinker_of_underused_huge_pages_is_said_below_511() {
    let tree = Tree::copy("v2-plain");
    tree.write(&format!("{HUGE_PAGES}/enabled"), "always [madvise] never\n");
    tree.write(&format!("{HUGE_PAGES}/shrink_underused"), "1\n");
    tree.write(&format!("{HUGE_PAGES}/khugepaged/max_ptes_none"), "511\n");
    assert_eq!(tree.conditions(), []);
    tree.write(&format!("{HUGE_PAGES}/khugepaged/max_ptes_none"), "409\n");
    let parts = ["max_ptes_none is 409", "shrink_underused"];
    expect(&tree, "underused-huge-pages", &parts);
}

#[test]
fn missing_huge_pages_are_said_with_the_reason() {
    let tree = Tree::copy("v2-plain");
    tree.write(&format!("{HUGE_PAGES}/enabled"), "always madvise [never]\n");
    let remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
    expect(&tree, "no-huge-pages", &["enabled is never", remedy]);
    tree.write(&format!("{HUGE_PAGES}/enabled"), "always [madvise] never\n");
    tree.write(&format!("{HUGE_PAGES}/hpage_pmd_size"), "536870912\n");
    expect(&tree, "no-huge-pages", &["hpage_pmd_size is 536870912"]);
    tree.write(&format!("{HUGE_PAGES}/hpage_pmd_size"), "2097152\n");
    tree.append("proc/self/status", "THP_enabled:\t0");
    expect(&tree, "no-huge-pages", &["PR_SET_THP_DISABLE is set"]);
    let tree = Tree::copy("v2-plain");
    tree.write("sys/kernel/mm/ksm/run", "0");
    expect(&tree, "no-huge-pages", &["built without them"]);
}

#[test]
fn kills_of_whole_groups_are_said_with_the_file_of_the_ancestor() {
    let tree = Tree::copy("v2-plain");
    tree.write("sys/fs/cgroup/system.slice/memory.oom.group", "1\n");
    tree.write(&format!("{OWN}/memory.oom.group"), "0\n");
    let remedy = "echo 0 > /sys/fs/cgroup/system.slice/memory.oom.group";
    expect(&tree, "group-kill", &["ends all of them", remedy]);
}

#[test]
fn a_disabled_oom_killer_of_version_1_is_said() {
    let tree = Tree::copy("v1-docker");
    let control = "sys/fs/cgroup/memory/memory.oom_control";
    tree.write(control, "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
    assert_eq!(tree.conditions(), []);
    tree.write(control, "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n");
    let remedy = format!("echo 0 > /{control}");
    expect(&tree, "oom-kill-disabled", &["waits indefinitely", &remedy]);
}

#[test]
fn strict_overcommit_is_said() {
    let tree = Tree::copy("strict-overcommit");
    expect(&tree, "strict-overcommit", &["vm.overcommit_memory=0"]);
}

#[test]
fn the_running_system_can_be_read() {
    let list = Conditions::read().list;
    for condition in &list {
        assert!(!condition.to_string().is_empty() && !condition.remedy().is_empty());
    }
    let never = std::fs::read_to_string(Path::new("/").join(HUGE_PAGES).join("enabled"));
    let never = never.is_ok_and(|mode| mode.contains("[never]"));
    let said = list
        .iter()
        .any(|condition| condition.kind() == "no-huge-pages");
    assert!(said || !never, "{list:?}");
}
