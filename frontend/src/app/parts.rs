//! The named tasks of a frontend that live as long as it does.

use std::collections::HashMap;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::{Id, JoinSet};

/// A task that runs as long as the frontend serves.
pub(super) struct Part {
    /// The name in messages.
    pub(super) name: &'static str,
    pub(super) stage: Stage,
    pub(super) thread: Thread,
    pub(super) task: BoxFuture<'static, ()>,
}

impl Part {
    pub(super) fn new(
        name: &'static str,
        stage: Stage,
        thread: Thread,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let task = Box::pin(task);
        Self {
            name,
            stage,
            thread,
            task,
        }
    }
}

/// The stage of the frontend's end in which a part ends. Each stage waits for its own parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Answers queries.
    QueryServer,
    /// Answers operators and probes.
    AdminServers,
    /// Gives the control role's lease back when admin REST closes.
    Leadership,
    /// All other parts; no stage waits for them.
    Background,
    /// Withdraws the frontend's announcement when the background closes.
    Announcer,
    /// Serves the store to all other parts, and is dropped after them.
    Store,
}

/// The thread that a part runs on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Thread {
    /// The thread of the queries.
    Query,
    /// The control plane's thread.
    Control,
}

/// The running parts of one stage.
#[derive(Default)]
pub(super) struct Running {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Running {
    pub(super) fn spawn(&mut self, part: Part, control: &Handle) {
        let task = match part.thread {
            Thread::Query => self.tasks.spawn(part.task),
            Thread::Control => self.tasks.spawn_on(part.task, control),
        };
        self.names.insert(task.id(), part.name);
    }

    /// Waits until any part has ended, and returns its name. Waits for ever if no part runs.
    pub(super) async fn ended(&mut self) -> &'static str {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(panicked)) => panicked.id(),
            None => std::future::pending().await,
        };
        self.names.remove(&id).unwrap_or("a part without a name")
    }

    /// Waits until all parts have ended.
    pub(super) async fn all_ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
