//! Tables of shares as shaded cells, as SVG text: accuracies, confusions, similarities. A cell is a few bytes of a
//! path, as a hundred classes have ten thousand.
//!
//! Cells cover what is behind them by their share, and text has the colour of the page's, so that they fit a light
//! page and a dark one.

use std::fmt::Write as _;

use super::number::fixed;
use super::page::escape;
use super::plots::BLUE;

/// Steps between nothing and the full colour.
const N_SHADES: usize = 20;
/// Share from which white is easier to read than the colour of the page's text.
const WHITE_FROM: f64 = 0.9;
/// The side that a table has where its cells have room, in pixels.
const SIDE: usize = 720;
/// Sides of a cell: as large as a number needs, and as small as a label of one line can be.
const LARGEST_CELL: usize = 32;
const SMALLEST_CELL: usize = 9;
/// Rows and columns up to which the numbers are written into the cells.
const MAX_NUMBERED: usize = 20;
/// Characters of a label that are shown.
const LABEL_CHARS: usize = 18;
/// Height of a line that says what rows or columns are.
const LINE: usize = 16;

/// Rows or columns.
pub(super) struct Side<'a> {
    /// What they are, for example `teacher's layers`.
    pub are: &'a str,
    pub labels: Vec<&'a str>,
}

/// Cells as dark as their share, 0 to 1 (what is outside counts as the nearer end), with a text each where there are
/// few enough; `cell(row, column)` of `None` has no value and is grey. The first row is at the top; lines part rows
/// and columns after each number of them in `borders`.
pub(super) fn heatmap(
    rows: &Side<'_>,
    columns: &Side<'_>,
    borders: &[usize],
    cell: impl Fn(usize, usize) -> Option<(f64, String)>,
) -> String {
    let (n_rows, n_columns) = (rows.labels.len(), columns.labels.len());
    let n = n_rows.max(n_columns).max(1);
    let side = (SIDE / n).clamp(SMALLEST_CELL, LARGEST_CELL);
    let font = (side - 1).min(12);
    let longest = |side: &Side<'_>| {
        let chars = side.labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
        chars.min(LABEL_CHARS) * font * 6 / 10
    };
    // Labels of columns stand upright where they have to.
    let is_upright = longest(columns) > side;
    let left = longest(rows) + 8;
    let top = 2 * LINE + 8 + if is_upright { longest(columns) } else { font };
    let (width, height) = (side * n_columns, side * n_rows);
    let words = columns.are.chars().count().max(rows.are.chars().count()) + 2;
    let total_width = (left + width + 4).max(words * 7);
    let total_height = top + height + 4;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total_width}\" height=\"{total_height}\" \
         viewBox=\"0 0 {total_width} {total_height}\" font-family=\"sans-serif\" font-size=\"{font}\" \
         fill=\"currentColor\">\n<g font-size=\"12\"><text y=\"12\">→ {}</text><text y=\"{}\">↓ {}</text></g>\n",
        escape(columns.are),
        12 + LINE,
        escape(rows.are)
    );
    let (mut paths, mut unknown, mut numbers) =
        (vec![String::new(); N_SHADES + 1], String::new(), String::new());
    for i in 0..n_rows {
        for j in 0..n_columns {
            let (x, y) = (left + side * j, top + side * i);
            let square = format!("M{x} {y}h{side}v{side}h-{side}z");
            let (share, text) = match cell(i, j) {
                Some((share, text)) => {
                    let share = share.clamp(0.0, 1.0);
                    // Whatever is more than nothing is to be seen.
                    paths[(share * N_SHADES as f64).ceil() as usize] += &square;
                    (share, text)
                }
                None => {
                    unknown += &square;
                    (0.0, "-".to_owned())
                }
            };
            if n <= MAX_NUMBERED && !text.is_empty() {
                let white = if share > WHITE_FROM { " fill=\"white\"" } else { "" };
                let (x, y) = (x + side / 2, y + side / 2 + font / 3);
                let _ = write!(numbers, "<text x=\"{x}\" y=\"{y}\"{white}>{}</text>", escape(&text));
            }
        }
    }
    for (level, path) in paths.iter().enumerate().skip(1).filter(|(_, path)| !path.is_empty()) {
        let opacity = level as f64 / N_SHADES as f64;
        let _ = writeln!(svg, "<path fill=\"{BLUE}\" fill-opacity=\"{opacity}\" d=\"{path}\"/>");
    }
    if !unknown.is_empty() {
        let _ = writeln!(svg, "<path fill=\"#888\" fill-opacity=\"0.4\" d=\"{unknown}\"/>");
    }
    let _ = writeln!(svg, "<g text-anchor=\"middle\">{numbers}</g>");
    for (i, label) in rows.labels.iter().enumerate() {
        let (x, y) = (left - 4, top + side * i + side / 2 + font / 3);
        let _ =
            write!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{}</text>", escape(&shortened(label)));
    }
    for (j, label) in columns.labels.iter().enumerate() {
        let (middle, y) = (left + side * j + side / 2, top - 4);
        let place = if is_upright {
            format!("transform=\"translate({} {y}) rotate(-90)\"", middle + font / 3)
        } else {
            format!("x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\"")
        };
        let _ = write!(svg, "<text {place}>{}</text>", escape(&shortened(label)));
    }
    // The frame, and borders within it.
    let mut lines = format!("M{left} {top}h{width}v{height}h-{width}z");
    for border in borders.iter().filter(|border| **border < n) {
        let (x, y) = (left + side * border, top + side * border);
        let _ = write!(lines, "M{x} {top}v{height}M{left} {y}h{width}");
    }
    let _ = write!(svg, "\n<path fill=\"none\" stroke=\"#888\" d=\"{lines}\"/>\n</svg>");
    svg
}

