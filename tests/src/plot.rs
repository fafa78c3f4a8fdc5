// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A plot of latency distributions, as SVG.

use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

/// Readable where it is shown 800 pixels wide.
const SIZE: (u32, u32) = (800, 480);
/// Height of a line of the legend, which stands below the plot: nowhere inside is free for any curves.
const LEGEND_LINE: i32 = 22;
const FONT: &str = "sans-serif";
/// Colours that stay apart for colour-blind readers.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// The 0th to the 100th percentile.
    pub percentiles: Vec<f64>,
}

/// Draws which share of requests took at most how long, one curve per series.
pub fn draw(path: &Path, title: &str, unit: &str, series: &[Series]) -> anyhow::Result<()> {
    let values = || {
        series
            .iter()
            .flat_map(|series| &series.percentiles)
            .copied()
    };
    let least = values().fold(f64::INFINITY, f64::min);
    let most = values().fold(0.0, f64::max);
    if !(least > 0.0 && least <= most) {
        return Err(anyhow!("no latencies to draw"));
    }
    let drawn = (|| -> Result<(), Box<dyn std::error::Error>> {
        let legend_height = LEGEND_LINE * i32::try_from(series.len())?;
        let size = (SIZE.0, SIZE.1 + u32::try_from(legend_height)?);
        let root = SVGBackend::new(path, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (above, below) = root.split_vertically(SIZE.1);
        let mut chart = ChartBuilder::on(&above)
            .caption(title, (FONT, 20))
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(60)
            .build_cartesian_2d((least * 0.8..most * 1.25).log_scale(), 0.0..100.0)?;
        chart
            .configure_mesh()
            .x_desc(format!("latency of a request ({unit}, logarithmic)"))
            .y_desc("requests that took at most so long (%)")
            .axis_desc_style((FONT, 16))
            .label_style((FONT, 14))
            .x_label_formatter(&label)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for ((line, series), colour) in (0..).zip(series).zip(COLOURS.iter().cycle()) {
            let points = series.percentiles.iter().zip(0_u32..);
            let style = colour.stroke_width(3);
            chart.draw_series(LineSeries::new(
                points.map(|(&value, percent)| (value, f64::from(percent))),
                style,
            ))?;
            let y = LEGEND_LINE * line + LEGEND_LINE / 2;
            below.draw(&PathElement::new([(72, y), (100, y)], style))?;
            below.draw(&Text::new(series.name.as_str(), (110, y - 8), (FONT, 15)))?;
        }
        root.present()?;
        Ok(())
    })();
    drawn
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("drawing {}", path.display()))
}

/// A label of the logarithmic axis; empty for those that would run into each other.
fn label(value: &f64) -> String {
    let text = format!("{value:.0}");
    if text.starts_with(['1', '2', '5']) {
        text
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_its_axes_and_every_series() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("plot.svg");
        let series = ["alone", "together"].map(|name| Series {
            name: name.to_owned(),
            percentiles: (0..=100).map(|percent| 50.0 + f64::from(percent)).collect(),
        });
        draw(&path, "Latency", "us", &series).expect("a plot");
        let svg = std::fs::read_to_string(path).expect("a file");
        for word in [
            "Latency",
            "alone",
            "together",
            "latency of a request (us",
            "(%)",
        ] {
            assert!(svg.contains(word), "{word} is missing");
        }
    }

    #[test]
    fn nothing_is_not_drawn() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(draw(&folder.path().join("plot.svg"), "", "us", &[]).is_err());
    }
}
