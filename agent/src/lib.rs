//! Agents for distributed continual learning.
//!
//! The way of the data: a [`stream`] of experiences gives samples; the agent trains on [`data::view`]s of them
//! ([`train`]), and through the [`exchange`] it tells its peers which views it wants labelled, labels theirs,
//! and learns from their soft targets. [`agent`] holds the loop, [`eval`] and [`report`] say how good it was.

pub mod agent;
pub mod analysis;
pub mod cli;
pub mod config;
pub mod data;
pub mod draw;
pub mod durable;
pub mod eval;
pub mod exchange;
pub mod experiment;
pub mod ids;
pub mod keys;
pub mod membership;
pub mod report;
pub mod strategy;
pub mod stream;
pub mod telemetry;
pub mod train;
