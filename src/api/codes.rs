//! What an error code says. `docs/errors.md` is generated from the catalogue; a test keeps them the same.

use super::catalogue::CODES;

/// Whose turn it is to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// The caller's request or project.
    User,
    /// The caller asks for more than allowed.
    Quota,
    /// Something we depend on, for a moment.
    ProviderTransient,
    /// Something we depend on, until somebody mends it.
    ProviderPermanent,
    /// A fault of Windlass.
    Internal,
}

impl Category {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Quota => "quota",
            Self::ProviderTransient => "provider-transient",
            Self::ProviderPermanent => "provider-permanent",
            Self::Internal => "internal",
        }
    }
}

/// One code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Never changes.
    pub code: &'static str,
    /// Status of an HTTP answer; 0 for codes that only deployments carry.
    pub status: u16,
    /// Whose turn it is.
    pub category: Category,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// What happened.
    pub title: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// The entry of a code; an unknown one is our mistake.
#[must_use]
pub fn find(code: &str) -> Option<&'static Code> {
    CODES.iter().find(|entry| entry.code == code)
}

/// `docs/errors.md`.
#[must_use]
pub fn as_markdown() -> String {
    let mut text = String::from(
        "# Error codes\n\nEvery error carries one of these codes; they never change their meaning. `HTTP` is the status of an answer, \
         `–` marks codes that only a deployment carries. *Retryable* means that the same request may succeed later.\n\n\
         | code | HTTP | category | retryable | what happened | what to do |\n|---|---|---|---|---|---|\n",
    );
    for entry in CODES {
        let status = if entry.status == 0 { "–".to_owned() } else { entry.status.to_string() };
        let retryable = if entry.retryable { "yes" } else { "no" };
        text.push_str(&format!(
            "| `{}` | {status} | {} | {retryable} | {} | {} |\n",
            entry.code,
            entry.category.as_str(),
            entry.title,
            entry.advice
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
    }

    #[test]
    fn each_code_says_whose_turn_it_is_and_whether_to_try_again() {
        for (code, category, retryable) in [
            ("VALIDATION_FAILED", Category::User, false),
            ("BUILD_FAILED", Category::User, false),
            ("STORE_UNAVAILABLE", Category::ProviderTransient, true),
            ("AZURE_CAPACITY", Category::ProviderTransient, true),
            ("QUEUE_FULL", Category::Quota, true),
            ("AZURE_QUOTA", Category::Quota, false),
            ("RELEASE_QUOTA", Category::Quota, false),
            // The request is what is too large, and will be tomorrow.
            ("SOURCE_TOO_LARGE", Category::User, false),
            ("SECRET_UNREADABLE", Category::ProviderPermanent, false),
            ("INTERNAL", Category::Internal, false),
        ] {
            let found = find(code).unwrap();
            assert_eq!((found.category, found.retryable), (category, retryable), "{code}");
        }
        for code in CODES {
            match code.category {
                Category::ProviderTransient => assert!(code.retryable, "{}", code.code),
                // Some limits pass by themselves.
                Category::Quota => {}
                Category::User | Category::ProviderPermanent | Category::Internal => {
                    assert!(!code.retryable, "{}", code.code);
                }
            }
            assert!(!code.title.is_empty() && !code.advice.is_empty(), "{}", code.code);
        }
    }
}
