//! What a binary needs of the machine that runs it.

/// The newest version of the C library that Azure Functions is sure to have: that of its oldest images.
pub(super) const NEWEST_GLIBC: (u32, u32) = (2, 28);

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// `e_machine` of x86-64, at this offset (ELF-64 object file format).
const X86_64: [u8; 2] = [0x3e, 0];
const MACHINE: std::ops::Range<usize> = 18..20;
const VERSION: &[u8] = b"GLIBC_";

/// What is wrong with the binary, for a Linux host with an x86-64 processor.
pub(super) fn problem(binary: &[u8]) -> Option<String> {
    if !binary.starts_with(MAGIC) {
        return Some("the binary is not one for 64-bit Linux".to_owned());
    }
    if binary.get(MACHINE) != Some(&X86_64) {
        return Some("the binary is not one for x86-64".to_owned());
    }
    let needs = glibc(binary)?;
    let (major, minor) = NEWEST_GLIBC;
    (needs > NEWEST_GLIBC).then(|| {
        format!(
            "the binary needs glibc {}.{}, and Azure is sure to have {major}.{minor} only; build it with infra/package",
            needs.0, needs.1
        )
    })
}

/// The newest version of the C library that the binary names; `None` for a static one.
fn glibc(binary: &[u8]) -> Option<(u32, u32)> {
    let mut newest = None;
    let mut rest = binary;
    while let Some(at) = rest.windows(VERSION.len()).position(|window| window == VERSION) {
        rest = rest.get(at + VERSION.len()..).unwrap_or_default();
        let end = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').unwrap_or(rest.len());
        let text = rest.get(..end).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
        // The linker's version names stand alone; text of the program may go on.
        if rest.get(end) == Some(&0)
            && let Some((major, minor)) = text.split_once('.')
        {
            let minor = minor.split('.').next().unwrap_or_default();
            newest = newest.max(major.parse().ok().zip(minor.parse().ok()));
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_for_another_machine_or_a_newer_library_is_refused() {
        let binary = |versions: &[&str]| {
            let mut bytes = MAGIC.to_vec();
            bytes.resize(18, 0);
            bytes.extend(X86_64);
            for version in versions {
                bytes.extend(format!("\0{version}\0").bytes());
            }
            bytes
        };
        assert_eq!(problem(&binary(&[])), None, "static");
        assert_eq!(problem(&binary(&["GLIBC_2.2.5", "GLIBC_2.28", "GLIBC_PRIVATE"])), None);
        assert!(problem(&binary(&["GLIBC_2.34", "GLIBC_2.4"])).unwrap().contains("needs glibc 2.34"));
        assert!(problem(b"#!/bin/sh").unwrap().contains("64-bit Linux"));
        let mut arm = binary(&[]);
        arm[18] = 0xb7;
        assert!(problem(&arm).unwrap().contains("x86-64"));
    }
}
