//! Gradients of the labels' loss at the network as it is: what importances of parameters are made of.

use onnx_grad::graph::Graph;

use super::training::TrainSession;
use super::{RuntimeError, Session, binding, failed, session};

/// The gradient graph of a network.
pub struct ImportanceSession {
    session: Session,
    /// Parameters, in the order of the graph's outputs `<name>.grad`.
    names: Vec<String>,
}

const SUFFIX: &str = ".grad";

impl ImportanceSession {
    /// # Errors
    /// [`RuntimeError::Ort`] if ONNX Runtime refuses the graph.
    pub fn new(graph: &Graph, of: &TrainSession, n_threads: usize) -> Result<Self, RuntimeError> {
        let session = session(graph, of.device, n_threads)?;
        let names = session.outputs().iter().filter_map(|o| o.name().strip_suffix(SUFFIX)).map(str::to_owned);
        Ok(ImportanceSession { names: names.collect(), session })
    }

    /// Parameters that have a gradient.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The gradients at the current mini-batch and parameters of `network`, one for each name, in evaluation mode.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn gradients(&mut self, network: &mut TrainSession) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let action = "compute the gradients of an experience";
        let mut binding = binding(&self.session)?;
        for input in self.session.inputs() {
            let name = input.name();
            let tensor = if name == network.input_name {
                &network.input
            } else if let Some(state) = network.state.iter().find(|state| state.name == name) {
                state.current(network.parity)
            } else {
                network.batch_tensor(name).ok_or_else(|| RuntimeError::NoState { name: name.to_owned() })?
            };
            binding.bind_input(name, tensor).map_err(failed(action))?;
        }
        for name in &self.names {
            binding
                .bind_output_to_device(format!("{name}{SUFFIX}"), &network.to_host)
                .map_err(failed(action))?;
        }
        let outputs = self.session.run_binding(&binding).map_err(failed(action))?;
        self.names
            .iter()
            .map(|name| {
                let output = &outputs[format!("{name}{SUFFIX}").as_str()];
                Ok(output.try_extract_tensor::<f32>().map_err(failed(action))?.1.to_vec())
            })
            .collect()
    }
}
