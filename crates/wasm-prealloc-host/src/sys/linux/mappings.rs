//! Reads the kinds of a process's mappings from `/proc/self/maps`, see proc_pid_maps(5).

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::ops::Range;

use crate::sys::Mapping;

/// Returns the mapped parts of a range, in ascending order.
pub(crate) fn mappings(range: Range<usize>) -> io::Result<Vec<Mapping>> {
    let mut found = Vec::new();
    for line in BufReader::new(File::open("/proc/self/maps")?).split(b'\n') {
        // A path may not be UTF-8.
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let malformed = || io::Error::other(format!("cannot parse {line:?}"));
        let mapping = parse(&line).ok_or_else(malformed)?;
        let start = mapping.range.start.max(range.start);
        let end = mapping.range.end.min(range.end);
        if start < end {
            found.push(Mapping {
                range: start..end,
                ..mapping
            });
        }
    }
    Ok(found)
}

/// Parses `START-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let inode = fields.nth(2)?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(Mapping {
        range: number(start)?..number(end)?,
        shared: permissions.ends_with('s'),
        // The heap, the stack and anonymous memory with a name have no inode.
        file: inode != "0",
        accessible: permissions.starts_with("rw"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        for (line, shared, file, accessible) in [
            ("1000-3000 rw-p 00000000 00:00 0 ", false, false, true),
            (
                "1000-3000 rw-p 00000000 00:00 0    [heap]",
                false,
                false,
                true,
            ),
            ("1000-3000 r--p 00000000 00:00 0 ", false, false, false),
            ("1000-3000 ---p 00000000 00:00 0 ", false, false, false),
            (
                "1000-3000 rw-p 00000000 00:01 2049  /memfd:image (deleted)",
                false,
                true,
                true,
            ),
            (
                "1000-3000 rw-s 00000000 00:01 5  /dev/zero (deleted)",
                true,
                true,
                true,
            ),
        ] {
            let range = 0x1000..0x3000;
            assert_eq!(
                parse(line),
                Some(Mapping {
                    range,
                    shared,
                    file,
                    accessible
                })
            );
        }
        assert_eq!(parse("1000 rw-p 0 0 0"), None);
    }

    #[test]
    fn a_range_is_cut_out_of_its_mapping() {
        let memory = vec![1_u8; 1 << 20];
        let start = memory.as_ptr() as usize + 5000;
        let found = mappings(start..start + 100).unwrap();
        let range = start..start + 100;
        assert_eq!(
            found,
            [Mapping {
                range,
                shared: false,
                file: false,
                accessible: true
            }]
        );
    }
}
