//! The page of metrics, as scrapers and Prometheus' own linter read it.

use std::time::Duration;

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::TestCluster;
use skysail_tests::deployment::Deployment;
use skysail_tests::promtool;
use skysail_tests::rest::Reply;
use skysail_tests::wire::Wire;

cases! {
    promtool_has_nothing_to_say_of_the_page: Promtool;
    every_counter_has_its_type_and_its_help_in_both_formats;
}

/// A frontend that has answered with predictions, from its cache and with defaults.
async fn with_traffic() -> TestCluster {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    cluster
        .register("lonely", "doubles", "-1.0", Duration::from_millis(50))
        .await;
    let iris = json!([7.9, 4.4, 6.9, 2.5]);
    for _ in 0..2 {
        assert_eq!(cluster.predict("iris", iris.clone()).await, "virginica");
    }
    let batch = json!({ "input_batch": [iris, [1, 2, 3, 4]] });
    cluster.query("iris", batch).await.expect(200);
    assert_eq!(cluster.answer("lonely", json!([1])).await["default"], true);
    cluster
}

async fn page(cluster: &TestCluster, accept: &str) -> Reply {
    let mut wire = Wire::to(cluster.addresses().admin).await;
    wire.write(format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\n{accept}\r\n"
    ))
    .await
    .expect("written");
    wire.read().await
}

async fn promtool_has_nothing_to_say_of_the_page() {
    // Also of one on which nothing was counted yet.
    let idle = TestCluster::start().await;
    for cluster in [idle, with_traffic().await] {
        for accept in ["", "Accept: */*\r\n", "Accept: text/plain;version=0.0.4\r\n"] {
            let page = page(&cluster, accept).await;
            assert_eq!(page.status, 200);
            assert_eq!(promtool::complaints(&page.text), "", "of {}", page.text);
        }
    }
}

async fn every_counter_has_its_type_and_its_help_in_both_formats() {
    let cluster = with_traffic().await;
    let text = page(&cluster, "").await;
    let asked = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
    let open_metrics = page(&cluster, asked).await;
    for (page, content_type, suffix) in [
        (&text, "text/plain; version=0.0.4; charset=utf-8", "_total"),
        (
            &open_metrics,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "",
        ),
    ] {
        assert_eq!(page.content_type, content_type);
        let lines: Vec<&str> = page.text.lines().collect();
        let of_counters: Vec<&str> = lines
            .iter()
            .filter_map(|line| {
                let name = line.split(['{', ' ']).next()?;
                name.starts_with("skysail_")
                    .then_some(name)?
                    .strip_suffix("_total")
            })
            .collect();
        assert!(of_counters.contains(&"skysail_queries"), "{}", page.text);
        for name in of_counters {
            let family = format!("{name}{suffix}");
            let described = |words: &str| lines.iter().any(|line| line.starts_with(words));
            assert!(
                lines.contains(&format!("# TYPE {family} counter").as_str()),
                "{family}"
            );
            assert!(described(&format!("# HELP {family} ")), "{family}");
        }
    }
    assert!(open_metrics.text.ends_with("# EOF\n"));
    assert!(!text.text.contains("# EOF") && !text.text.contains("# UNIT"));
}
