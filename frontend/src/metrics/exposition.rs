//! The two text formats of a page of metrics, and which of them a scraper asks for.
//!
//! They differ where it matters to a reader: OpenMetrics calls a counter's family `skysail_queries` and its
//! samples `skysail_queries_total`; in text format 0.0.4 the family is called like its samples. Read as the other
//! format, every counter loses its type and its help.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// How a page of metrics is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    /// Prometheus' text format 0.0.4, for whoever does not ask for the other.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

/// How well a format fits an `Accept` header; better ones compare greater.
///
/// Thousandths of the quality, and then how closely the media range names the format: `*/*` asks for neither.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Fit {
    quality: u16,
    closeness: u8,
}

impl Format {
    /// The format that these request headers ask for. Nothing is refused: a scraper that accepts neither format
    /// gets the text format, which is what it would get elsewhere.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let fit = |format: Self| {
            let values = headers.get_all(ACCEPT).iter();
            let ranges = values.filter_map(|value| value.to_str().ok());
            let ranges = ranges.flat_map(|value| value.split(','));
            let fits = ranges.filter_map(|range| format.fit(range));
            // The range that names it most closely is the one that counts (RFC 9110, 12.5.1).
            fits.max_by_key(|fit| (fit.closeness, fit.quality))
                .unwrap_or_default()
        };
        let (text, open_metrics) = (fit(Self::Text), fit(Self::OpenMetrics));
        let is_asked_for = open_metrics.quality > 0 && open_metrics.closeness > 0;
        match is_asked_for && open_metrics >= text {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// Its content type.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes a page that was encoded as OpenMetrics in this format.
    pub(super) fn write(self, page: String) -> String {
        match self {
            Self::OpenMetrics => page,
            Self::Text => to_text(&page),
        }
    }

    /// How well one media range fits, if it fits at all.
    fn fit(self, range: &str) -> Option<Fit> {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (name, wildcard, versions): (_, _, &[&str]) = match self {
            Self::Text => ("text/plain", "text/*", &["0.0.4"]),
            Self::OpenMetrics => (
                "application/openmetrics-text",
                "application/*",
                &["1.0.0", "0.0.1"],
            ),
        };
        let mut fit = Fit {
            quality: 1000,
            closeness: match media_type.as_str() {
                "*/*" => 0,
                found if found == wildcard => 1,
                found if found == name => 2,
                _ => return None,
            },
        };
        for parameter in parts {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => fit.quality = thousandths(value),
                "version" if versions.contains(&value) => fit.closeness += 1,
                "version" => return None,
                _ => {}
            }
        }
        Some(fit)
    }
}

/// A quality in thousandths; one that is no number counts as none given.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it was brought between 0 and 1000"
)]
fn thousandths(quality: &str) -> u16 {
    let quality: f32 = quality.parse().unwrap_or(1.0);
    (quality.clamp(0.0, 1.0) * 1000.0).round() as u16
}

/// Writes a page of OpenMetrics in text format 0.0.4: counters are called like their samples, and units, which
/// are in the names already, and the end are not said.
fn to_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len() + 1024);
    let mut lines = page.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        let Some(comment) = line.strip_prefix("# ") else {
            text.push_str(line);
            continue;
        };
        // The help stands before the type.
        let described_by = match comment.starts_with("HELP ") {
            true => lines.peek().copied().unwrap_or_default(),
            false => line,
        };
        let mut words = comment.splitn(3, ' ');
        let described = (words.next(), words.next(), words.next());
        // Neither UNIT nor EOF.
        if let (Some(keyword @ ("HELP" | "TYPE")), Some(name), Some(rest)) = described {
            let suffix = match described_by.trim_end().ends_with(" counter") {
                true => "_total",
                false => "",
            };
            text.extend(["# ", keyword, " ", name, suffix, " ", rest]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, value.parse().unwrap());
        }
        Format::accepted(&headers)
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it_at_least_as_much_as_for_text() {
        for accept in [
            &["application/openmetrics-text"][..],
            &["application/openmetrics-text; version=1.0.0"],
            &["Application/OpenMetrics-Text;version=\"0.0.1\""],
            // What Prometheus sends, of the second and of the third major version.
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
              text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
              application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;\
              q=0.3,text/plain;version=0.0.4;q=0.2,/;q=0.1",
            ],
            &["text/plain, application/openmetrics-text"],
            &["text/plain;q=0.2", "application/openmetrics-text;q=0.3"],
            &["*/*, application/openmetrics-text"],
            &["application/*"],
        ] {
            assert_eq!(accepted(accept), Format::OpenMetrics, "{accept:?}");
        }
    }

    #[test]
    fn everybody_else_gets_text() {
        for accept in [
            &[][..],
            &[""],
            &["*/*"],
            &["text/plain"],
            &["text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.4"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0, */*"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/json"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"],
            &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"],
            &[";;,,q=1;"],
        ] {
            assert_eq!(accepted(accept), Format::Text, "{accept:?}");
        }
    }

    #[test]
    fn in_text_a_counter_is_called_like_its_samples() {
        let page = "# HELP a Some # HELP counter.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n\
                    # HELP b_bytes A counter\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n# EOF\n";
        let text = "# HELP a_total Some # HELP counter.\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n\
                    # HELP b_bytes A counter\n# TYPE b_bytes gauge\nb_bytes 2\n";
        assert_eq!(Format::Text.write(page.to_owned()), text);
        assert_eq!(Format::OpenMetrics.write(page.to_owned()), page);
    }
}
