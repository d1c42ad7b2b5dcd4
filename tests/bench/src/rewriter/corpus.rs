//! The modules that are measured: published ones from npm packages, and this repository's guests.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use wasm_prealloc_build::Linking;
use wasm_prealloc_tests::{Guests, install_packages, repository, skipped};

/// Packages, and the paths of their modules in the package's folder. The smallest module is first.
const PACKAGES: &[(&str, &str)] = &[
    ("argon2-browser", "dist/argon2.wasm"),
    ("@rollup/wasm-node", "dist/wasm-node/bindings_wasm_bg.wasm"),
    ("sql.js", "dist/sql-wasm.wasm"),
    ("@resvg/resvg-wasm", "index_bg.wasm"),
    ("tesseract.js-core", "tesseract-core-simd.wasm"),
    ("pyodide", "pyodide.asm.wasm"),
    ("mupdf", "dist/mupdf-wasm.wasm"),
    ("esbuild-wasm", "esbuild.wasm"),
    ("lightningcss-wasm", "lightningcss_node.wasm"),
    ("@swc/wasm", "wasm_bg.wasm"),
    (
        "@myriaddreamin/typst-ts-web-compiler",
        "pkg/typst_ts_web_compiler_bg.wasm",
    ),
    ("@ffmpeg/core", "dist/umd/ffmpeg-core.wasm"),
    ("@biomejs/wasm-nodejs", "biome_wasm_bg.wasm"),
];

/// A module and the facts that the tables show.
#[derive(Clone, Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) bytes: usize,
    pub(super) functions: u32,
    pub(super) grow_sites: usize,
    pub(super) size_sites: usize,
}

/// Returns all modules. Without the npm packages, prints a `skipped` line and returns the guests.
pub(super) fn modules() -> Result<Vec<Module>> {
    let guests = Guests::build(Linking::Natural)?;
    let mut modules = vec![
        Module::read("minimal (guest)".into(), guests.minimal)?,
        Module::read("memory-stress (guest)".into(), guests.memory_stress)?,
    ];
    let folder = repository().join("tests/fixtures/corpus");
    if let Some(why) = install_packages(&folder)? {
        skipped(&format!("the modules of npm packages: {why}"));
        return Ok(modules);
    }
    for (package, module) in PACKAGES {
        let path = folder.join("node_modules").join(package).join(module);
        modules.push(Module::read((*package).to_owned(), path)?);
    }
    Ok(modules)
}

impl Module {
    fn read(name: String, path: PathBuf) -> Result<Self> {
        let wasm = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let inspection = wasm_prealloc::inspect(&wasm).with_context(|| name.clone())?;
        Ok(Self {
            bytes: wasm.len(),
            functions: functions(&wasm)?,
            grow_sites: inspection.memories().map(|memory| memory.sites.grow).sum(),
            size_sites: inspection.memories().map(|memory| memory.sites.size).sum(),
            name,
            path,
        })
    }
}

/// Counts the functions that a module defines.
fn functions(wasm: &[u8]) -> Result<u32> {
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let wasmparser::Payload::CodeSectionStart { count, .. } = payload? {
            return Ok(count);
        }
    }
    Ok(0)
}
