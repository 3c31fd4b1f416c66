//! Reads what a child says, line by line.

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc::Sender;

/// Longest line; a longer one is broken, so that a child cannot fill the memory.
const MOST_LINE_BYTES: usize = 64 * 1024;

/// Sends each line of `pipe` with the pipe's name, without its end and with invalid UTF-8 replaced, until the pipe
/// closes or nobody listens.
pub(super) async fn each_line(
    pipe: impl AsyncRead + Unpin,
    name: &'static str,
    lines: Sender<(&'static str, String)>,
) {
    let mut reader = BufReader::with_capacity(MOST_LINE_BYTES, pipe);
    let mut line = Vec::new();
    loop {
        let (used, ended) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(buffer) => {
                let end = buffer.iter().position(|byte| *byte == b'\n');
                let upto = end.map_or(buffer.len(), |end| end + 1);
                line.extend_from_slice(buffer.get(..upto).unwrap_or_default());
                (upto, end.is_some() || line.len() >= MOST_LINE_BYTES)
            }
        };
        reader.consume(used);
        if ended {
            if lines.send((name, text(&line))).await.is_err() {
                return;
            }
            line.clear();
        }
    }
    if !line.is_empty() {
        // Nobody listens any more: the line is nobody's loss.
        drop(lines.send((name, text(&line))).await);
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_whole_and_long_ones_are_broken() {
        let input = [b"one\r\ntwo\n\xff\n".as_slice(), &vec![b'x'; MOST_LINE_BYTES + 5], b"\nlast"].concat();
        let (send, mut lines) = tokio::sync::mpsc::channel(10);
        each_line(input.as_slice(), "stdout", send).await;
        let mut said = Vec::new();
        while let Some((_, line)) = lines.recv().await {
            said.push(line);
        }
        let lengths: Vec<usize> = said.iter().map(String::len).collect();
        assert_eq!(&said[..3], ["one", "two", "\u{fffd}"]);
        assert!(lengths[3] >= MOST_LINE_BYTES && lengths[3] < 2 * MOST_LINE_BYTES);
        assert_eq!(said.last().unwrap(), "last");
    }
}
