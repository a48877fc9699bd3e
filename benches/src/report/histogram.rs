//! A histogram as an `.hgrm` file: the percentile distribution that HdrHistogram's own tools write and plot, in
//! microseconds.

use std::fmt::Write as _;
use std::path::Path;

use hdrhistogram::Histogram;

/// Percentiles between each halving of the distance to 100%, as HdrHistogram's tools have them.
const TICKS_PER_HALF: u32 = 5;
const NS_PER_US: f64 = 1_000.0;

pub(super) fn save(histogram: &Histogram<u64>, path: &Path) -> std::io::Result<()> {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .expect("a string takes everything");
    };
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        let quantile = step.quantile_iterated_to();
        let value = step.value_iterated_to() as f64 / NS_PER_US;
        let count = histogram.count_between(0, step.value_iterated_to());
        if quantile < 1.0 {
            let inverse = 1.0 / (1.0 - quantile);
            line(format_args!(
                "{value:12.3} {quantile:2.12} {count:10} {inverse:14.2}\n"
            ));
        } else {
            line(format_args!("{value:12.3} {quantile:2.12} {count:10}\n"));
        }
    }
    line(format_args!(
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n",
        histogram.mean() / NS_PER_US,
        histogram.stdev() / NS_PER_US
    ));
    line(format_args!(
        "#[Max     = {:12.3}, Total count    = {:12}]\n",
        histogram.max() as f64 / NS_PER_US,
        histogram.len()
    ));
    line(format_args!(
        "#[Buckets = {:12}, SubBuckets     = {:12}]\n",
        histogram.buckets(),
        2_048
    ));
    std::fs::write(path, text)
}