/// The end of a long label, which tells more of a layer than its beginning.
fn shortened(label: &str) -> String {
    let n = label.chars().count();
    if n <= LABEL_CHARS {
        return label.to_owned();
    }
    std::iter::once('…').chain(label.chars().skip(n - (LABEL_CHARS - 1))).collect()
}

/// A matrix of accuracies (0 to 1): row i after experience i, column j on experience j.
pub(super) fn accuracies(matrix: &[Vec<f64>]) -> String {
    let n = matrix.iter().map(Vec::len).max().unwrap_or(0);
    let names: Vec<String> = (1..=n.max(matrix.len())).map(|i| i.to_string()).collect();
    let labels = |n: usize| names[..n].iter().map(String::as_str).collect();
    let rows = Side { are: "after experience", labels: labels(matrix.len()) };
    let columns = Side { are: "accuracy on experience (%)", labels: labels(n) };
    heatmap(&rows, &columns, &[], |i, j| {
        let accuracy = *matrix[i].get(j)?;
        Some((accuracy, fixed(100.0 * accuracy, 0)))
    })
}

/// Classes as rows and columns of a matrix.
pub(super) struct ClassOrder {
    /// (index, name), as they come in the stream.
    pub classes: Vec<(usize, String)>,
    /// How many classes had come at the end of each experience.
    pub borders: Vec<usize>,
}

/// Row by label, column by prediction; the share is that of the row. `counts[label]` are by predicted class.
pub(super) fn confusion(counts: &[Vec<u64>], order: &ClassOrder) -> String {
    let labels = || order.classes.iter().map(|(_, name)| name.as_str()).collect();
    let totals: Vec<u64> = counts.iter().map(|row| row.iter().sum()).collect();
    let rows = Side { are: "label", labels: labels() };
    let columns = Side { are: "prediction", labels: labels() };
    heatmap(&rows, &columns, &order.borders, |i, j| {
        let (label, prediction) = (order.classes[i].0, order.classes[j].0);
        let count = counts.get(label).and_then(|row| row.get(prediction)).copied().unwrap_or(0);
        Some(if count == 0 {
            (0.0, String::new())
        } else {
            (count as f64 / totals[label] as f64, count.to_string())
        })
    })
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
        let mut order = order(&["zero", "a < b", "a name of twenty-three."], &[2, 3]);
        // The stream begins with the last class.
        order.classes.rotate_right(1);
        let svg = confusion(&[vec![8, 0, 0], vec![1, 0, 3], vec![0, 0, 4]], &order);
        // Shares of 1, 1/4 and 3/4 take three shades; cells are 32 wide and begin at (137, 169).
        let dark = "fill-opacity=\"1\" d=\"M137 169h32v32h-32zM169 201h32v32h-32z\"/>";
        assert!(svg.contains(dark), "{svg}");
        assert_eq!(svg.matches("<path fill=\"#0072b2\"").count(), 3, "{svg}");
        assert!(svg.contains("0.25\" d=\"M169 233h32v32h-32z\""), "label `a < b`, taken for `zero`: {svg}");
        assert!(svg.contains("\">3</text>") && svg.contains("fill=\"white\">8</text>"), "{svg}");
        assert!(svg.contains(">a &lt; b</text>") && svg.contains(">… of twenty-three.</text>"), "{svg}");
        // One border within the matrix: after the second class.
        assert!(svg.contains("M201 169v96M137 233h96\""), "{svg}");
    }

    #[test]
    fn a_hundred_classes_have_labels_and_no_numbers() {
        let names: Vec<String> = (0..100).map(|i| format!("class{i}")).collect();
        let order = order(&names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        let counts = vec![vec![1; 100]; 100];
        let svg = confusion(&counts, &order);
        assert_eq!(svg.matches("h9v9h-9z").count(), 10_000);
        assert_eq!(svg.matches("</text>").count(), 202);
        assert!(svg.len() < 400_000, "{} bytes", svg.len());
    }

    #[test]
    fn what_has_no_value_is_grey_and_what_is_outside_has_the_nearer_end() {
        let cells = [[Some(1.2), Some(0.01), None], [Some(-0.001), Some(0.5), Some(0.0)]];
        let side = |are, labels: &[&'static str]| Side { are, labels: labels.to_vec() };
        let (rows, columns) = (side("teacher", &["a", "b"]), side("student", &["a", "b", "c"]));
        let svg = heatmap(&rows, &columns, &[], |i, j| cells[i][j].map(|v| (v, fixed(v, 2))));
        // Shades of three: two cells have none.
        assert_eq!(svg.matches("<path fill=\"#0072b2\"").count(), 3, "{svg}");
        assert_eq!(svg.matches("<path fill=\"#888\"").count(), 1, "{svg}");
        assert!(svg.contains(">1.20</text>") && svg.contains(">-</text>") && !svg.contains("-0.00"), "{svg}");
        assert!(svg.contains("→ student") && svg.contains("↓ teacher"), "{svg}");
    }

    #[test]
    fn a_matrix_has_a_row_after_each_experience() {
        let svg = accuracies(&[vec![1.0, 0.25, 0.0]]);
        assert_eq!(svg.matches("text-anchor=\"end\"").count(), 1, "{svg}");
        for text in ["white\">100</text>", "\">25</text>", "\">0</text>", "\">3</text>", "after experience"] {
            assert!(svg.contains(text), "no `{text}` in {svg}");
        }
    }
}
