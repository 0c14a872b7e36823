//! What a contended run says about a lock.

use std::time::Duration;

use crate::{
    driver::Told,
    stats::{Sample, millis, ratio},
};

/// Who asked this much earlier must be served first; what lies closer counts as at once, for a request is not
/// known to the servers at the moment it is made.
pub(crate) const MARGIN: Duration = Duration::from_millis(5);

/// By how much the clocks of two runtimes may differ.
const SKEW: Duration = Duration::from_micros(200);

#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) per_second: f64,
    /// To another task or process than held it before.
    pub(crate) handoffs: f64,
    /// The share of acquisitions that overtook somebody who had asked earlier and was served later or never.
    pub(crate) inversions: f64,
    /// Acquisitions while another one held.
    pub(crate) doubles: usize,
    pub(crate) median: Duration,
    pub(crate) late: Duration,
    pub(crate) longest: Duration,
    pub(crate) errors: usize,
    pub(crate) stalled: Option<String>,
}

impl Outcome {
    /// `span`: how long it was measured each time. Each round is judged by itself.
    pub(crate) fn of(rounds: &[Told], span: Duration, hold: Duration) -> Self {
        let mut outcome = Self::default();
        let mut waits = Sample::default();
        let (mut served, mut handoffs, mut inverted) = (0, 0, 0);
        for told in rounds {
            let mut all = told.served.clone();
            all.sort_by_key(|one| one.served);
            served += all.len();
            handoffs += all
                .windows(2)
                .filter(|pair| pair[0].who != pair[1].who)
                .count();
            let hold = u64::try_from(hold.saturating_sub(SKEW).as_nanos()).expect("short");
            let overlap = |pair: &&[_]| {
                let [one, next]: &[crate::driver::Served; 2] = (*pair).try_into().expect("two");
                next.served < one.served + hold
            };
            outcome.doubles += all.windows(2).filter(overlap).count();

            let margin = u64::try_from(MARGIN.as_nanos()).expect("short");
            let pending = told.pending.iter().map(|(_, asked)| *asked);
            let mut earliest = pending.min().unwrap_or(u64::MAX);
            for one in all.iter().rev() {
                inverted += usize::from(earliest.saturating_add(margin) <= one.asked);
                earliest = earliest.min(one.asked);
            }

            let end = all.iter().map(|one| one.done).max().unwrap_or(0);
            for one in &all {
                waits.add(Duration::from_nanos(one.served - one.asked));
            }
            for (_, asked) in &told.pending {
                // It waited at least this long.
                let waited = Duration::from_nanos(end.saturating_sub(*asked));
                outcome.longest = outcome.longest.max(waited);
            }
            outcome.errors += told.errors.len();
            outcome.stalled = outcome.stalled.take().or_else(|| told.stalled.clone());
        }
        let seconds = span.as_secs_f64() * rounds.len() as f64;
        outcome.per_second = served as f64 / seconds;
        outcome.handoffs = handoffs as f64 / seconds;
        outcome.inversions =
            inverted as f64 / f64::from(u32::try_from(served.max(1)).expect("few"));
        outcome.median = waits.median();
        outcome.late = waits.quantile(0.999);
        outcome.longest = outcome.longest.max(waits.quantile(1.0));
        outcome
    }

    pub(crate) fn row(&self) -> Vec<String> {
        let mut row = vec![format!("{:.0}", self.per_second), self.rate()];
        if self.median.is_zero() {
            row.extend(["–", "–", "–", "–"].map(str::to_owned));
        } else {
            row.push(format!("{:.1} %", 100.0 * self.inversions));
            row.push(millis(self.median));
            row.push(millis(self.longest));
            row.push(format!("{:.1}", ratio(self.longest, self.median)));
        }
        row.push(self.doubles.to_string());
        row
    }

    fn rate(&self) -> String {
        match self.handoffs {
            few if few < 10.0 => format!("{few:.1}"),
            many => format!("{many:.0}"),
        }
    }

    pub(crate) const HEAD: [&'static str; 7] = [
        "acquisitions/s",
        "handoffs to another/s",
        "overtook an earlier one",
        "median wait ms",
        "longest wait ms",
        "longest ÷ median",
        "two holders",
    ];
}
