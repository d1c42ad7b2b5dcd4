//! Guests: which packages of a workspace are any, and how cargo links one.
//! Only the link of the guest itself is touched; flags and configuration of whoever builds stay in
//! force. What becomes of the linked module is decided in `lib.rs`.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cargo_metadata::{Message, Metadata, MetadataCommand, PackageId, TargetKind};
use serde::{Deserialize, Serialize};

use crate::target::{Place, WASM_TARGET};
use crate::{Error, PAGES};

/// How guests are linked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Linking {
    /// With a memory whose minimum is its maximum, and growth handled inside the module.
    #[default]
    Pinned,
    /// As cargo links them anyway, and not rewritten: what a host gets today.
    Natural,
}

impl Linking {
    /// The arguments for the linker, and only for the guest's own link: neither a dependency nor a
    /// build script gets them, and no environment variable that could hide somebody's flags is set.
    fn link_args(self) -> Vec<String> {
        match self {
            Linking::Pinned => {
                let bytes = PAGES << 16;
                vec![
                    format!("-Clink-arg=--initial-memory={bytes}"),
                    format!("-Clink-arg=--max-memory={bytes}"),
                ]
            }
            Linking::Natural => Vec::new(),
        }
    }
}

/// The guests of a workspace that were asked for.
#[derive(Debug)]
pub(crate) struct Guests {
    pub(crate) guests: Vec<Guest>,
    target_directory: PathBuf,
    manifest_path: PathBuf,
}

/// One module that a workspace can make.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The library or binary as cargo names it, and the module's file without its extension.
    pub(crate) name: String,
    /// The package that it comes from.
    pub(crate) package: String,
    id: PackageId,
    kind: TargetKind,
}

impl Guest {
    /// Whether a name means this guest: its package's, or that of the file it becomes.
    fn answers_to(&self, name: &str) -> bool {
        name == self.package || name == self.name
    }
}

impl Guests {
    /// Finds the guests of a workspace, sorted by name. No `wanted` packages means all guests.
    pub(crate) fn find(
        place: &Place<'_>,
        manifest_path: &Path,
        wanted: &[String],
    ) -> Result<Self, Error> {
        let mut command = MetadataCommand::new();
        command
            .cargo_path(place.cargo())
            .current_dir(place.folder)
            .manifest_path(manifest_path)
            .no_deps();
        for (name, value) in place.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let metadata = command.exec().map_err(|source| Error::Workspace {
            manifest_path: manifest_path.to_owned(),
            source,
        })?;
        let all = guests_of(&metadata);
        if all.is_empty() {
            return Err(Error::NoGuests {
                manifest_path: manifest_path.to_owned(),
            });
        }
        for name in wanted {
            if !all.iter().any(|guest| guest.answers_to(name)) {
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
            if !wanted.is_empty() && !wanted.iter().any(|name| guest.answers_to(name)) {
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

    /// Has cargo build and link one guest, and returns the module's path.
    pub(crate) fn link(
        &self,
        place: &Place<'_>,
        guest: &Guest,
        linking: Linking,
    ) -> Result<PathBuf, Error> {
        let cargo = place.cargo();
        let mut command = place.command(&cargo);
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
            // Cargo gives both ways of linking the same file name. In one folder, each would
            // re-link what the other has just made, and a build beside this one could swap them.
            let natural = self.target_directory.join("natural");
            command.arg("--target-dir").arg(natural);
        }
        command.arg("--").args(linking.link_args());

        let report = |source| Error::Report {
            package: guest.package.clone(),
            source,
        };
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start {
                program: cargo.display().to_string(),
                source,
            })?;
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

/// Everything in a workspace that links to a module: a package's `cdylib`, or where it has none its
/// binaries. A module has the name of the file that cargo makes: a library's with `_` for `-`.
///
/// A package with both is a library for hosts with programs around it; those are no guests.
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
