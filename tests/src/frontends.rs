//! A cluster of several frontends on one Redis, as processes of this machine: one with the control role,
//! whose process runtime has the replicas as children, and several that answer queries.

use std::net::SocketAddr;

use crate::cluster::{Roles, Runtime, Settings, TestCluster};
use crate::deployment::Deployment;
use crate::load::{Load, Running};
use crate::redis::RedisServer;
use crate::rest::Rest;
use crate::wait::{self, PATIENCE};

/// A running cluster; frontends go before their store.
pub struct Frontends {
    /// What answers queries.
    pub query: Vec<TestCluster>,
    /// What starts containers. They end with it.
    pub control: TestCluster,
    /// The store.
    pub redis: RedisServer,
}

impl Frontends {
    /// A control frontend and so many query frontends, ready.
    pub async fn start(queries: usize) -> Self {
        let redis = RedisServer::start().await;
        let settings = Settings::default().redis(redis.url());
        let mut query = Vec::new();
        for _ in 0..queries {
            let settings = settings.clone().roles(Roles::Query).runtime(Runtime::None);
            query.push(settings.start().await);
        }
        let dialled = query[0].addresses().rpc.to_string();
        let control = settings
            .roles(Roles::Control)
            .flag("--rpc-advertise", &dialled)
            .start()
            .await;
        Self {
            query,
            control,
            redis,
        }
    }

    /// Deploys a version behind a new application, and waits until every query frontend answers from it.
    pub async fn serve(&self, load: &Load, deployment: &Deployment) {
        let Load {
            application,
            default_output,
            slo,
            ..
        } = load;
        let control = &self.control;
        control
            .register(application, &deployment.input_type, default_output, *slo)
            .await;
        control.deploy(deployment).await;
        control.link(application, &deployment.model).await;
        control.attached(&deployment.model, deployment.wanted()).await;
        for frontend in &self.query {
            answers(&frontend.queries(), application).await;
        }
    }

    /// Begins to send a load to all query frontends.
    pub fn offer(&self, load: Load) -> Running {
        load.start(self.query_addresses())
    }

    /// Where queries are answered.
    pub fn query_addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.query.iter().map(TestCluster::addresses);
        addresses.map(|addresses| addresses.query).collect()
    }
}

/// Waits until a query API answers with a prediction.
pub async fn answers(queries: &Rest, application: &str) {
    let path = format!("/{application}/predict");
    wait::until("a prediction", PATIENCE, async || {
        let asked = queries.send(reqwest::Method::POST, &path, r#"{"input": [0.5]}"#);
        let reply = asked.await;
        reply.is_ok_and(|reply| reply.status == 200 && reply.json()["default"] == false)
    })
    .await;
}
