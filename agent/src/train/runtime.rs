//! The only file that touches `ort`: loads ONNX Runtime, and trains and evaluates with state that stays
//! on the device.
//!
//! Every state tensor has two buffers. A step reads one and writes the other (`<name>` and `<name>.next` of
//! the training graph), then the two change roles; no parameter passes through the host.

mod probe;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use dkt_models::step::TrainingStep;
use dkt_models::{CL_LOGITS, ST_LOGITS};
use onnx_grad::graph::{DataType, Graph, Tensor as HostTensor};
use onnx_grad::{APPLIED, LOSS_SCALE, MICRO_BATCH_LAST, MICRO_BATCH_WEIGHT, SEED};
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor};

pub use self::probe::LossProbe;
use super::device::Device;
use super::library;
pub use super::step::{BatchBuffers, Logits, Part, Scalars, StepReport};

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "found no ONNX Runtime library; looked for {}; run `make build`, or set {} to a libonnxruntime.so of version 1.17 or later (deploy/fetch-onnxruntime.sh brings one)",
        list(.searched), library::VARIABLE
    )]
    LibraryNotFound { searched: Vec<PathBuf> },
    #[error("cannot load ONNX Runtime from `{}`; version 1.17 or later for this machine is needed", .path.display())]
    LoadLibrary { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "device `{device}` cannot be used: ONNX Runtime's provider does not load; install a build of ONNX Runtime with it, or set train.device = \"cpu\""
    )]
    Provider { device: Device, source: ort::Error },
    #[error("ONNX Runtime refused to {action}")]
    Ort { action: &'static str, source: ort::Error },
    #[error(
        "step {step}: expected a finite loss and gradient, found loss {loss} and gradient norm {grad_norm}; the checkpoint before it is whole; a lower learning rate may help"
    )]
    NotFinite { step: u64, loss: f32, grad_norm: f32 },
    #[error(
        "step {step}: tensor `{name}` holds values that are not finite, so it is not saved; the checkpoint before is whole; a lower learning rate may help"
    )]
    StateNotFinite { step: u64, name: String },
    #[error("state tensor `{name}`: expected float32 of shape {expected:?}, found {found} of shape {dims:?}")]
    State { name: String, expected: Vec<usize>, found: DataType, dims: Vec<usize> },
    #[error("the saved state lacks tensor `{name}`")]
    MissingState { name: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| format!("`{}`", p.display())).collect::<Vec<_>>().join(", ")
}

/// Makes an `ort` error ours, saying what was being done.
fn failed<R>(action: &'static str) -> impl Fn(ort::Error<R>) -> RuntimeError
where
    ort::Error: From<ort::Error<R>>,
{
    move |source| RuntimeError::Ort { action, source: source.into() }
}

/// Loads ONNX Runtime, once per process: from `ORT_DYLIB_PATH`, else from beside the executable, else from
/// `../lib/dkt` of it.
///
/// # Errors
/// [`RuntimeError::LibraryNotFound`] and [`RuntimeError::LoadLibrary`].
pub fn load() -> Result<(), RuntimeError> {
    environment().map(|_| ())
}

fn environment() -> Result<&'static Environment, RuntimeError> {
    // ONNX Runtime allows one environment per process, ever.
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = library::find().map_err(|searched| RuntimeError::LibraryNotFound { searched })?;
    let builder = ort::init_from(&path)
        .map_err(|e| RuntimeError::LoadLibrary { path: path.clone(), source: Box::new(e) })?;
    let environment = builder
        .with_name("dkt")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(failed("create its environment"))?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// The library's own messages, for `DKT_LOG=onnxruntime=debug`: what fails comes back as an error anyway.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    tracing::debug!(target: "onnxruntime", ?level, category, location, "{message}");
}

fn session(graph: &Graph, device: Device, n_threads: usize) -> Result<Session, RuntimeError> {
    let action = "create a session";
    let mut builder = Session::builder(environment()?)
        .map_err(failed(action))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(failed(action))?
        .with_intra_threads(n_threads)
        .map_err(failed(action))?
        .with_intra_op_spinning(false)
        .map_err(failed(action))?
        // Planned as one block, activations took 1.6 times the memory, at no gain in time (docs/performance.md).
        .with_memory_pattern(false)
        .map_err(failed(action))?
        .with_deterministic_compute(true)
        .map_err(failed(action))?;
    if let Device::Cuda(index) = device {
        builder = builder
            .with_execution_providers([ep::CUDA::default().with_device_id(index).build().error_on_failure()])
            .map_err(|e| RuntimeError::Provider { device, source: e.into() })?;
    }
    builder.commit_from_memory(&graph.encode()).map_err(failed(action))
}

