//! How the model behaves, from its environment; all mistakes are reported together.

use std::time::Duration;

/// How the model behaves.
///
/// A batch of n inputs costs (`fixed` + n × `per_input` + n² × `per_input_squared`) × noise × stall × jump, of
/// which the last three are 1 unless they are asked for. Batches are counted from 1, those of the container's
/// warm-up among them.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `SYNTHETIC_FIXED_MICROS`: what every batch costs. Default 0.
    pub fixed: Duration,
    /// `SYNTHETIC_PER_INPUT_MICROS`: what each of its inputs costs on top. Default 0.
    pub per_input: Duration,
    /// `SYNTHETIC_PER_INPUT_SQUARED_MICROS`: what it costs on top times the square of its inputs. Default 0.
    pub per_input_squared: Duration,
    /// `SYNTHETIC_WAVE`: inputs are worked on in waves of so many, as on a GPU: n is rounded up to a multiple of it.
    /// Default 1.
    pub wave: u64,
    /// `SYNTHETIC_NOISE_SIGMA`: the standard deviation of the logarithm of the noise, which is log-normal with
    /// a mean of 1. Default 0: no noise.
    pub noise_sigma: f64,
    /// `SYNTHETIC_STALL_PROBABILITY`: how likely each batch is to stall. Default 0.
    pub stall_probability: f64,
    /// `SYNTHETIC_STALL_FACTOR`: how many times longer a batch that stalls takes. Default 10.
    pub stall_factor: f64,
    /// `SYNTHETIC_JUMP_AFTER`: batches before the jump. Default 0.
    pub jump_after: u64,
    /// `SYNTHETIC_JUMP_FACTOR`: how many times longer batches take during the jump. Default 1: no jump.
    pub jump_factor: f64,
    /// `SYNTHETIC_JUMP_BATCHES`: how many batches the jump lasts. Default: for ever.
    pub jump_batches: u64,
    /// `SYNTHETIC_SEED`: decides the noise and which batches stall. Default 0.
    pub seed: u64,
    /// `SYNTHETIC_MODE`: `sleep` (default) or `spin`.
    pub mode: Mode,
    /// `SYNTHETIC_REPORT_SEEN`: `1` to answer `{"digest": …, "inputs_seen": N}`, where the input is the
    /// N-th the model was given. Default 0.
    pub report_seen: bool,
    /// `SYNTHETIC_FAIL`: what goes wrong with batches, once they have taken their time. Default nothing.
    pub fault: Option<Fault>,
    /// `SYNTHETIC_FAIL_AFTER`: batches before the first that goes wrong. Default 0.
    pub fail_after: u64,
    /// `SYNTHETIC_FAIL_ABOVE`: only batches of more inputs than this go wrong, as if they took too much memory.
    /// Default 0.
    pub fail_above: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fixed: Duration::ZERO,
            per_input: Duration::ZERO,
            per_input_squared: Duration::ZERO,
            wave: 1,
            noise_sigma: 0.0,
            stall_probability: 0.0,
            stall_factor: 10.0,
            jump_after: 0,
            jump_factor: 1.0,
            jump_batches: u64::MAX,
            seed: 0,
            mode: Mode::default(),
            report_seen: false,
            fault: None,
            fail_after: 0,
            fail_above: 0,
        }
    }
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

/// What goes wrong with a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// `error`: the model returns an error.
    Error,
    /// `panic`: the model panics.
    Panic,
    /// `wrong-count`: the model answers one output too many.
    WrongCount,
    /// `wrong-shape`: the model answers tensors of another shape than its signature says, or a tensor instead of text.
    WrongShape,
    /// `exit`: the process ends with exit code 17.
    Exit,
    /// `hang`: the batch is never answered, nor any after it.
    Hang,
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

    /// Reads variables from wherever `lookup` finds them. An empty or blank variable counts as absent.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut variables = Variables {
            lookup: &|name| lookup(name).filter(|value| !value.trim().is_empty()),
            mistakes: Vec::new(),
        };
        let settings = variables.settings();
        if variables.mistakes.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(variables.mistakes))
        }
    }

    /// What a batch of this many inputs costs, apart from noise, stalls and jumps.
    pub fn usual_cost(&self, inputs: u64) -> Duration {
        let inputs = inputs.checked_next_multiple_of(self.wave).unwrap_or(inputs);
        let squared = times(self.per_input_squared, inputs.saturating_mul(inputs));
        self.fixed
            .saturating_add(times(self.per_input, inputs))
            .saturating_add(squared)
    }
}

fn times(each: Duration, count: u64) -> Duration {
    let nanos = each.as_nanos().saturating_mul(u128::from(count));
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}

