//! Random components. Names are unique in an input, so that a plain evaluation needs no index spaces.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::rc::Rc;

/// A core module. Each exports a memory as `memory`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Module {
    pub(super) position: u32,
    /// The memory that it exports. One that imports a memory imports `env` `memory` as memory 0.
    pub(super) exports: u32,
    pub(super) imports: bool,
    pub(super) memories: u32,
}

/// The definition of a component. A component without parameters can be an argument.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) has_parameters: bool,
    pub(super) terms: Vec<Term>,
    /// The names of the core modules that it exports as `source` and `user`.
    pub(super) exports: [String; 2],
}

/// An entry of a component. Names are unique in the input.
#[derive(Debug)]
pub(super) enum Term {
    Module(String, Module),
    Component(String, Rc<Component>),
    /// Gives a definition of a component around this one another name.
    Outer {
        name: String,
        of: String,
    },
    Instance {
        name: String,
        of: String,
        arguments: Vec<(&'static str, String)>,
    },
    Exports {
        name: String,
        modules: [String; 2],
    },
    /// Gives an export of an instance a name.
    Alias {
        name: String,
        instance: String,
        export: usize,
    },
    CoreInstance {
        name: String,
        of: String,
        memory: Option<String>,
    },
    CoreExports {
        name: String,
        memory: String,
    },
}

impl Term {
    /// The component that the term instantiates.
    fn used(&self) -> Option<&str> {
        match self {
            Self::Instance { of, .. } => Some(of),
            _ => None,
        }
    }
}

const EXPORTS: [&str; 2] = ["source", "user"];

/// The types of the two kinds of core module, of the instances that export both, and of the
/// components without parameters.
const TYPES: &str = r#"
    (core type $source (module (export "memory" (memory 1))))
    (core type $user (module (import "env" "memory" (memory 1)) (export "memory" (memory 1))))
    (type $exports (instance
        (alias outer 1 $source (core type $source)) (alias outer 1 $user (core type $user))
        (export "source" (core module (type $source))) (export "user" (core module (type $user)))))
    (type $plain (component
        (alias outer 1 $source (core type $source)) (alias outer 1 $user (core type $user))
        (export "source" (core module (type $source))) (export "user" (core module (type $user)))))
"#;

/// The names of a component's entries by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    component: String,
    sources: Vec<String>,
    users: Vec<String>,
    components: Vec<(String, bool)>,
    instances: Vec<String>,
    core_instances: Vec<String>,
}

pub(super) struct Generator {
    random: fastrand::Rng,
    pub(super) text: String,
    names: usize,
    modules: u32,
    pub(super) components: usize,
    scopes: Vec<Scope>,
}

