//! Progress on standard error, and the flag that Ctrl-C sets.

use std::{
    io::{self, Write},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lamina_prover::Progress;

use crate::{
    failure::{Failure, Kind, Result},
    output::Output,
};

/// Set by the first Ctrl-C; everything that takes long looks at it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C a request to stop; a second one ends the process at once.
///
/// # Errors
/// The handler could not be installed.
pub fn handle_interrupts() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(Kind::Interrupted.exit_code().into());
        }
        let _ = writeln!(io::stderr(), "stopping after this step; Ctrl-C again stops at once");
    })
    .map_err(|error| Failure { kind: Kind::Files, error: error.into() })
}

/// Ends the command when the user asked for it.
///
/// # Errors
/// [`Kind::Interrupted`] after Ctrl-C.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(Failure::interrupted()) } else { Ok(()) }
}

/// A task of several jobs, shown as one bar with the stage and the time left.
///
/// Times left come from the jobs that are done: a job that has not begun is expected to take as long as those
/// before it.
pub struct Bar {
    bar: ProgressBar,
    state: Mutex<State>,
}

struct State {
    title: String,
    job: usize,
    jobs: usize,
    started: Instant,
}

/// Resolution of the bar within one job.
const STEPS: u64 = 1000;

impl Bar {
    /// A bar for `jobs` jobs.
    pub fn new(output: &Output, title: impl Into<String>, jobs: usize) -> Self {
        let bar = ProgressBar::new(jobs as u64 * STEPS);
        if output.shows_progress() {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            // A template that does not parse is replaced by the default one.
            if let Ok(style) = ProgressStyle::with_template("{prefix:>10} [{bar:24}] {elapsed:>4} {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(250));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let title = title.into();
        bar.set_prefix(title.clone());
        Bar { bar, state: Mutex::new(State { title, job: 0, jobs: jobs.max(1), started: Instant::now() }) }
    }

    /// Begins a job.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] after Ctrl-C.
    pub fn begin(&self, job: usize, name: impl AsRef<str>) -> Result<()> {
        check_interrupted()?;
        if let Ok(mut state) = self.state.lock() {
            state.job = job;
        }
        self.show(name.as_ref(), 0.0);
        Ok(())
    }

    fn show(&self, stage: &str, part: f64) {
        let Ok(state) = self.state.lock() else { return };
        let done = state.job as f64 + part;
        self.bar.set_position((done * STEPS as f64) as u64);
        let elapsed = state.started.elapsed().as_secs_f64();
        let left = if done > 0.05 { elapsed * (state.jobs as f64 - done) / done } else { 0.0 };
        let left = if left >= 1.0 { format!(", {left:.0} s left") } else { String::new() };
        let job = if state.jobs > 1 { format!("{}/{} ", state.job + 1, state.jobs) } else { String::new() };
        self.bar.set_message(format!("{job}{stage}{left}"));
        self.bar.set_prefix(state.title.clone());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn stage(&self, stage: &'static str, done: usize, total: usize) {
        self.show(stage, done as f64 / total.max(1) as f64);
    }

    fn cancelled(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}