/// Reads one variable after the other and keeps what was wrong.
struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl Variables<'_> {
    fn settings(&mut self) -> Settings {
        let default = Settings::default();
        Settings {
            fixed: self.micros("SYNTHETIC_FIXED_MICROS", default.fixed),
            per_input: self.micros("SYNTHETIC_PER_INPUT_MICROS", default.per_input),
            per_input_squared: self.micros("SYNTHETIC_PER_INPUT_SQUARED_MICROS", default.per_input_squared),
            wave: self.count("SYNTHETIC_WAVE", default.wave).max(1),
            noise_sigma: self.not_negative("SYNTHETIC_NOISE_SIGMA", default.noise_sigma),
            stall_probability: self
                .parsed("SYNTHETIC_STALL_PROBABILITY", "a number from 0 to 1", |value| {
                    value.parse().ok().filter(|share| (0.0..=1.0).contains(share))
                })
                .unwrap_or(default.stall_probability),
            stall_factor: self.not_negative("SYNTHETIC_STALL_FACTOR", default.stall_factor),
            jump_after: self.count("SYNTHETIC_JUMP_AFTER", default.jump_after),
            jump_factor: self.not_negative("SYNTHETIC_JUMP_FACTOR", default.jump_factor),
            jump_batches: self.count("SYNTHETIC_JUMP_BATCHES", default.jump_batches),
            seed: self.count("SYNTHETIC_SEED", default.seed),
            mode: self
                .parsed("SYNTHETIC_MODE", "sleep or spin", Mode::parse)
                .unwrap_or(default.mode),
            report_seen: self
                .parsed("SYNTHETIC_REPORT_SEEN", "0 or 1", |value| {
                    ["0", "1"].iter().position(|known| *known == value)
                })
                .is_some_and(|position| position == 1),
            fault: self.parsed(
                "SYNTHETIC_FAIL",
                "error, panic, wrong-count, wrong-shape, exit or hang",
                Fault::parse,
            ),
            fail_after: self.count("SYNTHETIC_FAIL_AFTER", default.fail_after),
            fail_above: self.count("SYNTHETIC_FAIL_ABOVE", default.fail_above),
        }
    }

    /// The value of a variable, if it is set and is what is `expected`.
    fn parsed<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = (self.lookup)(name)?;
        let parsed = parse(&value);
        if parsed.is_none() {
            self.mistakes.push(format!("{name} is `{value}`: use {expected}"));
        }
        parsed
    }

    fn micros(&mut self, name: &str, default: Duration) -> Duration {
        let micros = self.parsed(name, "a whole number of microseconds", |value| value.parse().ok());
        micros.map_or(default, Duration::from_micros)
    }

    fn count(&mut self, name: &str, default: u64) -> u64 {
        self.parsed(name, "a whole number", |value| value.parse().ok())
            .unwrap_or(default)
    }

    fn not_negative(&mut self, name: &str, default: f64) -> f64 {
        let is_good = |number: &f64| number.is_finite() && *number >= 0.0;
        self.parsed(name, "a number from 0", |value| {
            value.parse().ok().filter(is_good)
        })
        .unwrap_or(default)
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
            "wrong-shape" => Some(Self::WrongShape),
            "exit" => Some(Self::Exit),
            "hang" => Some(Self::Hang),
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
        assert_eq!(Settings::default().usual_cost(1000), Duration::ZERO);
    }

    #[test]
    fn all_variables_are_taken_as_given() {
        let settings = read(&[
            ("SYNTHETIC_FIXED_MICROS", "100"),
            ("SYNTHETIC_PER_INPUT_MICROS", "7"),
            ("SYNTHETIC_PER_INPUT_SQUARED_MICROS", "2"),
            ("SYNTHETIC_WAVE", "32"),
            ("SYNTHETIC_NOISE_SIGMA", "0.25"),
            ("SYNTHETIC_STALL_PROBABILITY", "0.02"),
            ("SYNTHETIC_STALL_FACTOR", "3"),
            ("SYNTHETIC_JUMP_AFTER", "1000"),
            ("SYNTHETIC_JUMP_FACTOR", "12.5"),
            ("SYNTHETIC_JUMP_BATCHES", "50"),
            ("SYNTHETIC_SEED", "42"),
            ("SYNTHETIC_MODE", "spin"),
            ("SYNTHETIC_REPORT_SEEN", "1"),
            ("SYNTHETIC_FAIL", "hang"),
            ("SYNTHETIC_FAIL_AFTER", "9"),
            ("SYNTHETIC_FAIL_ABOVE", "30"),
        ])
        .unwrap();
        let expected = Settings {
            fixed: Duration::from_micros(100),
            per_input: Duration::from_micros(7),
            per_input_squared: Duration::from_micros(2),
            wave: 32,
            noise_sigma: 0.25,
            stall_probability: 0.02,
            stall_factor: 3.0,
            jump_after: 1000,
            jump_factor: 12.5,
            jump_batches: 50,
            seed: 42,
            mode: Mode::Spin,
            report_seen: true,
            fault: Some(Fault::Hang),
            fail_after: 9,
            fail_above: 30,
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn each_wave_that_is_begun_costs_as_much_as_a_full_one() {
        let settings = Settings {
            per_input: Duration::from_micros(10),
            wave: 32,
            ..Settings::default()
        };
        for (inputs, counted) in [(0, 0), (1, 32), (32, 32), (33, 64)] {
            assert_eq!(settings.usual_cost(inputs), Duration::from_micros(10 * counted));
        }
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let error = read(&[
            ("SYNTHETIC_FIXED_MICROS", "-1"),
            ("SYNTHETIC_PER_INPUT_MICROS", "1.5"),
            ("SYNTHETIC_MODE", "dream"),
            ("SYNTHETIC_REPORT_SEEN", "yes"),
            ("SYNTHETIC_FAIL", "maybe"),
            ("SYNTHETIC_NOISE_SIGMA", "-0.1"),
            ("SYNTHETIC_STALL_PROBABILITY", "1.01"),
            ("SYNTHETIC_STALL_FACTOR", "inf"),
            ("SYNTHETIC_JUMP_AFTER", "soon"),
        ])
        .unwrap_err()
        .to_string();
        for value in [
            "`-1`", "`1.5`", "`dream`", "`yes`", "`maybe`", "`-0.1`", "`1.01`", "`inf`", "`soon`",
        ] {
            assert!(error.contains(value), "{value} is not in: {error}");
        }
    }
}
