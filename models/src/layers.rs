//! Which values of a forward graph are its layers, found from the graph alone.
//!
//! A value is a *cut* if every way from the image to the logits leads through it. Between two cuts lies one node, as
//! in a plain stack of convolutions, or a whole block of branches: a residual block, an encoder layer's attention, an
//! inception module. Layers are the cuts at which something ends: an activation, or branches that join (the `Add` of a
//! residual block, the `Concat` of an inception module, the `Mul` of a gate), each with whatever acts on single
//! elements right after it. Then come what the heads read, and each head's logits.

use std::collections::{BTreeMap, HashMap, HashSet};

use onnx_grad::Builder;
use onnx_grad::graph::{DataType, Dim, Graph, Node, Shape};

use crate::error::ModelError;

/// At most so many layers are given; of more, as many at even distances.
pub const MAX_LAYERS: usize = 20;
/// Name of the layer that the heads read.
pub use crate::features::FEATURES;

/// A value worth looking at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// From the names of the parameters in it, `layer1.0`; else the value's own.
    pub name: String,
    /// Name of the value in the graph.
    pub value: String,
    /// The batch first: a name, then known sizes. Rows of a token matrix `[batch * tokens, width]` count as one.
    pub shape: Shape,
}

/// What may end a layer by itself.
const ACTIVATIONS: [&str; 17] = [
    "Relu",
    "LeakyRelu",
    "PRelu",
    "ThresholdedRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "Mish",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Softplus",
    "Softsign",
    "Tanh",
    "Erf",
    "Clip",
];
/// What joins branches. `Sub` and `Div` do so where a normalisation is written out, which ends nothing.
const JOINS: [&str; 4] = ["Add", "Sum", "Mul", "Concat"];
/// What else acts on single elements: with these an activation is written out.
const ARITHMETIC: [&str; 8] = ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Identity"];
/// What does not change the numbers, when the network is not trained.
const SAME_NUMBERS: [&str; 6] = ["Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Identity"];
/// What may stand between a head's linear layer and the output.
const AFTER_LOGITS: [&str; 3] = ["Softmax", "LogSoftmax", "Identity"];

/// The layers of a classifier with one or more heads, from the image on; [`FEATURES`] if all heads are linear layers
/// on the same values; each output.
///
/// # Errors
/// [`ModelError::Graph`] if a shape cannot be inferred, as with operators that are not known;
/// [`ModelError::Input`] if the graph has no input.
pub fn layers(graph: &Graph) -> Result<Vec<Layer>, ModelError> {
    let builder = Builder::from_graph(graph.clone())?;
    let input = graph.inputs.first().ok_or_else(|| ModelError::Input { found: "none".to_owned() })?;
    let flow = Flow::new(graph, &input.name);
    let shape_of = |value: &str| {
        let known = builder.value(value).ok()?;
        let [Dim::Symbol(_), rest @ ..] = known.shape.as_slice() else { return None };
        let is_usable = known.dtype == DataType::F32 && rest.iter().all(|d| d.size().is_some());
        is_usable.then(|| known.shape.clone())
    };

    let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let read_by_heads: Vec<&str> = outputs.iter().map(|o| flow.head_input(o).unwrap_or(o)).collect();
    let mut cuts: Vec<&str> = read_by_heads.first().map(|target| flow.cuts(target)).unwrap_or_default();
    for target in read_by_heads.iter().skip(1) {
        let others: HashSet<&str> = flow.cuts(target).into_iter().collect();
        cuts.retain(|cut| others.contains(cut));
    }
    let features = read_by_heads
        .first()
        .filter(|first| read_by_heads.iter().all(|r| r == *first) && !outputs.contains(first))
        .copied();
    let mut ends = flow.ends(&cuts);
    // What has the numbers of the features, or of the logits, stands in the list once.
    let last = features.or_else(|| outputs.first().copied());
    ends.retain(|end| !outputs.contains(end) && last.is_none_or(|last| flow.same_numbers(last) != *end));
    let n_last = outputs.len() + usize::from(features.is_some());
    let named = flow.names(&ends);
    let mut layers: Vec<Layer> = named
        .into_iter()
        .filter_map(|(value, name)| Some(Layer { name, value: value.to_owned(), shape: shape_of(value)? }))
        .collect();
    layers = evenly(layers, MAX_LAYERS.saturating_sub(n_last));
    for (name, value) in features.map(|f| (FEATURES, f)).into_iter().chain(outputs.iter().map(|o| (*o, *o))) {
        if let Some(shape) = shape_of(value) {
            layers.push(Layer { name: name.to_owned(), value: value.to_owned(), shape });
        }
    }
    Ok(layers)
}

