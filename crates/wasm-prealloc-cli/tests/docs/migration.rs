//! The lines in `docs/migration.md` are the differences between the two programs that it is about.

use std::collections::BTreeMap;
use std::path::Path;

use crate::read;

/// Counts the lines of code of a program.
fn program(name: &str) -> BTreeMap<String, usize> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = crates.join("wasm-prealloc-host/examples/migration");
    let text = std::fs::read_to_string(path.join(name)).unwrap();
    let mut lines = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        // Comments, and lines with brackets only, are not worth a place in the document.
        if !line.starts_with("//") && line.contains(|c: char| c.is_alphanumeric()) {
            *lines.entry(line.to_owned()).or_default() += 1;
        }
    }
    lines
}

/// Returns the lines of the document that a mark begins, in blocks of the language `diff`.
fn marked(mark: char) -> Vec<String> {
    let text = read("migration.md");
    let blocks = text.split("```diff\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split("```").next().unwrap().lines());
    let marked = lines.filter_map(|line| line.strip_prefix(mark));
    marked.map(|line| line.trim().to_owned()).collect()
}

#[test]
fn docs_migration_md_has_every_line_that_changes() {
    let (before, after) = (program("before.rs"), program("after.rs"));
    for (mark, from, to) in [('-', &before, &after), ('+', &after, &before)] {
        let marked = marked(mark);
        assert!(marked.len() > 8, "{mark}: {marked:?}");
        for line in &marked {
            assert!(from.contains_key(line), "no program has `{mark}{line}`");
        }
        for (line, count) in from {
            let is_changed = *count > to.get(line).copied().unwrap_or(0);
            assert!(
                !is_changed || marked.contains(line),
                "docs/migration.md lacks `{mark}{line}`"
            );
        }
    }
}
