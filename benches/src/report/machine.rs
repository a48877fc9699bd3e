//! What was measured on.

use serde::Serialize;

use crate::place::Place;

/// What was measured on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processors that the process may use.
    pub processors: usize,
    /// The processor's name, as the kernel gives it.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
    /// The kind of file system.
    pub file_system: String,
    /// How writes reached the files.
    pub writer_mode: String,
    /// Version of the harness.
    pub clustor: &'static str,
}

impl Machine {
    /// This machine, with the place that is measured in.
    pub fn of(place: &Place, writer_mode: &str) -> Self {
        let first_line = |path: &str, key: &str| {
            std::fs::read_to_string(path)
                .ok()
                .and_then(|text| {
                    text.lines().find(|line| line.starts_with(key)).map(|line| {
                        line[key.len()..]
                            .trim_start_matches([' ', '\t', ':'])
                            .to_owned()
                    })
                })
                .unwrap_or_else(|| "unknown".to_owned())
        };
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            processor: first_line("/proc/cpuinfo", "model name"),
            kernel: first_line("/proc/sys/kernel/osrelease", ""),
            file_system: place.file_system().name.to_owned(),
            writer_mode: writer_mode.to_owned(),
            clustor: env!("CARGO_PKG_VERSION"),
        }
    }
}
