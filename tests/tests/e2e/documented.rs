//! What the reference pages under `docs/` list, against what there is: no option, metric or endpoint is missing, none
//! is invented, and no link leads nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use skysail_tests::cluster::TestCluster;
use skysail_tests::deployment::Deployment;
use skysail_tests::rest::Rest;
use skysail_tests::{binaries, cases};

cases! {
    every_option_of_the_server_is_on_its_page;
    every_metric_is_on_its_page;
    every_endpoint_of_the_admin_api_is_on_its_page;
    every_link_of_the_documentation_leads_somewhere;
}

/// The words between backticks in the first column of a page's tables.
fn first_column(page: &str) -> BTreeSet<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells.flat_map(quoted).collect()
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

async fn every_option_of_the_server_is_on_its_page() {
    let said = Command::new(binaries::path("skysail-frontend"))
        .arg("--help")
        .output()
        .expect("it can be started");
    let help = String::from_utf8(said.stdout).expect("text");
    let options = help.lines().filter_map(|line| {
        let line = line
            .trim_start()
            .trim_start_matches("-h, ")
            .trim_start_matches("-V, ");
        line.starts_with("--").then(|| line.split_whitespace().next())?
    });
    // Named in the text: the file that has the other options, and what says what there is.
    let aside = ["--config", "--help", "--version"];
    let options: BTreeSet<_> = options.filter(|option| !aside.contains(option)).collect();
    let page = include_str!("../../../docs/server.md");
    assert!(options.len() > 20, "{options:?}");
    assert_eq!(first_column(page), options);
}

async fn every_metric_is_on_its_page() {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let page = Rest::at(cluster.addresses().ops).get("/metrics").await.text;
    let metrics = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let metrics: BTreeSet<_> = metrics.filter_map(|line| line.split(' ').next()).collect();
    assert!(metrics.len() > 10, "{metrics:?}");
    assert_eq!(first_column(include_str!("../../../docs/metrics.md")), metrics);
}

async fn every_endpoint_of_the_admin_api_is_on_its_page() {
    let bodies = include_str!("../../../proto/src/admin.rs");
    let rows = bodies.lines().filter(|line| line.starts_with("//! |"));
    let paths = rows
        .flat_map(quoted)
        .filter_map(|cell| cell.split_once("/api/v1"));
    let paths: BTreeSet<_> = paths.map(|(_, path)| path).collect();
    assert!(paths.len() > 10, "{paths:?}");
    let page = include_str!("../../../docs/operating.md");
    let listed: BTreeSet<_> = quoted_paths(page).collect();
    let missing: Vec<_> = paths.difference(&listed).collect();
    assert!(missing.is_empty(), "docs/operating.md does not list {missing:?}");
}

/// The paths in the tables of a page, with or without a method before them.
fn quoted_paths(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let words = rows.flat_map(quoted).flat_map(str::split_whitespace);
    words.filter(|word| word.starts_with('/'))
}

async fn every_link_of_the_documentation_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages: Vec<_> = [".", "docs"]
        .into_iter()
        .flat_map(|folder| pages_in(&root.join(folder)))
        .collect();
    assert!(pages.len() > 10, "{pages:?}");
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).expect("a page");
        broken.extend(
            links(&text)
                .filter(|link| !leads_somewhere(page, &text, link))
                .map(|link| format!("{} links to {link}", page.display())),
        );
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn pages_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// The links of a page to files of the repository.
fn links(page: &str) -> impl Iterator<Item = &str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://"))
}

fn leads_somewhere(page: &Path, text: &str, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = page.parent().expect("a page is in a folder").join(file);
    match (file, heading) {
        (_, "") => target.exists(),
        ("", heading) => has_heading(text, heading),
        (_, heading) => fs::read_to_string(target).is_ok_and(|text| has_heading(&text, heading)),
    }
}

/// Whether a page has a heading of this anchor.
fn has_heading(page: &str, anchor: &str) -> bool {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchors = headings.map(|line| {
        let words = line
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .replace(' ', "-");
        words.replace(|letter: char| !letter.is_alphanumeric() && letter != '-', "")
    });
    anchors.into_iter().any(|found| found == anchor)
}
