//! Distributed Knowledge Transfer between agents: demand, label, repair (`docs/protocol.md`).
//!
//! `engine` decides and does no input or output; `wire` turns messages into bytes and back; `connection` moves
//! bytes; `reading` says what is taken in; `envelope`, `replay` and `verifier` are what signed messages need, `signing`
//! has their files. Nothing rests on the broker or the client keeping a message: what a student lacks it asks for again.

#[cfg(feature = "broker")]
pub mod broker;
pub mod connection;
mod counters;
pub mod engine;
pub mod envelope;
mod error;
mod inbox;
pub mod message;
mod ranked_set;
pub mod reading;
pub mod refusal;
mod rejection;
pub mod replay;
pub mod rows;
pub mod sample_list;
pub mod signing;
pub mod target_store;
mod tls;
pub mod topic;
mod url;
pub mod verifier;
pub mod wire;

pub use error::ExchangeError;
