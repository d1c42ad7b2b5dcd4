//! The advice in the messages of `rewrite`: for each case, each flag that a message names is used,
//! until the command succeeds.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::Folder;

/// Values for a number or a name that the user must know.
const CHOICES: &[&str] = &["1", "3", "20", "other-name"];

/// The most messages whose advice is followed one after another.
const MOST_STEPS: usize = 3;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// Returns the alternatives of a message: flags with their values, each in backticks. Flags that
/// belong together are joined by "with". The value `LEAVE OUT` removes a flag.
fn alternatives(message: &str) -> Vec<Vec<Vec<String>>> {
    let mut alternatives: Vec<Vec<Vec<String>>> = Vec::new();
    let parts: Vec<&str> = message.split('`').collect();
    for (position, code) in parts.iter().enumerate().skip(1).step_by(2) {
        if !code.starts_with("--") {
            continue;
        }
        let (before, after) = (parts[position - 1], parts.get(position + 1).unwrap_or(&""));
        let mut flag: Vec<String> = code.split(' ').map(str::to_owned).collect();
        if before.ends_with("leave out ") {
            flag = vec![flag[0].clone(), "LEAVE OUT".to_owned()];
        } else if let Some(most) = after.strip_prefix(" from 1 to ") {
            let digits: String = most.chars().take_while(char::is_ascii_digit).collect();
            let value = flag.get(1).map_or("N", String::as_str);
            flag = vec![flag[0].clone(), value.replace('N', &digits)];
        } else if flag.len() == 1 {
            flag.push("N".to_owned());
        }
        match alternatives.last_mut() {
            Some(together) if before == " with " => together.push(flag),
            _ => alternatives.push(vec![flag]),
        }
    }
    alternatives
}

/// Replaces a flag of a command line, or adds it.
fn with_flag(args: &mut Vec<String>, flag: &[String], choice: &str) {
    // The size of one memory does not replace that of all.
    if !flag[1].contains('=')
        && let Some(position) = args.iter().position(|arg| *arg == flag[0])
    {
        args.drain(position..position + 2);
    }
    if flag[1] != "LEAVE OUT" {
        let value = flag[1].replace('N', choice);
        args.extend([flag[0].clone(), value]);
    }
}

/// Runs a command line, and returns its error and its warnings. Success is `Ok`.
fn run(folder: &Folder, args: &[String]) -> Result<Vec<String>, String> {
    let mut command = folder.command("");
    let output = command.args(args).current_dir(cases()).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    match output.status.code() {
        Some(0) => {
            let lines = stdout.lines().chain(stderr.lines());
            Ok(lines
                .filter(|line| line.contains("warning: "))
                .map(str::to_owned)
                .collect())
        }
        Some(1 | 2) if !stderr.contains("Usage:") => Err(stderr),
        code => panic!("{args:?}: {code:?}: {stderr}"),
    }
}

/// Follows each alternative of a message. Each must lead to success, perhaps by further advice.
fn follow(folder: &Folder, args: &[String], message: &str, steps: usize) -> Result<usize, String> {
    let alternatives = alternatives(message);
    for together in &alternatives {
        let mut failures = Vec::new();
        let succeeds = CHOICES.iter().any(|choice| {
            let mut args = args.to_vec();
            for flag in together {
                with_flag(&mut args, flag, choice);
            }
            let failed = match run(folder, &args) {
                Ok(_) => return true,
                Err(error) => error,
            };
            if steps < MOST_STEPS
                && follow(folder, &args, &failed, steps + 1).is_ok_and(|ways| ways > 0)
            {
                return true;
            }
            failures.push(failed);
            false
        });
        if !succeeds {
            return Err(format!(
                "{args:?}: {message}\n{together:?} leads to {failures:#?}"
            ));
        }
    }
    Ok(alternatives.len())
}

#[test]
fn the_flags_that_messages_name_lead_to_success() {
    let folder = Folder::new();
    let out = folder.path("out.wasm").to_str().unwrap().to_owned();
    let mut followed = 0;
    for entry in fs::read_dir(cases()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let args = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix(";; RUN: rewrite "))
            .unwrap_or("");
        let named = |arg| match arg {
            "%s" => name.to_owned(),
            "%t" => out.clone(),
            arg => String::from(arg),
        };
        let args: Vec<String> = args
            .split_whitespace()
            .filter(|arg| *arg != "--json")
            .map(named)
            .collect();
        // The errors of clap name flags too, but their usage is not advice.
        if args.is_empty() || name.starts_with("usage") {
            continue;
        }
        let args = [&["rewrite".to_owned()], &args[..]].concat();
        let messages = run(&folder, &args).unwrap_or_else(|error| vec![error]);
        for message in messages {
            followed +=
                follow(&folder, &args, &message, 1).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    assert!(followed >= 15, "{followed}");
}
