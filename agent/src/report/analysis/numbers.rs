//! The numbers of analyses: `cka.csv`, `tsne.csv`, and what of them fits on a terminal.

use std::fmt::Write as _;

use super::super::metrics_csv::quoted;
use super::super::number::fixed;
use crate::analysis::experiences::CkaTable;
use crate::analysis::features::FeatureMap;

/// Every pair of layers, a row: `experience,teacher,student,teacher_layer,student_layer,teacher_depth,student_depth,
/// cka_unbiased,cka_biased`. Experiences and depths count from 1; a CKA that is not defined is empty.
pub fn cka_csv(table: &CkaTable) -> String {
    let mut text =
        "experience,teacher,student,teacher_layer,student_layer,teacher_depth,student_depth,cka_unbiased,\
                    cka_biased\n"
            .to_owned();
    let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
    for (experience, pair) in (1..).zip(&table.pairs) {
        for (i, teacher_layer) in pair.teacher_layers.iter().enumerate() {
            for (j, student_layer) in pair.student_layers.iter().enumerate() {
                let cells = [
                    experience.to_string(),
                    quoted(&pair.teacher),
                    quoted(&pair.student),
                    quoted(teacher_layer),
                    quoted(student_layer),
                    (i + 1).to_string(),
                    (j + 1).to_string(),
                    number(pair.unbiased[i][j]),
                    number(pair.biased[i][j]),
                ];
                let _ = writeln!(text, "{}", cells.join(","));
            }
        }
    }
    text
}

/// Layers of the same depth, a line each, and their CKA after each experience.
pub fn cka_text(table: &CkaTable) -> String {
    let Some(first) = table.pairs.first() else { return String::new() };
    let matched = first.same_depth();
    let width = matched.iter().map(|m| m.name.chars().count()).max().unwrap_or(0).max("layer".len());
    let mut text = format!(
        "CKA of layers of the same depth (unbiased), {} images\n\n{:<width$}",
        table.n_samples, "layer"
    );
    let several = table.pairs.len() > 1;
    for i in 1..=table.pairs.len() {
        let title = if several { format!("exp {i}") } else { "CKA".to_owned() };
        let _ = write!(text, "{title:>8}");
    }
    text.push('\n');
    for layer in &matched {
        let _ = write!(text, "{:<width$}", layer.name);
        for pair in &table.pairs {
            let matched = pair.same_depth().into_iter().find(|m| m.name == layer.name);
            let value = matched.and_then(|m| pair.unbiased[m.teacher][m.student]);
            let value = value.map_or_else(|| "-".to_owned(), |v| fixed(v, 3));
            let _ = write!(text, "{value:>8}");
        }
        text.push('\n');
    }
    text
}

/// Every image of every map, a row: `model,layer,sample,class,x,y`; samples are indices in the test split.
pub fn tsne_csv(maps: &[FeatureMap]) -> String {
    let mut text = "model,layer,sample,class,x,y\n".to_owned();
    for map in maps {
        let (model, layer) = (quoted(&map.model), quoted(&map.layer));
        for point in &map.points {
            let class = map.classes.get(usize::from(point.label)).map(|c| quoted(c)).unwrap_or_default();
            let _ = writeln!(text, "{model},{layer},{},{class},{},{}", point.sample.0, point.x, point.y);
        }
    }
    text
}

/// A line for each map.
pub fn tsne_text(maps: &[FeatureMap]) -> String {
    let width = maps.iter().map(|m| m.model.chars().count()).max().unwrap_or(0).max("model".len());
    let mut text = format!(
        "{:<width$}  {:<10} {:>8} {:>7} {:>14} {:>22}\n",
        "model", "layer", "numbers", "images", "KL divergence", "neighbour of class (%)"
    );
    for map in maps {
        let _ = writeln!(
            text,
            "{:<width$}  {:<10} {:>8} {:>7} {:>14.3} {:>22.1}",
            map.model,
            map.layer,
            map.n_features,
            map.points.len(),
            map.kl_divergence,
            100.0 * map.neighbour_agreement
        );
    }
    text
}
