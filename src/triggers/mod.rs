//! The function table and the one match from event to action.

pub mod dispatch;
pub mod host_json;
pub mod message;
pub mod table;
