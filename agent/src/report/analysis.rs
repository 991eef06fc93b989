//! Analyses as sections of a page, as CSV and as lines for the terminal.

mod numbers;

use std::path::Path;

pub use self::numbers::{cka_csv, cka_text, tsne_csv, tsne_text};
use super::heatmap::{Side, heatmap};
use super::number::fixed;
use super::page::{self, curves, figure, not_drawn, paragraph};
use super::plots::{self, Axes, Line, MAX_NAMED_CLASSES, Mark};
use crate::analysis::experiences::{CkaTable, SameDepth};
use crate::analysis::features::FeatureMap;
use crate::durable::{self, WriteError};

/// Lines of the plot over experiences, each with a colour of its own.
const MAX_LINES: usize = 7;

/// A page of sections: one file with everything in it, no script, nothing fetched.
///
/// # Errors
/// [`WriteError`] if the file cannot be written.
pub fn write_page(title: &str, sections: &[String], path: &Path) -> Result<(), WriteError> {
    let mut html = page::begin(title);
    html.push_str(&sections.concat());
    page::end(&mut html);
    durable::write(path, html.as_bytes())
}

/// Similarity of layers: lines over experiences if there are several, and a heatmap of each pair.
pub fn cka_section(table: &CkaTable) -> String {
    let mut html = "<h2>Similarity of layers</h2>\n".to_owned();
    paragraph(
        &mut html,
        &format!(
            "Linear centred kernel alignment (CKA) of the two networks' layers on {} test images, unbiased estimate: 1 \
             where two layers are equal up to rotation and scale, near 0 where they have nothing in common. Layers are in \
             the order from the image on; a grey cell has no value, as a layer is the same for all images.",
            table.n_samples
        ),
    );
    let lines = lines(table);
    if table.pairs.len() > 1 && !lines.is_empty() {
        let axes = Axes { x: "experience", y: "CKA", y_range: Some((0.0, 1.0)), x_counts: true };
        let caption = "Layers of the same depth over experiences; values below 0 are drawn as 0";
        curves(&mut html, &lines, &axes, caption);
    }
    for (i, pair) in table.pairs.iter().enumerate() {
        let (rows, columns) = (side("teacher", &pair.teacher_layers), side("student", &pair.student_layers));
        let map = heatmap(&rows, &columns, &[], |row, column| {
            pair.unbiased[row][column].map(|value| (value, fixed(value, 2)))
        });
        let place = if table.pairs.len() > 1 { format!("Experience {}: ", i + 1) } else { String::new() };
        let caption = format!("{place}teacher {}, student {}", pair.teacher, pair.student);
        figure(&mut html, &map, &caption, "");
    }
    html
}

fn side<'a>(are: &'a str, layers: &'a [String]) -> Side<'a> {
    Side { are, labels: layers.iter().map(String::as_str).collect() }
}

/// What of [`CkaTable`] is drawn over experiences: at most [`MAX_LINES`] layers of the first pair.
fn lines(table: &CkaTable) -> Vec<Line> {
    let Some(first) = table.pairs.first() else { return Vec::new() };
    let point = |name: &str, i: usize| {
        let pair = &table.pairs[i];
        let matched = pair.same_depth().into_iter().find(|m| m.name == name)?;
        let value = pair.unbiased[matched.teacher][matched.student]?;
        Some(((i + 1) as f64, value.clamp(0.0, 1.0)))
    };
    let drawn = |(color, matched): (usize, SameDepth)| Line {
        points: (0..table.pairs.len()).filter_map(|i| point(&matched.name, i)).collect(),
        name: matched.name,
        color,
        dashed: false,
        thin: false,
    };
    let lines = few(first.same_depth()).into_iter().enumerate().map(drawn);
    lines.filter(|line| !line.points.is_empty()).collect()
}

/// The last four, features and heads, and of the others the first, the last and what is between at even distances.
fn few(mut layers: Vec<SameDepth>) -> Vec<SameDepth> {
    const LAST: usize = 4;
    if layers.len() <= MAX_LINES {
        return layers;
    }
    let last = layers.split_off(layers.len() - LAST);
    let n = MAX_LINES - LAST;
    let mut few: Vec<SameDepth> = (0..n).map(|i| layers[i * (layers.len() - 1) / (n - 1)].clone()).collect();
    few.extend(last);
    few
}

/// Features in the plane, a plot each.
pub fn tsne_section(maps: &[FeatureMap]) -> String {
    let mut html = "<h2>Features in the plane</h2>\n".to_owned();
    paragraph(
        &mut html,
        "t-SNE of test images. Who is whose neighbour means something; the size of a group, the distance between groups \
         far apart and the axes do not.",
    );
    for map in maps {
        let mark = |p: &crate::analysis::features::Point| Mark { x: p.x, y: p.y, class: p.label.into() };
        let marks: Vec<Mark> = map.points.iter().map(mark).collect();
        let caption = format!(
            "{}, {} ({} numbers an image): {} images, perplexity {}, seed {}; KL divergence {:.3}; nearest neighbour of \
             the same class {:.1} %",
            map.model,
            map.layer,
            map.n_features,
            map.points.len(),
            map.options.perplexity,
            map.options.seed,
            map.kl_divergence,
            100.0 * map.neighbour_agreement
        );
        match plots::scatter(&marks, &map.classes) {
            Ok(svg) => figure(&mut html, &svg, &caption, ""),
            Err(error) => not_drawn(&mut html, &caption, &*error),
        }
    }
    if maps.iter().any(|map| map.classes.len() > MAX_NAMED_CLASSES) {
        let text =
            format!("Colour and shape tell {MAX_NAMED_CLASSES} classes apart; beyond they begin again.");
        paragraph(&mut html, &text);
    }
    html
}

#[cfg(test)]
mod tests;
