//! The state of a network under training, to the host and back.

use std::collections::BTreeMap;

use super::training::{StepCounts, TrainSession};
use super::{AllocationDevice, Device, HostTensor, RuntimeError, Tensor, failed, float_values, on_device};

impl TrainSession {
    /// Copies the whole state to the host.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if a copy fails; [`RuntimeError::StateNotFinite`] if training has diverged.
    pub fn state(&self) -> Result<BTreeMap<String, HostTensor>, RuntimeError> {
        let mut all = BTreeMap::new();
        for state in &self.state {
            let values = to_host(state.current(self.parity), self.device)?;
            // An update that overflows shows only here: a step's report is about what was before it.
            if values.iter().any(|v| !v.is_finite()) {
                return Err(RuntimeError::StateNotFinite { step: self.n_steps, name: state.name.clone() });
            }
            all.insert(state.name.clone(), HostTensor::from_f32(&state.dims, &values));
        }
        Ok(all)
    }

    /// Puts a saved state on the device and goes on counting from `counts`.
    ///
    /// # Errors
    /// [`RuntimeError::MissingState`] or [`RuntimeError::State`] if `saved` is not of this network; nothing has
    /// changed then.
    pub fn restore(
        &mut self,
        saved: &BTreeMap<String, HostTensor>,
        counts: StepCounts,
    ) -> Result<(), RuntimeError> {
        let mut restored = Vec::with_capacity(self.state.len());
        for state in &self.state {
            let tensor = saved
                .get(&state.name)
                .ok_or_else(|| RuntimeError::MissingState { name: state.name.clone() })?;
            restored.push(float_values(&state.name, tensor, &state.dims)?);
        }
        self.parity = 0;
        self.put(restored.into_iter().enumerate())?;
        self.n_steps = counts.n_steps;
        self.n_skipped = counts.n_skipped;
        self.n_before_averages = counts.n_before_averages;
        self.n_skipped_in_a_row = 0;
        Ok(())
    }

    /// Replaces some state tensors, such as those that change between experiences only.
    ///
    /// # Errors
    /// [`RuntimeError::NoState`] or [`RuntimeError::State`] if there is none of that name and shape; nothing has
    /// changed then.
    pub fn write(&mut self, tensors: &BTreeMap<String, HostTensor>) -> Result<(), RuntimeError> {
        let mut values = Vec::with_capacity(tensors.len());
        for (name, tensor) in tensors {
            let index = self.state.iter().position(|state| state.name == *name);
            let index = index.ok_or_else(|| RuntimeError::NoState { name: name.clone() })?;
            values.push((index, float_values(name, tensor, &self.state[index].dims)?));
        }
        self.put(values)
    }

    /// Sets the optimiser's averages to zero, as if it had not made a step yet.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if a copy fails.
    pub fn reset_optimizer(&mut self) -> Result<(), RuntimeError> {
        let averages = self.state.iter().enumerate().filter(|(_, state)| state.is_average);
        let zeros: Vec<(usize, Vec<f32>)> =
            averages.map(|(i, state)| (i, vec![0.0; state.dims.iter().product()])).collect();
        self.put(zeros)?;
        self.n_before_averages = self.n_steps - self.n_skipped;
        Ok(())
    }

    fn put(&mut self, values: impl IntoIterator<Item = (usize, Vec<f32>)>) -> Result<(), RuntimeError> {
        let action = "bind the restored state";
        for (index, values) in values {
            let (state, parity) = (&mut self.state[index], self.parity);
            let tensor = on_device(&self.train, self.device, &state.dims, &values).map_err(failed(action))?;
            let current = parity % state.buffers.len();
            state.buffers[current] = tensor;
        }
        self.bind_state().map_err(failed(action))
    }
}

pub(super) fn to_host(tensor: &Tensor<f32>, device: Device) -> Result<Vec<f32>, RuntimeError> {
    if device == Device::Cpu {
        return Ok(tensor.extract_tensor().1.to_vec());
    }
    let copy = tensor.to(AllocationDevice::CPU, 0).map_err(failed("copy the state to the host"))?;
    Ok(copy.extract_tensor().1.to_vec())
}
