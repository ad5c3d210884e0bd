//! A thread for the control plane, beside those that serve queries.
//!
//! However many queries come, whoever operates the frontend gets in; and a page of every metric of ten
//! thousand applications keeps no query waiting.

use std::io;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};

/// The thread, with a runtime of its own. Dropping it ends its tasks, wherever that happens.
pub(crate) struct ControlThread(Option<Runtime>);

impl ControlThread {
    /// Starts it.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("skysail-control")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to spawn its tasks.
    pub(crate) fn handle(&self) -> &Handle {
        let runtime = self.0.as_ref();
        runtime
            .expect("it is there until it is dropped; this is a bug")
            .handle()
    }

    /// Moves a listener here: the runtime it was bound on would otherwise go on waiting for its clients, and
    /// be busy with queries when they come.
    pub(crate) fn adopt(&self, listener: TcpListener) -> io::Result<TcpListener> {
        let listener = listener.into_std()?;
        let _inside = self.handle().enter();
        TcpListener::from_std(listener)
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        // An ordinary drop waits for threads that block, and panics inside of another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
