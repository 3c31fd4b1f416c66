//! Everything that is tested from outside the library: stories, ports, the house rules, and the real program.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod e2e;
mod flows;
mod house;
mod ports;
mod world;
