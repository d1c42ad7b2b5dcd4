//! Tests of patches.

use super::*;

fn apply(mut patch: Patch, input: &[u8]) -> Vec<u8> {
    patch.sort();
    let mut output = Vec::new();
    patch.apply_into(input, &mut output);
    assert_eq!(patch.new_len(), output.len());
    output
}

#[test]
fn nested_lengths_follow_their_content() {
    // A length of 4, then: a length of 2 with its content, and one more byte; then the rest.
    let input = [9, 4, 2, b'a', b'b', b'c', b'z'];
    let mut inner = Patch::new(3..5);
    inner.replace(4..5, vec![b'B'; 200]);
    let mut outer = Patch::new(2..6);
    outer.nest(2..3, inner);
    outer.append([b'!']);
    let mut whole = Patch::new(0..7);
    whole.insert(0, [7]);
    whole.nest(1..2, outer);

    let mut expected = vec![7, 9];
    expected.extend(leb128(2 + 201 + 1 + 1, 1));
    expected.extend(leb128(201, 1));
    expected.push(b'a');
    expected.extend([b'B'; 200]);
    expected.extend(*b"c!z");
    assert_eq!(apply(whole.clone(), &input), expected);

    let map = whole.offset_map(0);
    let mapped: Vec<_> = (0..8).map(|offset| map.get(offset)).collect();
    // The `b` maps to the first byte of its replacement.
    let expected = [1, 2, 4, 6, 7, 207, 209].map(Some);
    assert_eq!(mapped, [&expected[..], &[None]].concat());
}

#[test]
fn a_padded_length_stays_padded() {
    let input = [0x82, 0x80, 0x00, 1, 2];
    let mut content = Patch::new(3..5);
    content.append([3]);
    let mut whole = Patch::new(0..5);
    whole.nest(0..3, content);
    assert_eq!(apply(whole, &input), [0x83, 0x80, 0x00, 1, 2, 3]);
}

#[test]
fn a_patch_without_edits_copies_the_input() {
    let mut whole = Patch::new(0..3);
    whole.nest(0..1, Patch::new(1..3));
    whole.open(0..1, 3);
    whole.close();
    assert!(whole.is_unchanged());
    assert_eq!(apply(whole, &[2, 1, 1]), [2, 1, 1]);
}

#[test]
fn edits_are_sorted_and_insertions_at_one_offset_keep_their_order() {
    let input = *b"a\x02bcd";
    let mut content = Patch::new(2..4);
    content.insert(3, b"3");
    content.replace(2..3, b"22");
    content.insert(3, b"4");
    let mut whole = Patch::new(0..5);
    whole.append(b"5");
    whole.nest(1..2, content);
    whole.insert(4, b"!");
    whole.insert(0, b"0");
    whole.append(b"6");
    assert_eq!(apply(whole, &input), *b"0a\x052234c!d56");
}

#[test]
fn a_copy_has_the_edits_of_its_content_and_offsets_map_into_it() {
    let input = *b"\x06abcdef";
    let mut copy = Patch::new(2..5);
    copy.replace(3..4, b"CC");
    let mut content = Patch::new(1..7);
    content.replace(2..5, b"");
    content.append_code(b"++");
    content.append_copy(copy);
    content.append(b"!");
    let mut whole = Patch::new(0..7);
    whole.nest(0..1, content);
    assert_eq!(apply(whole.clone(), &input), *b"\x0aaef++bCCd!");
    let map = whole.offset_map(10);
    let mapped: Vec<_> = (0..7).map(|offset| map.get(offset)).collect();
    assert_eq!(mapped, [10, 11, 16, 17, 19, 12, 13].map(Some));
    assert_eq!(map.added_code().first(), Some(&(14..16)));
}

/// The edits of one part are in one list with those around it, so nesting needs no stack.
#[test]
fn deep_nesting_needs_no_recursion() {
    const DEPTH: usize = 100_000;
    // Lengths of five bytes, each before all that follows it.
    let input = vec![0x80; 5 * DEPTH];
    let mut whole = Patch::new(0..input.len());
    for depth in 0..DEPTH {
        whole.open(5 * depth..5 * depth + 5, input.len());
    }
    whole.append([1]);
    for _ in 0..DEPTH {
        whole.close();
    }
    let output = apply(whole, &input);
    assert_eq!(output.len(), input.len() + 1);
    for depth in 0..DEPTH {
        let length = (input.len() + 1 - 5 * (depth + 1)) as u64;
        assert_eq!(output[5 * depth..5 * depth + 5], leb128(length, 5));
    }
}
