//! A network under training: its sessions, its state on the device, and the buffers of one mini-batch.
//!
//! Every state tensor that a step changes has two buffers. A step reads one and writes the other (`<name>` and
//! `<name>.next` of the training graph), then the two change roles; no parameter passes through the host.

use dkt_models::step::TrainingStep;
use dkt_models::{CL_LOGITS, FEATURES, ST_LOGITS};
use onnx_grad::{APPLIED, LOSS_SCALE, MICRO_BATCH_LAST, MICRO_BATCH_WEIGHT, SEED, StateRole};

use super::past::Past;
use super::{
    AllocationDevice, Allocator, AllocatorType, BatchBuffers, Device, IoBinding, Logits, MemoryInfo,
    MemoryType, OrtResult, Part, RuntimeError, Scalars, Session, StepReport, Tensor, binding, failed,
    float_values, on_device, session, uninitialised,
};

/// Inputs of a mini-batch, apart from the images, in the order of [`BatchBuffers`].
const BATCH_INPUTS: [&str; 6] =
    ["labels", "teacher_logits", "teacher_weight", "past_logits", "past_weight", "class_mask"];
/// Those among them with a value a row, not a value a row and class.
const ROW_INPUTS: [&str; 2] = ["teacher_weight", "past_weight"];
const PAST_GROUPS: &str = "past_groups";
/// In the order of [`TrainSession::step_part`]'s values.
const SCALAR_INPUTS: [&str; 10] = [
    "learning_rate",
    "distill_weight",
    "temperature",
    "step",
    MICRO_BATCH_WEIGHT,
    MICRO_BATCH_LAST,
    "retention_weight",
    "retention_temperature",
    "penalty_weight",
    "gradient_noise",
];
const SCALAR_OUTPUTS: [&str; 7] =
    ["loss", "loss.cl", "loss.st", "loss.retention", "loss.penalty", "grad_norm", APPLIED];
pub(super) const EVALUATE_OUTPUTS: [&str; 2] = [CL_LOGITS, ST_LOGITS];
/// A loss scale comes from its first value down to 1 in far fewer steps: what overflows then has diverged.
const MAX_SKIPPED_IN_A_ROW: u32 = 40;

/// A state tensor.
pub(super) struct State {
    pub name: String,
    pub dims: Vec<usize>,
    /// `buffers[parity]` is the current one; one that no step changes has a single buffer.
    pub buffers: Vec<Tensor<f32>>,
    /// The optimiser's, and zero at first.
    pub is_average: bool,
}

impl State {
    pub fn current(&self, parity: usize) -> &Tensor<f32> {
        &self.buffers[parity % self.buffers.len()]
    }
}

/// An input or output that this training graph has.
struct Slot {
    /// Which one, in the list of those that a graph may have.
    index: usize,
    tensor: Tensor<f32>,
}

pub struct TrainSession {
    pub(super) device: Device,
    pub(super) train: Session,
    pub(super) evaluate: Session,
    /// `train_bindings[p]` reads the buffers `p` and writes the others; likewise for evaluation.
    train_bindings: [IoBinding; 2],
    evaluate_bindings: [IoBinding; 2],
    pub(super) state: Vec<State>,
    pub(super) parity: usize,
    pub(super) input: Tensor<f32>,
    /// Those of [`BATCH_INPUTS`] that the training graph has, by their index there.
    batch: Vec<Slot>,
    scalars: Vec<Slot>,
    reports: Vec<Slot>,
    seed: Option<Tensor<i64>>,
    /// `[G, K]`, 1 where a class belongs to the group of earlier classes.
    past_groups: Option<Tensor<f32>>,
    pub(super) past: Option<Past>,
    has_loss_scale: bool,
    has_features: bool,
    evaluate_input: Tensor<f32>,
    pub(super) host: Allocator,
    /// Where the outputs of an evaluation go.
    pub(super) to_host: MemoryInfo<'static>,
    pub(super) input_name: String,
    pub(super) input_dims: [usize; 3],
    pub(super) n_classes: usize,
    /// Mini-batches trained on, those skipped among them.
    pub(super) n_steps: u64,
    pub(super) n_skipped: u64,
    pub(super) n_skipped_in_a_row: u32,
    /// Steps, apart from those skipped, before the optimiser's averages were last set to zero.
    pub(super) n_before_averages: u64,
}

fn takes(session: &Session, name: &str) -> bool {
    session.inputs().iter().any(|i| i.name() == name)
}

