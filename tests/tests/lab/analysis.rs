//! `dkt analyse` on networks of the zoo as they are built.

use std::fs;
use std::path::Path;

use dkt_tests::process::{Output, run};

use crate::dkt;

fn in_folder<const N: usize>(folder: &Path, arguments: [&str; N]) -> Output {
    let mut command = dkt(arguments);
    command.current_dir(folder);
    run(command)
}

/// As above; it must succeed.
fn done<const N: usize>(folder: &Path, arguments: [&str; N]) -> String {
    let output = in_folder(folder, arguments);
    assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
    output.stdout
}

/// Two networks of one kind and different weights, and a wider input for a third.
fn networks(folder: &Path) {
    for (name, seed) in [("a.onnx", "1"), ("b.onnx", "2")] {
        done(folder, ["model", "build", "digits-cnn", "-o", name, "--seed", seed]);
    }
}

/// Cells of a CSV file whose cells hold no commas, by row and column name.
fn rows(csv: &str) -> Vec<Vec<&str>> {
    csv.lines().map(|line| line.split(',').collect()).collect()
}

fn stands_alone(html: &str, n_plots: usize) {
    assert!(html.starts_with("<!doctype html>"));
    assert_eq!(html.matches("<svg").count(), n_plots);
    let without_namespaces =
        html.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "");
    for foreign in ["http://", "https://", "<script", "<link", "<img", "<iframe", " src=", "@import", "url("]
    {
        assert!(!without_namespaces.contains(foreign), "the page holds `{foreign}`");
    }
    assert!(!html.contains("not drawn"), "a plot could not be drawn");
}

#[test]
fn a_networks_layers_are_like_themselves_and_less_like_anothers() {
    let folder = tempfile::tempdir().unwrap();
    networks(folder.path());
    let said = done(
        folder.path(),
        ["analyse", "cka", "a.onnx", "a.onnx", "--data", "digits", "--samples", "100", "--out", "own"],
    );
    assert!(said.contains("conv3") && said.contains("Written to own: cka.html, cka.csv"), "{said}");
    let csv = fs::read_to_string(folder.path().join("own/cka.csv")).unwrap();
    let own = rows(&csv);
    assert_eq!(own[0][3..5], ["teacher_layer", "student_layer"]);
    assert_eq!(own.len(), 1 + 6 * 6, "three convolutions, features, two heads");
    let mut n_diagonal = 0;
    for row in &own[1..] {
        let values: Vec<f64> = row[7..9].iter().map(|v| v.parse().unwrap()).collect();
        if row[3] == row[4] {
            assert!(values.iter().all(|v| (v - 1.0).abs() < 1e-9), "{row:?}");
            n_diagonal += 1;
        } else {
            assert!(values.iter().all(|v| *v < 0.9999), "{row:?}");
        }
    }
    assert_eq!(n_diagonal, 6);
    stands_alone(&fs::read_to_string(folder.path().join("own/cka.html")).unwrap(), 1);

    // Over experiences: with itself, then with another. Where nothing is said, the files go to runs/analysis.
    let arguments = ["analyse", "cka", "--teacher", "a.onnx", "--student", "a.onnx", "b.onnx"];
    let mut command = dkt(arguments.iter().chain(&["--data", "digits", "--samples", "100"]));
    command.current_dir(folder.path());
    let output = run(command);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let line = output.stdout.lines().find(|l| l.starts_with("features")).unwrap();
    let numbers: Vec<f64> = line.split_whitespace().skip(1).map(|v| v.parse().unwrap()).collect();
    assert!(matches!(numbers[..], [own, other] if own == 1.0 && other < 0.999), "{line}");
    let csv = fs::read_to_string(folder.path().join("runs/analysis/cka.csv")).unwrap();
    let both = rows(&csv);
    assert_eq!(both.len(), 1 + 2 * 36);
    assert_eq!(both[1][7..9], own[1][7..9], "the same images, the same numbers");
    stands_alone(&fs::read_to_string(folder.path().join("runs/analysis/cka.html")).unwrap(), 3);
}

#[test]
fn images_are_put_into_the_plane_the_same_way_every_time() {
    let folder = tempfile::tempdir().unwrap();
    networks(folder.path());
    let tsne = |out: &str, head: &str| {
        let common = ["--data", "digits", "--samples", "60", "--perplexity", "10", "--iterations", "300"];
        let mut command = dkt(["analyse", "tsne", "a.onnx", "b.onnx", "--out", out].iter().chain(&common));
        if !head.is_empty() {
            command.args(["--head", head]);
        }
        command.current_dir(folder.path());
        let output = run(command);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        (output.stdout, fs::read_to_string(folder.path().join(out).join("tsne.csv")).unwrap())
    };
    let (said, csv) = tsne("features", "");
    assert!(said.contains("a.onnx") && said.contains("Written to features: tsne.html, tsne.csv"), "{said}");
    let points = rows(&csv);
    assert_eq!(points[0], ["model", "layer", "sample", "class", "x", "y"]);
    assert_eq!(points.len(), 1 + 2 * 60);
    for class in 0..10 {
        let of_class = points.iter().filter(|p| p[0] == "a.onnx" && p[3] == class.to_string());
        assert_eq!(of_class.count(), 6, "class {class}");
    }
    assert!(points[1..].iter().all(|p| p[1] == "features" && p[4].parse::<f64>().unwrap().is_finite()));
    stands_alone(&fs::read_to_string(folder.path().join("features/tsne.html")).unwrap(), 2);
    assert_eq!(tsne("again", "").1, csv, "the same every time");
    let (_, of_head) = tsne("student", "student");
    assert!(rows(&of_head)[1..].iter().all(|p| p[1] == "st_logits"));
}

#[test]
fn what_cannot_be_analysed_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    networks(folder.path());
    done(folder.path(), ["model", "build", "digits-cnn", "-o", "wide.onnx", "--input", "1x9x8"]);
    let table: [(&[&str], i32, &str); 6] = [
        (&["cka", "a.onnx", "wide.onnx"], 65, "`wide.onnx` takes images of [1, 9, 8]"),
        (&["cka", "a.onnx", "missing.onnx"], 66, "missing.onnx"),
        (
            &["cka", "--teacher", "a.onnx", "b.onnx", "--student", "a.onnx", "a.onnx", "b.onnx"],
            2,
            "found 2 teachers and 3 students",
        ),
        (&["cka", "a.onnx"], 2, "MODEL_B.onnx"),
        (&["cka", "--teacher", "a.onnx"], 2, "--student"),
        (&["tsne", "a.onnx", "--samples", "20"], 2, "below the 20 samples, found 30"),
    ];
    for (arguments, code, text) in table {
        let mut command = dkt(["analyse"].iter().chain(arguments).chain(&["--data", "digits"]));
        command.current_dir(folder.path());
        let output = run(command);
        assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains(text), "expected `{text}` in {}", output.stderr);
        assert!(!folder.path().join("runs").exists(), "nothing is written");
    }
}
