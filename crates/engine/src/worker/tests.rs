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
    let worker: Worker<u32> = Worker::spawn("counter", 8, 0u32).expect("a thread");
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
    let worker: Worker<u32> = Worker::spawn("counter", 1, 0u32).expect("a thread");
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
    let worker: Worker<u32> = Worker::spawn("counter", 4, 7u32).expect("a thread");
    let token = CancellationToken::new();
    let broken: Ticket<()> = worker.submit(&token, |_| panic!("as the test wants")).expect("room");
    assert!(matches!(broken.wait().await, Err(Fault::Internal(_))));
    let after = worker.submit(&token, |model| *model).expect("room");
    assert_eq!(after.wait().await, Ok(7));
}

/// What a result does when it is dropped runs where no job is: there, nothing catches a panic.
#[tokio::test]
async fn when_the_thread_is_gone_nobody_waits_for_it() {
    struct Spiteful;
    impl Drop for Spiteful {
        fn drop(&mut self) {
            panic!("as the test wants");
        }
    }
    let worker: Worker<u32> = Worker::spawn("counter", 4, 7u32).expect("a thread");
    let token = CancellationToken::new();
    let (first, is_running, let_go) = gate(&worker);
    is_running.recv().expect("runs");
    drop(worker.submit(&token, |_| Spiteful).expect("room"));
    let behind = worker.submit(&token, |model| *model).expect("room");
    let_go.send(()).expect("waits");
    assert_eq!(first.wait().await, Ok(()));
    assert!(matches!(behind.wait().await, Err(Fault::Unavailable(_))));
    assert!(!worker.health().is_healthy());
    let refused = worker.submit(&token, |model| *model).expect_err("nobody is there");
    assert!(matches!(refused, Fault::Internal(_)), "{refused}");
}

#[tokio::test]
async fn panics_in_a_row_are_an_illness() {
    let worker: Worker<u32> = Worker::spawn("counter", 4, 7u32).expect("a thread");
    let token = CancellationToken::new();
    for _ in 0..3 {
        assert!(worker.health().is_healthy());
        let broken: Ticket<()> = worker.submit(&token, |_| panic!("once more")).expect("room");
        assert!(matches!(broken.wait().await, Err(Fault::Internal(_))));
    }
    assert!(!worker.health().is_healthy());
    let mut conditions = worker.health().watch();
    worker.probe_while_unhealthy(|model| *model == 7);
    conditions.wait_for(|condition| condition.is_healthy()).await.expect("the trial works");
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
    let worker: Worker<Model> = Worker::spawn("model", 4, Model(Some(gone))).expect("a thread");
    let ticket = worker.clone().submit(&CancellationToken::new(), |_| 3).expect("room");
    drop(worker);
    assert_eq!(ticket.wait().await, Ok(3));
    assert_eq!(is_gone.await, Ok(()));
}

