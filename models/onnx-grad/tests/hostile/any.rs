//! Everything that may be asked of a graph that came from anywhere.

use onnx_grad::graph::{Attribute, Graph};
use onnx_grad::{
    BatchNorm, Builder, Dropout, GradError, Optimizer, Precision, Recompute, TrainSpec, check, derive,
    trainable,
};

/// Ways of deriving from one output: see [`way`].
const N_WAYS: usize = 6;

/// Derives every way there is. Whether that works is the graph's business; it must not panic.
///
/// Returns how many graphs came of it.
#[allow(dead_code)] // The fuzzer takes one at a time.
pub fn derive_all(graph: &Graph) -> usize {
    (0..N_WAYS * graph.outputs.len().min(3)).map(|i| derive_one(graph, i)).sum()
}

/// Derives in the `i`-th way, of those for every output.
pub fn derive_one(graph: &Graph, i: usize) -> usize {
    if graph.outputs.is_empty() {
        return 0;
    }
    let output = &graph.outputs[i / N_WAYS % graph.outputs.len()].name;
    way(graph, output, i % N_WAYS).unwrap_or(0)
}

/// For the sum of squares of `output`: trains all initialisers, plainly or with everything, or differentiates
/// by the inputs; in each case with the statistics of the mini-batch or with frozen ones.
fn way(graph: &Graph, output: &str, way: usize) -> Result<usize, GradError> {
    let batch_norm = if way.is_multiple_of(2) { BatchNorm::Train } else { BatchNorm::Frozen };
    let mut builder = Builder::from_graph(graph.clone())?;
    let loss = sum(&mut builder, output)?;
    let graph = builder.finish();
    if way / 2 == 2 {
        let inputs = graph.inputs.iter().filter(|i| i.dtype.is_float()).take(4);
        return Ok(inputs
            .filter(|i| check::gradients(&graph, &loss, &[&i.name], batch_norm).is_ok())
            .count());
    }
    let plain = TrainSpec::new(&loss, trainable(&graph, &loss)?, Optimizer::ADAM);
    let plain = TrainSpec { batch_norm, ..plain };
    let spec = if way / 2 == 0 {
        plain
    } else {
        TrainSpec {
            accumulate: true,
            dropout: Dropout::Seeded,
            precision: Precision::BFloat16,
            recompute: Recompute::Parts(3),
            ..plain
        }
    };
    let training = derive(&graph, &spec)?;
    assert!(!training.graph.encode().is_empty());
    Ok(1)
}

/// The scalar Σ x².
fn sum(b: &mut Builder, x: &str) -> Result<String, GradError> {
    let square = b.op("Mul", &[x, x], &[])?;
    b.op("ReduceSum", &[&square], &[("keepdims", Attribute::Int(0))])
}
