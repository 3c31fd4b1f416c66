//! Keeps the values of secrets out of what is kept of an app's words.

use azure_core::base64::{encode, encode_url_safe};

/// Shorter values are words such as `true`: masking them would hide little and spoil much.
const LEAST_CHARS: usize = 6;
/// Stands where a value was.
const MASKED: &str = "[redacted]";

/// What may not be kept, in the forms in which programs print it. Empty, it lets everything through.
#[derive(Default)]
pub(super) struct Mask(Vec<String>);

impl Mask {
    /// Masks these values.
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        // What is said comes line by line, and so does a value of several lines.
        let lines = values.flat_map(str::lines).map(str::trim);
        let mut forms: Vec<String> =
            lines.filter(|line| line.chars().count() >= LEAST_CHARS).flat_map(forms).collect();
        // A value may be a part of another one.
        forms.sort_by(|a, b| (b.len(), a).cmp(&(a.len(), b)));
        forms.dedup();
        Self(forms)
    }

    /// The line without them.
    pub(super) fn over(&self, line: String) -> String {
        self.0.iter().fold(line, |line, form| {
            if line.contains(form.as_str()) { line.replace(form.as_str(), MASKED) } else { line }
        })
    }
}

/// As it is, in both base64s, and as a part of an address.
fn forms(value: &str) -> [String; 4] {
    // Whatever follows it, a newline for example, changes how its last bytes are written.
    let whole = value.as_bytes().get(..value.len() / 3 * 3).unwrap_or_default();
    [value.to_owned(), encode(whole), encode_url_safe(whole), percent(value)]
}

/// RFC 3986, section 2: everything but what is unreserved.
fn percent(value: &str) -> String {
    let coded = |byte: u8| {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    value.bytes().map(coded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_masked_in_every_form_and_nothing_else_is() {
        let mask = Mask::new(["s3cr3t/+value", "true", "first line of it\nsecond\n", "s3cr3t"].into_iter());
        for (said, kept) in [
            ("key=s3cr3t/+value;", "key=[redacted];"),
            ("?key=s3cr3t%2F%2Bvalue&x", "?key=[redacted]&x"),
            // echo s3cr3t/+value | base64
            ("czNjcjN0Lyt2YWx1ZQo=", "[redacted]ZQo="),
            ("it is true", "it is true"),
            ("x second y", "x [redacted] y"),
            ("first line of it", "[redacted]"),
            ("a part: s3cr3t", "a part: [redacted]"),
        ] {
            assert_eq!(mask.over(said.to_owned()), kept);
        }
        assert_eq!(Mask::default().over("s3cr3t".to_owned()), "s3cr3t");
    }
}
