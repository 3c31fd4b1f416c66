//! Everything on one machine: SQLite, files, child processes and a small Functions host.

mod app_log;
pub mod backlog;
pub mod builder;
pub mod connect;
pub mod db;
pub mod deployments;
pub mod files;
pub mod host;
pub mod journal;
mod lines;
pub mod logs;
pub mod pack;
pub mod proxy;
pub mod queue;
pub mod releases;
mod replica;
mod revision;
pub mod routes;
pub mod runtime;
pub mod sandbox;
pub mod schedule;
pub mod secrets;
mod static_site;
pub mod upstream;
mod writer;
