//! Values inside a forward network, for analyses of what it has learned.

use onnx_grad::graph::{Graph, ValueInfo};

use super::{
    AllocationDevice, Allocator, AllocatorType, Device, IoBinding, MemoryInfo, MemoryType, RuntimeError,
    Session, Tensor, binding, failed, session,
};

/// A network that gives chosen values besides its outputs.
pub struct ActivationProbe {
    session: Session,
    binding: IoBinding,
    values: Vec<String>,
    input_name: String,
    input_dims: [usize; 3],
    input: Tensor<f32>,
    host: Allocator,
    to_host: MemoryInfo<'static>,
}

/// A value of one batch, row major.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

impl ActivationProbe {
    /// `graph` has one image input `[batch, C, H, W]`, of these C, H, W; `values` are float32 values in it.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if ONNX Runtime refuses the graph, as with a value that is not in it;
    /// [`RuntimeError::LibraryNotFound`] and [`RuntimeError::LoadLibrary`].
    pub fn new(
        graph: &Graph,
        input_dims: [usize; 3],
        values: Vec<ValueInfo>,
        n_threads: usize,
    ) -> Result<Self, RuntimeError> {
        let action = "prepare the activations of a network";
        let names = values.iter().map(|v| v.name.clone()).collect();
        let mut graph = graph.clone();
        let input_name = graph.inputs.first().map(|i| i.name.clone()).unwrap_or_default();
        graph.outputs = values;
        let session = session(&graph, Device::Cpu, n_threads)?;
        let host = Allocator::default();
        let input = Tensor::new(&host, vec![0_i64]).map_err(failed(action))?;
        let to_host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            .map_err(failed(action))?;
        let binding = binding(&session)?;
        Ok(ActivationProbe { session, binding, values: names, input_name, input_dims, input, host, to_host })
    }

    /// The values for a batch of `n` images, in the order asked for. `fill` writes the images `[n, C, H, W]`,
    /// normalised.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn run(&mut self, n: usize, fill: impl FnOnce(&mut [f32])) -> Result<Vec<Activation>, RuntimeError> {
        let action = "compute the activations of a network";
        if self.input.shape().first() != Some(&(n as i64)) {
            let [c, h, w] = self.input_dims;
            self.input = Tensor::new(&self.host, vec![n, c, h, w]).map_err(failed(action))?;
        }
        fill(self.input.extract_tensor_mut().1);
        self.binding.bind_input(self.input_name.as_str(), &self.input).map_err(failed(action))?;
        // Bound anew each time: what a run gave would otherwise be the buffer of the next, whatever its size.
        for name in &self.values {
            self.binding.bind_output_to_device(name, &self.to_host).map_err(failed(action))?;
        }
        let outputs = self.session.run_binding(&self.binding).map_err(failed(action))?;
        let read = |name: &String| {
            let (shape, values) =
                outputs[name.as_str()].try_extract_tensor::<f32>().map_err(failed(action))?;
            let dims = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
            Ok(Activation { dims, values: values.to_vec() })
        };
        self.values.iter().map(read).collect()
    }
}
