//! Experiments: whole studies from one command, those of the thesis above all.
//!
//! A [`preset`] and the user's choices are made into a [`plan`]: for each seed and each arm a run of one or more
//! ordinary agents, each with an `AGENT.toml` of its own. What a run came to is kept in its folder ([`result`]), and
//! [`statistics`] compare the arms. Running the agents is the command line's part.

pub mod folder;
pub mod overrides;
pub mod plan;
pub mod preset;
pub mod result;
pub mod scale;
pub mod statistics;
pub mod teacher;
