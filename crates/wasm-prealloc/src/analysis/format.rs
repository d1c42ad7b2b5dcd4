//! The format of a file, as its first bytes show it. Formats other than modules have a description
//! with a remedy, because a failed download, an archive or an object file is a common mistake.

const HEADER: &[u8] = b"\0asm";

const TRUNCATED: &str = "it ends within its header; it is truncated, so copy or download it again";
const ARCHIVE: &str = "it is an archive of object files (.a, .rlib); link them into a module first, \
     with `wasm-ld`, or in Rust as a `cdylib` library or a binary";
const BITCODE: &str = "it is LLVM bitcode; compile it without `-emit-llvm` and link it first";
const MACH_O: &str = "it is a program or library for macOS (Mach-O); build it for a wasm target";
const COMPILED: &str =
    "it is code that wasmtime has compiled (.cwasm); use the module that it was compiled from";
const IMAGE: &str = "it is an image; use the module instead";
const UTF_16: &str = "it is text in UTF-16; if it is the text format, convert it to UTF-8 first \
     (`iconv -f UTF-16 -t UTF-8 FILE`)";
const JAVASCRIPT: &str =
    "it is JavaScript or TypeScript; use the .wasm file that it loads (a bundler may embed it)";
const HEX_DUMP: &str =
    "it is a hexadecimal dump of a module; convert it back first (`xxd -r FILE`)";

/// A mark at a fixed place of a file, and the description of such a file.
type Mark = (usize, &'static [u8], &'static str);

const MARKS: &[Mark] = &[
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "it is compressed with zstd; decompress it first (`zstd -dc FILE`)",
    ),
    (
        0,
        b"\x52\xbc\x53\x76\x46\xdb\x8e\x05",
        "it is a compressed Substrate runtime, 8 bytes before a zstd stream; remove them and \
         decompress it first (`tail -c +9 FILE | zstd -dc`)",
    ),
    (
        0,
        b"\xfd7zXZ\0",
        "it is compressed with xz; decompress it first (`xz -dc FILE`)",
    ),
    (
        0,
        b"BZh",
        "it is compressed with bzip2; decompress it first (`bzip2 -dc FILE`)",
    ),
    (
        0,
        b"\x04\x22\x4d\x18",
        "it is compressed with lz4; decompress it first (`lz4 -dc FILE`)",
    ),
    (
        0,
        b"PK\x03\x04",
        "it is a zip archive; extract the module from it first",
    ),
    (
        0,
        b"7z\xbc\xaf\x27\x1c",
        "it is a 7z archive; extract the module from it first",
    ),
    (
        257,
        b"ustar",
        "it is a tar archive; extract the module from it first (`tar -xf FILE`)",
    ),
    (0, b"!<arch>\n", ARCHIVE),
    (0, b"!<thin>\n", ARCHIVE),
    (0, b"BC\xc0\xde", BITCODE),
    (0, b"\xde\xc0\x17\x0b", BITCODE),
    (
        0,
        b"\x7fELF",
        "it is a program, library or object for another machine (ELF); build it for a wasm target",
    ),
    (
        0,
        b"MZ",
        "it is a program or library for Windows (PE); build it for a wasm target",
    ),
    (0, b"\xfe\xed\xfa\xce", MACH_O),
    (0, b"\xfe\xed\xfa\xcf", MACH_O),
    (0, b"\xce\xfa\xed\xfe", MACH_O),
    (0, b"\xcf\xfa\xed\xfe", MACH_O),
    (0, b"\x89PNG", IMAGE),
    (0, b"GIF8", IMAGE),
    (0, b"\xff\xd8\xff", IMAGE),
    (0, b"%PDF", "it is a PDF document; use the module instead"),
    (
        0,
        b"version https://git-lfs.github.com",
        "it is a Git LFS pointer; fetch the file that it points to (`git lfs pull`)",
    ),
    (0, b"\xff\xfe", UTF_16),
    (0, b"\xfe\xff", UTF_16),
    (0, b"(\0", UTF_16),
    (
        0,
        b"#!",
        "it is a script; use the module that it runs or builds",
    ),
];

