use super::*;
use crate::analysis::experiences::CkaOfPair;
use crate::analysis::features::Point;
use crate::analysis::tsne::Options;
use crate::ids::SampleId;

/// Ten layers and three last ones; CKA falls from experience to experience.
fn table(n_pairs: usize) -> CkaTable {
    let mut layers: Vec<String> = (0..10).map(|i| format!("layer{i}")).collect();
    layers.extend(["features", "cl_logits", "st_logits"].map(str::to_owned));
    let pair = |i: usize| {
        let mut cells = vec![vec![Some(0.25); layers.len()]; layers.len()];
        (0..layers.len()).for_each(|k| cells[k][k] = Some(1.0 - 0.1 * i as f64));
        cells[0][1] = None;
        cells[1][0] = Some(-0.02);
        CkaOfPair {
            teacher: "runs/a,b/<teacher>.onnx".to_owned(),
            student: format!("student{i}.onnx"),
            teacher_layers: layers.clone(),
            student_layers: layers.clone(),
            unbiased: cells.clone(),
            biased: cells,
        }
    };
    CkaTable { pairs: (0..n_pairs).map(pair).collect(), n_samples: 64 }
}

fn map(n_classes: usize) -> FeatureMap {
    let point = |i: usize| Point {
        sample: SampleId(3 * i as u32),
        label: (i % n_classes) as u16,
        x: i as f64,
        y: -0.5,
    };
    FeatureMap {
        model: "model.onnx".to_owned(),
        layer: "features".to_owned(),
        n_features: 64,
        classes: (0..n_classes).map(|c| format!("class {c}")).collect(),
        points: (0..2 * n_classes).map(point).collect(),
        kl_divergence: 0.75,
        neighbour_agreement: 0.9,
        options: Options::default(),
    }
}

#[test]
fn over_experiences_there_are_at_most_as_many_lines_as_colours() {
    let lines = lines(&table(3));
    let names: Vec<&str> = lines.iter().map(|l| l.name.as_str()).collect();
    let last = ["features", "cl_logits", "st_logits", "cl_logits/st_logits"];
    assert_eq!(names, ["layer0", "layer4", "layer9"].into_iter().chain(last).collect::<Vec<_>>());
    assert_eq!(lines[0].points, [(1.0, 1.0), (2.0, 0.9), (3.0, 0.8)]);
    let colors: std::collections::BTreeSet<usize> = lines.iter().map(|l| l.color).collect();
    assert_eq!(colors.len(), lines.len());
}

#[test]
fn a_section_has_a_heatmap_for_each_pair_and_lines_for_several() {
    let one = cka_section(&table(1));
    assert_eq!(one.matches("<svg").count(), 1);
    assert!(one.contains("teacher runs/a,b/&lt;teacher&gt;.onnx, student student0.onnx"), "{one}");
    let three = cka_section(&table(3));
    assert_eq!(three.matches("<svg").count(), 4);
    assert!(three.contains("Experience 3: teacher") && !three.contains("not drawn"));
}

#[test]
fn csv_has_every_number() {
    let csv = cka_csv(&table(2));
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 1 + 2 * 13 * 13);
    assert_eq!(lines[1], "1,\"runs/a,b/<teacher>.onnx\",student0.onnx,layer0,layer0,1,1,1,1");
    assert_eq!(lines[2], "1,\"runs/a,b/<teacher>.onnx\",student0.onnx,layer0,layer1,1,2,,", "no value");
    assert!(lines[14].ends_with("layer1,layer0,2,1,-0.02,-0.02"), "{}", lines[14]);
    let csv = tsne_csv(&[map(3)]);
    assert_eq!(csv.lines().count(), 7);
    assert_eq!(csv.lines().nth(2), Some("model.onnx,features,3,class 1,1,-0.5"));
}

#[test]
fn tables_fit_their_numbers() {
    let text = cka_text(&table(2));
    assert!(text.starts_with("CKA of layers of the same depth (unbiased), 64 images\n"), "{text}");
    assert!(text.contains("\nlayer                 exp 1   exp 2\n"), "{text}");
    assert!(text.contains("\ncl_logits/st_logits   0.250   0.250\n"), "{text}");
    let text = tsne_text(&[map(3)]);
    assert!(text.contains("\nmodel.onnx  features         64       6          0.750"), "{text}");
}

#[test]
fn a_page_names_what_is_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    write_page("Features & layers", &[tsne_section(&[map(50)]), cka_section(&table(1))], &path).unwrap();
    let html = std::fs::read_to_string(path).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("<title>Features &amp; layers</title>"));
    assert!(html.contains("tell 42 classes apart") && html.contains("KL divergence 0.750"), "{html}");
    assert_eq!(html.matches("<svg").count(), 2);
}
