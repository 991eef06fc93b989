//! Any bytes are an error or a graph, and a graph is the same after writing and reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_grad::graph::Graph;

fuzz_target!(|bytes: &[u8]| {
    let Ok(graph) = Graph::decode(bytes) else { return };
    let once = graph.encode();
    // What reading undoes may make more to undo: an Identity of what was an Identity.
    let again = Graph::decode(&once).expect("what was written is read");
    assert_eq!(again.encode(), once);
});
