//! What is done to which part of a cluster.

use std::fmt;
use std::time::Duration;

use tokio::time::sleep;

use crate::stage::Stage;

/// A kind of part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Part {
    Replica,
    Query,
    Control,
    Redis,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Harm {
    /// Its process ends at once. A replica is the cluster's to replace; others a supervisor starts again.
    Kill,
    /// Its process stands still and goes on later, with its connections open all the while.
    Stop,
    /// It is asked to end and started again.
    Restart,
    /// What is sent to it by the cluster is dropped, and what it sends.
    Cut,
    /// Redis forgets a part of what it holds; a person writes back what the frontends hold.
    Lose,
    /// Redis answers and takes no writes.
    Refuse,
}

/// Every harm to every part.
pub(crate) fn all() -> Vec<(Part, Harm)> {
    let harms = [Harm::Kill, Harm::Stop, Harm::Restart, Harm::Cut];
    let parts = [Part::Replica, Part::Query, Part::Control, Part::Redis].into_iter();
    let of_any_part = parts.flat_map(|part| harms.map(|harm| (part, harm)));
    let of_redis = [(Part::Redis, Harm::Lose), (Part::Redis, Harm::Refuse)];
    of_any_part.chain(of_redis).collect()
}

/// One harm to one part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) part: Part,
    pub(crate) harm: Harm,
    /// Which of its kind, as a share of their number.
    pub(crate) which: f64,
    /// How long it is stopped or cut off, or, killed, is away until a supervisor starts it again.
    pub(crate) lasts: Duration,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Replica => "replica",
            Self::Query => "query frontend",
            Self::Control => "control role",
            Self::Redis => "redis",
        })
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Cut => "cut",
            Self::Lose => "part lost:",
            Self::Refuse => "no writes:",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.harm, self.part)
    }
}

impl Fault {
    /// Does it, and leaves the part alone again; the cluster may not have healed when this returns.
    pub(crate) async fn carry_out(&self, stage: &Stage) {
        match self.part {
            Part::Replica => {
                let replicas = stage.cluster.replicas().await;
                let replica = &replicas[self.choose(replicas.len())];
                self.harm(stage, &replica.name).await;
            }
            Part::Query => {
                let place = self.choose(stage.cluster.query().len());
                let container = &stage.cluster.query()[place];
                // A frontend that is cut off from the others still answers those that ask it.
                if self.harm == Harm::Cut {
                    return self.harm(stage, container).await;
                }
                stage.running.disturb(place);
                self.harm(stage, container).await;
                stage.cluster.query_ready(place).await;
                stage
                    .running
                    .calm(place, stage.cluster.query_address(place).await);
            }
            Part::Control => {
                // The one that acts: nobody would notice the other.
                let candidates = stage.cluster.control().len();
                let acting = stage.cluster.acting().await;
                let place = acting.unwrap_or(self.choose(candidates));
                self.harm(stage, &stage.cluster.control()[place]).await;
            }
            Part::Redis => self.harm(stage, &stage.cluster.redis()).await,
        }
    }

    async fn harm(&self, stage: &Stage, container: &str) {
        let cluster = &stage.cluster;
        match self.harm {
            Harm::Kill => {
                cluster.kill(container).await;
                if self.part != Part::Replica {
                    sleep(self.lasts).await;
                    cluster.start_again(container).await;
                }
            }
            Harm::Stop => {
                cluster.signal(container, "SIGSTOP").await;
                sleep(self.lasts).await;
                cluster.signal(container, "SIGCONT").await;
            }
            Harm::Restart => cluster.restart(container).await,
            Harm::Cut => {
                cluster.cut(container).await;
                sleep(self.lasts).await;
                cluster.mend(container).await;
            }
            Harm::Lose => {
                let losses = ["UNLINK models", "HDEL applications probe", "UNLINK generation"];
                cluster
                    .tell_redis_of_keys(losses[self.choose(losses.len())])
                    .await;
                sleep(self.lasts).await;
                cluster.restore().await;
            }
            Harm::Refuse => {
                cluster.tell_redis("CONFIG SET min-replicas-to-write 1").await;
                sleep(self.lasts).await;
                cluster.tell_redis("CONFIG SET min-replicas-to-write 0").await;
            }
        }
    }

    fn choose(&self, count: usize) -> usize {
        ((self.which * count as f64) as usize).min(count.saturating_sub(1))
    }
}
