//! Confusion matrices as SVG text. A cell is a few bytes of a path, as a hundred classes have ten thousand.

use std::fmt::Write as _;

use plotters::style::RGBColor;

use super::html::escape;
use super::plots::shade;

/// Steps between white and the darkest shade.
const N_SHADES: usize = 10;
/// The side that a matrix has where its cells have room, in pixels.
const SIDE: usize = 720;
/// Sides of a cell: as large as a number needs, and as small as a label of one line can be.
const LARGEST_CELL: usize = 32;
const SMALLEST_CELL: usize = 9;
/// Classes up to which the counts are written into the cells.
const MAX_NUMBERED: usize = 20;
/// Characters of a class name that are shown.
const LABEL_CHARS: usize = 14;

/// Classes as rows and columns of a matrix.
pub(super) struct ClassOrder {
    /// (index, name), as they come in the stream.
    pub classes: Vec<(usize, String)>,
    /// How many classes had come at the end of each experience.
    pub borders: Vec<usize>,
}

/// Row by label, column by prediction; a cell is the darker, the larger its share of the row. `counts[label]` are by
/// predicted class.
pub(super) fn confusion(counts: &[Vec<u64>], order: &ClassOrder) -> String {
    let n = order.classes.len();
    let cell = (SIDE / n.max(1)).clamp(SMALLEST_CELL, LARGEST_CELL);
    let font = (cell - 1).min(12);
    let n_chars = order.classes.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0);
    let margin = n_chars.min(LABEL_CHARS) * font * 6 / 10 + 8;
    let (side, size) = (cell * n, cell * n + margin + 4);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{size}\" height=\"{size}\" viewBox=\"0 0 {size} {size}\" \
         font-family=\"sans-serif\" font-size=\"{font}\">\n"
    );
    let (mut paths, mut numbers) = (vec![String::new(); N_SHADES], String::new());
    for (i, (label, _)) in order.classes.iter().enumerate() {
        let row = counts.get(*label).map(Vec::as_slice).unwrap_or_default();
        let total: u64 = row.iter().sum();
        for (j, (prediction, _)) in order.classes.iter().enumerate() {
            let count = row.get(*prediction).copied().unwrap_or(0);
            if count == 0 {
                continue;
            }
            let (x, y) = (margin + cell * j, margin + cell * i);
            let share = count as f64 / total as f64;
            let level = ((share * N_SHADES as f64).ceil() as usize).clamp(1, N_SHADES) - 1;
            let _ = write!(paths[level], "M{x} {y}h{cell}v{cell}h-{cell}z");
            if n <= MAX_NUMBERED {
                let ink = if share > 0.55 { "white" } else { "black" };
                let (x, y) = (x + cell / 2, y + cell / 2 + font / 3);
                let _ = write!(numbers, "<text x=\"{x}\" y=\"{y}\" fill=\"{ink}\">{count}</text>");
            }
        }
    }
    for (level, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let RGBColor(r, g, b) = shade((level + 1) as f64 / N_SHADES as f64);
        let _ = writeln!(svg, "<path fill=\"#{r:02x}{g:02x}{b:02x}\" d=\"{path}\"/>");
    }
    let _ = writeln!(svg, "<g text-anchor=\"middle\">{numbers}</g>");
    for (i, (_, name)) in order.classes.iter().enumerate() {
        let name = escape(&shortened(name));
        let (before, middle) = (margin - 4, margin + cell * i + cell / 2 + font / 3);
        let _ = write!(
            svg,
            "<text x=\"{before}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\
             <text transform=\"translate({middle} {before}) rotate(-90)\">{name}</text>"
        );
    }
    // Borders between experiences, and the frame.
    let mut lines = format!("M{margin} {margin}h{side}v{side}h-{side}z");
    for border in order.borders.iter().filter(|border| **border < n) {
        let at = margin + cell * border;
        let _ = write!(lines, "M{at} {margin}v{side}M{margin} {at}h{side}");
    }
    let _ = write!(svg, "\n<path fill=\"none\" stroke=\"#888\" d=\"{lines}\"/>\n</svg>");
    svg
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= LABEL_CHARS {
        return name.to_owned();
    }
    name.chars().take(LABEL_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(names: &[&str], borders: &[usize]) -> ClassOrder {
        let classes = names.iter().enumerate().map(|(i, name)| (i, (*name).to_owned())).collect();
        ClassOrder { classes, borders: borders.to_vec() }
    }

    #[test]
    fn a_cell_is_as_dark_as_its_share_of_the_row() {
        let mut order = order(&["zero", "a < b", "a name of nineteen"], &[2, 3]);
        // The stream begins with the last class.
        order.classes.rotate_right(1);
        let svg = confusion(&[vec![8, 0, 0], vec![1, 0, 3], vec![0, 0, 4]], &order);
        // Shares of 1, 1/4 and 3/4 take three shades; cells are 32 wide and begin at 108.
        let dark = "<path fill=\"#0072b2\" d=\"M108 108h32v32h-32zM140 140h32v32h-32z\"/>";
        assert!(svg.contains(dark), "{svg}");
        assert_eq!(svg.matches("<path fill=\"#").count(), 3, "{svg}");
        assert!(svg.contains("d=\"M140 172h32v32h-32z\""), "label `a < b`, taken for `zero`: {svg}");
        assert!(svg.contains("fill=\"black\">1</text>") && svg.contains("fill=\"white\">3</text>"), "{svg}");
        assert!(svg.contains(">a &lt; b</text>") && svg.contains(">a name of nin…</text>"), "{svg}");
        // One border within the matrix: after the second class.
        assert!(svg.contains("M172 108v96M108 172h96\""), "{svg}");
    }

    #[test]
    fn a_hundred_classes_have_labels_and_no_numbers() {
        let names: Vec<String> = (0..100).map(|i| format!("class{i}")).collect();
        let order = order(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let counts = vec![vec![1; 100]; 100];
        let svg = confusion(&counts, &order);
        assert_eq!(svg.matches("h9v9h-9z").count(), 10_000);
        assert_eq!(svg.matches("</text>").count(), 200);
        assert!(svg.len() < 400_000, "{} bytes", svg.len());
    }
}