const BATCH_INPUTS: [&str; 4] = ["input", "labels", "teacher_logits", "teacher_weight"];
/// The last two are there where gradients are accumulated.
static SCALAR_INPUTS: [&str; 6] =
    ["learning_rate", "distill_weight", "temperature", "step", MICRO_BATCH_WEIGHT, MICRO_BATCH_LAST];
const EVALUATE_OUTPUTS: [&str; 2] = [CL_LOGITS, ST_LOGITS];
/// The last is there where steps can be skipped.
static SCALAR_OUTPUTS: [&str; 5] = ["loss", "loss.cl", "loss.st", "grad_norm", APPLIED];
/// A loss scale comes from its first value down to 1 in far fewer steps: what overflows then has diverged.
const MAX_SKIPPED_IN_A_ROW: u32 = 40;

/// A state tensor's name, shape and two buffers; `buffers[parity]` is the current one.
struct State {
    name: String,
    dims: Vec<usize>,
    buffers: [Tensor<f32>; 2],
}

/// A network under training: its sessions, its state on the device, and the buffers of one mini-batch.
pub struct TrainSession {
    device: Device,
    train: Session,
    evaluate: Session,
    /// `train_bindings[p]` reads the buffers `p` and writes the others; likewise for evaluation.
    train_bindings: [IoBinding; 2],
    evaluate_bindings: [IoBinding; 2],
    state: Vec<State>,
    parity: usize,
    batch: [Tensor<f32>; 4],
    scalars: [Tensor<f32>; 6],
    reports: [Tensor<f32>; 5],
    seed: Tensor<i64>,
    /// Inputs and outputs that not every training graph has.
    optional: Optional,
    evaluate_input: Tensor<f32>,
    host: Allocator,
    /// Where the logits of an evaluation go.
    to_host: MemoryInfo<'static>,
    input_name: String,
    input_dims: [usize; 3],
    n_classes: usize,
    /// Mini-batches trained on, those skipped among them.
    n_steps: u64,
    n_skipped: u64,
    n_skipped_in_a_row: u32,
}

struct Optional {
    accumulates: bool,
    has_dropout: bool,
    reports_applied: bool,
    has_loss_scale: bool,
}

impl Optional {
    fn of(train: &Session) -> Self {
        let has_input = |name: &str| train.inputs().iter().any(|i| i.name() == name);
        Optional {
            accumulates: has_input(MICRO_BATCH_LAST),
            has_dropout: has_input(SEED),
            reports_applied: train.outputs().iter().any(|o| o.name() == APPLIED),
            has_loss_scale: has_input(LOSS_SCALE),
        }
    }

