//! Every metric: its name, unit and labels.
//!
//! Labels are applications, models, versions and reasons; never a user or an input. What the query path
//! counts, it counts through handles resolved beforehand: an atomic add, no look-up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use skysail_core::query::{AnsweredQuery, DefaultReason};
use skysail_process::log;
use skysail_proto::ids::{ApplicationName, ModelId};

mod exposition;

pub(crate) use exposition::Format;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ApplicationLabels {
    application: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DefaultLabels {
    application: String,
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VersionLabels {
    model: String,
    version: String,
}

impl VersionLabels {
    fn of(model: &ModelId) -> Self {
        Self {
            model: model.name.to_string(),
            version: model.version.to_string(),
        }
    }
}

/// From 100 µs to about 50 s, a quarter more than doubling per two buckets.
const LATENCY_SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5,
    10.0, 50.0,
];

/// Powers of two, as batch sizes tend to be chosen.
const BATCH_SIZES: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

type LatencyFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics of a frontend.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    queries: Family<ApplicationLabels, Counter>,
    defaults: Family<DefaultLabels, Counter>,
    query_latency: LatencyFamily<ApplicationLabels>,
    batch_size: LatencyFamily<VersionLabels>,
    batch_latency: LatencyFamily<VersionLabels>,
    merged_batches: Family<VersionLabels, Counter>,
    queue_length: Family<VersionLabels, Gauge>,
    replicas_attached: Family<VersionLabels, Gauge>,
    cache_hits: Family<VersionLabels, Counter>,
    cache_misses: Family<VersionLabels, Counter>,
    cache_joins: Family<VersionLabels, Counter>,
    cache_bytes: Family<VersionLabels, Gauge>,
    cache_entries: Family<VersionLabels, Gauge>,
    store_up: Gauge,
    frontends: Gauge,
    log_lines_dropped: Counter,
    query_records_dropped: Counter,
    totals: Mutex<Totals>,
}

/// What one application's queries count.
pub(crate) struct ApplicationMetrics {
    queries: Counter,
    defaults: [Counter; DefaultReason::ALL.len()],
    latency: Histogram,
}

/// What one version's batches count.
pub(crate) struct VersionMetrics {
    batch_size: Histogram,
    batch_latency: Histogram,
    merged_batches: Counter,
    queue_length: Gauge,
    replicas_attached: Gauge,
    cache: CacheMetrics,
}

/// What one version's prediction cache counts: each of its queries is a hit, a join or a miss.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheMetrics {
    /// Answered from the cache.
    pub hits: Counter,
    /// Not found.
    pub misses: Counter,
    /// Answered with an identical query that was on its way already.
    pub joins: Counter,
    bytes: Gauge,
    entries: Gauge,
}

fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_SECONDS)
}

