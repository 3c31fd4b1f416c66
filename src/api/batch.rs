//! Many small contents in one body (`application/vnd.windlass.blobs`): for each a line `<sha256> <bytes>`, then the bytes.

/// The body's media type.
pub const MEDIA_TYPE: &str = "application/vnd.windlass.blobs";
/// Largest content that goes into a batch; larger ones are sent alone.
pub const MOST_CONTENT_BYTES: u64 = 256 * 1024;
/// Largest batch before compression.
pub const MOST_BATCH_BYTES: u64 = 8 << 20;

/// What a content's line takes at most.
pub const HEAD_BYTES: u64 = 80;

/// Adds one content.
pub fn add(batch: &mut Vec<u8>, sha256: &str, content: &[u8]) {
    batch.extend_from_slice(format!("{sha256} {}\n", content.len()).as_bytes());
    batch.extend_from_slice(content);
}

/// The contents of a batch, each with its announced digest; `None` when it is not one.
#[must_use]
pub fn split(mut batch: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let mut contents = Vec::new();
    while !batch.is_empty() {
        let end = batch.iter().position(|byte| *byte == b'\n')?;
        let (head, rest) = (batch.get(..end)?, batch.get(end + 1..)?);
        let (sha256, bytes) = std::str::from_utf8(head).ok()?.split_once(' ')?;
        let bytes: usize = bytes.parse().ok()?;
        contents.push((sha256, rest.get(..bytes)?));
        batch = rest.get(bytes..)?;
    }
    Some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_added_comes_back(contents in proptest::collection::vec(proptest::collection::vec(0_u8..255, 0..50), 0..8)) {
            let mut batch = Vec::new();
            contents.iter().for_each(|content| add(&mut batch, "abc", content));
            let back: Vec<Vec<u8>> = split(&batch).unwrap().into_iter().map(|(_, content)| content.to_vec()).collect();
            assert_eq!(back, contents);
        }

        #[test]
        fn no_body_panics(body in proptest::collection::vec(0_u8..255, 0..200)) {
            drop(split(&body));
        }
    }

    #[test]
    fn a_batch_that_was_cut_is_none() {
        let mut batch = Vec::new();
        add(&mut batch, "abc", b"content");
        assert!(split(&batch[..batch.len() - 1]).is_none());
        assert!(split(b"no header").is_none());
    }
}
