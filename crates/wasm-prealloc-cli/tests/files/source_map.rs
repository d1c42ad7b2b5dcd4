//! Source maps that follow a module: their contents, and the refusals.

use crate::harness::{Folder, GROWING, growing};

/// A source map with a mapping at the last byte of [`growing`].
fn source_map() -> String {
    let last = growing().len() as u32 - 1;
    let token = oxc_sourcemap::Token::new(0, last, 7, 3, Some(0), None);
    let sources = vec!["a.ts".into()];
    oxc_sourcemap::SourceMap::new(None, vec![], None, sources, vec![], [token].into(), None)
        .to_json_string()
}

/// The offset in the file of the mapping with a source.
fn offset(source_map: &[u8]) -> u32 {
    let text = std::str::from_utf8(source_map).unwrap();
    let map = oxc_sourcemap::SourceMap::from_json_string(text).unwrap();
    let mut tokens = map
        .get_tokens()
        .filter(|token| token.get_source_id() == Some(0));
    let token = tokens.next().unwrap();
    assert_eq!((token.get_src_line(), token.get_src_col()), (7, 3));
    token.get_dst_col()
}

fn folder() -> Folder {
    let folder = Folder::with(&["a.wasm"], growing());
    folder.write("a.map", source_map());
    folder
}

#[test]
fn a_source_map_is_moved_along() {
    let folder = folder();
    let output = folder.run("rewrite a.wasm -o b.wasm --source-map a.map --source-map-out b.map");
    folder.assert_pinned(&["b.wasm"]);
    let moved = offset(&folder.read("b.map")) as usize;
    // The last byte of the only function is its end.
    assert!(moved > growing().len() - 1);
    assert_eq!(folder.read("b.wasm")[moved], 0x0b);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("source map: 1 mappings -> b.map"), "{text}");
    assert_eq!(folder.names(), ["a.map", "a.wasm", "b.map", "b.wasm"]);
}

#[test]
fn a_source_map_can_be_replaced_and_piped() {
    let folder = folder();
    folder.run("rewrite --in-place a.wasm --source-map a.map --source-map-out a.map");
    let moved = offset(&folder.read("a.map"));
    assert_eq!(folder.names(), ["a.map", "a.wasm"]);

    let args = "rewrite - -o b.wasm --source-map a.map --source-map-out -";
    folder.write("a.map", source_map());
    let output = folder.run_with_input(args, GROWING);
    assert_eq!(offset(&output.stdout), moved);
    let args = "rewrite b.wasm -o - --source-map - --source-map-out c.map";
    folder.run_with_input(args, output.stdout);
    assert_eq!(
        offset(&folder.read("c.map")),
        moved,
        "nothing is left to move"
    );
}

#[test]
fn neither_file_is_written_if_one_cannot_be() {
    let folder = folder();
    folder.write("bad.map", "{\"version\":3,\"sections\":[]}");
    let refused = [
        (
            "--source-map bad.map --source-map-out b.map",
            "bad.map: it is an index map",
        ),
        ("--source-map none.map --source-map-out b.map", "none.map: "),
        (
            "--source-map a.map --source-map-out none/b.map",
            "cannot write none/b.map",
        ),
        (
            "--source-map a.map --source-map-out b.wasm",
            "over the rewritten module",
        ),
        (
            "--source-map a.map --source-map-out a.wasm",
            "over the module",
        ),
        (
            "--source-map b.wasm --source-map-out b.map",
            "over its source map",
        ),
        (
            "--source-map a.map --source-map-out - --json",
            "and so does `--json`",
        ),
        (
            "--source-map a.map --source-map-out b.map b.wasm",
            "takes one module, and there are 2",
        ),
        ("--source-map a.map", "--source-map-out"),
        ("--source-map-out b.map", "--source-map <FILE>"),
    ];
    for (args, words) in refused {
        let output = match args.contains("b.map b.wasm") {
            true => "--out-dir .",
            false => "-o b.wasm",
        };
        folder.fails(&format!("rewrite a.wasm {output} {args}"), words);
        assert_eq!(folder.names(), ["a.map", "a.wasm", "bad.map"], "{args}");
    }
}

#[test]
fn a_source_map_that_stays_behind_is_a_warning() {
    let text = r#"(module (memory 1) (func) (@custom "sourceMappingURL" "\05a.map"))"#;
    let folder = Folder::with(&["a.wat"], text);
    folder.write("a.map", source_map());
    let warning = "the offsets in the source map `a.map` are those before the rewrite";
    let printed = |args: &str| String::from_utf8(folder.run(args).stdout).unwrap();
    assert!(printed("rewrite a.wat -o b.wasm").contains(warning));
    let moved = printed("rewrite a.wat -o b.wasm --source-map a.map --source-map-out b.map");
    assert!(!moved.contains(warning), "{moved}");
}