impl TrainSession {
    /// Builds the sessions and puts the initial state on the device.
    ///
    /// # Errors
    /// [`RuntimeError::Provider`] if the device's provider does not load; it never falls back to another.
    pub fn new(step: &TrainingStep, device: Device, n_threads: usize) -> Result<Self, RuntimeError> {
        let action = "bind the training state";
        let train = session(&step.train, device, n_threads)?;
        let evaluate = session(&step.evaluate, device, n_threads)?;
        let host = Allocator::default();
        let mut state = Vec::with_capacity(step.state.len());
        for tensor in &step.state {
            let dims = &tensor.init.dims;
            let values = float_values(&tensor.name, &tensor.init, dims)?;
            let mut buffers = vec![on_device(&train, device, dims, &values).map_err(failed(action))?];
            if tensor.role != StateRole::Held {
                buffers.push(uninitialised(&train, device, dims).map_err(failed(action))?);
            }
            let is_average = tensor.role == StateRole::Optimizer
                && values.iter().all(|v| *v == 0.0)
                && !tensor.name.starts_with(LOSS_SCALE);
            state.push(State { name: tensor.name.clone(), dims: dims.clone(), buffers, is_average });
        }
        let zeros = |dims: Vec<i64>| Tensor::<f32>::new(&host, dims).map_err(failed(action));
        let those =
            |names: &[&str], dims: &[i64], has: &dyn Fn(&str) -> bool| -> Result<Vec<Slot>, RuntimeError> {
                let present = names.iter().enumerate().filter(|(_, name)| has(name));
                present.map(|(index, _)| Ok(Slot { index, tensor: zeros(dims.to_vec())? })).collect()
            };
        let batch = those(&BATCH_INPUTS, &[0], &|name| takes(&train, name));
        let scalars = those(&SCALAR_INPUTS, &[], &|name| takes(&train, name));
        let gives = |name: &str| train.outputs().iter().any(|o| o.name() == name);
        let reports = those(&SCALAR_OUTPUTS, &[], &gives);
        let seed = takes(&train, SEED)
            .then(|| Tensor::new(&host, Vec::<i64>::new()).map_err(failed(action)))
            .transpose()?;
        let k = step.n_classes as i64;
        let past_groups = takes(&train, PAST_GROUPS).then(|| zeros(vec![1, k])).transpose()?;
        let mut this = TrainSession {
            train_bindings: [binding(&train)?, binding(&train)?],
            evaluate_bindings: [binding(&evaluate)?, binding(&evaluate)?],
            device,
            state,
            parity: 0,
            input: zeros(vec![0])?,
            batch: batch?,
            scalars: scalars?,
            reports: reports?,
            seed,
            past_groups,
            past: None,
            has_loss_scale: takes(&train, LOSS_SCALE),
            has_features: evaluate.outputs().iter().any(|o| o.name() == FEATURES),
            evaluate_input: zeros(vec![0])?,
            host,
            to_host: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
                .map_err(failed(action))?,
            input_name: step.input_name.clone(),
            input_dims: step.input_dims,
            n_classes: step.n_classes,
            n_steps: 0,
            n_skipped: 0,
            n_skipped_in_a_row: 0,
            n_before_averages: 0,
            train,
            evaluate,
        };
        this.clear_groups();
        this.bind_state().map_err(failed(action))?;
        Ok(this)
    }

    pub(super) fn bind_state(&mut self) -> OrtResult<()> {
        let evaluated: Vec<&str> = self.evaluate.inputs().iter().map(|i| i.name()).collect();
        for parity in 0..2 {
            let binding = &mut self.train_bindings[parity];
            for report in &mut self.reports {
                binding.bind_output(SCALAR_OUTPUTS[report.index], &mut report.tensor)?;
            }
            for state in &mut self.state {
                binding.bind_input(&*state.name, state.current(parity))?;
                if let [_, _] = state.buffers[..] {
                    binding.bind_output(format!("{}.next", state.name), &mut state.buffers[1 - parity])?;
                }
                if evaluated.contains(&state.name.as_str()) {
                    self.evaluate_bindings[parity].bind_input(&*state.name, state.current(parity))?;
                }
            }
        }
        Ok(())
    }

    /// Gives the next step its mini-batch and scalars. A CPU session reads the very tensors; any other copies them
    /// now, so this is the one copy of a batch to the device.
    fn bind_inputs(&mut self) -> OrtResult<()> {
        let binding = &mut self.train_bindings[self.parity];
        binding.bind_input(self.input_name.as_str(), &self.input)?;
        for input in &self.batch {
            binding.bind_input(BATCH_INPUTS[input.index], &input.tensor)?;
        }
        for scalar in &self.scalars {
            binding.bind_input(SCALAR_INPUTS[scalar.index], &scalar.tensor)?;
        }
        if let Some(groups) = &self.past_groups {
            binding.bind_input(PAST_GROUPS, groups)?;
        }
        if let Some(seed) = &self.seed {
            binding.bind_input(SEED, seed)?;
        }
        Ok(())
    }

