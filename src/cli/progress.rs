//! What shows that something goes on: on a terminal, on standard error; nothing in a pipe or a log.

use super::output::Output;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::Duration;

/// How often a line that only waits moves.
const TICK: Duration = Duration::from_millis(100);

/// Of input whose length may be known; the message tells what was done.
pub(super) fn of_bytes(length: Option<u64>, output: Output) -> ProgressBar {
    match length {
        Some(length) => {
            let bar = ProgressBar::new(length);
            styled(bar, "{bar:40} {binary_bytes}/{binary_total_bytes} {msg}, {eta} left", output)
        }
        None => styled(ProgressBar::no_length(), "{spinner} {binary_bytes} {msg}", output),
    }
}

/// Of something that is counted and whose end is not known; counting also moves it.
pub(super) fn of_count(what: &str, output: Output) -> ProgressBar {
    styled(ProgressBar::no_length(), &format!("{{spinner}} {{human_pos}} {what}, {{rate}}"), output)
}

/// Of waiting; the message tells what for.
pub(super) fn of_time(output: Output) -> ProgressBar {
    let line = styled(ProgressBar::no_length(), "{spinner} {elapsed} {wide_msg}", output);
    if !line.is_hidden() {
        line.enable_steady_tick(TICK);
    }
    line
}

fn styled(bar: ProgressBar, template: &str, output: Output) -> ProgressBar {
    if output.json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.with_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
        // A progress bar has nowhere to tell that it can't be drawn.
        _ = write!(out, "{:.0}/s", state.per_sec());
    }))
}
