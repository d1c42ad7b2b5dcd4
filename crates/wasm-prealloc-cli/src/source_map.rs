//! Source maps that follow the code of a rewritten module. Mappings are on one line, and their
//! columns are byte offsets in the module.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use oxc_sourcemap::{SourceMap, Token};
use serde::Serialize;
use serde::de::IgnoredAny;
use wasm_prealloc::OffsetMap;

use crate::destination::real;
use crate::folder::Item;
use crate::input::{Input, Limit};
use crate::io::Output;

/// The flags for the source map of a module.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Move the offsets in the module's source map along; takes a single module
    #[arg(long, value_name = "FILE", requires = "source_map_out")]
    source_map: Option<Input>,

    /// Write the source map of the rewritten module to FILE
    #[arg(long, value_name = "FILE", requires = "source_map")]
    source_map_out: Option<PathBuf>,
}

/// The source map of a rewrite.
#[derive(Debug)]
pub(crate) struct Job {
    input: Input,
    pub(crate) output: Output,
}

/// A source map that was moved along.
#[derive(Debug, Serialize)]
pub(crate) struct Moved {
    output: String,
    output_bytes: Option<String>,
    /// The number of mappings that were moved.
    mappings: usize,
    /// The number of mappings that were not at an instruction of the module, and were dropped.
    dropped: usize,
}

impl Flags {
    /// Returns the job that the flags describe. Refuses outputs that would replace an input or mix two
    /// streams.
    pub(crate) fn job(
        &self,
        items: &[Item],
        outputs: &[Output],
        json: bool,
    ) -> Result<Option<Job>> {
        let (Some(input), Some(output)) = (&self.source_map, &self.source_map_out) else {
            return Ok(None);
        };
        let ([item], [module]) = (items, outputs) else {
            bail!(
                "`--source-map` takes one module, and there are {}: rewrite each with its own",
                items.len()
            );
        };
        let job = Job {
            input: input.clone(),
            output: Output::from_path(output),
        };
        if input.is_stdin() && item.input.is_stdin() {
            bail!("`-` is given twice, but stdin can be read only once");
        }
        let other = match (&job.output, module) {
            (Output::Stdout, Output::Stdout) => Some("`-o -`"),
            (Output::Stdout, _) if json => Some("`--json`"),
            _ => None,
        };
        if let Some(other) = other {
            bail!("`--source-map-out -` prints to stdout, and so does {other}: use a file");
        }
        let place = job.output.path().map(real);
        for (path, role) in [
            (module.path(), "the rewritten module"),
            (item.input.path(), "the module"),
        ] {
            if place.is_some() && place == path.map(real) {
                let name = job.output.name();
                bail!("the source map would be written to {name}, over {role}: use another file");
            }
        }
        if module.path().is_some() && module.path().map(real) == input.path().map(real) {
            let name = module.name();
            bail!("the rewritten module would be written to {name}, over its source map");
        }
        Ok(Some(job))
    }
}

impl Job {
    pub(crate) fn is_to_stdout(&self) -> bool {
        self.output == Output::Stdout
    }

    /// Reads the source map of a module of `bytes` bytes, and moves its mappings along. Returns it as
    /// JSON.
    pub(crate) fn follow(
        &self,
        map: &OffsetMap,
        bytes: usize,
        limit: Limit,
    ) -> Result<(String, Moved)> {
        let name = || self.input.name();
        let json = self.input.read_text(limit).with_context(name)?;
        let (json, mappings, dropped) = follow(&json, map, bytes).with_context(name)?;
        let moved = Moved {
            output: self.output.name(),
            output_bytes: self.output.name_bytes(),
            mappings,
            dropped,
        };
        Ok((json, moved))
    }
}

impl Moved {
    /// Describes the result in a line.
    pub(crate) fn describe(&self) -> String {
        let (output, mappings) = (&self.output, self.mappings);
        match self.dropped {
            0 => format!("source map: {mappings} mappings -> {output}"),
            dropped => format!(
                "source map: {mappings} mappings -> {output}; {dropped} were not at an \
                 instruction, and were dropped"
            ),
        }
    }
}

/// The fields whose meaning is known (ECMA-426, "Source map format").
const FIELDS: [&str; 10] = [
    "version",
    "file",
    "sourceRoot",
    "sources",
    "sourcesContent",
    "names",
    "mappings",
    "ignoreList",
    "x_google_ignoreList",
    "debugId",
];

