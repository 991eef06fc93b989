//! Files that are broken or made to break the reader: each is an error of its own kind, and none takes the process
//! with it.

#![allow(clippy::unwrap_used)]

mod any;
mod derivation;
mod external;
mod file;
mod structure;
mod sweep;
