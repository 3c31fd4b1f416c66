//! Reads what a child says, line by line.

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::mpsc::Sender;

/// Longest line; a longer one is broken, so that a child cannot fill the memory.
const MOST_LINE_BYTES: usize = 64 * 1024;

/// Sends each line of `pipe` with the pipe's name, without its end and with invalid UTF-8 replaced, until the pipe
/// closes or nobody listens. A carriage return ends a line too: progress bars are written over themselves.
pub(super) async fn each_line(
    pipe: impl AsyncRead + Unpin,
    name: &'static str,
    lines: Sender<(&'static str, String)>,
) {
    let mut reader = BufReader::with_capacity(MOST_LINE_BYTES, pipe);
    let (mut line, mut returned) = (Vec::new(), false);
    loop {
        let (used, ended) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            // The second half of the end of a line that was sent.
            Ok([b'\n', ..]) if returned => (1, false),
            Ok(buffer) => {
                let end = buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                line.extend_from_slice(buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default());
                (end.map_or(buffer.len(), |end| end + 1), end.is_some() || line.len() >= MOST_LINE_BYTES)
            }
        };
        returned = used > 0 && reader.buffer().get(used - 1) == Some(&b'\r');
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
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(input: &[u8]) -> Vec<String> {
        let (send, mut lines) = tokio::sync::mpsc::channel(10);
        each_line(input, "stdout", send).await;
        let mut said = Vec::new();
        while let Some((_, line)) = lines.recv().await {
            said.push(line);
        }
        said
    }

    #[tokio::test]
    async fn a_progress_bar_is_many_lines_and_a_line_end_of_two_bytes_is_one() {
        assert_eq!(
            said(b"red\rcr\r\n 10 %\r 20 %\r\n\nend\r").await,
            ["red", "cr", " 10 %", " 20 %", "", "end"]
        );
        // The end of a line is cut by the end of what was read at once.
        let full = [vec![b'x'; MOST_LINE_BYTES - 1], b"\r\nnext".to_vec()].concat();
        assert_eq!(said(&full).await, ["x".repeat(MOST_LINE_BYTES - 1).as_str(), "next"]);
    }

    #[tokio::test]
    async fn lines_are_whole_and_long_ones_are_broken() {
        let input = [b"one\r\ntwo\n\xff\n".as_slice(), &vec![b'x'; MOST_LINE_BYTES + 5], b"\nlast"].concat();
        let said = said(&input).await;
        let lengths: Vec<usize> = said.iter().map(String::len).collect();
        assert_eq!(&said[..3], ["one", "two", "\u{fffd}"]);
        assert!(lengths[3] >= MOST_LINE_BYTES && lengths[3] < 2 * MOST_LINE_BYTES);
        assert_eq!(said.last().unwrap(), "last");
    }
}
