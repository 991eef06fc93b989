//! Losses and gradients at chosen parameters, for a gradient check.

use std::collections::BTreeMap;

use dkt_models::check::GradientCheck;

use super::{
    AllocationDevice, Allocator, AllocatorType, DataType, Device, DynTensor, HostTensor, IoBinding,
    MemoryInfo, MemoryType, PrimitiveTensorElementType, RuntimeError, Session, Tensor, binding, failed,
    float_values, on_device, session,
};

/// A network at fixed inputs, whose loss and gradients are asked for at one parameter after another.
pub struct LossProbe {
    loss: Session,
    binding: IoBinding,
    gradients: BTreeMap<String, Vec<f32>>,
    parameters: BTreeMap<String, Tensor<f32>>,
    result: Tensor<f32>,
    /// Bound once, and kept for the binding.
    _feeds: Vec<DynTensor>,
}

impl LossProbe {
    /// Computes the gradients at the parameters as they are.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if ONNX Runtime refuses the graph; [`RuntimeError::State`] for a parameter that is not
    /// float32.
    pub fn new(
        check: &GradientCheck,
        feeds: &BTreeMap<String, HostTensor>,
        n_threads: usize,
    ) -> Result<Self, RuntimeError> {
        let action = "bind the inputs of a check";
        let loss = session(&check.loss, Device::Cpu, n_threads)?;
        let mut gradient_session = session(&check.gradients, Device::Cpu, n_threads)?;
        let mut parameters = BTreeMap::new();
        for (name, tensor) in &check.parameters {
            let values = float_values(name, tensor, &tensor.dims)?;
            let tensor = on_device(&loss, Device::Cpu, &tensor.dims, &values).map_err(failed(action))?;
            parameters.insert(name.clone(), tensor);
        }
        let taken = |session: &Session, name: &str| session.inputs().iter().any(|i| i.name() == name);
        let (mut bindings, mut kept) = ([binding(&loss)?, binding(&gradient_session)?], Vec::new());
        for (name, tensor) in feeds {
            let tensor = host_tensor(tensor)?;
            for (binding, session) in bindings.iter_mut().zip([&loss, &gradient_session]) {
                if taken(session, name) {
                    binding.bind_input(name, &tensor).map_err(failed(action))?;
                }
            }
            kept.push(tensor);
        }
        for (name, tensor) in &parameters {
            for (binding, session) in bindings.iter_mut().zip([&loss, &gradient_session]) {
                if taken(session, name) {
                    binding.bind_input(name, tensor).map_err(failed(action))?;
                }
            }
        }
        let [mut binding, mut of_gradients] = bindings;
        let names: Vec<String> = gradient_session.outputs().iter().map(|o| o.name().to_owned()).collect();
        let to_host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
            .map_err(failed(action))?;
        for name in &names {
            of_gradients.bind_output_to_device(name, &to_host).map_err(failed(action))?;
        }
        let action = "compute the gradients";
        let outputs = gradient_session.run_binding(&of_gradients).map_err(failed(action))?;
        let mut gradients = BTreeMap::new();
        for name in check.parameters.keys() {
            let output = format!("{name}.grad");
            if names.contains(&output) {
                let values = outputs[output.as_str()].try_extract_tensor::<f32>().map_err(failed(action))?.1;
                gradients.insert(name.clone(), values.to_vec());
            }
        }
        drop(outputs);
        let mut result =
            Tensor::<f32>::new(&Allocator::default(), Vec::<i64>::new()).map_err(failed(action))?;
        binding.bind_output("loss", &mut result).map_err(failed(action))?;
        Ok(LossProbe { loss, binding, gradients, parameters, result, _feeds: kept })
    }

    /// The gradient of a parameter; `None` where the loss's graph gives it none.
    pub fn gradient(&self, parameter: &str) -> Option<&[f32]> {
        self.gradients.get(parameter).map(Vec::as_slice)
    }

    /// The loss with these values of one parameter, which stay until they are set again.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails; [`RuntimeError::MissingState`] if there is no such parameter.
    pub fn loss_at(&mut self, parameter: &str, values: &[f32]) -> Result<f32, RuntimeError> {
        let action = "compute a loss";
        let tensor = self
            .parameters
            .get_mut(parameter)
            .ok_or_else(|| RuntimeError::MissingState { name: parameter.to_owned() })?;
        tensor.extract_tensor_mut().1.copy_from_slice(values);
        self.binding.bind_input(parameter, &*tensor).map_err(failed(action))?;
        self.loss.run_binding(&self.binding).map_err(failed(action))?;
        Ok(self.result.extract_tensor().1[0])
    }
}

/// A tensor of any type that a check feeds.
fn host_tensor(tensor: &HostTensor) -> Result<DynTensor, RuntimeError> {
    fn typed<T: PrimitiveTensorElementType + Copy + std::fmt::Debug + 'static, const N: usize>(
        tensor: &HostTensor,
        value: impl Fn([u8; N]) -> T,
    ) -> Result<DynTensor, RuntimeError> {
        let mut typed = Tensor::<T>::new(&Allocator::default(), tensor.dims.clone())
            .map_err(failed("allocate the inputs of a check"))?;
        let bytes = tensor.bytes.as_chunks::<N>().0;
        typed.extract_tensor_mut().1.iter_mut().zip(bytes).for_each(|(to, from)| *to = value(*from));
        Ok(typed.upcast())
    }
    match tensor.dtype {
        DataType::I64 => typed(tensor, i64::from_le_bytes),
        DataType::I32 => typed(tensor, i32::from_le_bytes),
        DataType::Bool => typed(tensor, |[byte]: [u8; 1]| byte != 0),
        _ => typed(tensor, f32::from_le_bytes),
    }
}
