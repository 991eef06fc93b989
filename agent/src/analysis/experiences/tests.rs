use super::*;

fn pair(teacher: &[&str], student: &[&str]) -> CkaOfPair {
    let names = |layers: &[&str]| layers.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    let cells = vec![vec![Some(0.5); student.len()]; teacher.len()];
    CkaOfPair {
        teacher: "t".to_owned(),
        student: "s".to_owned(),
        teacher_layers: names(teacher),
        student_layers: names(student),
        unbiased: cells.clone(),
        biased: cells,
    }
}

#[test]
fn layers_of_networks_of_one_kind_are_matched_one_by_one() {
    let layers = ["conv1", "conv2", FEATURES, CL_LOGITS, ST_LOGITS];
    let matched = pair(&layers, &layers).same_depth();
    let found: Vec<_> = matched.iter().map(|m| (m.name.as_str(), m.teacher, m.student)).collect();
    assert_eq!(
        found,
        [
            ("conv1", 0, 0),
            ("conv2", 1, 1),
            ("features", 2, 2),
            ("cl_logits", 3, 3),
            ("st_logits", 4, 4),
            ("cl_logits/st_logits", 3, 4),
        ]
    );
}

#[test]
fn layers_of_other_networks_are_matched_by_their_share_of_the_way() {
    let student = ["a", "b", "c", "d", "e", "f", "g", CL_LOGITS, ST_LOGITS];
    let matched = pair(&["u", "v", "w", CL_LOGITS, ST_LOGITS], &student).same_depth();
    let inner: Vec<&str> = matched.iter().take(3).map(|m| m.name.as_str()).collect();
    assert_eq!(inner, ["u/a", "v/d", "w/g"]);
    // One layer against many, and many against one.
    assert_eq!(pair(&["u"], &["a", "b"]).same_depth()[0].name, "u/a");
    let to_one = pair(&["u", "v"], &["a"]).same_depth();
    assert_eq!(to_one.iter().map(|m| m.student).collect::<Vec<_>>(), [0, 0]);
    assert!(pair(&["u"], &[CL_LOGITS]).same_depth().is_empty());
}

#[test]
fn a_comparison_ends_where_it_is_stopped() {
    let source = crate::data::load("digits").unwrap();
    let options = dkt_models::zoo::BuildOptions { seed: 0, classes: 10, input: [1, 8, 8] };
    let graph = dkt_models::zoo::build("digits-cnn", &options).unwrap();
    let network = Network::new("digits-cnn.onnx".as_ref(), graph).unwrap();
    let ids: Vec<SampleId> = (0..8).map(SampleId).collect();
    let networks = std::slice::from_ref(&network);
    let stopped = cka_over_experiences(networks, networks, &source, &ids, || true);
    assert!(matches!(stopped, Err(AnalysisError::Stopped)), "{stopped:?}");
}
