//! What the kernel says of a process: its processor time and its memory.

use std::fs;

use anyhow::Context;
use rustix::param::clock_ticks_per_second;
use skysail_tests::program::stat;

/// Processor time used so far, in seconds; the kernel counts in hundredths.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = stat(pid).with_context(|| format!("process {pid} has ended"))?;
    Ok(stat.ticks as f64 / clock_ticks_per_second() as f64)
}

/// The resident set of a process, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    /// The most since the start, or since [`forget_peak`].
    pub(crate) peak: u64,
}

pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    parse_memory(&status).with_context(|| format!("the kernel does not tell the memory of process {pid}"))
}

/// Lets the peak begin anew. A kernel that does not is one whose peaks are those since the start.
pub(crate) fn forget_peak(pid: u32) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn parse_memory(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(Memory {
        now: bytes("VmRSS:")?,
        peak: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_words() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\n";
        let expected = Memory {
            now: 10 * 1024,
            peak: 20 * 1024,
        };
        assert_eq!(parse_memory(status), Some(expected));
        assert_eq!(parse_memory("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn a_process_that_runs_has_memory_and_one_that_does_not_is_an_error() {
        let own = memory(std::process::id()).unwrap();
        assert!(0 < own.now && own.now <= own.peak, "{own:?}");
        assert!(memory(u32::MAX).is_err() && cpu_seconds(u32::MAX).is_err());
    }
}
