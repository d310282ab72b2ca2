//! The drawing of `lamina eval --plot`: one SVG file that needs nothing else.

use lamina_model::EvalReport;
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// A drawing that fails: its target is a string, so only a library's mistake can make it.
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (1180, 980);
const TOP: u32 = 540;
const FLOAT: RGBColor = RGBColor(31, 119, 180);
const FIXED: RGBColor = RGBColor(214, 39, 40);
const PALE: RGBColor = RGBColor(174, 199, 232);
/// Decades of relative error that the colours span: `10^-5` to `1`.
const DECADES: i32 = 5;

fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_text_style(&SIZE).color(&BLACK)
}

fn text(area: &Area<'_>, content: &str, at: (i32, i32), style: &TextStyle<'_>, pos: (HPos, VPos)) -> Drawn {
    Ok(area.draw(&Text::new(content.to_owned(), at, style.pos(Pos::new(pos.0, pos.1))))?)
}

/// Colour of a relative error, logarithmic.
fn colour(error: f64) -> RGBColor {
    let t = 1.0 + error.max(1e-9).log10() / f64::from(DECADES);
    ViridisRGB.get_color(t.clamp(0.0, 1.0))
}

/// Relative error of every site in every layer, as a map of colours.
fn errors(area: &Area<'_>, report: &EvalReport, title: &str) -> Drawn {
    let (left, top, width, height) = (130, 70, 920, 420);
    let layers = report.sites.first().map_or(0, |site| site.layers.len()).max(1) as i32;
    let rows = report.sites.len().max(1) as i32;
    text(area, title, (left, 12), &font(20), (HPos::Left, VPos::Top))?;
    let subtitle = "mean error of each site over mean size, by layer";
    text(area, subtitle, (left, 42), &font(15), (HPos::Left, VPos::Top))?;
    for (row, site) in report.sites.iter().enumerate() {
        let row = row as i32;
        let (y0, y1) = (top + height * row / rows, top + height * (row + 1) / rows);
        text(area, &site.site, (left - 8, (y0 + y1) / 2), &font(14), (HPos::Right, VPos::Center))?;
        for (layer, &error) in site.layers.iter().enumerate() {
            let layer = layer as i32;
            let (x0, x1) = (left + width * layer / layers, left + width * (layer + 1) / layers);
            area.draw(&Rectangle::new([(x0, y0), (x1, y1)], colour(error).filled()))?;
        }
    }
    for layer in (0..layers).step_by(if layers > 12 { 5 } else { 1 }) {
        let x = left + width * (2 * layer + 1) / (2 * layers);
        text(area, &layer.to_string(), (x, top + height + 6), &font(14), (HPos::Center, VPos::Top))?;
    }
    text(area, "layer", (left + width / 2, top + height + 24), &font(15), (HPos::Center, VPos::Top))?;
    // The key: one box per tenth of a decade.
    let (x, steps) = (left + width + 30, DECADES * 10);
    for step in 0..steps {
        let error = 10f64.powf(-f64::from(step) / 10.0);
        let (y0, y1) = (top + height * step / steps, top + height * (step + 1) / steps);
        area.draw(&Rectangle::new([(x, y0), (x + 18, y1)], colour(error).filled()))?;
        if step % 10 == 0 {
            text(area, &format!("1e-{}", step / 10), (x + 24, y0), &font(14), (HPos::Left, VPos::Center))?;
        }
    }
    Ok(())
}

/// `exp` of the mean loss up to each token.
fn running(losses: &[f64]) -> Vec<(f64, f64)> {
    let mut sum = 0.0;
    let mean = |(at, loss): (usize, &f64)| {
        sum += loss;
        ((at + 1) as f64, (sum / (at + 1) as f64).exp())
    };
    losses.iter().enumerate().map(mean).collect()
}

/// Perplexity of both models up to each token.
fn perplexity(area: &Area<'_>, report: &EvalReport) -> Drawn {
    let (float, fixed) = (running(&report.float_losses), running(&report.fixed_losses));
    // The first tokens of a text are guesses: what is drawn begins after them.
    let settled = float.len() / 10;
    let both = || float[settled..].iter().chain(&fixed[settled..]).map(|point| point.1);
    let bottom = 0.95 * both().fold(f64::INFINITY, f64::min);
    let top = 1.05 * both().fold(1.0, f64::max);
    let caption = format!(
        "perplexity: float {:.3}, fixed {:.3} ({:+.2} %)",
        report.float_perplexity,
        report.fixed_perplexity,
        100.0 * report.perplexity_change
    );
    let mut chart = ChartBuilder::on(area)
        .caption(caption, font(17))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(54)
        .build_cartesian_2d(settled as f64..float.len() as f64, bottom..top)?;
    chart
        .configure_mesh()
        .x_desc("tokens of the text")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(font(14))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (name, line, style) in
        [("float", float, FLOAT.stroke_width(3)), ("fixed point", fixed, FIXED.stroke_width(1))]
    {
        chart
            .draw_series(LineSeries::new(line.into_iter().skip(settled), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .label_font(font(14))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// Room of every site in bits: wide bars for calibration, narrow ones for this text.
fn room(area: &Area<'_>, report: &EvalReport) -> Drawn {
    let (left, top, width, height) = (130, 46, 400, 340);
    let rows = report.headroom.len().max(1) as i32;
    let most = report.headroom.iter().map(|site| site.headroom_bits.min(8.0)).fold(1.0, f64::max).ceil();
    let at = |bits: f64| left + (bits.clamp(0.0, most) / most * f64::from(width)) as i32;
    let caption = "room below each limit, bits: calibration (pale), this text";
    text(area, caption, (left, 14), &font(17), (HPos::Left, VPos::Top))?;
    for (row, (calibrated, seen)) in report.headroom.iter().zip(&report.text_headroom).enumerate() {
        let row = row as i32;
        let (y0, y1) = (top + height * row / rows, top + height * (row + 1) / rows);
        text(area, &calibrated.site, (left - 8, (y0 + y1) / 2), &font(14), (HPos::Right, VPos::Center))?;
        let bar = |bits, inset, colour: RGBColor| {
            Rectangle::new([(left, y0 + inset), (at(bits), y1 - inset)], colour.filled())
        };
        area.draw(&bar(calibrated.headroom_bits, 2, PALE))?;
        area.draw(&bar(seen.headroom_bits, 6, FLOAT))?;
    }
    for bits in 0..=most as i32 {
        let x = at(f64::from(bits));
        area.draw(&PathElement::new([(x, top), (x, top + height)], BLACK.mix(0.25)))?;
        text(area, &bits.to_string(), (x, top + height + 4), &font(14), (HPos::Center, VPos::Top))?;
    }
    Ok(())
}

/// A report as an SVG drawing.
///
/// # Errors
/// The plotting library fails.
pub fn svg(report: &EvalReport, title: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (upper, lower) = root.split_vertically(TOP);
        let (left, right) = lower.split_horizontally(SIZE.0 / 2);
        errors(&upper, report, title)?;
        perplexity(&left, report)?;
        room(&right, report)?;
        root.present()?;
    }
    Ok(svg)
}
