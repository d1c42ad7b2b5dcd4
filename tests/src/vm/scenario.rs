//! Scenarios: scripts in `tests/fixtures/vm/*.sh` that say in comments which answers are right.
//!
//! ```text
//! ### name
//! #: ram 256
//! within own commit --pages 1024
//! #> refused: a part of the output
//! #> + another part
//! #> - a part that must be absent
//! ```
//!
//! `one|another` accepts two words, and `*` any word.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::machine::{Kind, Run, fixtures};
use crate::differences::Differences;

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The name of the file and of the scenario: `limits::parents_limit`.
    pub name: String,
    /// The kinds of machines that it is for.
    pub kinds: Vec<Kind>,
    /// True if the scenario takes too long for the tests of the workspace.
    pub slow: bool,
    pub(super) script: String,
    pub(super) ram_mib: u64,
    pub(super) disk_mib: u64,
    /// Parameters of the kernel.
    pub(super) append: String,
    pub(super) timeout: Duration,
    programs: Vec<String>,
    expected: Vec<Expected>,
}

/// The right answer of one program.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// One of these words.
    words: Vec<String>,
    parts: Vec<String>,
    absent: Vec<String>,
}

/// The answer of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `secured`, `refused`, `killed`, `stuck`, or another word of the scenario.
    pub word: String,
    /// The number of processes that the kernel's OOM killer had ended by then.
    pub oom_kills: u64,
    /// The output of the program.
    pub text: String,
}

impl Scenario {
    /// Reads all scenarios for a kind of machine.
    pub fn all(kind: Kind) -> Result<Vec<Scenario>> {
        let mut files: Vec<_> = fs::read_dir(fixtures())?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        let mut scenarios = Vec::new();
        for path in files {
            let subject = path.file_stem().and_then(|stem| stem.to_str());
            let text = fs::read_to_string(&path)?;
            let mut sections = text.split("\n### ");
            // What comes before the first scenario describes the file.
            sections.next();
            for section in sections {
                let scenario = Scenario::parse(subject.unwrap_or_default(), section);
                let scenario = scenario.with_context(|| path.display().to_string())?;
                if scenario.kinds.contains(&kind) {
                    scenarios.push(scenario);
                }
            }
        }
        Ok(scenarios)
    }

    fn parse(subject: &str, section: &str) -> Result<Scenario> {
        let (name, script) = section.split_once('\n').context("an empty scenario")?;
        let mut scenario = Scenario {
            name: format!("{subject}::{}", name.trim()),
            kinds: vec![Kind::UserMode],
            slow: false,
            script: script.to_owned(),
            ram_mib: 384,
            disk_mib: 0,
            append: String::new(),
            timeout: Duration::from_secs(120),
            programs: Vec::new(),
            expected: Vec::new(),
        };
        for line in script.lines() {
            let parsed = match (line.strip_prefix("#: "), line.strip_prefix("#> ")) {
                (Some(setting), _) => scenario.set(setting),
                (_, Some(expectation)) => scenario.expect(expectation),
                _ => Ok(()),
            };
            parsed.with_context(|| format!("{}: {line}", scenario.name))?;
        }
        if scenario.expected.is_empty() {
            bail!("{}: nothing is expected", scenario.name);
        }
        Ok(scenario)
    }

    fn set(&mut self, setting: &str) -> Result<()> {
        let (key, value) = setting.split_once(' ').unwrap_or((setting, ""));
        match key {
            "ram" => self.ram_mib = value.parse()?,
            "disk" => self.disk_mib = value.parse()?,
            "append" => self.append = value.to_owned(),
            "timeout" => self.timeout = Duration::from_secs(value.parse()?),
            "slow" => self.slow = true,
            "programs" => self.programs = value.split(' ').map(str::to_owned).collect(),
            "qemu" => self.kinds = vec![Kind::Qemu],
            "everywhere" => self.kinds = vec![Kind::UserMode, Kind::Qemu],
            _ => bail!("an unknown setting"),
        }
        Ok(())
    }

