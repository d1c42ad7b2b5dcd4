//! Checks rules of this repository that no compiler and no linter checks: plain words, doc comments
//! that begin with the item, and files that can be read at once.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Words that hide the actor.
const VAGUE_ACTORS: [&str; 4] = ["nobody", "somebody", "whoever", "anybody"];

/// First words of a doc comment that ask a question instead of naming the item.
const QUESTION_WORDS: [&str; 5] = ["What", "Whether", "How", "Where", "Why"];

/// Returns the text files that git tracks and that have one of the extensions, with their texts.
fn tracked(extensions: &[&str]) -> Vec<(String, String)> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let git = Command::new("git")
        .current_dir(&repository)
        .args(["ls-files", "-z"])
        .output();
    let Some(output) = git.ok().filter(|output| output.status.success()) else {
        println!("skipped: this is not a git checkout");
        return Vec::new();
    };
    let names = String::from_utf8(output.stdout).unwrap();
    let names = names.split_terminator('\0').map(PathBuf::from);
    let wanted = names.filter(|name| {
        extensions
            .iter()
            .any(|e| name.extension() == Some(e.as_ref()))
    });
    // A tracked file may be deleted in the working tree.
    let read = |name: PathBuf| {
        let text = std::fs::read_to_string(repository.join(&name)).ok()?;
        Some((name.display().to_string(), text))
    };
    wanted.filter_map(read).collect()
}

#[test]
fn comments_and_documents_name_the_actor() {
    let this = Path::new(file!()).file_name().unwrap().to_str().unwrap();
    let mut found = Vec::new();
    for (name, text) in tracked(&["rs", "md", "mjs", "sh", "toml", "yaml", "service"]) {
        let is_vague = |line: &&str| {
            let line = line.to_lowercase();
            let mut words = line.split(|c: char| !c.is_alphabetic());
            words.any(|word| VAGUE_ACTORS.contains(&word))
        };
        if !name.ends_with(this) {
            found.extend(
                text.lines()
                    .filter(is_vague)
                    .map(|line| format!("{name}: {line}")),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn doc_comments_begin_with_the_item() {
    let mut lines = 0;
    let mut questions = Vec::new();
    for (name, text) in tracked(&["rs"]) {
        let docs = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("///"));
        for doc in docs {
            lines += 1;
            let first = doc.split_whitespace().next().unwrap_or_default();
            if QUESTION_WORDS.contains(&first) {
                questions.push(format!("{name}:{doc}"));
            }
        }
    }
    assert!(
        questions.len() * 100 <= lines,
        "more than 1 % of {lines} doc lines begin with a question word:\n{}",
        questions.join("\n")
    );
}

#[test]
fn files_can_be_read_at_once() {
    let files = tracked(&["rs", "md"])
        .into_iter()
        .filter_map(|(name, text)| {
            let most = match name.as_str() {
                "README.md" => 120,
                name if name.ends_with(".rs") => 500,
                _ => return None,
            };
            let lines = text.lines().count();
            (lines > most).then(|| format!("{name}: {lines} lines, at most {most}"))
        });
    let long: Vec<_> = files.collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}
