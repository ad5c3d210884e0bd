//! Where the figures were found out.

use std::fs;
use std::process::Command;
use std::thread;

use serde::Serialize;

/// The machine, and the state of the repository.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) memory_bytes: u64,
    /// The commit; null outside of a repository, `-dirty` if something was changed since.
    pub(crate) commit: Option<String>,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|size| size.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            processor: processor(&read("/proc/cpuinfo")),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: kilobytes.unwrap_or_default() * 1024,
            commit: commit(),
        }
    }
}

/// The processor's name; where the kernel does not know it, as on some ARM, what it was built for.
fn processor(cpuinfo: &str) -> String {
    let name = field(cpuinfo, "model name").or_else(|| field(cpuinfo, "Model"));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// The value in the first line such as `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(key, value)| (key.trim() == name).then_some(value.trim()))
}

fn commit() -> Option<String> {
    let said = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .output()
        .ok()?;
    let commit = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (said.status.success() && !commit.is_empty()).then_some(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_named_as_the_kernel_names_it() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Xeon @ 2.8GHz\n\nmodel name\t: other\n";
        assert_eq!(processor(cpuinfo), "Xeon @ 2.8GHz");
        assert_eq!(processor("processor\t: 0\n"), std::env::consts::ARCH);
    }
}
