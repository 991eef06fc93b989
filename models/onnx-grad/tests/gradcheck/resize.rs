//! Resize, every mode. ONNX Runtime's CPU provider resizes no float64.

use onnx_grad::graph::Tensor;

use crate::problem::{Arg, Problem, batch, ints, x};

const COORDINATES: [&str; 4] = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"];

fn scales(values: &[f32]) -> Arg {
    Arg::Const(Tensor::from_f32(&[values.len()], values))
}

fn resize(mode: &'static str, args: Vec<Arg>) -> Problem {
    Problem::new("Resize", args).attr("mode", mode).f32()
}

pub fn resizes() -> Vec<Problem> {
    let mut problems = Vec::new();
    let image = || batch(&[2, 2, 4, 5]);
    let by_scales = |values: &[f32]| vec![image(), Arg::Absent, scales(values)];
    let by_sizes = |input: Arg, values: &[i64]| vec![input, Arg::Absent, Arg::Absent, ints(values)];
    let factors: [&[f32]; 4] =
        [&[1.0, 1.0, 2.0, 2.0], &[1.0, 1.0, 0.5, 0.6], &[1.0, 1.0, 1.7, 1.0], &[1.0, 1.0, 2.3, 0.3]];
    for coordinates in COORDINATES {
        for factors in factors {
            for nearest in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
                let problem = resize("nearest", by_scales(factors)).attr("nearest_mode", nearest);
                problems.push(problem.attr("coordinate_transformation_mode", coordinates));
            }
            for mode in ["linear", "cubic"] {
                problems.push(
                    resize(mode, by_scales(factors)).attr("coordinate_transformation_mode", coordinates),
                );
            }
        }
        for mode in ["nearest", "linear", "cubic"] {
            for sizes in [&[2, 2, 7, 3], &[2, 2, 1, 1]] {
                let problem = resize(mode, by_sizes(x(&[2, 2, 4, 5]), sizes));
                problems.push(problem.attr("coordinate_transformation_mode", coordinates));
            }
        }
    }
    problems.push(resize("cubic", by_scales(factors[0])).attr("exclude_outside", 1_i64));
    problems.push(resize("cubic", by_scales(factors[1])).attr("cubic_coeff_a", -0.5_f32));
    for coordinates in ["half_pixel", "align_corners"] {
        let outside =
            resize("cubic", by_sizes(x(&[2, 2, 4, 5]), &[2, 2, 3, 9])).attr("exclude_outside", 1_i64);
        problems.push(outside.attr("coordinate_transformation_mode", coordinates));
    }
    problems.push(resize("cubic", vec![x(&[3, 2]), Arg::Absent, scales(&[2.0, 1.5])]));
    problems.push(resize("nearest", vec![batch(&[2, 2, 3, 2]), Arg::Absent, scales(&[1.0, 2.0, 1.0, 1.5])]));
    let symmetric = resize("linear", by_scales(&[1.0, 1.0, 1.2, 0.9])).opsets(&[19, 21]);
    problems.push(symmetric.attr("coordinate_transformation_mode", "half_pixel_symmetric"));
    problems.push(resize("nearest", vec![x(&[3]), Arg::Absent, scales(&[2.0])]));
    problems.push(resize("linear", vec![x(&[2, 3]), Arg::Absent, scales(&[2.0, 1.5])]));
    problems.push(resize(
        "linear",
        vec![batch(&[1, 2, 2, 3, 2]), Arg::Absent, scales(&[1.0, 1.0, 2.0, 2.0, 1.5])],
    ));
    problems.push(resize("nearest", vec![batch(&[2, 3, 2]), Arg::Absent, scales(&[1.0, 1.0, 3.0])]));
    let some = vec![image(), Arg::Absent, scales(&[2.0, 3.0])];
    problems.push(resize("linear", some).ints("axes", &[2, -1]).opsets(&[18, 21]));
    let some = by_sizes(image(), &[3, 8]);
    problems.push(resize("nearest", some).ints("axes", &[-2, 3]).opsets(&[18, 21]));
    problems.push(resize("linear", vec![x(&[2, 2, 4, 5]), Arg::Absent, scales(&[]), ints(&[2, 2, 8, 10])]));
    problems
}
