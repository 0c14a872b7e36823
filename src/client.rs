//! What all handles of one client share: its nodes, its ticker, its janitor.
//!
//! The two tasks start with the first request, since only then a runtime is sure to be there, and end by
//! themselves: the ticker when the last handle is gone, the janitor when nothing is left to take back.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    cleanup,
    error::{ArgumentError, LockError},
    keepalive,
    lease::{Leftover, Outbox, Request},
    leavers::Leavers,
    node::Event,
    nodes::Nodes,
    roll::Roll,
    task, telemetry,
};

/// One client. It lives as long as any handle, ticket or guard of it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) roll: Arc<Roll>,
    pub(crate) leavers: Leavers,
    outbox: Outbox,
    idle: Mutex<Option<Idle>>,
}

/// What the tasks need to start.
#[derive(Debug)]
struct Idle {
    events: mpsc::Receiver<(usize, Event)>,
    leftovers: mpsc::UnboundedReceiver<Leftover>,
}

impl Client {
    pub(crate) fn new(nodes: Arc<Nodes>, events: mpsc::Receiver<(usize, Event)>) -> Self {
        telemetry::meter::describe();
        let (outbox, leftovers) = Outbox::new();
        Self {
            nodes,
            roll: Arc::default(),
            leavers: Leavers::default(),
            outbox,
            idle: Mutex::new(Some(Idle { events, leftovers })),
        }
    }

    /// A new request; nothing is sent yet. Called from within a future, so there is a runtime.
    pub(crate) fn request(
        &self,
        resource: &str,
        ttl: Duration,
        room: Option<u64>,
    ) -> Result<Arc<Request>, LockError> {
        if self.nodes.is_closed() {
            return Err(LockError::ShutDown);
        }
        let request = Request::new(&self.nodes, &self.outbox, resource, ttl, room)
            .map_err(|error: ArgumentError| LockError::Argument(error))?;
        self.start();
        Ok(request)
    }

    /// Ends what waits, and returns when everything that was left is taken back.
    pub(crate) async fn shut_down(&self) {
        self.nodes.close();
        self.roll.shut_down();
        cleanup::idle(self.nodes.clock, self.outbox.pending()).await;
    }

    fn start(&self) {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Idle { events, leftovers }) = idle {
            task::spawn(keepalive::run(
                self.nodes.clone(),
                self.roll.clone(),
                events,
            ));
            task::spawn(cleanup::run(leftovers));
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.roll.close();
    }
}