/// At most `n` of the items at even distances, the first and the last among them.
fn evenly<T>(items: Vec<T>, n: usize) -> Vec<T> {
    if items.len() <= n {
        return items;
    }
    let last = items.len() - 1;
    let taken: HashSet<usize> = match n {
        0 => HashSet::new(),
        1 => HashSet::from([last]),
        _ => (0..n).map(|i| (i * last + (n - 1) / 2) / (n - 1)).collect(),
    };
    items.into_iter().enumerate().filter(|(i, _)| taken.contains(i)).map(|(_, item)| item).collect()
}

/// The way of the image through the graph.
struct Flow<'a> {
    graph: &'a Graph,
    /// Value, index of the node that gives it.
    producer: HashMap<&'a str, usize>,
    /// Values that depend on the image by more than its size; the image itself.
    of_image: HashSet<&'a str>,
}

impl<'a> Flow<'a> {
    fn new(graph: &'a Graph, input: &'a str) -> Self {
        let mut producer = HashMap::new();
        let mut of_image = HashSet::from([input]);
        for (i, node) in graph.nodes.iter().enumerate() {
            let depends = node.inputs.iter().any(|v| of_image.contains(v.as_str()));
            let is_data = depends && !["Shape", "Size"].contains(&node.op.as_str());
            for output in node.outputs.iter().filter(|o| !o.is_empty()) {
                producer.insert(output.as_str(), i);
                if is_data {
                    of_image.insert(output);
                }
            }
        }
        Flow { graph, producer, of_image }
    }

