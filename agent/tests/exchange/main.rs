//! The exchange of soft targets, against its written protocol, hostile bytes and a fleet with faults.

#![allow(clippy::unwrap_used)]

mod cddl;
mod document;
mod fleet;
mod hostile;
mod inputs;
mod messages;
mod simulation;
mod vectors;
mod victim;
mod wire;
