//! Every value of a graph is given once, and before it is read.

use std::collections::{HashMap, HashSet};

use crate::error::ReadError;
use crate::graph::{Graph, Node};

/// # Errors
/// [`ReadError`], naming the first value that is given twice, by nobody, or too late.
pub(super) fn check(graph: &Graph) -> Result<(), ReadError> {
    let mut ready: HashSet<&str> = graph.initializers.keys().map(String::as_str).collect();
    let redefined = |value: &str, first: String, second: String| {
        Err(ReadError::Redefined { value: value.to_owned(), first, second })
    };
    for input in &graph.inputs {
        if !ready.insert(&input.name) {
            return redefined(&input.name, "an input".to_owned(), "an input".to_owned());
        }
    }
    let mut givers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            let second = format!("node `{}`", node.name);
            if ready.contains(output.as_str()) {
                return redefined(output, "an input or initialiser".to_owned(), second);
            }
            if let Some(first) = givers.insert(output, i) {
                return redefined(output, format!("node `{}`", graph.nodes[first].name), second);
            }
        }
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        for value in node.inputs.iter().filter(|v| !v.is_empty()) {
            if !ready.contains(value.as_str()) {
                return Err(not_ready(graph, &givers, i, value));
            }
        }
        ready.extend(node.outputs.iter().map(String::as_str));
    }
    let mut names = HashSet::new();
    for output in &graph.outputs {
        if !ready.contains(output.name.as_str()) {
            return Err(ReadError::UnknownOutput { name: output.name.clone() });
        }
        if !names.insert(&output.name) {
            return Err(ReadError::DuplicateOutput { name: output.name.clone() });
        }
    }
    Ok(())
}

/// Why the `i`-th node cannot read `value` yet.
fn not_ready(graph: &Graph, givers: &HashMap<&str, usize>, i: usize, value: &str) -> ReadError {
    let Node { name, op, .. } = &graph.nodes[i];
    let Some(&giver) = givers.get(value) else {
        return ReadError::UnknownValue { node: name.clone(), op: op.clone(), value: value.to_owned() };
    };
    if let Some(nodes) = cycle(graph, givers, i) {
        return ReadError::Cycle { nodes };
    }
    ReadError::Order {
        node: name.clone(),
        op: op.clone(),
        value: value.to_owned(),
        giver: graph.nodes[giver].name.clone(),
    }
}

/// The nodes of a circle among those that the `start`-th node depends on, by a depth-first walk.
fn cycle(graph: &Graph, givers: &HashMap<&str, usize>, start: usize) -> Option<Vec<String>> {
    let mut done = HashSet::new();
    // The way from `start` to where the walk is: a node, and how many of its inputs have been followed.
    let mut way = vec![(start, 0)];
    let mut on_way = HashSet::from([start]);
    while let Some((node, next)) = way.last_mut() {
        let Some(input) = graph.nodes[*node].inputs.get(*next) else {
            on_way.remove(node);
            done.insert(*node);
            way.pop();
            continue;
        };
        *next += 1;
        let Some(&giver) = givers.get(input.as_str()) else { continue };
        if on_way.contains(&giver) {
            let circle = way.iter().skip_while(|(node, _)| *node != giver);
            return Some(circle.map(|(node, _)| graph.nodes[*node].name.clone()).collect());
        }
        if !done.contains(&giver) {
            way.push((giver, 0));
            on_way.insert(giver);
        }
    }
    None
}