    fn node(&self, value: &str) -> Option<&'a Node> {
        self.producer.get(value).map(|&i| &self.graph.nodes[i])
    }

    /// The inputs of a node that depend on the image, each once.
    fn data_inputs(&self, node: &'a Node) -> Vec<&'a str> {
        let mut inputs: Vec<&str> =
            node.inputs.iter().map(String::as_str).filter(|v| self.of_image.contains(v)).collect();
        inputs.sort_unstable();
        inputs.dedup();
        inputs
    }

    /// What the linear layer that ends in `output` reads.
    fn head_input(&self, output: &str) -> Option<&'a str> {
        let mut node = self.node(output)?;
        loop {
            let [input] = self.data_inputs(node)[..] else { return None };
            match node.op.as_str() {
                "Gemm" | "MatMul" => return Some(input),
                // The bias after a product.
                "Add" => node = self.node(input).filter(|n| n.op == "MatMul")?,
                op if AFTER_LOGITS.contains(&op) => node = self.node(input)?,
                _ => return None,
            }
        }
    }

    /// Nodes that are on a way from the image to `target`, by index.
    fn on_the_way(&self, target: &'a str) -> Vec<usize> {
        let mut seen = HashSet::new();
        let mut open = vec![target];
        while let Some(value) = open.pop() {
            if let Some(&i) = self.producer.get(value)
                && self.of_image.contains(value)
                && seen.insert(i)
            {
                open.extend(self.data_inputs(&self.graph.nodes[i]));
            }
        }
        let mut nodes: Vec<usize> = seen.into_iter().collect();
        nodes.sort_unstable();
        nodes
    }

    /// Values through which every way from the image to `target` leads, in order, `target` the last.
    ///
    /// The nodes on the way stand in topological order, and each comes either before or after a cut: so a cut is what
    /// is alone in being both known and still needed.
    fn cuts(&self, target: &'a str) -> Vec<&'a str> {
        let nodes = self.on_the_way(target);
        let mut readers: HashMap<&str, usize> = HashMap::from([(target, 1)]);
        for &i in &nodes {
            for input in self.data_inputs(&self.graph.nodes[i]) {
                *readers.entry(input).or_default() += 1;
            }
        }
        let mut needed: HashSet<&str> = HashSet::new();
        let mut cuts = Vec::new();
        for &i in &nodes {
            let node = &self.graph.nodes[i];
            for input in self.data_inputs(node) {
                if let Some(left) = readers.get_mut(input) {
                    *left -= 1;
                    if *left == 0 {
                        needed.remove(input);
                    } else {
                        needed.insert(input);
                    }
                }
            }
            let outputs = node.outputs.iter().map(String::as_str);
            let read: Vec<&str> = outputs.filter(|o| readers.get(o).is_some_and(|n| *n > 0)).collect();
            needed.extend(&read);
            if let ([cut], 1) = (&read[..], needed.len()) {
                cuts.push(*cut);
            }
        }
        cuts
    }

    /// The cuts at which a layer ends.
    fn ends(&self, cuts: &[&'a str]) -> Vec<&'a str> {
        let ends_here = |cut: &&&str| {
            self.node(cut).is_some_and(|node| {
                let joins = JOINS.contains(&node.op.as_str()) && self.data_inputs(node).len() > 1;
                joins || ACTIVATIONS.contains(&node.op.as_str())
            })
        };
        let mut ends: Vec<&str> = Vec::new();
        for cut in cuts.iter().filter(ends_here) {
            // A residual block ends in the activation after its sum, and `x * sigmoid(x)` is one activation.
            if ends.last().is_some_and(|before| self.is_elementwise(before, cut)) {
                ends.pop();
            }
            ends.push(cut);
        }
        ends
    }

    /// Whether `to` follows from the cut `from` element by element.
    fn is_elementwise(&self, from: &str, to: &'a str) -> bool {
        let mut open = vec![to];
        let mut seen = HashSet::new();
        while let Some(value) = open.pop() {
            if value == from || !seen.insert(value) {
                continue;
            }
            match self.node(value) {
                Some(node)
                    if ACTIVATIONS.contains(&node.op.as_str()) || ARITHMETIC.contains(&node.op.as_str()) =>
                {
                    open.extend(self.data_inputs(node));
                }
                _ => return false,
            }
        }
        true
    }

    /// The first value that has the numbers of this one.
    fn same_numbers(&self, value: &'a str) -> &'a str {
        let mut value = value;
        while let Some(node) = self.node(value).filter(|n| SAME_NUMBERS.contains(&n.op.as_str()))
            && let Some(input) = node.input(0)
        {
            value = input;
        }
        value
    }

    /// Each layer with a name of its own: what the names of the matrices and kernels in it have in common; else the
    /// last of them; else the value.
    fn names(&self, ends: &[&'a str]) -> Vec<(&'a str, String)> {
        let mut begin = 0;
        let mut candidates: Vec<[Option<String>; 2]> = Vec::new();
        for end in ends {
            let last = self.producer[end];
            let weights: Vec<&str> = self.graph.nodes[begin..=last]
                .iter()
                .flat_map(|node| &node.inputs)
                .filter(|name| self.graph.initializers.get(*name).is_some_and(|t| t.dims.len() > 1))
                .map(|name| name.strip_suffix(".weight").unwrap_or(name))
                .collect();
            begin = last + 1;
            let nearest = weights.last().map(|name| (*name).to_owned());
            candidates.push([common(&weights), nearest]);
        }
        let is_taken = |name: &str| name == FEATURES || self.graph.outputs.iter().any(|o| o.name == name);
        let mut names: Vec<Option<String>> = vec![None; ends.len()];
        for kind in 0..2 {
            let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
            for candidate in &candidates {
                if let Some(name) = &candidate[kind] {
                    *uses.entry(name).or_default() += 1;
                }
            }
            for i in 0..ends.len() {
                if let Some(name) = candidates[i][kind].as_ref().filter(|name| uses[name.as_str()] == 1)
                    && names[i].is_none()
                    && !is_taken(name)
                    && !names.contains(&Some(name.clone()))
                {
                    names[i] = Some(name.clone());
                }
            }
        }
        ends.iter().zip(names).map(|(end, name)| (*end, name.unwrap_or_else(|| (*end).to_owned()))).collect()
    }
}

/// The parts between full stops that all names begin with.
fn common(names: &[&str]) -> Option<String> {
    let mut shared: Vec<&str> = names.first()?.split('.').collect();
    for name in names {
        let n_equal = shared.iter().zip(name.split('.')).take_while(|(a, b)| **a == *b).count();
        shared.truncate(n_equal);
    }
    (!shared.is_empty()).then(|| shared.join("."))
}

#[cfg(test)]
mod tests;
