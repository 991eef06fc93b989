//! Distributed Knowledge Transfer between agents: demand, label, repair (`docs/protocol.md`).
//!
//! `engine` decides and does no input or output; `wire` turns messages into bytes and back; `connection` moves
//! bytes. Nothing rests on the broker or the client keeping a message: what a student lacks it asks for again.

#[cfg(feature = "broker")]
pub mod broker;
pub mod connection;
pub mod engine;
pub mod message;
mod ranked_set;
pub mod rows;
pub mod sample_list;
pub mod target_store;
mod tls;
pub mod topic;
pub mod wire;

pub use connection::ExchangeError;
