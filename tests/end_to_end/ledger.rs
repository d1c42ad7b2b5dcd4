//! A guest for the indexer in Rust and in AssemblyScript, from ordinary builds: rewritten and
//! unchanged, secured and not, in the example and in Node, one chain has one state root.

use std::path::{Path, PathBuf};
use std::process::Command;

use wasm_prealloc::{Options, rewrite};
use wasm_prealloc_tests::ledger::{Ledger, Load, write_chain};
use wasm_prealloc_tests::{INDEXER, MIB, MemoryGroup, memory_lock, repository, skipped};

use crate::advice::advised;
use crate::processes::{expect_parts, expect_status};

/// The guests that can be built here.
fn ledgers() -> Vec<Ledger> {
    let mut ledgers = vec![Ledger::rust().unwrap()];
    match Ledger::assemblyscript().unwrap() {
        Ok(ledger) => ledgers.push(ledger),
        Err(why) => skipped(&why),
    }
    ledgers
}

/// Rewrites a module to a size, and returns the result's path.
fn pinned(ledger: &Ledger, pages: u64) -> PathBuf {
    let mut options = Options::default();
    options.pages = pages;
    let module = std::fs::read(&ledger.unbounded).unwrap();
    let language = ledger.language;
    let path = INDEXER.scratch.join(format!("{language}-{pages}.wasm"));
    std::fs::write(&path, &rewrite(&module, &options).unwrap().wasm).unwrap();
    path
}

/// The input of the view `balance`.
const ACCOUNT: &str = "0700000000000000";

/// Runs a chain on the example. Returns the state root, and the answers of two views.
fn in_example(module: &Path, chain: &Path, flags: &[&str]) -> (String, Vec<String>) {
    let database = INDEXER.new_database().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&INDEXER.program);
        command.arg(module).arg("--db").arg(&database);
        let output = command.args(arguments).output().unwrap();
        expect_status(&output, 0);
        String::from_utf8(output.stdout).unwrap()
    };
    let chain = chain.to_str().unwrap();
    let indexed = run(&[&["--chain", chain], flags].concat());
    let root = indexed.lines().last().unwrap_or_default();
    let root = root.strip_prefix("state root ").unwrap().to_owned();
    let view = |name, input| {
        let answer = run(&["--unsecured", "--view", name, "--input", input]);
        answer.trim_end().to_owned()
    };
    (root, vec![view("totals", ""), view("balance", ACCOUNT)])
}

/// Runs a chain in Node. `None` if Node is not installed.
fn in_node(module: &Path, chain: &Path) -> Option<(String, Vec<String>)> {
    let output = Command::new("node")
        .arg(repository().join("tests/fixtures/node/chain_host.mjs"))
        .args([module, chain])
        .args(["totals=", &format!("balance={ACCOUNT}")])
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped("there is no `node` on PATH");
            return None;
        }
        output => output.unwrap(),
    };
    expect_status(&output, 0);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let answers = result["answers"].as_array().unwrap();
    Some((
        text(&result["state_root"]),
        answers.iter().map(text).collect(),
    ))
}

#[test]
fn one_chain_has_one_state_root_in_every_language_setup_and_engine() {
    let _lock = memory_lock().unwrap();
    let chain = write_chain(10).unwrap();
    let pages = Ledger::MAXIMUM_PAGES.to_string();
    let pages = ["--pages", &pages];
    let mut results = Vec::new();
    for ledger in ledgers() {
        let pinned = pinned(&ledger, Ledger::MAXIMUM_PAGES);
        let language = ledger.language;
        for (module, what, flags) in [
            (
                &ledger.unbounded,
                "unchanged, unsecured",
                &["--unsecured"][..],
            ),
            (&pinned, "rewritten, unsecured", &["--unsecured"]),
            (&pinned, "rewritten, declared", &["--policy", "declared"]),
            (
                &ledger.bounded,
                "unchanged, commit-maximum",
                &["--policy", "commit-maximum"],
            ),
            (&ledger.unbounded, "unchanged, cap", &["--policy", "cap"]),
        ] {
            let flags = [&pages[..], flags].concat();
            let result = in_example(module, &chain, &flags);
            results.push((format!("{language}, {what}"), result));
        }
        for (module, what) in [(&ledger.unbounded, "unchanged"), (&pinned, "rewritten")] {
            let result = in_node(module, &chain);
            results.extend(result.map(|result| (format!("{language}, {what}, in Node"), result)));
        }
    }
    let (_, first) = &results[0];
    assert_eq!(first.0.len(), 64, "{results:?}");
    // The account has money: the views read the state.
    assert_ne!(first.1[1], "00".repeat(8), "{results:?}");
    for (what, result) in &results {
        assert_eq!(result, first, "{what}");
    }
}

/// Blocks and sixteen views at a time, under a limit that is exactly the one that a refusal advises.
#[test]
fn sixteen_views_beside_blocks_fit_in_the_memory_that_the_host_asks_for() {
    let _lock = memory_lock().unwrap();
    let Some(little) = MemoryGroup::create_or_skip(128 * MIB) else {
        return;
    };
    let ledger = Ledger::rust().unwrap();
    let load = |module: &Path, flags: &str| Load {
        indexer: INDEXER.program.clone(),
        arguments: std::iter::once(module.to_str().unwrap())
            .chain(flags.split(' '))
            .map(str::to_owned)
            .collect(),
        blocks: 20,
        views: 16,
    };
    let views = format!(
        "--view-pages 256 --view-module {}",
        ledger.unbounded.display()
    );
    let pinned = pinned(&ledger, 4096);
    let declared = load(&pinned, &format!("--policy declared --pages 4096 {views}"));

    let refused = declared.run(Some(&little)).unwrap();
    assert_eq!(refused.status, Some(1), "{refused:?}");
    let bytes = advised(&refused.stderr, "raise this limit to at least ");
    let enough = MemoryGroup::create(bytes).unwrap();
    let served = declared.run(Some(&enough)).unwrap();
    assert_eq!(enough.oom_kills().unwrap() + little.oom_kills().unwrap(), 0);
    assert_eq!(served.status, Some(0), "{served:?}");
    assert!(served.answers >= 16, "{served:?}");
    expect_parts(
        &served.stderr,
        &["blocks: 20 in ", "p50", "p99", " 0 failed, 0 refused"],
    );

    println!(
        "{} views under {bytes} bytes: {}",
        served.answers, served.stderr
    );
    for (module, flags) in [
        (&ledger.bounded, "--policy commit-maximum --pages 256"),
        (&ledger.unbounded, "--policy cap --pages 256"),
        (&ledger.unbounded, "--unsecured"),
    ] {
        let other = load(module, &format!("{flags} {views}")).run(None).unwrap();
        assert_eq!(other.state_root, served.state_root, "{flags}: {other:?}");
    }
}
