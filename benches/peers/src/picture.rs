//! Chart of the table: a bar for each peer, with a whisker from the lowest to the highest round. It
//! is plain SVG that follows the reader's light or dark theme.

use std::fmt::Write;

use crate::{
    peers::Peer,
    report::{Report, Spread},
};

const LEFT: f64 = 300.0;
const WIDTH: f64 = 380.0;
const TOP: f64 = 56.0;
const ROW: f64 = 30.0;

const HEAD: &str = r##"<style>
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.quiet { fill: #59636e; font-size: 11px; }
.bar { fill: #8c959f; }
.ours { fill: #0969da; }
.grid { stroke: #d1d9e0; }
.whisker { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.quiet { fill: #9198a1; }
.bar { fill: #656c76; }
.ours { fill: #4493f8; }
.grid { stroke: #3d444d; }
.whisker { stroke: #f0f6fc; }
}
</style>
"##;

pub fn draw(report: &Report) -> String {
    let peers = Peer::ALL.into_iter().filter(|peer| *peer != Peer::Nothing);
    let bars: Vec<_> = peers
        .filter_map(|peer| Some((peer, report.ratio(peer, Peer::NoAuthentication)?)))
        .collect();
    let bottom = TOP + ROW * bars.len() as f64;
    let (width, height) = (LEFT + WIDTH + 70.0, bottom + 30.0);
    let title = "Requests per second, as a ratio to no authentication";
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n{HEAD}\
         <text class=\"title\" x=\"12\" y=\"22\">{title}</text>\n\
         <text class=\"quiet\" x=\"12\" y=\"40\">median of {} rounds, with the lowest and the \
         highest; more is better</text>\n",
        report.rounds.len(),
    );
    for tenth in (0..=10).step_by(2) {
        let ratio = f64::from(tenth) / 10.0;
        let x = x(ratio);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"quiet\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{ratio:.1}</text>",
            bottom + 16.0,
        );
    }
    for (row, (peer, Spread { median, min, max })) in bars.into_iter().enumerate() {
        let y = TOP + ROW * row as f64 + ROW / 2.0;
        let class = if peer.is_ours() { "bar ours" } else { "bar" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"18\" rx=\"2\"/>\
             <path class=\"whisker\" d=\"M{:.1} {y}H{:.1}M{:.1} {:.1}v8M{:.1} {:.1}v8\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{median:.2}</text>",
            LEFT - 10.0,
            y + 4.5,
            peer.title(),
            y - 9.0,
            x(median) - LEFT,
            x(min),
            x(max),
            x(min),
            y - 4.0,
            x(max),
            y - 4.0,
            x(max).max(x(median)) + 8.0,
            y + 4.5,
        );
    }
    svg + "</svg>\n"
}

/// Converts a ratio to a coordinate. The axis ends at 1.1, so that ratios slightly above 1 fit.
fn x(ratio: f64) -> f64 {
    LEFT + WIDTH * ratio.min(1.1) / 1.1
}
