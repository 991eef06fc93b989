//! CKA between the layers of a teacher and a student, over experiences.

use dkt_models::layers::{FEATURES, Layer};
use dkt_models::{CL_LOGITS, ST_LOGITS};

use super::cka::{Estimator, Kernel, cka_of_all};
use super::network::Network;
use super::{AnalysisError, MAX_SAMPLES, MIN_SAMPLES};
use crate::data::DataSource;
use crate::ids::SampleId;

/// What came of comparing networks; one pair an experience.
#[derive(Clone, Debug, PartialEq)]
pub struct CkaTable {
    pub pairs: Vec<CkaOfPair>,
    pub n_samples: usize,
}

/// Two networks, layer by layer.
#[derive(Clone, Debug, PartialEq)]
pub struct CkaOfPair {
    pub teacher: String,
    pub student: String,
    pub teacher_layers: Vec<String>,
    pub student_layers: Vec<String>,
    /// `[teacher layer][student layer]`; `None` where a layer's values do not vary.
    pub unbiased: Vec<Vec<Option<f64>>>,
    pub biased: Vec<Vec<Option<f64>>>,
}

/// Layers that are looked at over experiences: a name, and the index of each network's layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SameDepth {
    pub name: String,
    pub teacher: usize,
    pub student: usize,
}

impl CkaOfPair {
    /// Layers of the same depth: each of the teacher's with that of the student at the nearest share of the way
    /// through the network, features with features, each head with the same head; and the teacher's
    /// continual-learning head with the student head, which learned from it.
    pub fn same_depth(&self) -> Vec<SameDepth> {
        let is_last = |name: &&String| [FEATURES, CL_LOGITS, ST_LOGITS].contains(&name.as_str());
        let inner = |layers: &[String]| layers.iter().filter(|name| !is_last(name)).count();
        let (n_teacher, n_student) = (inner(&self.teacher_layers), inner(&self.student_layers));
        let mut matched = Vec::new();
        for teacher in 0..n_teacher.min(n_teacher * n_student) {
            let steps = (n_teacher - 1).max(1);
            let student = (teacher * (n_student - 1) + steps / 2) / steps;
            let (name, other) = (&self.teacher_layers[teacher], &self.student_layers[student]);
            let name = if name == other { name.clone() } else { format!("{name}/{other}") };
            matched.push(SameDepth { name, teacher, student });
        }
        let place = |layers: &[String], name: &str| layers.iter().position(|layer| layer == name);
        for (of_teacher, of_student) in
            [(FEATURES, FEATURES), (CL_LOGITS, CL_LOGITS), (ST_LOGITS, ST_LOGITS), (CL_LOGITS, ST_LOGITS)]
        {
            if let (Some(teacher), Some(student)) =
                (place(&self.teacher_layers, of_teacher), place(&self.student_layers, of_student))
            {
                let name = if of_teacher == of_student {
                    of_teacher.to_owned()
                } else {
                    format!("{of_teacher}/{of_student}")
                };
                matched.push(SameDepth { name, teacher, student });
            }
        }
        matched
    }
}

/// CKA of every layer of a teacher with every layer of a student, for the networks after each experience: one teacher
/// for all students, one student for all teachers, or as many of each. Test images `ids` pass through all of them.
/// Between two pairs `is_stopped` is asked.
///
/// # Errors
/// [`AnalysisError::Pairs`], [`AnalysisError::Samples`], [`AnalysisError::Stopped`], and as [`Network::activations`].
pub fn cka_over_experiences(
    teachers: &[Network],
    students: &[Network],
    source: &DataSource,
    ids: &[SampleId],
    is_stopped: impl Fn() -> bool,
) -> Result<CkaTable, AnalysisError> {
    if !(MIN_SAMPLES..=MAX_SAMPLES).contains(&ids.len()) {
        return Err(AnalysisError::Samples { found: ids.len() });
    }
    let n_pairs = teachers.len().max(students.len());
    let fits = |n: usize| n == n_pairs || n == 1;
    if !fits(teachers.len()) || !fits(students.len()) {
        return Err(AnalysisError::Pairs { teachers: teachers.len(), students: students.len() });
    }
    let mut pairs = Vec::with_capacity(n_pairs);
    let (mut of_teacher, mut of_student) = (None, None);
    for i in 0..n_pairs {
        if is_stopped() {
            return Err(AnalysisError::Stopped);
        }
        let (teacher, student) = (&teachers[i.min(teachers.len() - 1)], &students[i.min(students.len() - 1)]);
        // The one that all the others are compared with is run once.
        if of_teacher.is_none() || teachers.len() > 1 {
            of_teacher = Some(kernels(teacher, student.layers().len(), source, ids)?);
        }
        if of_student.is_none() || students.len() > 1 {
            of_student = Some(kernels(student, teacher.layers().len(), source, ids)?);
        }
        let (Some(a), Some(b)) = (&of_teacher, &of_student) else { continue };
        let names = |layers: &[Layer]| layers.iter().map(|l| l.name.clone()).collect();
        pairs.push(CkaOfPair {
            teacher: teacher.path.display().to_string(),
            student: student.path.display().to_string(),
            teacher_layers: names(teacher.layers()),
            student_layers: names(student.layers()),
            unbiased: cka_of_all(a, b, Estimator::Unbiased),
            biased: cka_of_all(a, b, Estimator::Biased),
        });
    }
    Ok(CkaTable { pairs, n_samples: ids.len() })
}

fn kernels(
    network: &Network,
    n_partners: usize,
    source: &DataSource,
    ids: &[SampleId],
) -> Result<Vec<Kernel>, AnalysisError> {
    let activations = network.activations(network.layers(), source, ids)?;
    Ok(activations.iter().map(|a| Kernel::new(a, n_partners)).collect())
}

#[cfg(test)]
mod tests;