    fn scalar_inputs(&self) -> &'static [&'static str] {
        if self.accumulates { &SCALAR_INPUTS } else { &SCALAR_INPUTS[..4] }
    }

    fn scalar_outputs(&self) -> &'static [&'static str] {
        if self.reports_applied { &SCALAR_OUTPUTS } else { &SCALAR_OUTPUTS[..4] }
    }
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
            let values = float_values(&tensor.name, &tensor.init, &tensor.init.dims)?;
            let front = on_device(&train, device, &tensor.init.dims, &values).map_err(failed(action))?;
            let back = uninitialised(&train, device, &tensor.init.dims).map_err(failed(action))?;
            state.push(State {
                name: tensor.name.clone(),
                dims: tensor.init.dims.clone(),
                buffers: [front, back],
            });
        }
        let scalar = || Tensor::<f32>::new(&host, Vec::<i64>::new()).map_err(failed(action));
        let empty = || Tensor::<f32>::new(&host, vec![0_i64]).map_err(failed(action));
        let mut this = TrainSession {
            train_bindings: [binding(&train)?, binding(&train)?],
            evaluate_bindings: [binding(&evaluate)?, binding(&evaluate)?],
            device,
            state,
            parity: 0,
            batch: [empty()?, empty()?, empty()?, empty()?],
            scalars: [scalar()?, scalar()?, scalar()?, scalar()?, scalar()?, scalar()?],
            reports: [scalar()?, scalar()?, scalar()?, scalar()?, scalar()?],
            seed: Tensor::new(&host, Vec::<i64>::new()).map_err(failed(action))?,
            optional: Optional::of(&train),
            evaluate_input: empty()?,
            host,
            to_host: MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)
                .map_err(failed(action))?,
            input_name: step.input_name.clone(),
            input_dims: step.input_dims,
            n_classes: step.n_classes,
            n_steps: 0,
            n_skipped: 0,
            n_skipped_in_a_row: 0,
            train,
            evaluate,
        };
        this.bind_state().map_err(failed(action))?;
        Ok(this)
    }

    fn bind_state(&mut self) -> ort::Result<()> {
        let evaluated: Vec<&str> = self.evaluate.inputs().iter().map(|i| i.name()).collect();
        for parity in 0..2 {
            let binding = &mut self.train_bindings[parity];
            for (name, tensor) in self.optional.scalar_outputs().iter().zip(&mut self.reports) {
                binding.bind_output(*name, &mut *tensor)?;
            }
            for state in &mut self.state {
                binding.bind_input(&*state.name, &state.buffers[parity])?;
                binding.bind_output(format!("{}.next", state.name), &mut state.buffers[1 - parity])?;
                if evaluated.contains(&state.name.as_str()) {
                    self.evaluate_bindings[parity].bind_input(&*state.name, &state.buffers[parity])?;
                }
            }
        }
        Ok(())
    }

    /// Gives the next step its mini-batch and scalars. A CPU session reads the very tensors; any other copies them
    /// now, so this is the one copy of a batch to the device.
    fn bind_inputs(&mut self) -> ort::Result<()> {
        let binding = &mut self.train_bindings[self.parity];
        for (name, tensor) in BATCH_INPUTS.iter().zip(&self.batch) {
            let name = if *name == "input" { self.input_name.as_str() } else { name };
            binding.bind_input(name, tensor)?;
        }
        for (name, tensor) in self.optional.scalar_inputs().iter().zip(&self.scalars) {
            binding.bind_input(*name, tensor)?;
        }
        if self.optional.has_dropout {
            binding.bind_input(SEED, &self.seed)?;
        }
        Ok(())
    }

    /// Makes room for a mini-batch of `n` rows; the caller fills it before [`TrainSession::step`].
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if memory is short.
    pub fn batch_mut(&mut self, n: usize) -> Result<BatchBuffers<'_>, RuntimeError> {
        if self.batch[3].shape().num_elements() != n {
            let action = "allocate a mini-batch";
            let [c, h, w] = self.input_dims;
            let k = self.n_classes;
            let tensor = |dims: Vec<usize>| Tensor::<f32>::new(&self.host, dims).map_err(failed(action));
            self.batch =
                [tensor(vec![n, c, h, w])?, tensor(vec![n, k])?, tensor(vec![n, k])?, tensor(vec![n])?];
        }
        let [input, labels, teacher_logits, teacher_weight] = &mut self.batch;
        Ok(BatchBuffers {
            input: input.extract_tensor_mut().1,
            labels: labels.extract_tensor_mut().1,
            teacher_logits: teacher_logits.extract_tensor_mut().1,
            teacher_weight: teacher_weight.extract_tensor_mut().1,
        })
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
        let of_optimizer = (step - self.n_skipped) as f32;
        let Scalars { learning_rate, distill_weight, temperature } = *scalars;
        let is_last = f32::from(u8::from(part.is_last));
        let values = [learning_rate, distill_weight, temperature, of_optimizer, part.weight, is_last];
        for (tensor, value) in self.scalars.iter_mut().zip(values) {
            tensor.extract_tensor_mut().1[0] = value;
        }
        self.seed.extract_tensor_mut().1[0] = part.seed;
        self.bind_inputs().map_err(failed(action))?;
        self.train.run_binding(&self.train_bindings[self.parity]).map_err(failed(action))?;
        let [loss, loss_cl, loss_st, grad_norm, applied] = &self.reports;
        let read = |tensor: &Tensor<f32>| tensor.extract_tensor().1[0];
        let report = StepReport {
            loss: read(loss),
            loss_cl: read(loss_cl),
            loss_st: read(loss_st),
            grad_norm: read(grad_norm),
            skipped: part.is_last && self.optional.has_loss_scale && read(applied) == 0.0,
        };
        let is_finite = report.loss.is_finite() && report.grad_norm.is_finite();
        let may_skip = self.optional.has_loss_scale && self.n_skipped_in_a_row < MAX_SKIPPED_IN_A_ROW;
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

    /// Steps skipped so far because a gradient overflowed in float16.
    pub fn n_skipped(&self) -> u64 {
        self.n_skipped
    }

    /// Logits of `n` inputs by the current parameters, in evaluation mode. `fill` writes the input
    /// `[n, C, H, W]`, normalised.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if the run fails.
    pub fn logits(&mut self, n: usize, fill: impl FnOnce(&mut [f32])) -> Result<Logits, RuntimeError> {
        let action = "evaluate";
        if self.evaluate_input.shape().first() != Some(&(n as i64)) {
            let [c, h, w] = self.input_dims;
            self.evaluate_input =
                Tensor::new(&self.host, vec![n, c, h, w]).map_err(failed("allocate an evaluation batch"))?;
        }
        fill(self.evaluate_input.extract_tensor_mut().1);
        let binding = &mut self.evaluate_bindings[self.parity];
        binding.bind_input(self.input_name.as_str(), &self.evaluate_input).map_err(failed(action))?;
        // Bound anew each time: what a run gave would otherwise be the buffer of the next, whatever its size.
        for name in EVALUATE_OUTPUTS {
            binding.bind_output_to_device(name, &self.to_host).map_err(failed(action))?;
        }
        let outputs = self.evaluate.run_binding(binding).map_err(failed(action))?;
        let read = |name: &str| -> Result<Vec<f32>, RuntimeError> {
            Ok(outputs[name].try_extract_tensor::<f32>().map_err(failed(action))?.1.to_vec())
        };
        let [cl, student] = EVALUATE_OUTPUTS.map(read);
        Ok(Logits { cl: cl?, student: student? })
    }

    /// Bytes that one step moves between host and runtime for a mini-batch of `n` rows: batch and scalars in,
    /// scalars out.
    pub fn step_bytes(&self, n: usize) -> usize {
        let row = self.input_dims.iter().product::<usize>() + 2 * self.n_classes + 1;
        let n_scalars = self.optional.scalar_inputs().len() + self.optional.scalar_outputs().len();
        size_of::<f32>() * (n * row + n_scalars) + size_of::<i64>() * usize::from(self.optional.has_dropout)
    }

    /// Copies the whole state to the host.
    ///
    /// # Errors
    /// [`RuntimeError::Ort`] if a copy fails; [`RuntimeError::StateNotFinite`] if training has diverged.
    pub fn state(&self) -> Result<BTreeMap<String, HostTensor>, RuntimeError> {
        let action = "copy the state to the host";
        let mut all = BTreeMap::new();
        for state in &self.state {
            let current = &state.buffers[self.parity];
            let copy;
            let values = if self.device == Device::Cpu {
                current.extract_tensor().1
            } else {
                copy = current.to(AllocationDevice::CPU, 0).map_err(failed(action))?;
                copy.extract_tensor().1
            };
            // An update that overflows shows only here: a step's report is about what was before it.
            if values.iter().any(|v| !v.is_finite()) {
                return Err(RuntimeError::StateNotFinite { step: self.n_steps, name: state.name.clone() });
            }
            all.insert(state.name.clone(), HostTensor::from_f32(&state.dims, values));
        }
        Ok(all)
    }

    /// Puts a saved state on the device and goes on counting from `n_steps`, `n_skipped` of which moved nothing.
    ///
    /// # Errors
    /// [`RuntimeError::MissingState`] or [`RuntimeError::State`] if `saved` is not of this network; nothing has
    /// changed then.
    pub fn restore(
        &mut self,
        saved: &BTreeMap<String, HostTensor>,
        n_steps: u64,
        n_skipped: u64,
    ) -> Result<(), RuntimeError> {
        let action = "bind the restored state";
        let mut restored = Vec::with_capacity(self.state.len());
        for state in &self.state {
            let tensor = saved
                .get(&state.name)
                .ok_or_else(|| RuntimeError::MissingState { name: state.name.clone() })?;
            let values = float_values(&state.name, tensor, &state.dims)?;
            restored.push(on_device(&self.train, self.device, &state.dims, &values).map_err(failed(action))?);
        }
        for (state, tensor) in self.state.iter_mut().zip(restored) {
            state.buffers[0] = tensor;
        }
        self.parity = 0;
        self.n_steps = n_steps;
        self.n_skipped = n_skipped;
        self.n_skipped_in_a_row = 0;
        self.bind_state().map_err(failed(action))
    }
}

