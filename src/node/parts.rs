//! The parts of a member: tasks of the data thread without which it is none.
//!
//! A part that ends or panics must be noticed, else a member that ends no more turns or takes no more
//! links goes on as if it were whole. A part that ends stops the member in order. After a panic on the data thread
//! nobody knows what the engine's tables and lanes hold: no further turn ends, and the member is over at
//! once. The next start goes by the journal, which has all that was acknowledged.

use super::core::Shared;
use super::{NodeError, Shutdown};
use std::future::Future;
use std::rc::Rc;
use tokio::task::AbortHandle;

impl Shared {
    /// Runs a part; whatever ends it before the member stops, or it is aborted, stops the member.
    pub(super) fn run_part(
        self: &Rc<Self>,
        name: &'static str,
        stopping: &Shutdown,
        part: impl Future<Output = ()> + 'static,
    ) -> AbortHandle {
        let task = tokio::task::spawn_local(part);
        let abort = task.abort_handle();
        let (shared, stopping) = (Rc::clone(self), stopping.clone());
        tokio::task::spawn_local(async move {
            match task.await {
                Ok(()) if *stopping.borrow() => {}
                Ok(()) => {
                    shared.fail(NodeError::PartEnded(name, "see the log for the reason".to_owned()));
                }
                Err(error) if error.is_cancelled() => {}
                Err(error) => shared.fail(NodeError::Defect { part: name, message: error.to_string() }),
            }
        });
        abort
    }

    /// Whether something on the data thread panicked.
    pub(super) fn is_broken(&self) -> bool {
        matches!(*self.fatal.borrow(), Some(NodeError::Defect { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::handle::status::State;
    use super::super::local::LocalHandle;
    use super::super::tests::Plan;
    use super::super::{Fronts, Work};
    use super::*;
    use std::path::Path;

    /// Runs a member with this in place of RESP until it ends by itself.
    fn ending(resp: impl FnOnce(LocalHandle, Shutdown) -> Work + 'static) -> NodeError {
        ending_in(tempfile::tempdir().unwrap().path(), resp)
    }

    async fn stop_wanted(mut shutdown: Shutdown) {
        _ = shutdown.wait_for(|stop| *stop).await;
    }

    fn ending_in(directory: &Path, resp: impl FnOnce(LocalHandle, Shutdown) -> Work + 'static) -> NodeError {
        let config = Plan::new("only").config(directory);
        let fronts = Fronts {
            local: Box::new(move |_, local, _, shutdown| resp(local, shutdown)),
            shared: Box::new(|_, handle, _, _, shutdown| {
                Box::pin(async move {
                    stop_wanted(shutdown).await;
                    drop(handle);
                })
            }),
            give_up: Box::new(|| {}),
        };
        super::super::run(config, fronts, std::future::pending()).unwrap_err()
    }

    #[test]
    fn a_part_that_panics_ends_the_member_and_is_named() {
        let error = ending(|local, shutdown| {
            Box::pin(async move {
                local.shared.run_part("a part", &shutdown, async { panic!("on purpose") });
                stop_wanted(shutdown).await;
            })
        });
        assert!(matches!(error, NodeError::Defect { part: "a part", .. }), "{error}");
        assert!(error.to_string().contains("on purpose"), "{error}");
    }

    #[test]
    fn a_part_that_just_ends_stops_the_member_and_is_named() {
        let error = ending(|local, shutdown| {
            Box::pin(async move {
                local.shared.run_part("a part", &shutdown, async {});
                stop_wanted(shutdown).await;
            })
        });
        assert!(matches!(error, NodeError::PartEnded("a part", _)), "{error}");
    }

    #[test]
    fn a_member_whose_resp_port_is_served_no_more_stops_and_says_so() {
        let error = ending(|_, _| Box::pin(async {}));
        assert!(matches!(error, NodeError::PartEnded("RESP", _)), "{error}");
    }

    #[tokio::test]
    async fn a_panic_while_a_connection_calls_the_engine_ends_the_member_before_another_turn() {
        let directory = tempfile::tempdir().unwrap();
        let error = std::thread::scope(|threads| {
            let member = threads.spawn(|| ending_in(directory.path(), panicking_connection));
            member.join().unwrap()
        });
        assert!(matches!(error, NodeError::Defect { part: "the engine", .. }), "{error}");
        // What it had begun did not reach the journal, or this could not be understood.
        let again = Plan::new("only").start(directory.path());
        again.until(State::NoCluster).await;
        again.stop().await;
    }

    fn panicking_connection(local: LocalHandle, _: Shutdown) -> Work {
        Box::pin(async move {
            let shared = Rc::clone(&local.shared);
            // Like a connection: nobody waits for its task.
            tokio::task::spawn_local(async move {
                shared.with(|core| {
                    core.engine.lanes.journal.extend_from_slice(b"half an entry");
                    panic!("on purpose");
                });
            });
            std::future::pending().await
        })
    }
}
