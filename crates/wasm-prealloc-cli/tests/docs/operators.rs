//! The numbers in `docs/operators.md`, and in the files of `docs/deploy`, are those that the
//! library computes. `BLESS=1` writes the tables into the document.

use std::fmt::Write as _;
use std::path::Path;

use wasm_prealloc_host::{DEFAULT_MARGIN_BYTES, MemoryPool};

use crate::{compare, read};

const MIB: u64 = 1 << 20;

/// Returns the need under a limit on physical memory, without a margin, in MiB.
fn need(slots: usize, pages: u64, table_elements: Option<u64>) -> f64 {
    let mut builder = MemoryPool::builder()
        .slots(slots)
        .pages(pages)
        .margin_bytes(0);
    if let Some(elements) = table_elements {
        builder = builder.table_elements(elements);
    }
    mib(builder.need().unwrap().physical_bytes)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

/// Formats a number with commas, and with one digit after the point if it is not whole.
fn number(mib: f64) -> String {
    let text = format!("{mib:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    match whole.len() {
        4.. => format!(
            "{},{}{rest}",
            &whole[..whole.len() - 3],
            &whole[whole.len() - 3..]
        ),
        _ => text.to_owned(),
    }
}

/// Replaces the part of a document between two comments.
fn replace(text: &str, name: &str, table: &str) -> String {
    let (before, rest) = text.split_once(&format!("<!-- {name}:")).unwrap();
    let (comment, rest) = rest.split_once('\n').unwrap();
    let end = format!("<!-- end of {name} -->");
    let (_, after) = rest.split_once(&end).unwrap();
    format!("{before}<!-- {name}:{comment}\n\n{table}\n{end}{after}")
}

fn table(header: &str, rows: &[(String, f64)]) -> String {
    let mut table = format!("| {header} | MiB |\n|---|---|\n");
    for (name, mib) in rows {
        writeln!(table, "| {name} | {} |", number(*mib)).unwrap();
    }
    table
}

#[test]
fn docs_operators_md_has_the_sums_of_the_library() {
    let bare = need(1, 65_536, Some(0));
    let slot = need(1, 65_536, None);
    let margin = mib(DEFAULT_MARGIN_BYTES);
    let sum = table(
        "one slot",
        &[
            ("linear memory".to_owned(), 4096.0),
            (
                "page tables (1/512), which the kernel charges to the same limit".to_owned(),
                bare - 4096.0,
            ),
            (
                "tables of the module, up to 65,536 elements".to_owned(),
                slot - bare,
            ),
            ("**for each slot**".to_owned(), slot),
            ("margin, once (`--margin-bytes`)".to_owned(), margin),
            (
                "**a host with one slot, and the process**".to_owned(),
                slot + margin,
            ),
        ],
    );
    let blocks = MemoryPool::builder().slots(2).pages(65_536).prepare();
    let views = MemoryPool::builder().slots(16).cap(4096).prepare();
    let together = MemoryPool::need_all(&[&blocks, &views]).unwrap();
    let both = table(
        "two pools",
        &[
            ("2 slots of 65,536 pages".to_owned(), need(2, 65_536, None)),
            ("16 slots of 4,096 pages".to_owned(), need(16, 4096, None)),
            ("the larger of the margins".to_owned(), margin),
            (
                "**together, and the process**".to_owned(),
                mib(together.physical_bytes),
            ),
        ],
    );
    let text = read("operators.md");
    let expected = replace(&replace(&text, "sum", &sum), "views", &both);
    compare("operators.md", &expected);
}

/// Returns the numbers before a unit, in the lines about memory.
fn memory_limits(text: &str, unit: &str) -> Vec<u64> {
    let lines = text.lines().map(str::trim_start);
    let lines = lines.filter(|line| line.to_lowercase().starts_with("mem"));
    let words = lines.flat_map(|line| line.split([' ', '=']));
    words
        .filter_map(|word| word.strip_suffix(unit)?.parse().ok())
        .collect()
}

#[test]
fn the_files_for_deployment_give_one_slot_its_memory() {
    // What the process needs beside its slot is measured: operators.md has 4 MiB.
    let needed = need(1, 65_536, None) + mib(DEFAULT_MARGIN_BYTES) + 64.0;
    for (file, unit, count) in [
        ("deploy/indexer.service", "M", 1),
        ("deploy/kubernetes.yaml", "Mi", 2),
        ("deploy/compose.yaml", "m", 2),
    ] {
        let text = read(file);
        let limits = memory_limits(&text, unit);
        assert_eq!(limits.len(), count, "{file}: {limits:?}");
        for limit in limits {
            assert!(limit as f64 >= needed, "{file}: {limit} of {needed} MiB");
        }
    }
    // Huge pages are counted apart.
    let text = read("deploy/kubernetes-hugepages.yaml");
    assert!(text.contains("hugepages-2Mi: 4Gi"));
    let rest = memory_limits(&text, "Mi");
    assert_eq!(rest.len(), 1);
    assert!(rest[0] as f64 >= needed - 4096.0, "{rest:?}");
}

/// Returns the names that a file of the library has for programs: `=> "a-name",`.
fn kinds(file: &str) -> Vec<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = std::fs::read_to_string(crates.join("wasm-prealloc-host/src").join(file));
    let source = source.unwrap();
    let of_kind = source.split_once("pub fn kind(").unwrap().1;
    let of_kind = of_kind.split_once("\n    }\n").unwrap().0;
    let names = of_kind.split("=> \"").skip(1);
    names
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect()
}

#[test]
fn docs_operators_md_names_every_limit_and_every_warning() {
    let text = read("operators.md");
    for file in ["limits/limit.rs", "limits/condition.rs"] {
        let kinds = kinds(file);
        assert!(kinds.len() > 5, "{file}: {kinds:?}");
        for kind in kinds {
            assert!(text.contains(&format!("`{kind}`")), "no `{kind}`");
        }
    }
}
