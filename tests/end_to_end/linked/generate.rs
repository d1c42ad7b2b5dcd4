//! Random components. Names are unique in a component's text, so that an evaluation needs no index
//! spaces.

use std::fmt::Write as _;
use std::rc::Rc;

/// A core module, with the functions `grow`, `size`, `load` and `store` for each memory as far as it has
/// them, and a memory that it exports.
#[derive(Clone, Debug)]
pub(super) struct CoreModule {
    pub(super) position: usize,
    pub(super) imports: bool,
    /// The names of the functions.
    pub(super) functions: Vec<(String, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Grow,
    Size,
    Load,
    Store,
}

/// The definition of a component, which exports a core module.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) terms: Vec<Term>,
    pub(super) export: String,
    /// True if the exported core module imports a memory.
    pub(super) exports_import: bool,
}

/// An entry of a component: its name, and the names that it uses.
#[derive(Debug)]
pub(super) enum Term {
    Module(String, CoreModule),
    Component(String, Rc<Component>),
    Instance {
        name: String,
        of: String,
    },
    /// The export of an instance.
    Alias {
        name: String,
        instance: String,
    },
    /// A definition of a component around this one.
    Outer {
        name: String,
        of: String,
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

#[derive(Clone, Debug)]
enum Idle {
    Module(String, bool),
    Component(String, bool),
}

impl Idle {
    fn name(&self) -> &str {
        match self {
            Self::Module(name, _) | Self::Component(name, _) => name,
        }
    }
}

/// The names in a component, and for those that lead to a core module, whether it imports a memory.
#[derive(Clone, Debug, Default)]
struct Scope {
    component: String,
    modules: Vec<(String, bool)>,
    components: Vec<(String, bool)>,
    instances: Vec<(String, bool)>,
    core_instances: Vec<String>,
    /// The modules and components that are not instantiated yet.
    idle: Vec<Idle>,
}

pub(super) struct Generator {
    random: fastrand::Rng,
    pub(super) text: String,
    names: usize,
    modules: usize,
    scopes: Vec<Scope>,
    /// The limits of most memories.
    limits: &'static str,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = random.choice(["1 50", "2 60", "3"]).unwrap_or("1");
        Self {
            random,
            text: String::new(),
            names: 0,
            modules: 0,
            scopes: Vec::new(),
            limits,
        }
    }

    fn write(&mut self, text: &str) {
        writeln!(self.text, "{text}").unwrap();
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.last_mut().unwrap()
    }

    pub(super) fn component(&mut self, name: &str, size: usize) -> Component {
        self.write(&format!("(component ${name}"));
        self.scopes.push(Scope {
            component: name.to_owned(),
            ..Scope::default()
        });
        let mut terms = vec![self.module(false)];
        let of = self.scope().modules[0].0.clone();
        terms.push(self.core_instance(of, false));
        for _ in 0..size {
            let term = self.term();
            terms.extend(term);
        }
        for idle in self.scope().idle.clone() {
            terms.push(match idle {
                Idle::Module(name, imports) => self.core_instance(name, imports),
                Idle::Component(name, imports) => self.instance(name, imports),
            });
        }
        let modules = self.scope().modules.clone();
        let (export, exports_import) = self.random.choice(&modules).unwrap().clone();
        if self.scopes.len() > 1 {
            self.write(&format!("(export \"module\" (core module ${export}))"));
        }
        self.write(")");
        self.scopes.pop();
        Component {
            terms,
            export,
            exports_import,
        }
    }

    fn term(&mut self) -> Option<Term> {
        let scope = self.scope().clone();
        Some(match self.random.u8(0..10) {
            0 | 1 => {
                let imports = self.random.u8(0..4) > 0;
                self.module(imports)
            }
            2 if self.scopes.len() < 4 => {
                let (name, size) = (self.name("component"), self.random.usize(0..8));
                let component = self.component(&name, size);
                let imports = component.exports_import;
                self.scope().components.push((name.clone(), imports));
                self.scope()
                    .idle
                    .push(Idle::Component(name.clone(), imports));
                Term::Component(name, Rc::new(component))
            }
            3 => {
                let (of, imports) = self.random.choice(&scope.components)?.clone();
                self.instance(of, imports)
            }
            4 => {
                let (instance, imports) = self.random.choice(&scope.instances)?.clone();
                let name = self.name("alias");
                self.write(&format!(
                    "(alias export ${instance} \"module\" (core module ${name}))"
                ));
                self.scope().modules.push((name.clone(), imports));
                Term::Alias { name, instance }
            }
            5 => self.outer()?,
            6..=8 => {
                let (of, imports) = self.random.choice(&scope.modules)?.clone();
                self.core_instance(of, imports)
            }
            _ => {
                let memory = self.random.choice(&scope.core_instances)?.clone();
                let name = self.name("core");
                self.write(&format!(
                    "(alias core export ${memory} \"memory\" (core memory ${name}.memory)) \
                     (core instance ${name} (export \"memory\" (memory ${name}.memory)))"
                ));
                self.scope().core_instances.push(name.clone());
                Term::CoreExports { name, memory }
            }
        })
    }

    fn module(&mut self, imports: bool) -> Term {
        let name = self.name("module");
        let memories = 1 + self.random.usize(0..2);
        let mut functions = Vec::new();
        let mut text = format!("(core module ${name}\n");
        if imports {
            text.push_str("(import \"env\" \"memory\" (memory 0))");
        }
        let limits = match self.random.u8(0..10) {
            0 => "4 40",
            _ => self.limits,
        };
        for _ in usize::from(imports)..memories {
            write!(text, "(memory {limits})").unwrap();
        }
        // Others only read and write, so that one module often counts alone.
        let grows = self.random.bool();
        for memory in 0..memories {
            let kinds = [
                (
                    Kind::Grow,
                    "grow",
                    "(param i32) (result i32) (memory.grow",
                    "(local.get 0))",
                ),
                (Kind::Size, "size", "(result i32) (memory.size", ")"),
                (
                    Kind::Load,
                    "load",
                    "(param i32) (result i32) (i32.load",
                    "(local.get 0))",
                ),
                (
                    Kind::Store,
                    "store",
                    "(param i32) (i32.store",
                    "(local.get 0) (local.get 0))",
                ),
            ];
            for (kind, function, start, end) in kinds {
                let is_growth = matches!(kind, Kind::Grow | Kind::Size);
                if self.random.u8(0..3) > 0 && (grows || !is_growth) {
                    let function = format!("{function}{memory}");
                    writeln!(
                        text,
                        "(func (export \"{function}\") {start} {memory} {end})"
                    )
                    .unwrap();
                    functions.push((function, kind));
                }
            }
        }
        let export = self.random.usize(0..memories);
        write!(text, "(export \"memory\" (memory {export})))").unwrap();
        self.write(&text);
        let module = CoreModule {
            position: self.modules,
            imports,
            functions,
        };
        self.modules += 1;
        self.scope().modules.push((name.clone(), imports));
        self.scope().idle.push(Idle::Module(name.clone(), imports));
        Term::Module(name, module)
    }

    fn core_instance(&mut self, of: String, imports: bool) -> Term {
        let name = self.name("core");
        let core_instances = self.scope().core_instances.clone();
        let memory = imports.then(|| self.random.choice(&core_instances).unwrap().clone());
        let with = memory.as_ref().map_or(String::new(), |memory| {
            format!("(with \"env\" (instance ${memory}))")
        });
        self.write(&format!(
            "(core instance ${name} (instantiate ${of} {with}))"
        ));
        self.scope().idle.retain(|idle| idle.name() != of);
        self.scope().core_instances.push(name.clone());
        Term::CoreInstance { name, of, memory }
    }

    fn outer(&mut self) -> Option<Term> {
        let around = self.scopes.len() - 1;
        let outer = self.random.choice(&self.scopes[..around])?.clone();
        let name = self.name("outer");
        let of = if self.random.bool() {
            let (of, imports) = self.random.choice(&outer.modules)?.clone();
            self.scope().modules.push((name.clone(), imports));
            self.write(&format!(
                "(alias outer ${} ${of} (core module ${name}))",
                outer.component
            ));
            of
        } else {
            let (of, imports) = self.random.choice(&outer.components)?.clone();
            self.scope().components.push((name.clone(), imports));
            self.write(&format!(
                "(alias outer ${} ${of} (component ${name}))",
                outer.component
            ));
            of
        };
        Some(Term::Outer { name, of })
    }

    fn instance(&mut self, of: String, imports: bool) -> Term {
        let name = self.name("instance");
        self.write(&format!("(instance ${name} (instantiate ${of}))"));
        self.scope().idle.retain(|idle| idle.name() != of);
        self.scope().instances.push((name.clone(), imports));
        Term::Instance { name, of }
    }
}
