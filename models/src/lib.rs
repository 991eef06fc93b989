//! Dual-head networks for Distributed Knowledge Transfer.
//!
//! A dual-head network has one backbone and two linear heads on its features: the continual-learning head
//! (`cl_head`, output `cl_logits`), trained on labels, and the student head (`student_head`, output
//! `st_logits`), trained on what teachers predict on the same samples. All of them are ordinary ONNX graphs.

pub mod check;
mod dual_head;
mod error;
mod features;
pub mod heads;
pub mod init;
pub mod inspect;
pub mod layers;
mod losses;
pub mod notes;
pub mod step;
pub mod zoo;

pub use dual_head::{CL_LOGITS, DualHead, ST_LOGITS};
pub use error::ModelError;
pub use features::FEATURES;
