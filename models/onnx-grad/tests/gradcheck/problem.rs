//! One differentiable computation with the shapes and values to check it at.

use onnx_grad::graph::{Attribute, DataType, Tensor};
use onnx_grad::{BatchNorm, Builder, GradError};

/// Where inputs are drawn from: finite differences must stay off kinks and poles.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    Normal,
    /// 0.5 to 2.
    Positive,
    /// Magnitude 0.5 to 2, either sign.
    OffZero,
    /// Magnitude up to 0.25.
    Small,
    /// 2 to 3.5.
    Large,
    /// Magnitude 8 to 24, either sign: what bends at 0 is almost straight within a step.
    Far,
    /// Zero.
    Zero,
    /// As `OffZero`, every third element zero.
    SomeZeros,
    /// All elements at least 0.5 apart, in random order: no two can swap places.
    Apart,
}

/// One input of the node under test.
#[derive(Clone, Debug)]
pub enum Arg {
    /// Differentiated. `batch`: the first dimension is declared as a symbol.
    Var { dims: Vec<usize>, fill: Fill, batch: bool },
    /// The shape, computed in the graph, of another input with a symbolic first dimension.
    ShapeOf(Vec<usize>),
    /// A constant of any type.
    Const(Tensor),
    /// Constant floats of the problem's type.
    Floats(Vec<usize>, Vec<f64>),
    /// An optional input left out.
    Absent,
}

/// A pattern of several nodes: from the names of the inputs to the value whose gradient is checked.
pub type Network = fn(&mut Builder, &[String]) -> Result<String, GradError>;

pub struct Problem {
    /// The node under test, or what its `network` is called.
    pub op: &'static str,
    pub network: Option<Network>,
    pub args: Vec<Arg>,
    pub attributes: Vec<(&'static str, Attribute)>,
    pub n_outputs: usize,
    /// Outputs that the loss does not depend on.
    pub unused: Vec<usize>,
    pub dtype: DataType,
    /// In float32 and far from linear within the step of a difference.
    pub curved: bool,
    pub opsets: Vec<u32>,
    pub batch_norm: BatchNorm,
}

impl Problem {
    /// In float64, at the oldest and the newest opset.
    pub fn new(op: &'static str, args: Vec<Arg>) -> Self {
        Problem {
            op,
            network: None,
            args,
            attributes: Vec::new(),
            n_outputs: 1,
            unused: Vec::new(),
            dtype: DataType::F64,
            curved: false,
            opsets: vec![17, 21],
            batch_norm: BatchNorm::Train,
        }
    }

    /// In float64, several nodes in the place of one.
    pub fn network(name: &'static str, network: Network, args: Vec<Arg>) -> Self {
        Problem { network: Some(network), ..Problem::new(name, args) }
    }

    /// In float32, for operators without a float64 kernel in ONNX Runtime's CPU provider.
    pub fn f32(mut self) -> Self {
        self.dtype = DataType::F32;
        self
    }

    /// As [`Problem::f32`], for functions that are not linear or bilinear.
    pub fn curved(mut self) -> Self {
        self.dtype = DataType::F32;
        self.curved = true;
        self
    }

    pub fn attr(mut self, name: &'static str, value: impl Into<Attribute>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    pub fn ints(self, name: &'static str, values: &[i64]) -> Self {
        self.attr(name, values)
    }

    pub fn outputs(mut self, n: usize, unused: &[usize]) -> Self {
        self.n_outputs = n;
        self.unused = unused.to_vec();
        self
    }

    pub fn opsets(mut self, opsets: &[u32]) -> Self {
        self.opsets = opsets.to_vec();
        self
    }

    pub fn frozen(mut self) -> Self {
        self.batch_norm = BatchNorm::Frozen;
        self
    }

    pub fn describe(&self, opset: u32) -> String {
        let args: Vec<String> = self
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Var { dims, batch, .. } => format!("{}{dims:?}", if *batch { "batch " } else { "" }),
                Arg::ShapeOf(dims) => format!("shape of batch {dims:?}"),
                Arg::Const(tensor) => format!("const {:?}", tensor.dims),
                Arg::Floats(dims, _) => format!("const {dims:?}"),
                Arg::Absent => "absent".to_owned(),
            })
            .collect();
        format!("{}({}) {:?} opset {opset}", self.op, args.join(", "), self.attributes)
    }
}

pub fn x(dims: &[usize]) -> Arg {
    Arg::Var { dims: dims.to_vec(), fill: Fill::Normal, batch: false }
}

/// As [`x`], with a first dimension that is not known when the graph is derived.
pub fn batch(dims: &[usize]) -> Arg {
    Arg::Var { dims: dims.to_vec(), fill: Fill::Normal, batch: true }
}

impl Arg {
    pub fn fill(self, fill: Fill) -> Self {
        match self {
            Arg::Var { dims, batch, .. } => Arg::Var { dims, fill, batch },
            other => other,
        }
    }
}

pub fn ints(values: &[i64]) -> Arg {
    Arg::Const(Tensor::from_i64(&[values.len()], values))
}

pub fn int(value: i64) -> Arg {
    Arg::Const(Tensor::from_i64(&[], &[value]))
}

pub fn float(value: f64) -> Arg {
    Arg::Floats(Vec::new(), vec![value])
}

pub fn mask(dims: &[usize], bytes: &[u8]) -> Arg {
    Arg::Const(Tensor { dtype: DataType::Bool, dims: dims.to_vec(), bytes: bytes.to_vec() })
}
