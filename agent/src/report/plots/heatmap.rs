//! A table of numbers from 0 to 1 as shades.

use plotters::prelude::*;

use super::{FONT, Failed, shade};

/// What a heatmap is of. Rows and columns may differ in number.
pub(in crate::report) struct Heatmap<'a> {
    /// `[row][column]`, 0 to 1; what lies outside has the shade of the nearer end; `None` has none.
    pub cells: &'a [Vec<Option<f64>>],
    pub rows: &'a [String],
    pub columns: &'a [String],
    pub rows_are: &'a str,
    pub columns_are: &'a str,
}

const CELL: i32 = 34;
/// Room for the names of rows, and of columns, which stand upright.
const LEFT: i32 = 170;
const TOP: i32 = 170;
const MARGIN: i32 = 10;
/// Letters of a name that have room.
const MAX_NAME: usize = 22;
/// Of what has no value.
const NONE: RGBColor = RGBColor(200, 200, 200);

/// Shades with their numbers; the first row is at the top.
pub(in crate::report) fn heatmap(map: &Heatmap<'_>) -> Result<String, Failed> {
    let width = LEFT + CELL * map.columns.len() as i32 + MARGIN;
    let height = TOP + CELL * map.rows.len() as i32 + MARGIN;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let small = || (FONT, 12).into_font();
        area.draw(&Text::new(format!("{} (columns)", map.columns_are), (MARGIN, MARGIN), small()))?;
        area.draw(&Text::new(format!("{} (rows)", map.rows_are), (MARGIN, MARGIN + 18), small()))?;
        for (j, name) in (0..).zip(map.columns) {
            let upright = small().transform(FontTransform::Rotate270);
            area.draw(&Text::new(short(name), (LEFT + CELL * j + 10, TOP - 6), upright))?;
        }
        for (i, name) in (0..).zip(map.rows) {
            area.draw(&Text::new(short(name), (MARGIN, TOP + CELL * i + 10), small()))?;
        }
        for (i, row) in (0..).zip(map.cells) {
            for (j, value) in (0..).zip(row) {
                let (x, y) = (LEFT + CELL * j, TOP + CELL * i);
                let color = value.map_or(NONE, shade);
                area.draw(&Rectangle::new([(x, y), (x + CELL - 1, y + CELL - 1)], color.filled()))?;
                let text = value.map_or_else(|| "-".to_owned(), |v| format!("{:.2}", v + 0.0));
                let ink = if value.is_some_and(|v| v > 0.55) { &WHITE } else { &BLACK };
                let font = (FONT, 11).into_font().color(ink);
                area.draw(&Text::new(text, (x + 5, y + 11), font))?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

/// The end of a long name, which tells more than its beginning.
fn short(name: &str) -> String {
    let n = name.chars().count();
    if n <= MAX_NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(n - (MAX_NAME - 1)).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_drawn_with_its_number() {
        let names = |n: usize| (0..n).map(|i| format!("layer <{i}>")).collect::<Vec<_>>();
        let cells = vec![vec![Some(1.0), Some(0.25), None], vec![Some(-0.001), Some(0.5), Some(1.2)]];
        let map = Heatmap {
            cells: &cells,
            rows: &names(2),
            columns: &names(3),
            rows_are: "teacher",
            columns_are: "student",
        };
        let svg = heatmap(&map).unwrap();
        // The background and six cells.
        assert_eq!(svg.matches("<rect").count(), 7);
        for text in ["1.00", "0.25", "-0.00", "0.50", "1.20", "layer &lt;2&gt;", "student (columns)"] {
            assert!(svg.contains(text), "expected `{text}` in {svg}");
        }
        assert_eq!(svg.matches("layer &lt;1&gt;").count(), 2);
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(short("layer1.0"), "layer1.0");
        assert_eq!(short("/backbone/features/features.17/Add_output_0"), "…tures.17/Add_output_0");
    }
}
