//! Protobuf by hand, for files that no exporter writes.

/// A message under construction.
#[derive(Clone, Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Self {
        Message::default()
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn int(mut self, tag: u64, value: i64) -> Self {
        self.varint(tag << 3);
        self.varint(value as u64);
        self
    }

    pub fn bytes(mut self, tag: u64, value: &[u8]) -> Self {
        self.varint(tag << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn text(self, tag: u64, value: &str) -> Self {
        self.bytes(tag, value.as_bytes())
    }

    pub fn message(self, tag: u64, value: &Message) -> Self {
        self.bytes(tag, &value.0)
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// ModelProto of opset 17 around `graph`.
pub fn model(graph: &Message) -> Message {
    Message::new().int(1, 8).message(7, graph).message(8, &opset("", 17))
}

pub fn opset(domain: &str, version: i64) -> Message {
    Message::new().text(1, domain).int(2, version)
}

/// NodeProto.
pub fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::new(), |node, input| node.text(1, input));
    let node = outputs.iter().fold(node, |node, output| node.text(2, output));
    node.text(3, name).text(4, op)
}

/// ValueInfoProto of a float32 tensor.
pub fn value(name: &str, dims: &[i64]) -> Message {
    let shape = dims.iter().fold(Message::new(), |shape, &d| shape.message(1, &Message::new().int(1, d)));
    let tensor = Message::new().int(1, 1).message(2, &shape);
    Message::new().text(1, name).message(2, &Message::new().message(1, &tensor))
}

/// TensorProto of float32 zeros with `n_bytes` of data, whatever its dimensions say.
pub fn tensor(name: &str, dims: &[i64], n_bytes: usize) -> Message {
    let tensor = dims.iter().fold(Message::new(), |tensor, &d| tensor.int(1, d));
    tensor.int(2, 1).text(8, name).bytes(9, &vec![0; n_bytes])
}

/// TensorProto of float32 whose data lies elsewhere.
pub fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Message {
    let tensor = dims.iter().fold(Message::new(), |tensor, &d| tensor.int(1, d)).int(2, 1).text(8, name);
    let tensor = entries
        .iter()
        .fold(tensor, |tensor, (k, v)| tensor.message(13, &Message::new().text(1, k).text(2, v)));
    tensor.int(14, 1)
}

/// GraphProto: x [2] -> nodes -> y [2].
pub fn graph(nodes: &[Message]) -> Message {
    let graph = nodes.iter().fold(Message::new(), |graph, node| graph.message(1, node));
    graph.text(2, "hostile").message(11, &value("x", &[2])).message(12, &value("y", &[2]))
}
