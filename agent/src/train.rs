//! Training on ONNX Runtime: the sessions and their device buffers, and what is kept on disk.

pub mod checkpoint;
pub mod device;
pub mod runtime;
