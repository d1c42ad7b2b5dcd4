//! Compressed inputs: they are unpacked up to a limit, and never overwritten.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::harness::{Folder, GROWING, growing};

fn packed(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_is_unpacked_and_the_output_is_binary() {
    let folder = Folder::with(&["a.wasm.gz"], packed(growing()));
    folder.write("b.wasm", packed(GROWING));
    folder.run("rewrite a.wasm.gz b.wasm --out-dir made");
    folder.assert_pinned(&["made/a.wasm", "made/b.wasm"]);
    folder.run_with_input("inspect -", packed(growing()));
}

#[test]
fn gzip_is_not_overwritten_by_its_content() {
    let content = packed(growing());
    let folder = Folder::with(&["a.wasm"], &content);
    for args in ["rewrite --in-place a.wasm", "rewrite a.wasm -o ./a.wasm"] {
        folder.fails(args, "a.wasm: it is gzip, and a rewritten module is binary");
        assert_eq!(folder.read("a.wasm"), content);
    }
}

#[test]
fn broken_gzip_and_a_gzip_bomb_are_refused_by_name() {
    let folder = Folder::new();
    let whole = packed(growing());
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&growing()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(100 << 20), &mut bomb).unwrap();
    let bomb = bomb.finish().unwrap();
    for (name, bytes, words) in [
        ("header.gz", &b"\x1f\x8b\x08\0"[..], "cannot be unpacked"),
        ("cut.gz", &whole[..whole.len() / 2], "cannot be unpacked"),
        (
            "bomb.gz",
            &bomb,
            "cannot be unpacked: it has more than 67108864 bytes: if you trust it, raise `--max-input-bytes`",
        ),
    ] {
        folder.write(name, bytes);
        folder.fails(
            &format!("inspect {name} --max-input-bytes 67108864"),
            &format!("error: {name}: it is gzip, and {words}"),
        );
    }
}
