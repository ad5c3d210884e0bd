//! How the model behaves, from its environment; all mistakes are reported together.

use std::time::Duration;

/// How the model behaves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// `SYNTHETIC_FIXED_MICROS`: what every batch costs. Default 0.
    pub fixed: Duration,
    /// `SYNTHETIC_PER_INPUT_MICROS`: what each of its inputs costs on top. Default 0.
    pub per_input: Duration,
    /// `SYNTHETIC_MODE`: `sleep` (default) or `spin`.
    pub mode: Mode,
    /// `SYNTHETIC_REPORT_SEEN`: `1` to answer `{"digest": …, "inputs_seen": N}`, where the input is the
    /// N-th the model was given. Default 0.
    pub report_seen: bool,
    /// `SYNTHETIC_FAIL`: what goes wrong with every batch, once it has taken its time. Default nothing.
    pub fault: Option<Fault>,
}

/// How a batch takes its time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// The processor is free meanwhile.
    #[default]
    Sleep,
    /// The processor is busy.
    Spin,
}

/// What goes wrong with every batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// `error`: the model returns an error.
    Error,
    /// `panic`: the model panics.
    Panic,
    /// `wrong-count`: the model answers one output too many.
    WrongCount,
    /// `exit`: the process ends with exit code 17.
    Exit,
}

/// All that is wrong with the environment, a line each.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the environment of the synthetic model is not valid:\n  {}", .0.join("\n  "))]
pub struct SettingsError(Vec<String>);

impl Settings {
    /// Reads the process' environment.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Reads variables from wherever `lookup` finds them. An empty variable counts as absent.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut mistakes = Vec::new();
        let mut check = |name: &str, expected: &str, parse: &mut dyn FnMut(&str) -> Option<()>| {
            let Some(value) = lookup(name).filter(|value| !value.is_empty()) else {
                return;
            };
            if parse(&value).is_none() {
                mistakes.push(format!("{name} is `{value}`: use {expected}"));
            }
        };
        let mut settings = Self::default();
        let micros = "a whole number of microseconds";
        check("SYNTHETIC_FIXED_MICROS", micros, &mut |value| {
            settings.fixed = Duration::from_micros(value.parse().ok()?);
            Some(())
        });
        check("SYNTHETIC_PER_INPUT_MICROS", micros, &mut |value| {
            settings.per_input = Duration::from_micros(value.parse().ok()?);
            Some(())
        });
        check("SYNTHETIC_MODE", "sleep or spin", &mut |value| {
            settings.mode = Mode::parse(value)?;
            Some(())
        });
        check("SYNTHETIC_REPORT_SEEN", "0 or 1", &mut |value| {
            settings.report_seen = ["0", "1"].iter().position(|known| *known == value)? == 1;
            Some(())
        });
        check(
            "SYNTHETIC_FAIL",
            "error, panic, wrong-count or exit",
            &mut |value| {
                settings.fault = Some(Fault::parse(value)?);
                Some(())
            },
        );
        if mistakes.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(mistakes))
        }
    }

    /// What a batch of this many inputs costs.
    pub fn cost_of(&self, inputs: u64) -> Duration {
        let inputs = u32::try_from(inputs).unwrap_or(u32::MAX);
        self.fixed.saturating_add(self.per_input.saturating_mul(inputs))
    }
}

impl Mode {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "sleep" => Some(Self::Sleep),
            "spin" => Some(Self::Spin),
            _ => None,
        }
    }
}

impl Fault {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "error" => Some(Self::Error),
            "panic" => Some(Self::Panic),
            "wrong-count" => Some(Self::WrongCount),
            "exit" => Some(Self::Exit),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_any_variable_it_costs_nothing_and_fails_never() {
        assert_eq!(read(&[]).unwrap(), Settings::default());
        assert_eq!(Settings::default().cost_of(1000), Duration::ZERO);
    }

    #[test]
    fn all_variables_are_taken_as_given() {
        let settings = read(&[
            ("SYNTHETIC_FIXED_MICROS", "100"),
            ("SYNTHETIC_PER_INPUT_MICROS", "7"),
            ("SYNTHETIC_MODE", "spin"),
            ("SYNTHETIC_REPORT_SEEN", "1"),
            ("SYNTHETIC_FAIL", "wrong-count"),
        ])
        .unwrap();
        assert_eq!(settings.cost_of(3), Duration::from_micros(121));
        assert_eq!(settings.mode, Mode::Spin);
        assert!(settings.report_seen);
        assert_eq!(settings.fault, Some(Fault::WrongCount));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let error = read(&[
            ("SYNTHETIC_FIXED_MICROS", "-1"),
            ("SYNTHETIC_PER_INPUT_MICROS", "1.5"),
            ("SYNTHETIC_MODE", "dream"),
            ("SYNTHETIC_REPORT_SEEN", "yes"),
            ("SYNTHETIC_FAIL", "maybe"),
        ])
        .unwrap_err()
        .to_string();
        for value in ["`-1`", "`1.5`", "`dream`", "`yes`", "`maybe`"] {
            assert!(error.contains(value), "{value} is not in: {error}");
        }
    }
}
