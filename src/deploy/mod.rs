//! The nouns of deploying and their rules, with the ports that they need. No input or output here.

pub mod artifacts;
pub mod blobs;
pub mod builder;
pub mod deployment;
pub mod detect;
pub mod dockerfile;
pub mod eligible;
pub mod footing;
pub mod ids;
pub mod image;
pub mod log;
pub mod project_file;
pub mod reference;
pub mod release;
pub mod retention;
pub mod runtime;
pub mod sbom;
pub mod sealing;
pub mod secrets;
pub mod size;
pub mod source;
pub mod target;
pub mod wish;