/// Moves the mappings of a source map along. Returns it with the numbers of mappings that were moved
/// and dropped.
fn follow(json: &str, map: &OffsetMap, bytes: usize) -> Result<(String, usize, usize)> {
    const NO_MAP: &str = "it is not a source map";
    let fields: BTreeMap<String, IgnoredAny> = serde_json::from_str(json).context(NO_MAP)?;
    if fields.contains_key("sections") {
        bail!("it is an index map, with `sections`: give a source map with `mappings`");
    }
    if let Some(field) = fields
        .keys()
        .find(|field| !FIELDS.contains(&field.as_str()))
    {
        bail!("its field `{field}` may hold offsets, which would be wrong: remove the field");
    }
    let mut parts = SourceMap::from_json_string(json)
        .context(NO_MAP)?
        .into_parts();
    let mut tokens = Vec::new();
    for token in &parts.tokens {
        let offset = token.get_dst_col();
        if token.get_dst_line() > 0 {
            bail!("it has mappings on several lines: those of a WebAssembly module are on one");
        }
        if offset as usize > bytes {
            bail!("it has a mapping at byte {offset}, and the module has {bytes} bytes");
        }
        if let Some(moved) = map.get(offset.into()) {
            tokens.push(at(token, u32::try_from(moved)?));
        }
    }
    let moved = tokens.len();
    let dropped = parts.tokens.len() - moved;
    // A mapping applies up to the next one. Code that was added has no source.
    if let Some(first) = tokens.iter().map(Token::get_dst_col).min() {
        let added = map.added_code().iter().map(|code| code.start);
        for start in added.filter(|start| *start > u64::from(first)) {
            tokens.push(Token::new(0, u32::try_from(start)?, 0, 0, None, None));
        }
    }
    tokens.sort_by_key(Token::get_dst_col);
    parts.tokens = tokens.into_boxed_slice();
    parts.token_chunks = None;
    let json = SourceMap::from_parts(parts).to_json_string();
    Ok((json, moved, dropped))
}

/// Returns a token at another offset.
fn at(token: &Token, offset: u32) -> Token {
    Token::new(
        0,
        offset,
        token.get_src_line(),
        token.get_src_col(),
        token.get_source_id(),
        token.get_name_id(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module whose code moves, and the map of its offsets.
    fn rewritten() -> (Vec<u8>, OffsetMap) {
        let module = wat::parse_str("(module (memory 1 9) (func unreachable) (func))").unwrap();
        let map = wasm_prealloc::rewrite(&module, &wasm_prealloc::Options::default());
        let map = map.unwrap().offset_map;
        (module, map)
    }

    /// A source map with the given fields, and the given mappings: offset, source, line and name.
    fn source_map(fields: &str, mappings: &[(u32, Option<u32>, u32, Option<u32>)]) -> String {
        let tokens = mappings.iter();
        let tokens =
            tokens.map(|(at, source, line, name)| Token::new(0, *at, *line, 3, *source, *name));
        let map = SourceMap::new(None, vec![], None, vec![], vec![], tokens.collect(), None);
        let mappings = map.to_json().mappings;
        format!(r#"{{"version":3,{fields}"mappings":"{mappings}"}}"#)
    }

    #[test]
    fn every_field_is_kept_and_every_mapping_is_moved() {
        let (module, map) = rewritten();
        let end = module.len() as u32;
        let fields = r#""file":"a.wasm","sourceRoot":"/","sources":["a.ts","b.ts"],
            "sourcesContent":["let a",null],"names":["f","g"],"ignoreList":[1],"debugId":"1-2","#;
        let first = end - 5;
        let before = [
            (first, Some(0), 1, None),
            (first + 3, None, 0, None),
            (end - 1, Some(1), 2, Some(1)),
        ];
        let json = source_map(fields, &before);
        let (moved, mappings, dropped) = follow(&json, &map, module.len()).unwrap();
        assert_eq!((mappings, dropped), (3, 0));
        let shift = map.get(first.into()).unwrap() as u32 - first;
        assert!(shift > 0);
        let after = before.map(|(at, source, line, name)| (at + shift, source, line, name));
        let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
        assert_eq!(value(&moved), value(&source_map(fields, &after)));
    }

    #[test]
    fn unsupported_source_maps_are_refused_with_the_reason() {
        let (module, map) = rewritten();
        let refusal = |json: &str| format!("{:#}", follow(json, &map, module.len()).unwrap_err());
        let lines = r#"{"version":3,"sources":["a"],"mappings":"AAAA;AAAA"}"#;
        let sections = r#"{"version":3,"sections":[]}"#;
        let scopes = r#"{"version":3,"sources":[],"mappings":"","scopes":"A"}"#;
        let end = module.len() as u32;
        for (json, expected) in [
            (lines, "several lines"),
            (sections, "index map"),
            (scopes, "its field `scopes`"),
            (r#"{"version":2,"sources":[],"mappings":""}"#, "version"),
            (
                r#"{"version":3,"sources":[],"mappings":"AA!"}"#,
                "not a source map",
            ),
            ("{}", "not a source map"),
            ("", "not a source map"),
            (
                &source_map(r#""sources":["a"],"#, &[(end + 1, Some(0), 0, None)]),
                "mapping at byte",
            ),
        ] {
            let refusal = refusal(json);
            assert!(refusal.contains(expected), "{json}: {refusal}");
        }
    }
}
