//! The numbers of a report by their names, as `metrics.csv` and `metrics.json` have them.

use super::record::HeadRecord;
use crate::telemetry::event::{Epoch, Usage};

/// A number after experience `i`, given the test images of each experience.
type AfterExperience = fn(&HeadRecord, i: usize, n_test: &[usize]) -> Option<f64>;

/// Of a head, after each experience.
pub(super) const AFTER_EXPERIENCE: [(&str, AfterExperience); 6] = [
    ("average_accuracy", |head, i, _| head.matrix.average_accuracy(i)),
    ("trained_accuracy", |head, i, n_test| head.matrix.trained_experience_accuracy(i, n_test)),
    ("stream_accuracy", |head, i, _| head.stream.get(i).copied()),
    ("forgetting_so_far", |head, i, _| head.matrix.forgetting_after(i)),
    ("maximum_forgetting", |head, i, _| head.matrix.maximum_forgetting_after(i)),
    ("forward_transfer_so_far", |head, i, _| head.matrix.forward_transfer_after(i, &head.initial)),
];

/// A name, and what of a record it measures, where the record has it.
type Measure<T> = (&'static str, fn(&T) -> Option<f64>);

/// Of a head, over the whole stream as far as it came.
pub(super) const OVER_STREAM: [Measure<HeadRecord>; 3] = [
    ("forgetting", |head| head.matrix.forgetting()),
    ("backward_transfer", |head| head.matrix.backward_transfer()),
    ("forward_transfer", |head| head.matrix.forward_transfer(&head.initial)),
];

/// Of an epoch.
pub(super) const OF_EPOCH: [Measure<Epoch>; 11] = [
    ("loss", |e| Some(e.loss.into())),
    ("loss_cl", |e| Some(e.loss_cl.into())),
    ("loss_st", |e| Some(e.loss_st.into())),
    ("teacher_share", |e| Some(e.teacher_share.into())),
    ("samples_per_second", |e| Some(e.samples_per_second.into())),
    ("skipped_steps", |e| (e.n_skipped > 0).then(|| e.n_skipped.into())),
    ("learning_rate", |e| e.learning_rate.map(f64::from)),
    ("distill_weight", |e| e.distill_weight.map(f64::from)),
    ("validation_accuracy", |e| e.validation_accuracy),
    ("loss_retention", |e| e.loss_retention.map(f64::from)),
    ("loss_penalty", |e| e.loss_penalty.map(f64::from)),
];

/// Of what an experience took.
pub(super) const OF_USAGE: [Measure<Usage>; 6] = [
    ("experience_seconds", |u| Some(u.seconds)),
    ("training_seconds", |u| Some(u.training_seconds)),
    ("cpu_seconds", |u| Some(u.cpu_seconds)),
    ("trained_samples", |u| Some(u.n_samples as f64)),
    ("experience_samples_per_second", Usage::samples_per_second),
    ("energy_joules", |u| u.energy_joules),
];
