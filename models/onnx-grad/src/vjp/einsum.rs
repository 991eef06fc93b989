//! Rule of Einsum.

use crate::emit;
use crate::error::GradError;
use crate::graph::Dim;
use crate::shape::{Equation, Label};
use crate::vjp::Vjp;

/// y = Σ Π xᵢ: dxᵢ is the sum of products of dy and the other inputs to the axes of xᵢ. Axes that only xᵢ has were
/// summed alone: along them dxᵢ repeats.
pub(super) fn einsum(v: &mut Vjp<'_>) -> Result<(), GradError> {
    let equation = lettered(v)?;
    for i in 0..equation.inputs.len() {
        if v.needs(i) {
            let dx = gradient(v, &equation, i)?;
            v.set_dx(i, dx);
        }
    }
    Ok(())
}

/// The equation with a letter for each axis that an ellipsis stands for, so that those can be summed as well.
fn lettered(v: &Vjp<'_>) -> Result<Equation, GradError> {
    let text = v.node.string("equation", "")?;
    let refuse = || emit::shape_error(v.node, "an equation with free letters", format!("`{text}`"));
    let mut equation = Equation::parse(text).ok_or_else(refuse)?;
    let mut ranks = Vec::new();
    for (i, term) in equation.inputs.iter().enumerate() {
        ranks.push((v.x_shape(i)?.len() + 1).saturating_sub(term.len()));
    }
    let has_ellipsis = |term: &Vec<Label>| term.contains(&Label::Ellipsis);
    let with_ellipsis = ranks.iter().zip(&equation.inputs).filter(|(_, term)| has_ellipsis(term));
    let rank = with_ellipsis.map(|(rank, _)| *rank).max().unwrap_or(0);
    let is_free = |letter: &Label| !equation.inputs.iter().any(|term| term.contains(letter));
    let letters: Vec<Label> =
        ('a'..='z').chain('A'..='Z').map(Label::Letter).filter(is_free).take(rank).collect();
    if letters.len() < rank {
        return Err(refuse());
    }
    let write_out = |term: &mut Vec<Label>, rank: usize| {
        if let Some(at) = term.iter().position(|l| *l == Label::Ellipsis) {
            term.splice(at..=at, letters[letters.len() - rank..].iter().copied());
        }
    };
    for (term, rank) in equation.inputs.iter_mut().zip(ranks) {
        write_out(term, rank);
    }
    write_out(&mut equation.output, rank);
    Ok(equation)
}

fn gradient(v: &mut Vjp<'_>, equation: &Equation, i: usize) -> Result<String, GradError> {
    let term = &equation.inputs[i];
    if (1..term.len()).any(|n| term[..n].contains(&term[n])) {
        let found = format!("`{}`", equation.text());
        return Err(emit::shape_error(v.node, format!("no letter twice in input {i}"), found));
    }
    let shape = v.x_shape(i)?;
    let others: Vec<usize> = (0..equation.inputs.len()).filter(|&other| other != i).collect();
    let is_elsewhere = |label: &Label| {
        equation.output.contains(label) || others.iter().any(|&other| equation.inputs[other].contains(label))
    };
    let target: Vec<Label> = term.iter().copied().filter(is_elsewhere).collect();
    let mut dx = v.dy();
    if !others.is_empty() || target != equation.output {
        let mut inputs = vec![equation.output.clone()];
        inputs.extend(others.iter().map(|&other| equation.inputs[other].clone()));
        let transposed = Equation { inputs, output: target }.text();
        let mut names = vec![dx.as_str()];
        names.extend(others.iter().map(|&other| v.x(other)));
        dx = v.g.op("Einsum", &names, &[("equation", transposed.as_str().into())])?;
    }
    // An axis of size 1 may have met a longer one, here or in an input that dx is a product of.
    let named = term.iter().zip(&shape).filter(|(label, _)| is_elsewhere(label)).map(|(_, dim)| dim);
    let found = v.g.shape(&dx)?.clone();
    let kept = named.zip(found).map(|(dim, found)| if found.size() == Some(1) { found } else { dim.clone() });
    dx = emit::unbroadcast(v.g, &dx, &kept.collect::<Vec<Dim>>())?;
    let alone: Vec<i64> = (0..).zip(term).filter(|(_, l)| !is_elsewhere(l)).map(|(axis, _)| axis).collect();
    if !alone.is_empty() {
        let axes = v.g.ints(&alone)?;
        dx = v.op("Unsqueeze", &[&dx, &axes], &[])?;
    }
    emit::expand_like(v.g, &dx, v.x(i))
}
