//! Points in the plane, marked by their class.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{FONT, Failed, PALETTE};

/// A point and the index of its class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::report) struct Mark {
    pub x: f64,
    pub y: f64,
    pub class: usize,
}

/// Shapes that tell classes of one colour apart.
const N_SHAPES: usize = 6;
/// Colours times shapes: so many classes look different, and so many have a line in the legend.
pub(in crate::report) const MAX_NAMED_CLASSES: usize = PALETTE.len() * N_SHAPES;

const SIDE: i32 = 420;
const MARGIN: i32 = 16;
const ROW: i32 = 20;
const COLUMN: i32 = 120;
const ROWS: usize = 20;
/// Half the width of a mark.
const RADIUS: i32 = 4;
const MAX_NAME: usize = 16;

/// A square of points, both axes on one scale and without numbers, and a legend of the classes that are in it.
///
/// The first seven classes have the palette's colours as discs, the next seven the same colours as squares, and so on
/// through [`N_SHAPES`] shapes; then they begin again.
pub(in crate::report) fn scatter(marks: &[Mark], classes: &[String]) -> Result<String, Failed> {
    let mut shown: Vec<usize> = marks.iter().map(|m| m.class).collect();
    shown.sort_unstable();
    shown.dedup();
    let n_rows = shown.len().min(MAX_NAMED_CLASSES + 1);
    let width = SIDE + COLUMN * n_rows.div_ceil(ROWS) as i32;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, SIDE as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let place = placing(marks);
        for mark in marks {
            draw_mark(&area, mark.class, place(mark))?;
        }
        for (i, &class) in shown.iter().take(MAX_NAMED_CLASSES).enumerate() {
            let (x, y) = legend_place(i);
            draw_mark(&area, class, (x, y))?;
            let name: String =
                classes.get(class).map(String::as_str).unwrap_or("?").chars().take(MAX_NAME).collect();
            area.draw(&Text::new(name, (x + 10, y - 7), (FONT, 14).into_font()))?;
        }
        if shown.len() > MAX_NAMED_CLASSES {
            let (x, y) = legend_place(MAX_NAMED_CLASSES);
            let rest = format!("and {} more", shown.len() - MAX_NAMED_CLASSES);
            area.draw(&Text::new(rest, (x, y - 6), (FONT, 14).into_font()))?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn legend_place(i: usize) -> (i32, i32) {
    (SIDE + 8 + COLUMN * (i / ROWS) as i32, MARGIN + 6 + ROW * (i % ROWS) as i32)
}

/// From coordinates to pixels: all marks within the square, y upwards.
fn placing(marks: &[Mark]) -> impl Fn(&Mark) -> (i32, i32) {
    let range = |value: fn(&Mark) -> f64| {
        let (low, high) = marks
            .iter()
            .map(value)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        ((low + high) / 2.0, high - low)
    };
    let ((x_middle, width), (y_middle, height)) = (range(|m| m.x), range(|m| m.y));
    let extent = width.max(height);
    let scale = if extent > 0.0 { f64::from(SIDE - 2 * MARGIN) / extent } else { 0.0 };
    move |mark| {
        let half = f64::from(SIDE / 2);
        let x = half + (mark.x - x_middle) * scale;
        let y = half - (mark.y - y_middle) * scale;
        (x.round() as i32, y.round() as i32)
    }
}

/// The class's colour and shape.
pub(super) fn draw_mark(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    class: usize,
    (x, y): (i32, i32),
) -> Result<(), Failed> {
    let color = PALETTE[class % PALETTE.len()].mix(0.8);
    let r = RADIUS;
    let corners =
        |offsets: &[(i32, i32)]| offsets.iter().map(|(dx, dy)| (x + dx, y + dy)).collect::<Vec<_>>();
    match class / PALETTE.len() % N_SHAPES {
        0 => area.draw(&Circle::new((x, y), r - 1, color.filled()))?,
        1 => area.draw(&Rectangle::new([(x - r + 1, y - r + 1), (x + r - 1, y + r - 1)], color.filled()))?,
        2 => area.draw(&Polygon::new(corners(&[(0, -r), (r, r - 1), (-r, r - 1)]), color.filled()))?,
        3 => area.draw(&Polygon::new(corners(&[(0, -r), (r, 0), (0, r), (-r, 0)]), color.filled()))?,
        4 => area.draw(&Circle::new((x, y), r - 1, color.stroke_width(2)))?,
        _ => {
            for ends in [[(-r, -r), (r, r)], [(-r, r), (r, -r)]] {
                area.draw(&PathElement::new(corners(&ends), color.stroke_width(2)))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(n_classes: usize) -> Vec<Mark> {
        (0..2 * n_classes).map(|i| Mark { x: i as f64, y: -(i as f64), class: i % n_classes }).collect()
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("class {i}")).collect()
    }

    #[test]
    fn every_point_is_drawn_and_every_class_named() {
        let svg = scatter(&marks(10), &names(12)).unwrap();
        // Discs of seven classes, two points and a line of the legend each; squares of the other three.
        assert_eq!(svg.matches("<circle").count(), 21);
        assert_eq!(svg.matches("<rect").count(), 1 + 9);
        assert!(svg.contains("class 9") && !svg.contains("class 10"), "only the classes that are there");
    }

    #[test]
    fn as_many_classes_look_different_as_there_are_colours_times_shapes() {
        let looks = |class: usize| {
            let mut svg = String::new();
            {
                let area = SVGBackend::with_string(&mut svg, (20, 20)).into_drawing_area();
                draw_mark(&area, class, (10, 10)).unwrap();
                area.present().unwrap();
            }
            svg
        };
        let all: std::collections::BTreeSet<String> = (0..MAX_NAMED_CLASSES).map(looks).collect();
        assert_eq!(all.len(), 42);
        assert_eq!(looks(0), looks(MAX_NAMED_CLASSES));
    }

    #[test]
    fn of_too_many_classes_the_rest_is_counted() {
        let svg = scatter(&marks(100), &names(100)).unwrap();
        assert!(svg.contains("class 41") && !svg.contains("class 42") && svg.contains("and 58 more"));
    }

    #[test]
    fn points_stay_within_the_square() {
        let far = [Mark { x: -1e6, y: 0.0, class: 0 }, Mark { x: 1e6, y: 5.0, class: 0 }];
        let place = placing(&far);
        assert_eq!(place(&far[0]).0, MARGIN);
        assert_eq!(place(&far[1]).0, SIDE - MARGIN);
        let one = [Mark { x: 3.0, y: 4.0, class: 0 }];
        assert_eq!(placing(&one)(&one[0]), (SIDE / 2, SIDE / 2));
    }
}