fn size_histogram() -> Histogram {
    Histogram::new(BATCH_SIZES)
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("skysail")),
            queries: Family::default(),
            defaults: Family::default(),
            query_latency: Family::new_with_constructor(latency_histogram),
            batch_size: Family::new_with_constructor(size_histogram),
            batch_latency: Family::new_with_constructor(latency_histogram),
            merged_batches: Family::default(),
            queue_length: Family::default(),
            replicas_attached: Family::default(),
            cache_hits: Family::default(),
            cache_misses: Family::default(),
            cache_joins: Family::default(),
            cache_bytes: Family::default(),
            cache_entries: Family::default(),
            store_up: Gauge::default(),
            frontends: Gauge::default(),
            log_lines_dropped: Counter::default(),
            query_records_dropped: Counter::default(),
            totals: Mutex::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock();
        registry.register("queries", "Queries answered", self.queries.clone());
        registry.register(
            "defaults",
            "Queries answered with the default output",
            self.defaults.clone(),
        );
        registry.register_with_unit(
            "query_latency",
            "From a query's arrival to its answer",
            Unit::Seconds,
            self.query_latency.clone(),
        );
        registry.register("batch_size", "Inputs per batch sent", self.batch_size.clone());
        registry.register_with_unit(
            "batch_latency",
            "Time of a batch inside the model",
            Unit::Seconds,
            self.batch_latency.clone(),
        );
        registry.register(
            "merged_batches",
            "Batches answered as one with those of other frontends",
            self.merged_batches.clone(),
        );
        registry.register(
            "queue_length",
            "Queries waiting for a replica",
            self.queue_length.clone(),
        );
        registry.register(
            "replicas_attached",
            "Replicas attached",
            self.replicas_attached.clone(),
        );
        self.register_caches(&mut registry);
        registry.register(
            "store_up",
            "Whether the metadata store answers",
            self.store_up.clone(),
        );
        registry.register(
            "frontends",
            "Frontends of the cluster that this one knows to live, itself included",
            self.frontends.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines left out because nobody read them or they could not be written",
            self.log_lines_dropped.clone(),
        );
        registry.register(
            "query_records_dropped",
            "Records of answered queries left out because their listener was too slow",
            self.query_records_dropped.clone(),
        );
    }

    fn register_caches(&self, registry: &mut Registry) {
        registry.register(
            "cache_hits",
            "Queries answered from the prediction cache",
            self.cache_hits.clone(),
        );
        registry.register(
            "cache_misses",
            "Queries that were neither in the prediction cache nor on their way",
            self.cache_misses.clone(),
        );
        registry.register(
            "cache_joins",
            "Queries that joined an identical one on its way",
            self.cache_joins.clone(),
        );
        registry.register_with_unit(
            "cache",
            "Weight of the prediction cache",
            Unit::Bytes,
            self.cache_bytes.clone(),
        );
        registry.register(
            "cache_entries",
            "Predictions in the cache",
            self.cache_entries.clone(),
        );
    }

    /// The handles of one application.
    pub(crate) fn application(&self, name: &ApplicationName) -> Arc<ApplicationMetrics> {
        let application = name.to_string();
        let labels = ApplicationLabels {
            application: application.clone(),
        };
        let count = |reason: DefaultReason| {
            let labels = DefaultLabels {
                application: application.clone(),
                reason: reason.word(),
            };
            self.defaults.get_or_create_owned(&labels)
        };
        let metrics = Arc::new(ApplicationMetrics {
            queries: self.queries.get_or_create_owned(&labels),
            defaults: DefaultReason::ALL.map(count),
            latency: self.query_latency.get_or_create_owned(&labels),
        });
        let mut totals = self.totals.lock();
        totals.applications.insert(name.clone(), metrics.clone());
        metrics
    }

    /// What was answered to all applications since the start, those that were deleted included.
    pub(crate) fn answered(&self) -> Answered {
        let totals = self.totals.lock();
        let applications = totals.applications.values();
        applications.fold(totals.forgotten, |sum, one| sum.and(one.counted()))
    }

    /// Forgets an application that was deleted.
    pub(crate) fn forget_application(&self, name: &ApplicationName) {
        {
            let mut totals = self.totals.lock();
            if let Some(forgotten) = totals.applications.remove(name) {
                totals.forgotten = totals.forgotten.and(forgotten.counted());
            }
        }
        let application = name.to_string();
        let labels = ApplicationLabels {
            application: application.clone(),
        };
        self.queries.remove(&labels);
        self.query_latency.remove(&labels);
        for reason in DefaultReason::ALL {
            self.defaults.remove(&DefaultLabels {
                application: application.clone(),
                reason: reason.word(),
            });
        }
    }

    /// The handles of one version.
    pub(crate) fn version(&self, model: &ModelId) -> VersionMetrics {
        let labels = VersionLabels::of(model);
        VersionMetrics {
            batch_size: self.batch_size.get_or_create_owned(&labels),
            batch_latency: self.batch_latency.get_or_create_owned(&labels),
            merged_batches: self.merged_batches.get_or_create_owned(&labels),
            queue_length: self.queue_length.get_or_create_owned(&labels),
            replicas_attached: self.replicas_attached.get_or_create_owned(&labels),
            cache: CacheMetrics {
                hits: self.cache_hits.get_or_create_owned(&labels),
                misses: self.cache_misses.get_or_create_owned(&labels),
                joins: self.cache_joins.get_or_create_owned(&labels),
                bytes: self.cache_bytes.get_or_create_owned(&labels),
                entries: self.cache_entries.get_or_create_owned(&labels),
            },
        }
    }

    /// Forgets a version that was deleted.
    pub(crate) fn forget_version(&self, model: &ModelId) {
        let labels = VersionLabels::of(model);
        self.batch_size.remove(&labels);
        self.batch_latency.remove(&labels);
        self.merged_batches.remove(&labels);
        self.queue_length.remove(&labels);
        self.replicas_attached.remove(&labels);
        self.cache_hits.remove(&labels);
        self.cache_misses.remove(&labels);
        self.cache_joins.remove(&labels);
        self.cache_bytes.remove(&labels);
        self.cache_entries.remove(&labels);
    }

    /// Whether the store answers.
    pub(crate) fn set_store_up(&self, up: bool) {
        self.store_up.set(i64::from(up));
    }

    /// This many frontends live.
    pub(crate) fn set_frontends(&self, count: usize) {
        self.frontends.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts the records of queries that a listener was too slow for.
    pub(crate) fn query_records_dropped(&self) -> Counter {
        self.query_records_dropped.clone()
    }

    /// All metrics, in this format.
    pub(crate) fn render(&self, format: Format) -> String {
        // The log belongs to the process, and counts by itself.
        self.log_lines_dropped
            .inner()
            .store(log::lines_left_out(), Ordering::Relaxed);
        let mut page = String::new();
        text::encode(&mut page, &self.registry.lock()).expect("writing to a string does not fail");
        format.write(page)
    }
}

