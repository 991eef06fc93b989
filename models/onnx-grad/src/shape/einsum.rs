//! Einsum.

use std::collections::{BTreeMap, HashMap};

use super::{Context, broadcast, one};
use crate::builder::Value;
use crate::emit::show;
use crate::error::GradError;
use crate::graph::{Dim, Shape};

/// One entry of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    /// All axes without a letter.
    Ellipsis,
    Letter(char),
}

/// An equation, with the output written out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Equation {
    pub inputs: Vec<Vec<Label>>,
    pub output: Vec<Label>,
}

impl Equation {
    /// `None` where that is no equation.
    pub fn parse(text: &str) -> Option<Self> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let inputs: Vec<Vec<Label>> = left.split(',').map(term).collect::<Option<_>>()?;
        let output = match right {
            Some(right) => term(right)?,
            None => implied(&inputs),
        };
        let known = |label: &Label| inputs.iter().any(|input| input.contains(label));
        let distinct = (1..output.len()).all(|i| !output[..i].contains(&output[i]));
        (distinct && output.iter().all(known)).then_some(Equation { inputs, output })
    }

    /// As the operator's attribute.
    pub fn text(&self) -> String {
        let terms: Vec<String> = self.inputs.iter().map(|term| write(term)).collect();
        format!("{}->{}", terms.join(","), write(&self.output))
    }
}

/// Without an output the letters that occur once are kept, in alphabetical order, after an ellipsis.
fn implied(inputs: &[Vec<Label>]) -> Vec<Label> {
    let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
    for label in inputs.iter().flatten() {
        *counts.entry(*label).or_insert(0) += 1;
    }
    let kept = |(label, n): (Label, usize)| (label == Label::Ellipsis || n == 1).then_some(label);
    counts.into_iter().filter_map(kept).collect()
}

fn term(text: &str) -> Option<Vec<Label>> {
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            if labels.contains(&Label::Ellipsis) {
                return None;
            }
            labels.push(Label::Ellipsis);
            rest = after;
        } else if c.is_ascii_alphabetic() {
            labels.push(Label::Letter(c));
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(labels)
}

fn write(term: &[Label]) -> String {
    let label = |label: &Label| match label {
        Label::Ellipsis => "...".to_owned(),
        Label::Letter(c) => c.to_string(),
    };
    term.iter().map(label).collect()
}

pub(super) fn einsum(c: &Context<'_>) -> Result<Vec<Value>, GradError> {
    let text = c.node.string("equation", "")?;
    let equation = Equation::parse(text).ok_or_else(|| c.error("an equation", format!("`{text}`")))?;
    if equation.inputs.len() != c.inputs.len() {
        return Err(
            c.error(format!("{} inputs for `{text}`", equation.inputs.len()), c.inputs.len().to_string())
        );
    }
    if equation.inputs.iter().flatten().any(|&l| l == Label::Ellipsis)
        && !equation.output.contains(&Label::Ellipsis)
    {
        return Err(c.error("an output that keeps the ellipsis", format!("`{text}`")));
    }
    let mut sizes: HashMap<char, Dim> = HashMap::new();
    let mut ellipsis: Shape = Vec::new();
    for (i, term) in equation.inputs.iter().enumerate() {
        let shape = c.shape(i)?;
        let refuse = || c.error(format!("input {i} to have the axes of `{text}`"), show(shape));
        let n_letters = term.iter().filter(|l| **l != Label::Ellipsis).count();
        let n_others = shape.len().checked_sub(n_letters).ok_or_else(refuse)?;
        let mut dims = shape.iter();
        for label in term {
            match label {
                Label::Ellipsis => {
                    let others: Shape = dims.by_ref().take(n_others).cloned().collect();
                    ellipsis = broadcast(&[&ellipsis, &others]).ok_or_else(refuse)?;
                }
                Label::Letter(letter) => {
                    let dim = dims.next().ok_or_else(refuse)?;
                    let known = sizes.entry(*letter).or_insert_with(|| dim.clone());
                    match (known.size(), dim.size()) {
                        (Some(a), Some(b)) if a != b && a != 1 && b != 1 => return Err(refuse()),
                        (Some(1), _) | (None, Some(2..)) => *known = dim.clone(),
                        _ => {}
                    }
                }
            }
        }
        if dims.next().is_some() {
            return Err(refuse());
        }
    }
    let mut shape = Vec::new();
    for label in &equation.output {
        match label {
            Label::Ellipsis => shape.extend(ellipsis.iter().cloned()),
            Label::Letter(letter) => shape.push(sizes[letter].clone()),
        }
    }
    one(c.x(0)?.dtype, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_read_and_written() {
        for (text, written) in [
            ("ij,jk->ik", "ij,jk->ik"),
            (" i j , j k ", "ij,jk->ik"),
            ("ba", "ba->ab"),
            ("aB", "aB->Ba"),
            ("...ij,...jk", "...ij,...jk->...ik"),
            ("ii", "ii->"),
            ("i,i->", "i,i->"),
        ] {
            assert_eq!(Equation::parse(text).unwrap().text(), written, "{text}");
        }
        for text in ["ij->k", "ij->ii", "i......", "i-j", "i..j"] {
            assert_eq!(Equation::parse(text), None, "{text}");
        }
    }
}
