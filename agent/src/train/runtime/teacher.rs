//! A trained network that labels the current mini-batch of another.

use dkt_models::{CL_LOGITS, DualHead, ST_LOGITS};

use super::training::{TrainSession, read_outputs};
use super::{IoBinding, RuntimeError, Session, Tensor, binding, failed, session};
use crate::data::Normalization;

/// A network that does not learn any more.
pub struct FrozenTeacher {
    session: Session,
    binding: IoBinding,
    input_name: String,
    /// Of each channel: what the student's input is multiplied by, and what is added, to be the teacher's. Empty where
    /// both are the same.
    renormalize: Vec<(f32, f32)>,
    /// The student's input as the teacher reads it.
    input: Tensor<f32>,
}

impl FrozenTeacher {
    /// On the device of the student. `own` and `students` are what turns pixels into the input of each.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if ONNX Runtime refuses the network.
    pub fn new(
        model: &DualHead,
        student: &TrainSession,
        n_threads: usize,
        [own, students]: [&Normalization; 2],
    ) -> Result<Self, RuntimeError> {
        let session = session(model.graph(), student.device, n_threads)?;
        let binding = binding(&session)?;
        let input = Tensor::new(&student.host, vec![0_i64]).map_err(failed("allocate a teacher's input"))?;
        let renormalize = if own == students { Vec::new() } else { students.to_other(own) };
        Ok(FrozenTeacher { session, binding, input_name: model.input_name().to_owned(), renormalize, input })
    }

    /// Writes what the continual-learning head says of the student's current mini-batch into its
    /// `teacher_logits`.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn label(&mut self, student: &mut TrainSession) -> Result<(), RuntimeError> {
        let FrozenTeacher { session, binding, input_name, renormalize, input } = self;
        let action = "label a mini-batch by the teacher";
        let tensor = if renormalize.is_empty() {
            &student.input
        } else {
            if input.shape() != student.input.shape() {
                *input =
                    Tensor::new(&student.host, student.input.shape().to_vec()).map_err(failed(action))?;
            }
            let (from, to) = (student.input.extract_tensor().1, input.extract_tensor_mut().1);
            let plane = student.input_dims[1] * student.input_dims[2];
            let channels = renormalize.iter().cycle();
            for ((from, to), (factor, offset)) in
                from.chunks_exact(plane).zip(to.chunks_exact_mut(plane)).zip(channels)
            {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from * factor + offset);
            }
            &*input
        };
        binding.bind_input(input_name.as_str(), tensor).map_err(failed(action))?;
        let all = [CL_LOGITS, ST_LOGITS].into_iter();
        let [logits] = read_outputs(session, binding, all, &student.to_host, [CL_LOGITS])?;
        if let Some(tensor) = student.batch_tensor("teacher_logits") {
            tensor.extract_tensor_mut().1.copy_from_slice(&logits);
        }
        Ok(())
    }
}
