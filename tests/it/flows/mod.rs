//! Stories: what people experience, and what the engine promises.

mod admission;
mod chains;
mod decisions;
mod deploys;
mod domains;
mod figures;
mod retention;
mod streams;
mod timers;
