//! Agents for distributed continual learning.

pub mod telemetry;