fn binding(session: &Session) -> Result<IoBinding, RuntimeError> {
    session.create_binding().map_err(failed("create a binding"))
}

fn float_values(name: &str, tensor: &HostTensor, expected: &[usize]) -> Result<Vec<f32>, RuntimeError> {
    match tensor.to_f32() {
        Ok(values) if tensor.dims == expected => Ok(values),
        _ => Err(RuntimeError::State {
            name: name.to_owned(),
            expected: expected.to_vec(),
            found: tensor.dtype,
            dims: tensor.dims.clone(),
        }),
    }
}

fn uninitialised(session: &Session, device: Device, dims: &[usize]) -> ort::Result<Tensor<f32>> {
    match device {
        Device::Cpu => Tensor::new(&Allocator::default(), dims.to_vec()),
        Device::Cuda(index) => {
            let info =
                MemoryInfo::new(AllocationDevice::CUDA, index, AllocatorType::Device, MemoryType::Default)?;
            Tensor::new(&Allocator::new(session, info)?, dims.to_vec())
        }
    }
}

fn on_device(session: &Session, device: Device, dims: &[usize], values: &[f32]) -> ort::Result<Tensor<f32>> {
    let mut host = uninitialised(session, Device::Cpu, dims)?;
    host.extract_tensor_mut().1.copy_from_slice(values);
    match device {
        Device::Cpu => Ok(host),
        Device::Cuda(index) => host.to(AllocationDevice::CUDA, index),
    }
}
