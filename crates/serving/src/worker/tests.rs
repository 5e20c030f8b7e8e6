use std::sync::mpsc;

use super::*;

/// A job that says when it runs and stays until it is let go.
fn gate(worker: &Worker<u32>) -> (Ticket<()>, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (running, is_running) = mpsc::channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let ticket = worker
        .submit(&CancellationToken::new(), move |_| {
            let _ = running.send(());
            let _ = wait.recv();
        })
        .expect("room");
    (ticket, is_running, let_go)
}

#[tokio::test]
async fn jobs_run_in_order_on_one_model() {
    let worker = Worker::spawn("counter", 8, 0u32).expect("a thread");
    let token = CancellationToken::new();
    let mut tickets = Vec::new();
    for _ in 0..5 {
        let count = |model: &mut u32| {
            *model += 1;
            *model
        };
        tickets.push(worker.submit(&token, count).expect("room"));
    }
    for (i, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.wait().await, Ok(i as u32 + 1));
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_forgets_those_who_left() {
    let worker = Worker::spawn("counter", 1, 0u32).expect("a thread");
    let (first, is_running, let_go) = gate(&worker);
    is_running.recv().expect("runs");
    assert_eq!(first.position(), 0);

    let left = CancellationToken::new();
    let second = worker.submit(&left, |model| *model = 100).expect("one may wait");
    assert_eq!(second.position(), 1);
    let full = worker.submit(&CancellationToken::new(), |_| ()).expect_err("full");
    assert!(
        matches!(&full, Fault::Busy { retry_after, .. } if retry_after.as_secs() >= 1),
        "{full}"
    );

    left.cancel();
    assert!(matches!(second.wait().await, Err(Fault::Cancelled(_))));
    let third =
        worker.submit(&CancellationToken::new(), |model| *model).expect("its place is free");
    assert_eq!(third.position(), 1);
    let next = worker.submit_next(&CancellationToken::new(), |model| *model);
    assert_eq!(next.position(), 2);
    let places = next.places();
    assert!(!places.has_changed().expect("waits"), "nothing has happened yet");

    let_go.send(()).expect("waits");
    assert_eq!(first.wait().await, Ok(()));
    assert_eq!(third.wait().await, Ok(0), "the cancelled job never ran");
    assert_eq!(next.wait().await, Ok(0));
    assert_eq!(*places.borrow(), 0, "its turn came");
}

#[tokio::test]
async fn a_panic_costs_one_job() {
    let worker = Worker::spawn("counter", 4, 7u32).expect("a thread");
    let token = CancellationToken::new();
    let broken: Ticket<()> = worker.submit(&token, |_| panic!("as the test wants")).expect("room");
    assert!(matches!(broken.wait().await, Err(Fault::Internal(_))));
    let after = worker.submit(&token, |model| *model).expect("room");
    assert_eq!(after.wait().await, Ok(7));
}

#[tokio::test]
async fn the_model_goes_with_the_last_handle_after_the_work_is_done() {
    struct Model(Option<oneshot::Sender<()>>);
    impl Drop for Model {
        fn drop(&mut self) {
            let _ = self.0.take().map(|gone| gone.send(()));
        }
    }
    let (gone, is_gone) = oneshot::channel();
    let worker = Worker::spawn("model", 4, Model(Some(gone))).expect("a thread");
    let ticket = worker.clone().submit(&CancellationToken::new(), |_| 3).expect("room");
    drop(worker);
    assert_eq!(ticket.wait().await, Ok(3));
    assert_eq!(is_gone.await, Ok(()));
}

#[tokio::test]
async fn those_behind_a_caller_that_left_move_up_at_once() {
    let worker = Worker::spawn("counter", 4, 0u32).expect("a thread");
    let (first, is_running, let_go) = gate(&worker);
    is_running.recv().expect("runs");
    let left = CancellationToken::new();
    let second = worker.submit(&left, |_| ()).expect("room");
    let third = worker.submit(&CancellationToken::new(), |_| ()).expect("room");
    let mut places = third.places();
    assert_eq!((second.position(), third.position()), (1, 2));

    left.cancel();
    assert!(second.wait().await.is_err());
    places.changed().await.expect("waits");
    assert_eq!(*places.borrow_and_update(), 1);

    let_go.send(()).expect("waits");
    assert_eq!(first.wait().await, Ok(()));
    assert_eq!(third.wait().await, Ok(()));
    assert_eq!(*places.borrow(), 0);
}
