//! One picture: lines over two logarithmic axes, as SVG, with the legend beside it.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::{
    ChartBuilder, Circle, DashedLineSeries, DrawingArea, EmptyElement, IntoDrawingArea as _,
    IntoFont as _, IntoLogRange as _, LineSeries, PathElement, RGBColor, SVGBackend, Text, WHITE,
};
use plotters::series::PointSeries;
use plotters::style::{BLACK, Color as _};

const SIZE: (u32, u32) = (980, 560);
/// Pixels of the width for the legend.
const LEGEND_WIDTH: u32 = 250;
const LEGEND_LINE: i32 = 22;
/// Told apart by people who don't see all colours, too: Okabe and Ito's palette, 2008.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stroke {
    /// What was measured.
    Solid,
    /// The device beside it.
    Dashed,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Series {
    /// What it is, for the legend.
    pub label: String,
    /// Lines of one colour belong together.
    pub colour: usize,
    /// Solid or dashed.
    pub stroke: Stroke,
    /// Its points, x ascending: x is a logarithm already, of the base in which people count it; y is positive.
    pub points: Vec<(f64, f64)>,
}

/// A picture.
pub(super) struct Chart<'a> {
    /// The line above it.
    pub title: String,
    /// Under the x axis.
    pub x_label: &'a str,
    /// Beside the y axis.
    pub y_label: &'a str,
    /// How a whole number on the x axis is written.
    pub x_format: &'a dyn Fn(f64) -> String,
    /// Its lines.
    pub series: Vec<Series>,
}

impl Chart<'_> {
    /// Draws it into a file. A chart without points is not drawn.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(super) fn save(&self, path: &Path) -> std::io::Result<()> {
        self.draw(path)
            .map_err(|error| std::io::Error::other(error.to_string()))
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let Some((x, y)) = span(points().map(|p| p.0)).zip(span(points().map(|p| p.1))) else {
            return Ok(());
        };
        // A lone value still needs an axis.
        let x = if x.0 < x.1 { x } else { (x.0 - 1.0, x.1 + 1.0) };
        let y = (y.0 / 1.4, y.1 * 1.4);
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (plot, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&plot)
            .caption(&self.title, ("sans-serif", 19).into_font())
            .margin(14)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(x.0..x.1, (y.0..y.1).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .x_labels((x.1.floor() - x.0.ceil()) as usize + 1)
            .x_max_light_lines(1)
            .x_label_formatter(&|value| {
                let whole = value.round();
                if (value - whole).abs() < 0.01 {
                    (self.x_format)(whole)
                } else {
                    String::new()
                }
            })
            .y_label_formatter(&|value| plain(*value))
            .label_style(("sans-serif", 14))
            .axis_desc_style(("sans-serif", 15))
            .light_line_style(BLACK.mix(0.06))
            .bold_line_style(BLACK.mix(0.16))
            .draw()?;
        for series in &self.series {
            let colour = COLOURS[series.colour % COLOURS.len()];
            let points = series.points.clone();
            match series.stroke {
                Stroke::Solid => {
                    let few = points.len() <= 16;
                    if few {
                        chart.draw_series(PointSeries::of_element(
                            points.clone(),
                            3,
                            colour.filled(),
                            &|at, size, style| {
                                EmptyElement::at(at) + Circle::new((0, 0), size, style)
                            },
                        ))?;
                    }
                    chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
                }
                Stroke::Dashed => {
                    let style = colour.stroke_width(2);
                    chart.draw_series(DashedLineSeries::new(points, 5, 4, style))?;
                }
            }
        }
        self.draw_legend(&legend)?;
        area.present()?;
        Ok(())
    }

    fn draw_legend(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        for (at, series) in (0i32..).zip(&self.series) {
            let y = 56 + at * LEGEND_LINE;
            let colour = COLOURS[series.colour % COLOURS.len()].stroke_width(2);
            // Dashes as the plot has them.
            let strokes: &[(i32, i32)] = match series.stroke {
                Stroke::Solid => &[(0, 24)],
                Stroke::Dashed => &[(0, 5), (9, 14), (18, 24)],
            };
            for &(from, to) in strokes {
                area.draw(&PathElement::new(vec![(from, y), (to, y)], colour))?;
            }
            let text = series.label.clone();
            area.draw(&Text::new(
                text,
                (32, y - 8),
                ("sans-serif", 14).into_font(),
            ))?;
        }
        Ok(())
    }
}

/// The least and the greatest, or nothing of nothing.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .fold(None, |span, value| match span {
            None => Some((value, value)),
            Some((min, max)) => Some((value.min(min), value.max(max))),
        })
}

/// A number without a long tail of digits.
pub(super) fn plain(value: f64) -> String {
    match value {
        v if v >= 1_000_000.0 => format!("{} M", trimmed(v / 1_000_000.0)),
        v if v >= 1_000.0 => format!("{} k", trimmed(v / 1_000.0)),
        v if v >= 1.0 => trimmed(v),
        v => format!("{v:.4}").trim_end_matches('0').to_owned(),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
