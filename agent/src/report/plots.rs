//! Plots as SVG text.

mod heatmap;
mod scatter;

use plotters::coord::Shift;
use plotters::prelude::*;

pub(super) use self::heatmap::{Heatmap, heatmap};
pub(super) use self::scatter::{MAX_NAMED_CLASSES, Mark, scatter};

/// Lines that can have a colour of their own.
pub(super) const N_COLORS: usize = 7;

/// Okabe and Ito's palette: distinct for all common kinds of colour vision.
const PALETTE: [RGBColor; N_COLORS] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];
const FONT: &str = "sans-serif";

/// A line; dashed lines are for the control.
pub(super) struct Line {
    /// Empty for one that is not in the legend.
    pub name: String,
    pub points: Vec<(f64, f64)>,
    /// Lines of one colour belong together.
    pub color: usize,
    pub dashed: bool,
    /// One of several that a thicker one sums up.
    pub thin: bool,
}

/// What a line plot is of.
pub(super) struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// Fixed range of y, or from 0 to the largest value.
    pub y_range: Option<(f64, f64)>,
    /// Whether x counts whole things.
    pub x_counts: bool,
}

type Failed = Box<dyn std::error::Error>;

/// A line plot with a legend at its right. There must be a point: without, the axes have no range.
pub(super) fn lines(lines: &[Line], axes: &Axes<'_>) -> Result<String, Failed> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (620, 360)).into_drawing_area();
        draw_lines(&area, lines, axes)?;
        area.present()?;
    }
    Ok(svg)
}

fn draw_lines(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    lines: &[Line],
    axes: &Axes<'_>,
) -> Result<(), Failed> {
    area.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|l| &l.points);
    let bounds = |value: fn(&(f64, f64)) -> f64| {
        points().map(value).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    };
    let (x0, x1) = bounds(|p| p.0);
    let (_, top) = bounds(|p| p.1);
    let (y0, y1) = axes.y_range.unwrap_or((0.0, if top > 0.0 { top * 1.05 } else { 1.0 }));
    // A single x gets room on both sides.
    let (x0, x1) = if x0 < x1 { (x0, x1) } else { (x0 - 1.0, x0 + 1.0) };
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(150)
        .x_label_area_size(42)
        .y_label_area_size(60)
        .build_cartesian_2d(x0..x1, y0..y1)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(axes.x)
        .y_desc(axes.y)
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12));
    let label = |v: &f64| if v.fract() == 0.0 { format!("{v:.0}") } else { String::new() };
    let short = |v: &f64| short_number(*v);
    if axes.x_counts {
        mesh.x_labels((x1 - x0) as usize + 1).x_label_formatter(&label);
    } else {
        mesh.x_label_formatter(&short);
    }
    mesh.y_label_formatter(&short);
    mesh.draw()?;
    for line in lines {
        let color = PALETTE[line.color % PALETTE.len()];
        let style = if line.thin { color.mix(0.45).stroke_width(1) } else { color.stroke_width(2) };
        if let [point] = line.points[..] {
            // A line of one point draws nothing.
            chart.draw_series([Circle::new(point, 4, color.filled())])?;
        }
        let points = line.points.iter().copied();
        if line.dashed {
            chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(points, style))?;
        }
    }
    legend(area, lines)
}

/// At the right of the plot, so that no curve is hidden.
fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, lines: &[Line]) -> Result<(), Failed> {
    for (i, line) in lines.iter().filter(|line| !line.name.is_empty()).enumerate() {
        let y = 24 + 20 * i as i32;
        let color = PALETTE[line.color % PALETTE.len()];
        let segments: &[(i32, i32)] =
            if line.dashed { &[(476, 482), (486, 492), (496, 500)] } else { &[(476, 500)] };
        for (from, to) in segments {
            area.draw(&PathElement::new(vec![(*from, y), (*to, y)], color.stroke_width(2)))?;
        }
        area.draw(&Text::new(line.name.clone(), (506, y - 7), (FONT, 12).into_font()))?;
    }
    Ok(())
}

fn short_number(v: f64) -> String {
    match v.abs() {
        a if a >= 1e6 => format!("{:.1}M", v / 1e6),
        a if a >= 1e3 => format!("{:.0}k", v / 1e3),
        a if a >= 10.0 || v.fract() == 0.0 => format!("{v:.0}"),
        a if a < 0.01 => format!("{v:.0e}"),
        _ => format!("{v:.2}"),
    }
}

/// A square of accuracies (0 to 1), row i after experience i, column j on experience j, with the numbers.
pub(super) fn matrix(rows: &[Vec<f64>]) -> Result<String, Failed> {
    const CELL: i32 = 44;
    const LEFT: i32 = 66;
    const TOP: i32 = 44;
    let n = rows.iter().map(Vec::len).max().unwrap_or(0) as i32;
    let size = ((LEFT + CELL * n + 10) as u32, (TOP + CELL * rows.len() as i32 + 10) as u32);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let small = || (FONT, 12).into_font();
        area.draw(&Text::new("accuracy on experience (%)", (LEFT, 6), small()))?;
        area.draw(&Text::new("after", (8, TOP - 18), small()))?;
        for j in 0..n {
            area.draw(&Text::new(format!("{}", j + 1), (LEFT + CELL * j + 18, TOP - 18), small()))?;
        }
        for (i, row) in (0..).zip(rows) {
            area.draw(&Text::new(format!("exp {}", i + 1), (8, TOP + CELL * i + 15), small()))?;
            for (j, accuracy) in (0..).zip(row) {
                let (x, y) = (LEFT + CELL * j, TOP + CELL * i);
                let corner = (x + CELL - 2, y + CELL - 2);
                area.draw(&Rectangle::new([(x, y), corner], shade(*accuracy).filled()))?;
                let ink = if *accuracy > 0.55 { &WHITE } else { &BLACK };
                let text = format!("{:.0}", 100.0 * accuracy);
                area.draw(&Text::new(text, (x + 13, y + 15), (FONT, 13).into_font().color(ink)))?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

/// From white for 0 to the palette's blue for 1.
pub(super) fn shade(accuracy: f64) -> RGBColor {
    let RGBColor(r, g, b) = PALETTE[0];
    let mix = |c: u8| (255.0 + (f64::from(c) - 255.0) * accuracy.clamp(0.0, 1.0)) as u8;
    RGBColor(mix(r), mix(g), mix(b))
}