/// How many queries were answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Answered {
    /// All.
    pub queries: u64,
    /// Those of them that were answered with a default output.
    pub defaults: u64,
}

impl Answered {
    fn and(self, other: Self) -> Self {
        Self {
            queries: self.queries + other.queries,
            defaults: self.defaults + other.defaults,
        }
    }
}

/// By which all queries are counted together.
#[derive(Default)]
struct Totals {
    applications: BTreeMap<ApplicationName, Arc<ApplicationMetrics>>,
    /// What was answered to applications that were deleted.
    forgotten: Answered,
}

impl ApplicationMetrics {
    fn counted(&self) -> Answered {
        Answered {
            queries: self.queries.get(),
            defaults: self.defaults.iter().map(|reason| reason.get()).sum(),
        }
    }

    /// Counts an answered query.
    pub(crate) fn answered(&self, query: &AnsweredQuery<'_>) {
        self.queries.inc();
        self.latency.observe(query.latency.as_secs_f64());
        if let Some(reason) = query.default_reason {
            self.defaults[reason.index()].inc();
        }
    }
}

impl VersionMetrics {
    /// A batch of `size` inputs was sent.
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    pub(crate) fn sent(&self, size: usize) {
        self.batch_size.observe(size as f64);
    }

    /// A batch spent this long in the model.
    pub(crate) fn answered(&self, model_time: Duration) {
        self.batch_latency.observe(model_time.as_secs_f64());
    }

    /// A batch was answered as one with those of other frontends.
    pub(crate) fn merged(&self) {
        self.merged_batches.inc();
    }

    /// This many queries wait.
    pub(crate) fn set_queue_length(&self, length: usize) {
        self.queue_length.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// This many replicas are attached.
    pub(crate) fn set_replicas(&self, count: usize) {
        self.replicas_attached
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// What its prediction cache counts.
    pub(crate) fn cache(&self) -> CacheMetrics {
        self.cache.clone()
    }
}

impl CacheMetrics {
    /// So many predictions are kept, of this weight.
    pub(crate) fn set_size(&self, entries: usize, bytes: u64) {
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::query::Outcome;

    use super::*;

    #[test]
    fn a_page_names_every_metric_with_prefix_unit_and_labels() {
        let metrics = Metrics::default();
        let name = "iris".parse().unwrap();
        let reason = DefaultReason::NoReplica;
        metrics.application(&name).answered(&AnsweredQuery {
            id: 1,
            application: &name,
            model: None,
            latency: Duration::from_millis(3),
            default_reason: Some(reason),
            course: &Outcome::from(reason).course,
        });
        let version = metrics.version(&"iris-model:1".parse().unwrap());
        version.sent(4);
        version.answered(Duration::from_millis(1));
        version.merged();
        version.cache().hits.inc();
        version.cache().set_size(2, 300);
        metrics.set_store_up(true);
        metrics.set_frontends(2);
        let page = metrics.render(Format::Text);
        for line in [
            "# HELP skysail_queries_total Queries answered.",
            "# TYPE skysail_queries_total counter",
            "# TYPE skysail_query_latency_seconds histogram",
            "skysail_queries_total{application=\"iris\"} 1",
            "skysail_defaults_total{application=\"iris\",reason=\"no_replica\"} 1",
            "skysail_query_latency_seconds_count{application=\"iris\"} 1",
            "skysail_batch_size_sum{model=\"iris-model\",version=\"1\"} 4.0",
            "skysail_batch_latency_seconds_count{model=\"iris-model\",version=\"1\"} 1",
            "skysail_merged_batches_total{model=\"iris-model\",version=\"1\"} 1",
            "skysail_replicas_attached{model=\"iris-model\",version=\"1\"} 0",
            "skysail_cache_hits_total{model=\"iris-model\",version=\"1\"} 1",
            "skysail_cache_misses_total{model=\"iris-model\",version=\"1\"} 0",
            "skysail_cache_joins_total{model=\"iris-model\",version=\"1\"} 0",
            "skysail_cache_bytes{model=\"iris-model\",version=\"1\"} 300",
            "skysail_cache_entries{model=\"iris-model\",version=\"1\"} 2",
            "skysail_store_up 1",
            "skysail_frontends 2",
            "skysail_log_lines_dropped_total 0",
            "skysail_query_records_dropped_total 0",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }

    #[test]
    fn a_deleted_application_leaves_the_page() {
        let metrics = Metrics::default();
        let name = "iris".parse().unwrap();
        metrics.application(&name);
        metrics.forget_application(&name);
        assert!(!metrics.render(Format::Text).contains("iris"));
    }
}
