//! The network as it was before the experience: what it says of the current mini-batch.

use std::collections::BTreeMap;

use super::state::to_host;
use super::training::{EVALUATE_OUTPUTS, TrainSession, read_outputs};
use super::{HostTensor, IoBinding, RuntimeError, Tensor, binding, failed, float_values, on_device};

/// A copy of what evaluation reads, on the device.
pub(super) struct Past {
    tensors: Vec<(String, Vec<usize>, Tensor<f32>)>,
    binding: IoBinding,
}

impl TrainSession {
    /// Keeps a copy of the network as it is now; it replaces an earlier one.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if a copy fails.
    pub fn keep_past(&mut self) -> Result<(), RuntimeError> {
        let mut values = BTreeMap::new();
        for state in &self.state {
            if self.evaluate.inputs().iter().any(|i| i.name() == state.name) {
                let copy = to_host(state.current(self.parity), self.device)?;
                values.insert(state.name.clone(), HostTensor::from_f32(&state.dims, &copy));
            }
        }
        self.restore_past(&values)
    }

    /// Whether a copy is kept.
    pub fn has_past(&self) -> bool {
        self.past.is_some()
    }

    /// The copy's tensors, by the names of the forward graph; empty without one.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if a copy fails.
    pub fn past_state(&self) -> Result<BTreeMap<String, HostTensor>, RuntimeError> {
        let tensors = self.past.iter().flat_map(|past| &past.tensors);
        tensors
            .map(|(name, dims, tensor)| {
                Ok((name.clone(), HostTensor::from_f32(dims, &to_host(tensor, self.device)?)))
            })
            .collect()
    }

    /// Makes these tensors the copy.
    ///
    /// # Errors
    /// [`RuntimeError::MissingState`] or [`RuntimeError::State`] if they are not of this network.
    pub fn restore_past(&mut self, saved: &BTreeMap<String, HostTensor>) -> Result<(), RuntimeError> {
        let action = "keep a copy of the network";
        let mut past = Past { tensors: Vec::new(), binding: binding(&self.evaluate)? };
        for state in &self.state {
            if !self.evaluate.inputs().iter().any(|i| i.name() == state.name) {
                continue;
            }
            let tensor = saved
                .get(&state.name)
                .ok_or_else(|| RuntimeError::MissingState { name: state.name.clone() })?;
            let values = float_values(&state.name, tensor, &state.dims)?;
            let tensor =
                on_device(&self.evaluate, self.device, &state.dims, &values).map_err(failed(action))?;
            past.binding.bind_input(&*state.name, &tensor).map_err(failed(action))?;
            past.tensors.push((state.name.clone(), state.dims.clone(), tensor));
        }
        self.past = Some(past);
        Ok(())
    }

    /// Writes what the copy's continual-learning head says of the current mini-batch, in evaluation mode, into its
    /// `past_logits`. Nothing happens without a copy, or in a training graph that does not read them.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn label_by_past(&mut self) -> Result<(), RuntimeError> {
        let all = self.outputs_of_evaluation();
        let Some(past) = &mut self.past else { return Ok(()) };
        past.binding
            .bind_input(self.input_name.as_str(), &self.input)
            .map_err(failed("evaluate the earlier network"))?;
        let wanted = [EVALUATE_OUTPUTS[0]];
        let [logits] = read_outputs(&mut self.evaluate, &mut past.binding, all, &self.to_host, wanted)?;
        if let Some(tensor) = self.batch_tensor("past_logits") {
            tensor.extract_tensor_mut().1.copy_from_slice(&logits);
        }
        Ok(())
    }
}