    /// Makes room for a mini-batch of `n` rows; the caller fills it before [`TrainSession::step`].
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if memory is short.
    pub fn batch_mut(&mut self, n: usize) -> Result<BatchBuffers<'_>, RuntimeError> {
        if self.input.shape().first() != Some(&(n as i64)) {
            let [c, h, w] = self.input_dims;
            let tensor = |dims: Vec<usize>| {
                Tensor::<f32>::new(&self.host, dims).map_err(failed("allocate a mini-batch"))
            };
            self.input = tensor(vec![n, c, h, w])?;
            for input in &mut self.batch {
                let is_row = ROW_INPUTS.contains(&BATCH_INPUTS[input.index]);
                input.tensor = tensor(if is_row { vec![n] } else { vec![n, self.n_classes] })?;
            }
        }
        let mut slices = BATCH_INPUTS.map(|_| &mut [][..]);
        for input in &mut self.batch {
            slices[input.index] = input.tensor.extract_tensor_mut().1;
        }
        let [labels, teacher_logits, teacher_weight, past_logits, past_weight, class_mask] = slices;
        let input = self.input.extract_tensor_mut().1;
        Ok(BatchBuffers {
            input,
            labels,
            teacher_logits,
            teacher_weight,
            past_logits,
            past_weight,
            class_mask,
        })
    }

    /// The tensor of one of [`BATCH_INPUTS`], if the training graph has it.
    pub(super) fn batch_tensor(&mut self, name: &str) -> Option<&mut Tensor<f32>> {
        self.batch.iter_mut().find(|i| BATCH_INPUTS[i.index] == name).map(|i| &mut i.tensor)
    }

    /// Groups of earlier classes, within each of which the past's probabilities are kept. None without a past.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if memory is short.
    pub fn set_past_groups(&mut self, groups: &[Vec<u16>]) -> Result<(), RuntimeError> {
        let Some(tensor) = &mut self.past_groups else { return Ok(()) };
        let k = self.n_classes;
        *tensor = Tensor::new(&self.host, vec![groups.len().max(1), k])
            .map_err(failed("allocate the groups of classes"))?;
        self.clear_groups();
        if let Some(tensor) = &mut self.past_groups {
            let values = tensor.extract_tensor_mut().1;
            for (row, group) in values.chunks_exact_mut(k).zip(groups) {
                group.iter().for_each(|class| row[usize::from(*class)] = 1.0);
            }
        }
        Ok(())
    }

    fn clear_groups(&mut self) {
        if let Some(tensor) = &mut self.past_groups {
            tensor.extract_tensor_mut().1.fill(0.0);
        }
    }

    /// Trains on the mini-batch last filled.
    ///
    /// # Errors
    /// As [`TrainSession::step_part`].
    pub fn step(&mut self, scalars: &Scalars) -> Result<StepReport, RuntimeError> {
        self.step_part(scalars, &Part::WHOLE)
    }

    /// Trains on the part of a mini-batch last filled; parameters move after the last part. Only a step derived
    /// with accumulation takes more than one.
    ///
    /// # Errors
    /// [`RuntimeError::NotFinite`] if the loss or the gradient is; the state is then as before the part. With a
    /// loss scale such a step is skipped, and is an error only where lowering the scale does not help.
    pub fn step_part(&mut self, scalars: &Scalars, part: &Part) -> Result<StepReport, RuntimeError> {
        let action = "run a training step";
        let step = self.n_steps + 1;
        // A step that was skipped did not move the optimiser's averages.
        let of_optimizer = (step - self.n_skipped - self.n_before_averages) as f32;
        let values: [f32; SCALAR_INPUTS.len()] = [
            scalars.learning_rate,
            scalars.distill_weight,
            scalars.temperature,
            of_optimizer,
            part.weight,
            f32::from(u8::from(part.is_last)),
            scalars.retention_weight,
            scalars.retention_temperature,
            scalars.penalty_weight,
            scalars.gradient_noise,
        ];
        for scalar in &mut self.scalars {
            scalar.tensor.extract_tensor_mut().1[0] = values[scalar.index];
        }
        if let Some(seed) = &mut self.seed {
            seed.extract_tensor_mut().1[0] = part.seed;
        }
        self.bind_inputs().map_err(failed(action))?;
        self.train.run_binding(&self.train_bindings[self.parity]).map_err(failed(action))?;
        let mut read = [0.0; SCALAR_OUTPUTS.len()];
        for report in &self.reports {
            read[report.index] = report.tensor.extract_tensor().1[0];
        }
        let [loss, loss_cl, loss_st, loss_retention, loss_penalty, grad_norm, applied] = read;
        let skipped = part.is_last && self.has_loss_scale && applied == 0.0;
        let report = StepReport { loss, loss_cl, loss_st, loss_retention, loss_penalty, grad_norm, skipped };
        let is_finite = report.loss.is_finite() && report.grad_norm.is_finite();
        let may_skip = self.has_loss_scale && self.n_skipped_in_a_row < MAX_SKIPPED_IN_A_ROW;
        if !is_finite && !may_skip {
            return Err(RuntimeError::NotFinite { step, loss: report.loss, grad_norm: report.grad_norm });
        }
        self.parity = 1 - self.parity;
        if part.is_last {
            self.n_steps = step;
            self.n_skipped += u64::from(report.skipped);
            self.n_skipped_in_a_row = if report.skipped { self.n_skipped_in_a_row + 1 } else { 0 };
        }
        Ok(report)
    }

    /// Mini-batches trained on so far, those that were skipped among them.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// What a checkpoint has to know beside the tensors.
    pub fn counts(&self) -> StepCounts {
        StepCounts {
            n_steps: self.n_steps,
            n_skipped: self.n_skipped,
            n_before_averages: self.n_before_averages,
        }
    }

    /// Logits of `n` inputs by the current parameters, in evaluation mode. `fill` writes the input
    /// `[n, C, H, W]`, normalised.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn logits(&mut self, n: usize, fill: impl FnOnce(&mut [f32])) -> Result<Logits, RuntimeError> {
        let [cl, student] = self.evaluated(n, fill, EVALUATE_OUTPUTS)?;
        Ok(Logits { cl, student })
    }

    /// What the heads of `n` inputs read, `[n, F]`, in evaluation mode.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails, or if the step was derived without them.
    pub fn features(&mut self, n: usize, fill: impl FnOnce(&mut [f32])) -> Result<Vec<f32>, RuntimeError> {
        let [features] = self.evaluated(n, fill, [FEATURES])?;
        Ok(features)
    }

    fn evaluated<const O: usize>(
        &mut self,
        n: usize,
        fill: impl FnOnce(&mut [f32]),
        outputs: [&'static str; O],
    ) -> Result<[Vec<f32>; O], RuntimeError> {
        let action = "evaluate";
        if self.evaluate_input.shape().first() != Some(&(n as i64)) {
            let [c, h, w] = self.input_dims;
            self.evaluate_input =
                Tensor::new(&self.host, vec![n, c, h, w]).map_err(failed("allocate an evaluation batch"))?;
        }
        fill(self.evaluate_input.extract_tensor_mut().1);
        let all = self.outputs_of_evaluation();
        let binding = &mut self.evaluate_bindings[self.parity];
        binding.bind_input(self.input_name.as_str(), &self.evaluate_input).map_err(failed(action))?;
        read_outputs(&mut self.evaluate, binding, all, &self.to_host, outputs)
    }

    pub(super) fn outputs_of_evaluation(&self) -> impl Iterator<Item = &'static str> + use<> {
        EVALUATE_OUTPUTS.into_iter().chain(self.has_features.then_some(FEATURES))
    }

    /// Bytes that one step moves between host and runtime for a mini-batch of `n` rows: batch and scalars in,
    /// scalars out.
    pub fn step_bytes(&self, n: usize) -> usize {
        let of_row = |input: &Slot| {
            if ROW_INPUTS.contains(&BATCH_INPUTS[input.index]) { 1 } else { self.n_classes }
        };
        let row = self.input_dims.iter().product::<usize>() + self.batch.iter().map(of_row).sum::<usize>();
        let n_scalars = self.scalars.len() + self.reports.len();
        size_of::<f32>() * (n * row + n_scalars) + size_of::<i64>() * usize::from(self.seed.is_some())
    }
}