#[tokio::test]
async fn those_behind_a_caller_that_left_move_up_at_once() {
    let worker: Worker<u32> = Worker::spawn("counter", 4, 0u32).expect("a thread");
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

/// Numbers up to 9 go together, up to three at a time; the model keeps which did.
struct Number(u32);

impl Batch<Vec<Vec<u32>>> for Number {
    type Output = usize;

    fn compatible(&self, those: &[&Self]) -> bool {
        those.len() < 3 && self.0 < 10 && those.iter().all(|that| that.0 < 10)
    }

    fn run(model: &mut Vec<Vec<u32>>, together: Vec<(Self, Answer<usize>)>) {
        model.push(together.iter().map(|(number, _)| number.0).collect());
        let count = together.len();
        for (number, answer) in together {
            assert_ne!(number.0, 7, "as the test wants");
            answer.send(count);
        }
    }
}

type Numbers = Worker<Vec<Vec<u32>>, Number>;

/// Queues the numbers behind something that runs, a change of the model where there is a 0, and
/// tells how they were grouped, and the places they had when all were there.
async fn group(numbers: &[u32]) -> (Vec<Vec<u32>>, Vec<Result<usize, Fault>>) {
    let worker: Numbers = Worker::spawn("adder", 16, Vec::new()).expect("a thread");
    let token = CancellationToken::new();
    let (let_go, wait) = mpsc::channel::<()>();
    let gate = worker.submit(&token, move |_| wait.recv().is_ok()).expect("room");
    let mut tickets = Vec::new();
    for &number in numbers {
        match number {
            0 => drop(worker.submit(&token, |model| model.push(vec![0])).expect("room")),
            _ => tickets.push(worker.submit_piece(&token, Number(number)).expect("room")),
        }
    }
    let_go.send(()).expect("waits");
    gate.wait().await.expect("well");
    let mut results = Vec::new();
    for ticket in tickets {
        results.push(ticket.wait().await);
    }
    let groups = worker.submit(&token, |model| model.clone()).expect("room").wait().await;
    (groups.expect("well"), results)
}

#[tokio::test]
async fn those_that_fit_go_together_and_nothing_passes_a_change_of_the_model() {
    let (groups, results) = group(&[1, 20, 2, 3, 4, 30, 5, 0, 6]).await;
    let expected: [&[u32]; 6] = [&[1, 2, 3], &[20], &[4, 5], &[30], &[0], &[6]];
    assert_eq!(groups, expected);
    let counts: Vec<_> = results.into_iter().map(|result| result.expect("well")).collect();
    assert_eq!(counts, [3, 1, 3, 3, 2, 1, 2, 1]);
}

#[tokio::test]
async fn a_panic_among_several_costs_those_without_an_answer() {
    let (groups, results) = group(&[1, 7, 2, 3]).await;
    assert_eq!(groups, [vec![1, 7, 2], vec![3]]);
    assert_eq!(results[0], Ok(3));
    assert!(matches!(results[1..3], [Err(Fault::Internal(_)), Err(Fault::Internal(_))]));
    assert_eq!(results[3], Ok(1));
}

#[tokio::test]
async fn places_fall_when_others_are_taken_along() {
    let worker: Numbers = Worker::spawn("adder", 16, Vec::new()).expect("a thread");
    let token = CancellationToken::new();
    let (let_go, wait) = mpsc::channel::<()>();
    let gate = worker.submit(&token, move |_| wait.recv().is_ok()).expect("room");
    let pieces = [1, 20, 2, 30].map(|n| worker.submit_piece(&token, Number(n)).expect("room"));
    assert_eq!(pieces.each_ref().map(Ticket::position), [1, 2, 3, 4]);
    let mut places = pieces[3].places();
    let_go.send(()).expect("waits");
    gate.wait().await.expect("well");
    let mut last = 4;
    // The last change may be the end of the channel: the job went.
    while last > 0 && places.changed().await.is_ok() {
        let place = *places.borrow_and_update();
        assert!(place < last, "{place} after {last}");
        last = place;
    }
    for piece in pieces {
        piece.wait().await.expect("well");
    }
}

/// Of a worker for two waiting jobs, idle: three places.
#[tokio::test]
async fn a_reserved_place_counts_until_it_is_dropped_or_taken() {
    let worker: Numbers = Worker::spawn("adder", 2, Vec::new()).expect("a thread");
    let token = CancellationToken::new();
    let mut places: Vec<Place> = (0..3).map(|_| worker.reserve().expect("room")).collect();
    assert!(matches!(worker.reserve(), Err(Fault::Busy { .. })));
    assert!(matches!(worker.submit_piece(&token, Number(1)), Err(Fault::Busy { .. })));
    places.pop();
    let direct = worker.submit_piece(&token, Number(1)).expect("the dropped place is free");
    assert_eq!(direct.wait().await, Ok(1));
    // What takes its place needs no other one.
    let (let_go, wait) = mpsc::channel::<()>();
    let gate = worker.submit(&token, move |_| wait.recv().is_ok()).expect("room");
    let tickets: Vec<_> = places
        .drain(..)
        .map(|place| worker.submit_reserved(&token, Number(2), place).expect("has a place"))
        .collect();
    assert!(matches!(worker.reserve(), Err(Fault::Busy { .. })));
    let_go.send(()).expect("waits");
    gate.wait().await.expect("well");
    for ticket in tickets {
        ticket.wait().await.expect("well");
    }
    drop(worker.reserve().expect("all places are free"));
}
