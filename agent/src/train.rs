//! Training on ONNX Runtime: the sessions and their device buffers, and what is kept on disk.

pub mod checkpoint;
pub mod device;
pub mod library;
pub mod runtime;
pub mod step;
pub mod tensors;