    fn expect(&mut self, expectation: &str) -> Result<()> {
        let last = self.expected.last_mut();
        match (expectation.split_once(' '), last) {
            (Some(("+", part)), Some(last)) => last.parts.push(part.to_owned()),
            (Some(("-", part)), Some(last)) => last.absent.push(part.to_owned()),
            (Some(("+" | "-", _)), None) => bail!("no answer before this line"),
            _ => {
                let (words, part) = expectation.split_once(": ").unwrap_or((expectation, ""));
                self.expected.push(Expected {
                    words: words.split('|').map(str::to_owned).collect(),
                    parts: vec![part.to_owned()],
                    absent: Vec::new(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn needs(&self, program: &str) -> bool {
        self.programs.iter().any(|name| name == program)
    }

    /// Returns the words of the right answers, for a table.
    pub fn right(&self) -> String {
        let words = self
            .expected
            .iter()
            .map(|expected| expected.words.join("|"));
        words.collect::<Vec<_>>().join(", ")
    }

    /// Compares the answers with the right ones. The error is a sentence for each difference.
    pub fn judge(&self, run: &Run) -> Result<(), String> {
        let mut differences = Differences::default();
        let (seen, right) = (run.answers.len(), self.expected.len());
        differences.expect(
            seen == right && run.console.contains("@end 0"),
            format!("{seen} answers instead of {right}: {}", tail(&run.console)),
        );
        for (answer, expected) in run.answers.iter().zip(&self.expected) {
            let Answer { word, text, .. } = answer;
            let right = expected.words.join(" or ");
            let as_expected = expected.words.contains(word) || right == "*";
            differences.expect(as_expected, format!("{word} instead of {right}: {text}"));
            if !as_expected {
                continue;
            }
            if word == "refused" {
                let refused = text.contains("error: ");
                differences.expect(refused, format!("refused without an error: {text}"));
            }
            for part in &expected.parts {
                let found = text.contains(part.as_str());
                differences.expect(found, format!("{word} without {part:?}: {text}"));
            }
            for part in &expected.absent {
                let absent = !text.contains(part.as_str());
                differences.expect(absent, format!("{word} with {part:?}: {text}"));
            }
        }
        differences.into_result()
    }
}

/// Returns the last lines of a console, for a machine that ended early.
fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().rev().take(6).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

impl Answer {
    /// Reads the answers from a console.
    pub(super) fn parse_all(console: &str) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::new();
        for line in console.lines() {
            if let Some((oom_kills, word)) = line
                .strip_prefix("@answer ")
                .and_then(|rest| rest.split_once(' '))
            {
                answers.push(Answer {
                    word: word.to_owned(),
                    oom_kills: oom_kills.parse().unwrap_or(0),
                    text: String::new(),
                });
            } else if let (Some(text), Some(last)) =
                (line.strip_prefix("@text "), answers.last_mut())
            {
                last.text.push_str(text);
                last.text.push('\n');
            }
        }
        answers
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: &str =
        "name\n#: ram 64\nwithin x y\n#> refused|killed: one\n#> + two\n#> - three";

    fn judge(console: &str) -> Result<(), String> {
        let scenario = Scenario::parse("subject", SECTION).expect("a scenario");
        assert_eq!(
            (scenario.ram_mib, scenario.right()),
            (64, "refused|killed".to_owned())
        );
        scenario.judge(&Run {
            answers: Answer::parse_all(console),
            elapsed: Duration::ZERO,
            console: console.to_owned(),
        })
    }

    #[test]
    fn each_difference_from_the_right_answer_is_found() {
        let right = "@begin\n@answer 1 refused\n@text error: one\n@text two\nnoise\n@end 0\n";
        assert_eq!(judge(right), Ok(()));
        for (from, to) in [
            ("refused", "secured"),
            ("error: ", ""),
            ("two", "2"),
            ("two", "two three"),
            ("@end 0", ""),
            ("@end 0", "@answer 1 refused\n@end 0"),
            ("@answer 1 refused", ""),
        ] {
            assert!(judge(&right.replacen(from, to, 1)).is_err(), "{from}: {to}");
        }
    }

    #[test]
    fn a_scenario_without_expectations_or_with_unknown_settings_is_an_error() {
        assert!(Scenario::parse("subject", "name\nwithin x y\n").is_err());
        assert!(Scenario::parse("subject", "name\n#: rom 1\n#> secured").is_err());
        assert!(Scenario::parse("subject", "name\n#> + part").is_err());
    }
}
