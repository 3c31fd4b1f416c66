//! HTTPS for every client of ours: one library for TLS, chosen by us.

/// The beginning of a client. It follows no redirects: what is sent may carry tokens.
pub fn client() -> reqwest::ClientBuilder {
    // A process chooses once; whoever was first chose the same.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none())
}
