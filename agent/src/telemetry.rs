//! Events, and how they are shown.

pub mod event;
pub mod progress;
