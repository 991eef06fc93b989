//! Appends nodes to a graph and knows the type and shape of every value in it.
//!
//! The zoo, the losses, the derivative rules and the optimisers all write through this one door, so a
//! node with inconsistent shapes is refused where it is written.

use std::collections::{BTreeMap, HashMap};

use crate::error::{GradError, UnsupportedNode};
use crate::graph::{Attribute, DataType, Dim, Graph, Node, Shape, Tensor, ValueInfo};
use crate::limits;
use crate::shape::{self, Int};

/// What is known of a value before the graph runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub dtype: DataType,
    pub shape: Shape,
    /// Content of a small integer or boolean tensor, where it is known: the result of `Shape`, the target of
    /// `Reshape`. Row major.
    pub(crate) content: Option<Vec<Int>>,
}

/// A graph under construction.
#[derive(Clone, Debug)]
pub struct Builder {
    graph: Graph,
    values: HashMap<String, Value>,
    /// Prefix of the names that [`Builder::op`] makes.
    scope: String,
    /// Next free number per name stem.
    counters: HashMap<String, usize>,
    /// What `Constant` nodes give.
    constants: HashMap<String, Tensor>,
    /// What counts against [`limits::MAX_MADE_BYTES`], and the part of it that is integer contents.
    made_bytes: usize,
    content_bytes: usize,
}

impl Builder {
    pub fn new(name: &str, opset: u32) -> Self {
        let graph = Graph {
            name: name.to_owned(),
            opset,
            inputs: Vec::new(),
            outputs: Vec::new(),
            initializers: BTreeMap::new(),
            nodes: Vec::new(),
            metadata: BTreeMap::new(),
        };
        Builder {
            graph,
            values: HashMap::new(),
            scope: String::new(),
            counters: HashMap::new(),
            constants: HashMap::new(),
            made_bytes: 0,
            content_bytes: 0,
        }
    }

