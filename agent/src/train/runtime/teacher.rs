//! A trained network that labels the current mini-batch of another.

use dkt_models::{CL_LOGITS, DualHead, ST_LOGITS};

use super::training::{TrainSession, read_outputs};
use super::{IoBinding, RuntimeError, Session, binding, failed, session};

/// A network that does not learn any more.
pub struct FrozenTeacher {
    session: Session,
    binding: IoBinding,
    input_name: String,
}

impl FrozenTeacher {
    /// On the device of the student.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if ONNX Runtime refuses the network.
    pub fn new(model: &DualHead, student: &TrainSession, n_threads: usize) -> Result<Self, RuntimeError> {
        let session = session(model.graph(), student.device, n_threads)?;
        let binding = binding(&session)?;
        Ok(FrozenTeacher { session, binding, input_name: model.input_name().to_owned() })
    }

    /// Writes what the continual-learning head says of the student's current mini-batch into its
    /// `teacher_logits`.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn label(&mut self, student: &mut TrainSession) -> Result<(), RuntimeError> {
        let FrozenTeacher { session, binding, input_name } = self;
        binding
            .bind_input(input_name.as_str(), &student.input)
            .map_err(failed("label a mini-batch by the teacher"))?;
        let all = [CL_LOGITS, ST_LOGITS].into_iter();
        let [logits] = read_outputs(session, binding, all, &student.to_host, [CL_LOGITS])?;
        if let Some(tensor) = student.batch_tensor("teacher_logits") {
            tensor.extract_tensor_mut().1.copy_from_slice(&logits);
        }
        Ok(())
    }
}
