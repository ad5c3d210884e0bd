//! The first path: an application, a model of three replicas, a link, and three answers.

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::program::stat;

cases! {
    three_irises_are_told_apart_by_three_replicas;
}

async fn three_irises_are_told_apart_by_three_replicas() {
    let cluster = TestCluster::start().await;
    cluster.register("iris", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.deploy(&Deployment::iris().replicas(3)).await;
    cluster.link("iris", "iris-model").await;
    let replicas = cluster.attached("iris-model", 3).await;
    for replica in replicas {
        let pid = replica["pid"].as_u64().expect("a process id");
        let stat = stat(u32::try_from(pid).expect("a small number")).expect("it runs");
        assert_eq!(stat.parent, cluster.pid(), "replicas are the frontend's children");
    }
    for (iris, species) in [
        ([7.9, 4.4, 6.9, 2.5], "virginica"),
        ([5.84, 3.05, 3.76, 1.2], "versicolor"),
        ([4.3, 2.0, 1.0, 0.1], "setosa"),
    ] {
        let answer = cluster.answer("iris", json!(iris)).await;
        assert_eq!(answer["output"], species);
        assert_eq!(answer["default"], false);
        let members: Vec<&String> = answer.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["default", "output", "query_id"], "{answer}");
    }
}
