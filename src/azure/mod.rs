//! What belongs to Azure: the custom handler's side of the Functions host protocol. The service adapters come later.

pub mod custom_handler;
