//! `append` and `read`: one writer, many readers, nothing missed.

use std::time::{Duration, Instant};

use serde_json::json;
use sortie::core::event::OutputStream;
use sortie::core::{Event, Fault, State};
use sortie::store::{Entry, Kind, Log, Token};

use crate::bench::{Bench, HANDED_BACK, SUCCEEDED, Worker, id};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn progress(message: &str) -> Event {
    Event::Progress { attempt: 1, message: message.into() }
}

fn messages(entries: &[Entry]) -> Vec<&str> {
    let message = |entry| match entry {
        &Entry { event: Event::Progress { ref message, .. }, .. } => Some(message.as_str()),
        _ => None,
    };
    entries.iter().filter_map(message).collect()
}

fn states(entries: &[Entry]) -> Vec<State> {
    let state = |entry: &Entry| match entry.event {
        Event::State { state, .. } => Some(state),
        _ => None,
    };
    entries.iter().filter_map(state).collect()
}

async fn running(bench: &Bench) -> (Worker, Token, Log) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({ "id": "a" })).await;
    let token = worker.one().await.token;
    (worker, token, Log::Job(made))
}

async fn read(bench: &Bench, log: &Log, after: &str) -> Vec<Entry> {
    bench.store.read(log, after, 100, None).await.unwrap()
}

pub async fn what_is_appended_is_read_in_order(bench: &Bench) {
    let (_worker, token, log) = running(bench).await;
    let output = Event::Output {
        attempt: 1,
        stream: OutputStream::Stderr,
        offset: 1 << 40,
        text: "tab\t \"quoted\" \u{1f600}\0\r\n".into(),
    };
    let events = [progress("one"), output, progress("two")];
    let appended = bench.store.append(&token, &events, &[]).await.unwrap();
    let entries = read(bench, &log, "").await;
    let ours: Vec<_> = entries.iter().filter(|entry| appended.contains(&entry.id)).collect();
    assert_eq!(
        ours.iter().map(|entry| &entry.id).collect::<Vec<_>>(),
        appended.iter().collect::<Vec<_>>()
    );
    assert_eq!(
        ours.iter().map(|entry| &entry.event).collect::<Vec<_>>(),
        events.iter().collect::<Vec<_>>()
    );
    assert!(entries.iter().all(|entry| entry.job == token.id && entry.at_ms > 0));
}

pub async fn a_log_is_read_on_where_it_was_left(bench: &Bench) {
    let (_worker, token, log) = running(bench).await;
    bench.store.append(&token, &["1", "2", "3"].map(progress), &[]).await.unwrap();
    let all = read(bench, &log, "0").await;
    assert_eq!(messages(&all), ["1", "2", "3"]);
    assert_eq!(
        all.iter().map(|entry| &entry.id).collect::<Vec<_>>(),
        read(bench, &log, "").await.iter().map(|entry| &entry.id).collect::<Vec<_>>()
    );
    // In pieces of one entry, each after the one before.
    let (mut after, mut pieces) = (String::new(), Vec::new());
    loop {
        let piece = bench.store.read(&log, &after, 1, None).await.unwrap();
        let Some(last) = piece.last() else { break };
        after.clone_from(&last.id);
        pieces.extend(piece);
    }
    assert_eq!(messages(&pieces), ["1", "2", "3"]);
    assert_eq!(pieces.len(), all.len());
}

pub async fn old_entries_can_be_dropped(bench: &Bench) {
    let (_worker, token, log) = running(bench).await;
    let ids = bench.store.append(&token, &["1", "2", "3"].map(progress), &[]).await.unwrap();
    bench.store.append(&token, &[progress("4")], &ids[..2]).await.unwrap();
    assert_eq!(messages(&read(bench, &log, "").await), ["3", "4"]);
    // Reading after an entry that is gone goes on behind it.
    assert_eq!(messages(&read(bench, &log, &ids[0]).await), ["3", "4"]);
    assert!(bench.store.append(&token, &[], &ids[2..]).await.unwrap().is_empty());
    assert_eq!(messages(&read(bench, &log, "").await), ["4"]);
}

pub async fn only_the_current_attempt_writes(bench: &Bench) {
    let (worker, token, log) = running(bench).await;
    let finish = sortie::store::Finish {
        token: token.clone(),
        next: HANDED_BACK,
        fault: Some(Fault::Interrupted),
        result: sortie::core::AttemptResult::default(),
    };
    worker.send(&worker.call(0, vec![finish])).await;
    let refused = async || {
        let error = bench.store.append(&token, &[progress("late")], &[]).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Fenced, "{error}");
    };
    refused().await;
    let second = worker.one().await;
    refused().await;
    bench.store.append(&second.token, &[progress("good")], &[]).await.unwrap();
    worker.end(&second, SUCCEEDED).await;
    refused().await;
    assert_eq!(messages(&read(bench, &log, "").await), ["good"]);
}

pub async fn a_log_ends_with_the_end_of_its_job(bench: &Bench) {
    let (worker, token, log) = running(bench).await;
    bench.store.append(&token, &[progress("x")], &[]).await.unwrap();
    let finish = sortie::store::Finish {
        token,
        next: crate::bench::FAILED,
        fault: Some(Fault::AgentExit),
        result: sortie::core::AttemptResult {
            message: Some("exited with code 3".into()),
            ..sortie::core::AttemptResult::default()
        },
    };
    worker.send(&worker.call(0, vec![finish])).await;
    let entries = read(bench, &log, "").await;
    assert_eq!(states(&entries), [State::Running, State::Failed]);
    let last = &entries.last().unwrap().event;
    let Event::State { state, fault, attempt, worker: by, message } = last else {
        panic!("{last:?}");
    };
    assert_eq!((*state, *fault, *attempt), (State::Failed, Some(Fault::AgentExit), 1));
    assert_eq!((by.as_str(), message.as_str()), (worker.id().as_str(), "exited with code 3"));
}