    /// Goes on from a finished graph; its outputs are kept.
    ///
    /// # Errors
    /// [`GradError::Unsupported`] with every node whose operator is unknown; whatever shape inference finds
    /// wrong with the graph.
    pub fn from_graph(graph: Graph) -> Result<Self, GradError> {
        refuse_unknown(&graph.nodes, graph.opset)?;
        let mut builder = Builder::new(&graph.name, graph.opset);
        builder.graph.metadata = graph.metadata;
        for input in graph.inputs {
            builder.input(&input.name, input.dtype, input.shape)?;
        }
        for (name, tensor) in graph.initializers {
            builder.initializer(&name, tensor)?;
        }
        for node in graph.nodes {
            builder.push(node)?;
        }
        builder.graph.outputs = graph.outputs;
        Ok(builder)
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub fn opset(&self) -> u32 {
        self.graph.opset
    }

    /// Names made by [`Builder::op`] from here on start with `scope/`.
    pub fn set_scope(&mut self, scope: &str) {
        self.scope = scope.to_owned();
    }

    /// # Errors
    /// [`GradError::NoSuchValue`] if no value has that name.
    pub fn value(&self, name: &str) -> Result<&Value, GradError> {
        self.values.get(name).ok_or_else(|| GradError::NoSuchValue {
            value: name.to_owned(),
            known: self
                .graph
                .inputs
                .iter()
                .map(|i| i.name.as_str())
                .chain(self.graph.outputs.iter().map(|o| o.name.as_str()))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// # Errors
    /// [`GradError::NoSuchValue`] if no value has that name.
    pub fn shape(&self, name: &str) -> Result<&Shape, GradError> {
        Ok(&self.value(name)?.shape)
    }

    /// # Errors
    /// [`GradError::Redefined`] if the name is taken.
    pub fn input(&mut self, name: &str, dtype: DataType, shape: Shape) -> Result<String, GradError> {
        limits::check_shape(name, &shape)?;
        self.define(name, Value { dtype, shape: shape.clone(), content: None })?;
        self.graph.inputs.push(ValueInfo { name: name.to_owned(), dtype, shape });
        Ok(name.to_owned())
    }

    /// Adds a named tensor: a parameter, a running statistic, a constant with a name of its own.
    ///
    /// # Errors
    /// [`GradError::Redefined`] if the name is taken.
    pub fn initializer(&mut self, name: &str, tensor: Tensor) -> Result<String, GradError> {
        let shape: Shape = tensor.dims.iter().map(|&n| Dim::Size(n)).collect();
        limits::check_shape(name, &shape)?;
        let content = shape::integers(&tensor);
        self.define(name, Value { dtype: tensor.dtype, shape, content })?;
        self.graph.initializers.insert(name.to_owned(), tensor);
        Ok(name.to_owned())
    }

    /// A constant under a name made from its content, shared by all who ask for the same.
    ///
    /// # Errors
    /// [`GradError::Limit`] if all constants together take too much.
    pub fn constant(&mut self, tensor: Tensor) -> Result<String, GradError> {
        let name = constant_name(&tensor);
        if self.graph.initializers.get(&name) == Some(&tensor) {
            return Ok(name);
        }
        self.charge(tensor.bytes.len())?;
        self.initializer(&name, tensor)
    }

    /// To be asked before a constant is made whose size a file decides.
    ///
    /// # Errors
    /// [`GradError::Limit`] if a tensor of this type and shape would be too much.
    pub(crate) fn room_for(&self, dtype: DataType, dims: &[usize]) -> Result<(), GradError> {
        self.within_limit(limits::tensor_bytes(dtype, dims))
    }

    /// A one-dimensional int64 constant.
    ///
    /// # Errors
    /// As [`Builder::constant`].
    pub fn ints(&mut self, values: &[i64]) -> Result<String, GradError> {
        self.constant(Tensor::from_i64(&[values.len()], values))
    }

    /// A floating scalar constant.
    ///
    /// # Errors
    /// As [`Builder::constant`] and [`Tensor::scalar`].
    pub fn scalar(&mut self, dtype: DataType, value: f64) -> Result<String, GradError> {
        self.constant(Tensor::scalar(dtype, value)?)
    }

    /// Appends a node with one output whose name is made from the scope and the operator.
    ///
    /// # Errors
    /// Whatever shape inference finds wrong with the node.
    pub fn op(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> Result<String, GradError> {
        let output = self.fresh(op);
        self.op_named(op, inputs, attributes, &output)
    }

    /// As [`Builder::op`], with the output's name given; the node takes the same name.
    ///
    /// # Errors
    /// Whatever shape inference finds wrong with the node.
    pub fn op_named(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
        output: &str,
    ) -> Result<String, GradError> {
        self.op_multi(op, inputs, attributes, &[output])?;
        Ok(output.to_owned())
    }

    /// As [`Builder::op_named`] for several outputs; the node takes the first output's name.
    ///
    /// # Errors
    /// Whatever shape inference finds wrong with the node.
    pub fn op_multi(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
        outputs: &[&str],
    ) -> Result<(), GradError> {
        self.push(Node {
            name: outputs.first().copied().unwrap_or_default().to_owned(),
            op: op.to_owned(),
            domain: String::new(),
            inputs: inputs.iter().map(|&s| s.to_owned()).collect(),
            outputs: outputs.iter().map(|&s| s.to_owned()).collect(),
            attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        })
    }

    /// Appends a node as it is.
    ///
    /// # Errors
    /// Whatever shape inference finds wrong with the node; the graph is unchanged then.
    pub fn push(&mut self, node: Node) -> Result<(), GradError> {
        let values = self.infer(&node)?;
        if let Some(taken) = node.outputs.iter().find(|o| self.values.contains_key(*o)) {
            return Err(GradError::Redefined { value: taken.clone() });
        }
        if self.graph.nodes.len() >= limits::MAX_NODES {
            return Err(GradError::Limit {
                what: format!("nodes of graph `{}`", self.graph.name),
                found: limits::MAX_NODES as u64 + 1,
                limit: limits::MAX_NODES as u64,
                name: "MAX_NODES",
            });
        }
        let names = node.inputs.iter().chain(&node.outputs).map(|name| size_of::<String>() + name.len());
        self.charge(size_of::<Node>() + node.name.len() + names.sum::<usize>())?;
        if node.op == "Constant"
            && let (Some(output), Some(tensor)) = (node.output(0), shape::constant_tensor(&node))
        {
            self.constants.insert(output.to_owned(), tensor);
        }
        for (name, value) in node.outputs.iter().zip(values) {
            if !name.is_empty() {
                self.define(name, value)?;
            }
        }
        self.graph.nodes.push(node);
        Ok(())
    }

    /// What is known of the outputs of `node`, which may be appended if there is no error.
    ///
    /// # Errors
    /// Whatever shape inference finds wrong with the node.
    pub(crate) fn infer(&self, node: &Node) -> Result<Vec<Value>, GradError> {
        for input in node.inputs.iter().filter(|s| !s.is_empty()) {
            if !self.values.contains_key(input) {
                return Err(GradError::UnknownValue {
                    node: node.name.clone(),
                    op: node.op.clone(),
                    value: input.clone(),
                });
            }
        }
        shape::infer(node, self.graph.opset, &|name| self.values.get(name), &|name| {
            self.constant_content(name)
        })
    }

    /// The content of an initialiser or of a `Constant` node's output.
    pub fn constant_content(&self, name: &str) -> Option<&Tensor> {
        self.graph.initializers.get(name).or_else(|| self.constants.get(name))
    }

    /// Declares a value as graph output.
    ///
    /// # Errors
    /// [`GradError::NoSuchValue`] if no value has that name.
    pub fn output(&mut self, name: &str) -> Result<(), GradError> {
        let Value { dtype, shape, .. } = self.value(name)?.clone();
        self.graph.outputs.push(ValueInfo { name: name.to_owned(), dtype, shape });
        Ok(())
    }

    pub fn finish(self) -> Graph {
        self.graph
    }

    /// An unused name of the form `scope/stem_i`.
    pub(crate) fn fresh(&mut self, stem: &str) -> String {
        let stem = if self.scope.is_empty() { stem.to_owned() } else { format!("{}/{stem}", self.scope) };
        let counter = self.counters.entry(stem.clone()).or_insert(0);
        loop {
            let name = format!("{stem}_{counter}");
            *counter += 1;
            if !self.values.contains_key(&name) {
                return name;
            }
        }
    }

    fn within_limit(&self, n_bytes: usize) -> Result<(), GradError> {
        let found = self.made_bytes.saturating_add(n_bytes);
        if found <= limits::MAX_MADE_BYTES {
            return Ok(());
        }
        Err(GradError::Limit {
            what: format!("bytes that graph `{}` makes", self.graph.name),
            found: found as u64,
            limit: limits::MAX_MADE_BYTES as u64,
            name: "MAX_MADE_BYTES",
        })
    }

    fn charge(&mut self, n_bytes: usize) -> Result<(), GradError> {
        self.within_limit(n_bytes)?;
        self.made_bytes += n_bytes;
        Ok(())
    }

    fn define(&mut self, name: &str, mut value: Value) -> Result<(), GradError> {
        /// Contents of so many integers are followed beyond [`limits::MAX_CONTENT_BYTES`] too.
        const SHORT: usize = 64;
        if self.values.contains_key(name) {
            return Err(GradError::Redefined { value: name.to_owned() });
        }
        let bytes = |content: &Vec<Int>| content.iter().map(Int::size_bytes).sum::<usize>();
        let n_bytes = value.content.as_ref().map_or(0, bytes);
        if self.content_bytes + n_bytes > limits::MAX_CONTENT_BYTES {
            value.content = value.content.filter(|c| c.len() <= SHORT);
        }
        let n_bytes = value.content.as_ref().map_or(0, bytes);
        self.charge(name.len() + limits::shape_bytes(&value.shape) + n_bytes)?;
        self.content_bytes += n_bytes;
        self.values.insert(name.to_owned(), value);
        Ok(())
    }
}

/// # Errors
/// [`GradError::Unsupported`] with every node whose operator is unknown.
pub(crate) fn refuse_unknown(nodes: &[Node], opset: u32) -> Result<(), GradError> {
    let unknown = |node: &&Node| !node.domain.is_empty() || !shape::is_known(&node.op);
    let mut unsupported: Vec<UnsupportedNode> =
        nodes.iter().filter(unknown).map(|n| UnsupportedNode::new(n, opset)).collect();
    if unsupported.is_empty() {
        return Ok(());
    }
    unsupported.sort();
    Err(GradError::Unsupported(unsupported))
}

/// `const/i64[2]/3,4` while that is short, else a hash of the content.
fn constant_name(tensor: &Tensor) -> String {
    let dims = tensor.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let content = if tensor.bytes.len() <= 16 {
        tensor.bytes.iter().map(|b| format!("{b:02x}")).collect()
    } else {
        // FNV-1a, 128 bit: stable across platforms and releases, as the derived bytes must be.
        let hash = tensor.bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |h, &b| {
            (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        });
        format!("{hash:032x}")
    };
    format!("const/{}[{dims}]/{content}", tensor.dtype)
}
