//! Bytes as hexadecimal digits.

/// Returns the bytes of an even number of digits, with or without `0x` before them.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks();
    // Two hexadecimal digits fit into a byte.
    let bytes = pairs.iter().map(|[high, low]| (high * 16 + low) as u8);
    rest.is_empty().then(|| bytes.collect())
}

/// Returns two digits for each byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