pub async fn every_end_is_in_the_log(bench: &Bench) {
    let never_ran = bench.submit(json!({})).await;
    bench.cancel(&never_ran).await;
    let entries = read(bench, &Log::Job(never_ran), "").await;
    assert_eq!(states(&entries).last(), Some(&State::Canceled));
}

pub async fn a_reader_waits_for_the_first_entry(bench: &Bench) {
    let worker = bench.worker().await;
    let made = bench.submit(json!({})).await;
    let (store, log) = (worker.store.clone(), Log::Job(made.clone()));
    let reader = tokio::spawn(async move { store.read(&log, "", 10, LONG).await });
    let claimed = worker.one().await;
    let entries = reader.await.unwrap().unwrap();
    assert_eq!(states(&entries), [State::Running]);
    let (store, log, after) = (worker.store.clone(), Log::Job(made), entries[0].id.clone());
    let reader = tokio::spawn(async move { store.read(&log, &after, 10, LONG).await });
    bench.store.append(&claimed.token, &[progress("x")], &[]).await.unwrap();
    assert_eq!(messages(&reader.await.unwrap().unwrap()), ["x"]);
}

pub async fn a_reader_of_nothing_is_answered_in_time(bench: &Bench) {
    let (_worker, _token, log) = running(bench).await;
    let last = read(bench, &log, "").await.pop().unwrap().id;
    let start = Instant::now();
    let wait = Some(Duration::from_millis(200));
    assert!(bench.store.read(&log, &last, 10, wait).await.unwrap().is_empty());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(10), "{took:?}");
    assert!(bench.store.read(&log, &last, 10, None).await.unwrap().is_empty());
    let nothing = Log::Job(id("nothing"));
    assert!(read(bench, &nothing, "").await.is_empty());
}

pub async fn only_new_entries_can_be_asked_for(bench: &Bench) {
    let (worker, token, log) = running(bench).await;
    bench.store.append(&token, &[progress("old")], &[]).await.unwrap();
    let store = worker.store.clone();
    let reader = tokio::spawn(async move { store.read(&log, "$", 10, LONG).await });
    // The reader may start late: new entries are written until it has seen one.
    let seen = crate::support::eventually(crate::support::SOON, "an entry is seen", async || {
        bench.store.append(&token, &[progress("new")], &[]).await.unwrap();
        reader.is_finished().then_some(())
    });
    seen.await;
    let entries = reader.await.unwrap().unwrap();
    assert!(!entries.is_empty());
    assert!(messages(&entries).iter().all(|&message| message == "new"), "{entries:?}");
}

pub async fn many_readers_see_the_same(bench: &Bench) {
    let (worker, token, log) = running(bench).await;
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let (store, log) = (worker.store.clone(), log.clone());
            tokio::spawn(async move {
                let (mut after, mut seen) = (String::new(), 0);
                while seen < 51 {
                    let entries = store.read(&log, &after, 100, LONG).await.unwrap();
                    assert!(!entries.is_empty(), "nothing more after {seen}");
                    after.clone_from(&entries.last().unwrap().id);
                    seen += entries.len();
                }
                seen
            })
        })
        .collect();
    for n in 0..50 {
        bench.store.append(&token, &[progress(&n.to_string())], &[]).await.unwrap();
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 51, "the claim and fifty entries");
    }
}

pub async fn the_fleets_log_has_every_transition(bench: &Bench) {
    let worker = bench.worker().await;
    bench.submit_ids(&["a"]).await;
    bench.submit_ids(&["b"]).await;
    worker.run(HANDED_BACK).await;
    worker.run(SUCCEEDED).await;
    bench.cancel(&id("b")).await;
    let entries = read(bench, &Log::Fleet, "").await;
    let of = |job: &str| {
        let own: Vec<_> = entries.iter().filter(|entry| entry.job == id(job)).cloned().collect();
        states(&own)
    };
    let queued = State::Queued;
    assert_eq!(of("a"), [queued, State::Running, queued, State::Running, State::Succeeded]);
    assert_eq!(of("b"), [queued, State::Canceled]);
}

pub async fn a_fleet_reader_is_told_of_changes_of_the_fleet(bench: &Bench) {
    let store = std::sync::Arc::clone(&bench.store);
    let before = read(bench, &Log::Fleet, "").await.len();
    store.control(&sortie::store::Control::Pause { by: "alice".into() }).await.unwrap();
    store.control(&sortie::store::Control::Resume).await.unwrap();
    // Readers of any kind get over entries that belong to no job.
    assert!(read(bench, &Log::Fleet, "").await.len() >= before);
    bench.submit_ids(&["a"]).await;
    assert!(read(bench, &Log::Fleet, "").await.iter().any(|entry| entry.job == id("a")));
}

pub async fn a_retried_job_goes_on_in_its_log(bench: &Bench) {
    let (worker, token, log) = running(bench).await;
    worker
        .send(&worker.call(
            0,
            vec![sortie::store::Finish {
                token,
                next: crate::bench::FAILED,
                fault: None,
                result: sortie::core::AttemptResult::default(),
            }],
        ))
        .await;
    bench.store.change(&id("a"), &sortie::store::Change::Retry { fresh: false }).await.unwrap();
    worker.run(SUCCEEDED).await;
    let seen = states(&read(bench, &log, "").await);
    assert_eq!(
        seen,
        [State::Running, State::Failed, State::Queued, State::Running, State::Succeeded]
    );
}