/// The first letters of a text, after white space and in lower case, and the description of the file.
const BEGINNINGS: &[(&str, &str)] = &[
    (
        "agfzbq",
        "it is a module in base64; decode it first (`base64 -d FILE`)",
    ),
    (
        "data:application/wasm;base64,",
        "it is a data URL; decode what follows its comma first (`base64 -d`)",
    ),
    (
        "0061736d",
        "it is a module in hexadecimal; decode it first (`xxd -r -p FILE`)",
    ),
    (
        "00 61 73 6d",
        "it is a module in hexadecimal; decode it first (`xxd -r -p FILE`)",
    ),
    ("00000000: 0061", HEX_DUMP),
    ("00000000: 00 61", HEX_DUMP),
    (
        "<",
        "it is HTML or XML, perhaps the error page of a failed download; download the module again",
    ),
    ("//", JAVASCRIPT),
    ("/*", JAVASCRIPT),
    ("\"use strict\"", JAVASCRIPT),
    ("'use strict'", JAVASCRIPT),
    ("import ", JAVASCRIPT),
    ("import{", JAVASCRIPT),
    ("export ", JAVASCRIPT),
    ("const ", JAVASCRIPT),
    ("let ", JAVASCRIPT),
    ("var ", JAVASCRIPT),
    ("function", JAVASCRIPT),
    ("async ", JAVASCRIPT),
    ("(function", JAVASCRIPT),
    ("(async", JAVASCRIPT),
    ("((", JAVASCRIPT),
    ("()", JAVASCRIPT),
    ("(()", JAVASCRIPT),
    ("!function", JAVASCRIPT),
    (";(", JAVASCRIPT),
];

/// The format of an input.
///
/// ```
/// use wasm_prealloc::Format;
///
/// assert_eq!(Format::detect(b"\0asm\x01\0\0\0"), Format::Module);
/// assert_eq!(Format::detect(b"(module)"), Format::Text);
/// assert!(matches!(Format::detect(b"!<arch>\n"), Format::Other(_)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A binary core module.
    Module,
    /// A binary component.
    Component,
    /// The text format, with or without a byte order mark.
    Text,
    /// A gzip stream.
    Gzip,
    /// Another format, or an unknown one. The text says what the file is, and how to get a module.
    Other(&'static str),
}

impl Format {
    /// Recognizes a format. The first 512 bytes of a file are enough, except for text after more
    /// white space than that.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Self {
        const MODULE: &[u8] = &[1, 0, 0, 0];
        /// A component's layer is 1 and a module's 0; the two bytes before it are a version.
        const COMPONENT_LAYER: &[u8] = &[1, 0];

        if bytes.is_empty() {
            return Self::Other("it is empty; check the download or the build that wrote it");
        }
        if let Some(rest) = bytes.strip_prefix(HEADER) {
            return match rest.get(..MODULE.len()) {
                Some(MODULE) => Self::Module,
                Some(version) if version.ends_with(COMPONENT_LAYER) => Self::Component,
                Some(_) => Self::Other(
                    "its version is unknown; build it with a toolchain that writes version 1",
                ),
                None => Self::Other(TRUNCATED),
            };
        }
        if HEADER.starts_with(bytes) {
            return Self::Other(TRUNCATED);
        }
        if bytes.starts_with(b"\x1f\x8b") {
            return Self::Gzip;
        }
        match binary(bytes) {
            Some(found) => Self::Other(found),
            None => Self::detect_text(bytes),
        }
    }

    /// Recognizes a format of text.
    fn detect_text(bytes: &[u8]) -> Self {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = text.trim_ascii_start();
        let begins = |(begin, _): &&(&str, &str)| {
            let found = text.get(..begin.len());
            found.is_some_and(|found| found.eq_ignore_ascii_case(begin.as_bytes()))
        };
        if let Some((_, found)) = BEGINNINGS.iter().find(begins) {
            return Self::Other(found);
        }
        match text {
            [] => Self::Other("it has only white space; check the build that wrote it"),
            [b'(', ..] | [b';', b';', ..] => Self::Text,
            [b'{' | b'[', ..] => Self::Other(
                "it is JSON, perhaps the error document of a failed download; use the module \
                 instead",
            ),
            _ => Self::Other(
                "its first four bytes are not `\\0asm`, and no other format is recognized; if it \
                 is compressed with brotli (.br), decompress it first (`brotli -dc FILE`)",
            ),
        }
    }
}

/// Describes a file by a mark at a fixed place.
fn binary(bytes: &[u8]) -> Option<&'static str> {
    let has = |at: usize, mark: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(mark));
    // wasmtime writes 200 as the operating system into the ELF header.
    if has(0, b"\x7fELF") && has(7, &[200]) {
        return Some(COMPILED);
    }
    // Mach-O files for several machines and Java classes begin with the same bytes. Then follows the
    // number of machines, or a Java version of at least 45.
    if has(0, b"\xca\xfe\xba\xbe") {
        return Some(match bytes.get(4..8) {
            Some(&[0, 0, 0, 0..45]) => MACH_O,
            _ => "it is a Java class; use the module instead",
        });
    }
    let mut marks = MARKS.iter();
    let found = marks.find(|(at, mark, _)| has(*at, mark));
    found.map(|(.., found)| *found)
}
