//! The tasks of a frontend that live as long as it does, by name.

use std::collections::HashMap;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::{Id, JoinSet};

/// A task that runs as long as the frontend serves.
pub(super) struct Part {
    /// How messages call it.
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

/// When a part ends: each stage of the frontend's end waits for its own parts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// Answers queries.
    QueryServer,
    /// Answers operators and probes.
    AdminServers,
    /// Gives the control role's lease back when admin REST closes.
    Leadership,
    /// Everything that is not waited for.
    Background,
    /// Takes the frontend's announcement back when the background closes.
    Announcer,
    /// Serves the store to all others, and is dropped after them.
    Store,
}

/// Where a part runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Thread {
    /// Beside the queries.
    Query,
    /// On the control plane's thread.
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

    /// The name of a part that has ended; waits until there is one, for ever if nothing runs.
    pub(super) async fn ended(&mut self) -> &'static str {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(panicked)) => panicked.id(),
            None => std::future::pending().await,
        };
        self.names.remove(&id).unwrap_or("a part without a name")
    }

    /// Waits until all have ended.
    pub(super) async fn all_ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
