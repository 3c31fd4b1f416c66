//! Everything that is tested from outside the library: stories, ports, the house rules, and the real program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests read the environment: PATH, seeds, and whether to write documents"
)]

mod azure;
mod e2e;
mod flows;
mod house;
mod ports;
mod world;
