//! The only file that touches `ort`: loads ONNX Runtime, and trains and evaluates with state that stays
//! on the device.
//!
//! Every state tensor has two buffers. A step reads one and writes the other (`<name>` and `<name>.next` of
//! the training graph), then the two change roles; no parameter passes through the host.

mod activations;
mod importance;
mod past;
mod probe;
mod state;
mod teacher;
mod training;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use onnx_grad::graph::{DataType, Graph, Tensor as HostTensor};
use ort::environment::Environment;
use ort::ep;
use ort::logging::LogLevel;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor};

pub use self::activations::{Activation, ActivationProbe};
pub use self::importance::ImportanceSession;
pub use self::probe::LossProbe;
pub use self::teacher::FrozenTeacher;
pub use self::training::{StepCounts, TrainSession};
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
    #[error("there is no state tensor `{name}`")]
    NoState { name: String },
}

/// What ONNX Runtime answers, for the files beside this one.
type OrtResult<T> = ort::Result<T>;

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
    // Two threads that come at once must not both make one.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
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