/// How far a network has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Mini-batches trained on.
    pub n_steps: u64,
    /// Those of them that moved nothing, because a gradient overflowed in float16.
    pub n_skipped: u64,
    /// Updates before the optimiser's averages were last set to zero.
    pub n_before_averages: u64,
}

/// Runs a session whose outputs `all` go to the host, and reads those `wanted`.
pub(super) fn read_outputs<const O: usize>(
    session: &mut Session,
    binding: &mut IoBinding,
    all: impl Iterator<Item = &'static str>,
    to_host: &MemoryInfo<'static>,
    wanted: [&'static str; O],
) -> Result<[Vec<f32>; O], RuntimeError> {
    let action = "evaluate";
    // Bound anew each time: what a run gave would otherwise be the buffer of the next, whatever its size.
    for name in all {
        binding.bind_output_to_device(name, to_host).map_err(failed(action))?;
    }
    let outputs = session.run_binding(binding).map_err(failed(action))?;
    let mut read = [const { Vec::new() }; O];
    for (values, name) in read.iter_mut().zip(wanted) {
        let output = outputs.get(name).ok_or_else(|| RuntimeError::NoState { name: name.to_owned() })?;
        *values = output.try_extract_tensor::<f32>().map_err(failed(action))?.1.to_vec();
    }
    Ok(read)
}