/// The text of a random component.
pub(super) fn random_component(seed: u64) -> String {
    let mut generator = Generator::new(seed);
    generator.component(false, 30);
    generator.text
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            text: String::new(),
            names: 0,
            modules: 0,
            components: 0,
            scopes: Vec::new(),
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn choose(&mut self, names: &[String]) -> Option<String> {
        self.random.choice(names).cloned()
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a component is open")
    }

    /// Writes a component, and returns its terms.
    pub(super) fn component(&mut self, has_parameters: bool, size: usize) -> Component {
        self.components += 1;
        let name = self.name("component");
        let mut scope = Scope {
            component: name.clone(),
            ..Scope::default()
        };
        write!(self.text, "(component ${name} {TYPES}").expect("text");
        if has_parameters {
            for (kind, ty) in [
                ("source", "core module"),
                ("user", "core module"),
                ("exports", "instance"),
                ("plain", "component"),
            ] {
                let own = format!("{name}.{kind}");
                write!(
                    self.text,
                    "(import \"{kind}\" ({ty} ${own} (type ${kind})))"
                )
                .expect("text");
                match kind {
                    "source" => scope.sources.push(own),
                    "user" => scope.users.push(own),
                    "exports" => scope.instances.push(own),
                    _ => scope.components.push((own, false)),
                }
            }
        }
        self.scopes.push(scope);
        // Each component has a core module of each kind to export.
        let mut terms = vec![self.module(false), self.module(true)];
        for _ in 0..size {
            let term = self.term();
            terms.extend(term);
        }
        self.instantiate_rest(&mut terms);
        let scope = self.scope().clone();
        let exports =
            [&scope.sources, &scope.users].map(|names| self.choose(names).expect("one is defined"));
        for (export, module) in EXPORTS.iter().zip(&exports) {
            // The outermost component exports nothing, so that all users of its modules are known.
            if self.scopes.len() > 1 {
                write!(self.text, "(export \"{export}\" (core module ${module}))").expect("text");
            }
        }
        self.text.push(')');
        self.scopes.pop();
        Component {
            name,
            has_parameters,
            terms,
            exports,
        }
    }

    /// Instantiates the components without an instance, so that most inputs have none of them.
    fn instantiate_rest(&mut self, terms: &mut Vec<Term>) {
        let used: HashSet<_> = terms.iter().filter_map(Term::used).collect();
        let idle = terms.iter().filter_map(|term| match term {
            Term::Component(name, component) if !used.contains(name.as_str()) => {
                Some((name.clone(), component.has_parameters))
            }
            _ => None,
        });
        for component in idle.collect::<Vec<_>>() {
            terms.extend(self.exports());
            terms.extend(self.instance_of(component));
        }
    }

    fn module(&mut self, imports: bool) -> Term {
        let kind = if imports { "user" } else { "source" };
        let name = self.name(kind);
        let memories = self.random.u32(1..=3);
        let exports = self.random.u32(0..memories);
        write!(self.text, "(core module ${name}").expect("text");
        if imports {
            self.text.push_str("(import \"env\" \"memory\" (memory 1))");
        }
        for _ in u32::from(imports)..memories {
            self.text.push_str("(memory 1)");
        }
        writeln!(self.text, "(export \"memory\" (memory {exports})))").expect("text");
        let module = Module {
            position: self.modules,
            exports,
            imports,
            memories,
        };
        self.modules += 1;
        let scope = self.scope();
        if imports {
            scope.users.push(name.clone())
        } else {
            scope.sources.push(name.clone())
        };
        Term::Module(name, module)
    }

    /// Writes an entry of a random kind; `None` if there are no names for its parts.
    fn term(&mut self) -> Option<Term> {
        match self.random.usize(0..11) {
            0 => {
                let imports = self.random.bool();
                Some(self.module(imports))
            }
            1 | 2 if self.scopes.len() < 4 => {
                let (has_parameters, size) = (self.random.bool(), self.random.usize(0..10));
                let component = self.component(has_parameters, size);
                let name = component.name.clone();
                self.scope().components.push((name.clone(), has_parameters));
                Some(Term::Component(name, Rc::new(component)))
            }
            3 => self.outer(),
            4 | 5 => self.instance(),
            6 => self.exports(),
            7 => self.alias(),
            8 | 9 => self.core_instance(),
            _ => self.core_exports(),
        }
    }

    fn outer(&mut self) -> Option<Term> {
        let outer = self.scopes.len().checked_sub(1)?;
        let outer = self.random.choice(&self.scopes[..outer])?.clone();
        let name = self.name("outer");
        let (of, kind, is_plain) = match self.random.u8(0..3) {
            0 => (self.choose(&outer.sources)?, "core module", false),
            1 => (self.choose(&outer.users)?, "core module", true),
            _ => {
                let (of, has_parameters) = self.random.choice(&outer.components)?.clone();
                (of, "component", has_parameters)
            }
        };
        write!(
            self.text,
            "(alias outer ${} ${of} ({kind} ${name}))",
            outer.component
        )
        .expect("text");
        let scope = self.scope();
        match (kind, is_plain) {
            ("component", has_parameters) => scope.components.push((name.clone(), has_parameters)),
            (_, false) => scope.sources.push(name.clone()),
            (_, true) => scope.users.push(name.clone()),
        }
        Some(Term::Outer { name, of })
    }

    fn instance(&mut self) -> Option<Term> {
        let components = self.scope().components.clone();
        let component = self.random.choice(&components)?.clone();
        self.instance_of(component)
    }

    fn instance_of(&mut self, (of, has_parameters): (String, bool)) -> Option<Term> {
        let scope = self.scope().clone();
        let mut arguments = Vec::new();
        if has_parameters {
            let plain = scope
                .components
                .iter()
                .filter(|(_, has_parameters)| !has_parameters);
            let plain: Vec<_> = plain.map(|(name, _)| name.clone()).collect();
            arguments = vec![
                ("source", self.choose(&scope.sources)?),
                ("user", self.choose(&scope.users)?),
                ("exports", self.choose(&scope.instances)?),
                ("plain", self.choose(&plain)?),
            ];
        }
        let name = self.name("instance");
        write!(self.text, "(instance ${name} (instantiate ${of}").expect("text");
        for (parameter, argument) in &arguments {
            let kind = match *parameter {
                "exports" => "instance",
                "plain" => "component",
                _ => "core module",
            };
            write!(self.text, " (with \"{parameter}\" ({kind} ${argument}))").expect("text");
        }
        self.text.push_str("))\n");
        self.scope().instances.push(name.clone());
        Some(Term::Instance {
            name,
            of,
            arguments,
        })
    }

    fn exports(&mut self) -> Option<Term> {
        let scope = self.scope().clone();
        let modules = [self.choose(&scope.sources)?, self.choose(&scope.users)?];
        let name = self.name("instance");
        write!(self.text, "(instance ${name}").expect("text");
        for (export, module) in EXPORTS.iter().zip(&modules) {
            write!(self.text, " (export \"{export}\" (core module ${module}))").expect("text");
        }
        self.text.push(')');
        self.scope().instances.push(name.clone());
        Some(Term::Exports { name, modules })
    }

    fn alias(&mut self) -> Option<Term> {
        let instances = self.scope().instances.clone();
        let instance = self.choose(&instances)?;
        let export = self.random.usize(0..2);
        let name = self.name("alias");
        let word = EXPORTS[export];
        write!(
            self.text,
            "(alias export ${instance} \"{word}\" (core module ${name}))"
        )
        .expect("text");
        let scope = self.scope();
        let names = if export == 0 {
            &mut scope.sources
        } else {
            &mut scope.users
        };
        names.push(name.clone());
        Some(Term::Alias {
            name,
            instance,
            export,
        })
    }

    fn core_instance(&mut self) -> Option<Term> {
        let scope = self.scope().clone();
        let name = self.name("core");
        let imports = self.random.u8(0..4) > 0;
        let (of, memory) = if imports {
            (
                self.choose(&scope.users)?,
                Some(self.choose(&scope.core_instances)?),
            )
        } else {
            (self.choose(&scope.sources)?, None)
        };
        write!(self.text, "(core instance ${name} (instantiate ${of}").expect("text");
        if let Some(memory) = &memory {
            write!(self.text, " (with \"env\" (instance ${memory}))").expect("text");
        }
        self.text.push_str("))\n");
        self.scope().core_instances.push(name.clone());
        Some(Term::CoreInstance { name, of, memory })
    }

    fn core_exports(&mut self) -> Option<Term> {
        let core_instances = self.scope().core_instances.clone();
        let memory = self.choose(&core_instances)?;
        let name = self.name("core");
        writeln!(
            self.text,
            "(alias core export ${memory} \"memory\" (core memory ${name}.memory)) \
             (core instance ${name} (export \"memory\" (memory ${name}.memory)))"
        )
        .expect("text");
        self.scope().core_instances.push(name.clone());
        Some(Term::CoreExports { name, memory })
    }
}
