//! The exchange of soft targets, against its written protocol, hostile bytes and a fleet with faults.

#![allow(clippy::unwrap_used)]

mod cddl;
mod crashes;
mod document;
mod envelopes;
mod fleet;
mod forgery;
mod hostile;
mod inputs;
mod marks;
mod messages;
mod recipients;
mod signing;
mod simulation;
mod vectors;
mod victim;
mod wire;
