//! Random components, and their links as a plain recursive evaluation of the generator's own terms
//! finds them: by names instead of indices, without sharing work, and without limits.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use super::super::Wiring;
use super::super::group::Member;
use super::generate::{Component, Generator, Module, Term};
use super::validate;
use crate::analysis::Analysis;

/// A value that a name has in an instance of a component.
#[derive(Clone)]
enum Value {
    Module(Module),
    Component(Rc<Component>, Names),
    Exports([Module; 2]),
    /// The memory that a core instance exports.
    Memory(usize),
}

/// The names of an instance, and those around it.
type Names = BTreeMap<String, Value>;

/// A core module, and a memory in it.
type Declaration = (u32, u32);

type Groups = Vec<BTreeSet<Declaration>>;

/// The links that a plain evaluation finds.
#[derive(Default)]
struct Truth {
    /// By memory: the declaration that defines it.
    definitions: Vec<Declaration>,
    /// The memories that each import is linked to, each as often as it is.
    links: Vec<(usize, Declaration)>,
    instantiated: HashSet<String>,
    steps: usize,
}

impl Truth {
    fn instantiate(&mut self, component: &Component, mut names: Names) -> Option<[Module; 2]> {
        self.instantiated.insert(component.name.clone());
        for term in &component.terms {
            self.steps += 1;
            if self.steps > 20_000 {
                return None;
            }
            let (name, value) = match term {
                Term::Module(name, module) => (name, Value::Module(*module)),
                Term::Component(name, component) => {
                    (name, Value::Component(component.clone(), names.clone()))
                }
                Term::Outer { name, of } => (name, names[of].clone()),
                Term::Instance {
                    name,
                    of,
                    arguments,
                } => {
                    let Value::Component(component, around) = &names[of] else {
                        unreachable!("`{of}` is a component")
                    };
                    let mut inner = around.clone();
                    for (parameter, argument) in arguments {
                        let own = format!("{}.{parameter}", component.name);
                        inner.insert(own, names[argument].clone());
                    }
                    assert_eq!(component.has_parameters, !arguments.is_empty());
                    (name, Value::Exports(self.instantiate(component, inner)?))
                }
                Term::Exports { name, modules } => (
                    name,
                    Value::Exports([0, 1].map(|export| module(&names, &modules[export]))),
                ),
                Term::Alias {
                    name,
                    instance,
                    export,
                } => {
                    let Value::Exports(modules) = &names[instance] else {
                        unreachable!("`{instance}` is an instance")
                    };
                    (name, Value::Module(modules[*export]))
                }
                Term::CoreInstance { name, of, memory } => {
                    let memory = memory.as_ref().map(|name| memory_of(&names, name));
                    (
                        name,
                        Value::Memory(self.instantiate_module(module(&names, of), memory)),
                    )
                }
                Term::CoreExports { name, memory } => {
                    (name, Value::Memory(memory_of(&names, memory)))
                }
            };
            names.insert(name.clone(), value);
        }
        Some([0, 1].map(|export| module(&names, &component.exports[export])))
    }

    fn instantiate_module(&mut self, module: Module, import: Option<usize>) -> usize {
        assert_eq!(module.imports, import.is_some());
        if let Some(memory) = import {
            self.links.push((memory, (module.position, 0)));
        }
        let mut memories: Vec<_> = import.into_iter().collect();
        for index in u32::from(module.imports)..module.memories {
            memories.push(self.definitions.len());
            self.definitions.push((module.position, index));
        }
        memories[module.exports as usize]
    }

    fn groups(&self) -> Groups {
        let mut groups = Groups::new();
        for (memory, import) in &self.links {
            let mut joined = BTreeSet::from([self.definitions[*memory], *import]);
            groups.retain(|group| {
                let is_apart = group.is_disjoint(&joined);
                if !is_apart {
                    joined.extend(group);
                }
                is_apart
            });
            groups.push(joined);
        }
        groups
    }

    /// The imports that are linked to one memory more than once.
    fn repeated(&self) -> BTreeSet<Declaration> {
        let mut seen = HashSet::new();
        let repeated = self.links.iter().filter(|link| !seen.insert(**link));
        repeated.map(|(_, import)| *import).collect()
    }
}

/// The groups of a wiring, and the imports that are repeated.
fn found(wiring: &Wiring) -> (Groups, BTreeSet<Declaration>) {
    let declaration = |member: &Member| (member.memory.module.unwrap(), member.memory.index);
    let groups = wiring.groups().iter();
    let groups = groups.map(|group| group.members.iter().map(declaration).collect());
    let members = wiring.groups().iter().flat_map(|group| &group.members);
    let repeated = members.filter(|member| member.repeated).map(declaration);
    (groups.collect(), repeated.collect())
}

fn module(names: &Names, name: &str) -> Module {
    match &names[name] {
        Value::Module(module) => *module,
        _ => unreachable!("`{name}` is a core module"),
    }
}

fn memory_of(names: &Names, name: &str) -> usize {
    match &names[name] {
        Value::Memory(memory) => *memory,
        _ => unreachable!("`{name}` is a core instance"),
    }
}

#[test]
fn random_components_are_linked_as_they_are_instantiated() {
    let (mut exact, mut links, mut repetitions) = (0, 0, 0);
    for seed in 0..500 {
        let mut generator = Generator::new(seed);
        let root = generator.component(false, 30);
        let mut truth = Truth::default();
        if truth.instantiate(&root, Names::new()).is_none() {
            continue;
        }
        let text = &generator.text;
        let wasm = validate(text);
        let analysis = Analysis::new(&wasm).unwrap();
        let (groups, repeated) = (truth.groups(), truth.repeated());
        let (found, found_repeated) = found(analysis.wiring().unwrap());
        for group in &groups {
            assert!(
                found.iter().any(|found| found.is_superset(group)),
                "seed {seed}: {group:?} {text}"
            );
        }
        assert!(
            found_repeated.is_superset(&repeated),
            "seed {seed}: {repeated:?} {text}"
        );
        // The wiring also follows components without instances.
        if generator.components == truth.instantiated.len() {
            exact += 1;
            let linked: BTreeSet<_> = found.into_iter().filter(|group| group.len() > 1).collect();
            assert_eq!(
                linked,
                groups.iter().cloned().collect(),
                "seed {seed}: {text}"
            );
            assert_eq!(found_repeated, repeated, "seed {seed}: {text}");
        }
        links += truth.links.len();
        repetitions += repeated.len();
    }
    println!("{exact} exact, {links} links, {repetitions} repeated imports");
    assert!(exact > 100 && links > 1_000 && repetitions > 100);
}
