//! Events, how they are shown, and what a run costs.

pub mod energy;
pub mod event;
pub mod progress;
pub mod usage;
