//! Guests: the packages of a workspace that become modules, and their link by cargo.
//! The linked module is rewritten in `build.rs`.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cargo_metadata::{Message, Metadata, MetadataCommand, PackageId, TargetKind};
use serde::{Deserialize, Serialize};
use wasm_prealloc::{MAX_PAGES, WASM_PAGE_SIZE};

use crate::Error;
use crate::cargo_env::CargoEnv;
use crate::target::WASM_TARGET;

/// The way guests are linked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Linking {
    /// With a maximum of 65,536 pages (4 GiB) and, after the rewriter has run, an equal minimum.
    /// Growth is handled inside the module.
    #[default]
    Pinned,
    /// As cargo links them, and not rewritten: the module that a host gets without this crate.
    Natural,
}

impl Linking {
    /// Returns the linker arguments that ask for the limits of the finished module.
    ///
    /// Only the last one reaches the linker, so that it still records the size at which growth
    /// starts. See the crate's documentation.
    pub(crate) fn link_args(self) -> Vec<String> {
        let bytes = MAX_PAGES * WASM_PAGE_SIZE;
        match self {
            Linking::Pinned => vec![
                format!("--initial-memory={bytes}"),
                format!("--max-memory={bytes}"),
            ],
            Linking::Natural => Vec::new(),
        }
    }

    /// Returns rustc's arguments for the link of a guest. They do not reach dependencies and build
    /// scripts, and they leave RUSTFLAGS and cargo's configuration in force.
    fn rustc_args(self) -> Option<String> {
        let maximum = self.link_args().pop()?;
        Some(format!("-Clink-arg={maximum}"))
    }
}

/// The selected guests of a workspace.
#[derive(Debug)]
pub(crate) struct Guests {
    pub(crate) guests: Vec<Guest>,
    target_directory: PathBuf,
    manifest_path: PathBuf,
}

/// A library or binary that cargo links to a module.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Cargo's name of the library or binary, which is the module's file name without extension.
    pub(crate) name: String,
    /// The name of its package.
    pub(crate) package: String,
    id: PackageId,
    kind: TargetKind,
}

impl Guest {
    /// Returns true if `name` is that of the guest's package or of its file.
    fn is_named(&self, name: &str) -> bool {
        name == self.package || name == self.name
    }
}

impl Guests {
    /// Finds the guests of a workspace, sorted by name: all of them if `wanted` is empty.
    pub(crate) fn find(
        env: &CargoEnv<'_>,
        manifest_path: &Path,
        wanted: &[String],
    ) -> Result<Self, Error> {
        let mut command = MetadataCommand::new();
        command
            .cargo_path(env.cargo())
            .current_dir(env.folder)
            .manifest_path(manifest_path)
            .no_deps();
        for (name, value) in &env.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let metadata = command.exec().map_err(|source| match source {
            // In a folder that does not exist, no program can be started.
            cargo_metadata::Error::Io(source) if env.folder.is_dir() => {
                CargoEnv::not_started(&env.cargo(), source)
            }
            source => Error::Workspace {
                manifest_path: manifest_path.to_owned(),
                source,
            },
        })?;
        let all = guests_of(&metadata);
        if all.is_empty() {
            return Err(Error::NoGuests {
                manifest_path: manifest_path.to_owned(),
            });
        }
        for name in wanted {
            if !all.iter().any(|guest| guest.is_named(name)) {
                let mut known: Vec<_> = all.into_iter().map(|guest| guest.package).collect();
                known.sort();
                known.dedup();
                return Err(Error::UnknownPackage {
                    name: name.clone(),
                    manifest_path: manifest_path.to_owned(),
                    known,
                });
            }
        }
        let mut by_name = BTreeMap::new();
        for guest in all {
            if !wanted.is_empty() && !wanted.iter().any(|name| guest.is_named(name)) {
                continue;
            }
            let package = guest.package.clone();
            if let Some(other) = by_name.insert(guest.name.clone(), guest) {
                let first: Guest = other;
                return Err(Error::SameName {
                    name: first.name,
                    first: first.package,
                    second: package,
                });
            }
        }
        Ok(Self {
            guests: by_name.into_values().collect(),
            target_directory: metadata.target_directory.into(),
            manifest_path: manifest_path.to_owned(),
        })
    }

    /// Builds and links one guest with cargo, and returns the module's path.
    pub(crate) fn link(
        &self,
        env: &CargoEnv<'_>,
        guest: &Guest,
        linking: Linking,
    ) -> Result<PathBuf, Error> {
        let cargo = env.cargo();
        let mut command = env.command(&cargo);
        command
            .args(["rustc", "--release", "--target", WASM_TARGET])
            .arg("--manifest-path")
            .arg(&self.manifest_path)
            .args(["-p", &guest.package])
            .arg("--message-format=json-render-diagnostics");
        match guest.kind {
            TargetKind::Bin => command.args(["--bin", &guest.name]),
            _ => command.arg("--lib"),
        };
        if linking == Linking::Natural {
            // Both ways of linking write the same file name. In one folder, each would re-link the
            // other's file, and a concurrent build could swap them.
            let natural = self.target_directory.join("natural");
            command.arg("--target-dir").arg(natural);
        }
        command.arg("--").args(linking.rustc_args());

        let report = |source| Error::Report {
            package: guest.package.clone(),
            source,
        };
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| CargoEnv::not_started(&cargo, source))?;
        let mut module = None;
        if let Some(stdout) = child.stdout.take() {
            for message in Message::parse_stream(BufReader::new(stdout)) {
                if let Message::CompilerArtifact(artifact) = message.map_err(report)?
                    && artifact.package_id == guest.id
                    && artifact.target.name == guest.name
                    && artifact.target.kind.contains(&guest.kind)
                {
                    let mut files = artifact.filenames.into_iter();
                    module = files.find(|file| file.extension() == Some("wasm"));
                }
            }
        }
        let status = child.wait().map_err(report)?;
        if !status.success() {
            return Err(Error::Cargo {
                package: guest.package.clone(),
                status,
            });
        }
        module.map(PathBuf::from).ok_or_else(|| Error::NoModule {
            package: guest.package.clone(),
            target_name: guest.name.clone(),
        })
    }
}

/// Lists all guests of a workspace: each package's `cdylib`, or its binaries if it has no `cdylib`.
/// A guest has the name of the file that cargo writes: a library's name has `_` for `-`.
///
/// The binaries beside a `cdylib` are programs for the host, so they are not guests.
fn guests_of(metadata: &Metadata) -> Vec<Guest> {
    let mut guests = Vec::new();
    for package in metadata.workspace_packages() {
        let of_kind = |kind: TargetKind| {
            let targets = package.targets.iter();
            targets
                .filter(move |target| target.kind.contains(&kind))
                .map(|target| target.name.clone())
        };
        let guest = |name: String, kind| Guest {
            name,
            package: package.name.to_string(),
            id: package.id.clone(),
            kind,
        };
        let library = of_kind(TargetKind::CDyLib).next();
        if let Some(name) = library {
            guests.push(guest(name, TargetKind::CDyLib));
        } else {
            let binaries = of_kind(TargetKind::Bin);
            guests.extend(binaries.map(|name| guest(name, TargetKind::Bin)));
        }
    }
    guests
}
