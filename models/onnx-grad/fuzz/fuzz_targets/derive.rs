//! Any graph that is read is an error or a training graph.
#![no_main]

#[path = "../../tests/hostile/any.rs"]
mod any;

use libfuzzer_sys::fuzz_target;
use onnx_grad::graph::Graph;

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = Graph::decode(bytes) else { return };
    // One way of several, which the fuzzer changes by a byte more or less.
    any::derive_one(&graph, bytes.len());
});
