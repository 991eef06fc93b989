//! Plots as SVG text.

mod scatter;

use std::fmt::Write as _;

use plotters::coord::Shift;
use plotters::prelude::*;

use self::scatter::draw_mark;
pub(super) use self::scatter::{MAX_NAMED_CLASSES, Mark, scatter};
use super::number::short;

/// Lines that can have a colour of their own; the next ones have marks, too.
const N_COLORS: usize = 7;
/// The first of the palette's colours, as SVG has it.
pub(super) const BLUE: &str = "#0072b2";

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

/// The plot itself, without its legend: two fit side by side on a page, in pixels.
const WIDTH: usize = 390;
const HEIGHT: usize = 300;
/// Between the lines of the legend.
const ROW: usize = 18;
/// Characters of a name that are shown in the legend.
const MAX_NAME: usize = 40;
/// Points of a line that have marks, where it has any.
const MAX_MARKS: usize = 16;

/// A line plot with a legend at its right. There must be a point: without, the axes have no range.
pub(super) fn lines(lines: &[Line], axes: &Axes<'_>) -> Result<String, Failed> {
    let names = || lines.iter().map(|line| line.name.chars().count()).filter(|n| *n > 0);
    let legend_width = 42 + names().max().unwrap_or(0).min(MAX_NAME) * 13 / 2;
    let height = HEIGHT.max(ROW * (names().count() + 2));
    let mut svg = String::new();
    {
        let size = ((WIDTH + legend_width) as u32, height as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw_lines(&area.margin(0, (height - HEIGHT) as i32, 0, legend_width as i32), lines, axes)?;
        legend(&area, lines)?;
        area.present()?;
    }
    Ok(svg)
}

/// What a line plot shows, for those who do not see it: where each line of the legend begins and ends.
pub(super) fn description(lines: &[Line], axes: &Axes<'_>) -> String {
    let mut text = format!("{} over {}.", axes.y, axes.x);
    for line in lines.iter().filter(|line| !line.name.is_empty()) {
        let (Some(first), Some(last)) = (line.points.first(), line.points.last()) else { continue };
        let _ = write!(
            text,
            " {}: {} at {}, {} at {}.",
            line.name,
            short(first.1),
            short(first.0),
            short(last.1),
            short(last.0)
        );
    }
    text
}

fn draw_lines(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    lines: &[Line],
    axes: &Axes<'_>,
) -> Result<(), Failed> {
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
    let short = |v: &f64| short(*v);
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
        if line.color >= N_COLORS && !line.thin {
            for point in line.points.iter().step_by(line.points.len().div_ceil(MAX_MARKS).max(1)) {
                draw_mark(area, line.color, chart.backend_coord(point))?;
            }
        }
        let points = line.points.iter().copied();
        if line.dashed {
            chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(points, style))?;
        }
    }
    Ok(())
}

/// At the right of the plot, so that no curve is hidden.
fn legend(area: &DrawingArea<SVGBackend<'_>, Shift>, lines: &[Line]) -> Result<(), Failed> {
    let left = WIDTH as i32;
    for (i, line) in lines.iter().filter(|line| !line.name.is_empty()).enumerate() {
        let y = (ROW * (i + 1)) as i32;
        let color = PALETTE[line.color % PALETTE.len()];
        let segments: &[(i32, i32)] = if line.dashed { &[(6, 12), (16, 22), (26, 30)] } else { &[(6, 30)] };
        for (from, to) in segments {
            let ends = vec![(left + from, y), (left + to, y)];
            area.draw(&PathElement::new(ends, color.stroke_width(2)))?;
        }
        if line.color >= N_COLORS {
            draw_mark(area, line.color, (left + 18, y))?;
        }
        let name: String = line.name.chars().take(MAX_NAME).collect();
        area.draw(&Text::new(name, (left + 36, y - 8), (FONT, 14).into_font()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(color: usize) -> Line {
        let points = vec![(0.0, 1.0), (1000.0, 0.015)];
        Line { name: format!("agent {color}"), points, color, dashed: false, thin: false }
    }

    const AXES: Axes<'_> = Axes { x: "training steps", y: "loss", y_range: None, x_counts: false };

    #[test]
    fn lines_of_one_colour_look_different() {
        let few = lines(&[line(0), line(6)], &AXES).unwrap();
        let many: Vec<Line> = (0..20).map(line).collect();
        let many = lines(&many, &AXES).unwrap();
        assert!(!few.contains("<circle") && few.contains("height=\"300\""), "{few}");
        // Squares from the eighth line on, at two points and in the legend; triangles from the fifteenth.
        assert_eq!(many.matches("<rect").count(), few.matches("<rect").count() + 3 * 7, "{many}");
        assert_eq!(many.matches("<polygon").count(), 3 * 6, "{many}");
        assert!(many.contains("agent 19") && many.contains("height=\"396\""), "{many}");
    }

    #[test]
    fn a_plot_is_told_in_words() {
        let told = description(&[line(1)], &AXES);
        assert_eq!(told, "loss over training steps. agent 1: 1 at 0, 0.015 at 1k.");
    }
}
