//! Graphs by themselves: what is known of their values, their bytes, the table of operators.

#![allow(clippy::unwrap_used)]

mod fold;
mod ops;
mod round_trip;
#[path = "../support/mod.rs"]
mod support;
