//! Whoever does the harm: one fault after the other, several at a time, each undone in a while.

use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::fleet::{Fleet, WORKERS};
use crate::support::proxy::Flow;

/// What a fault is done to. One fault at a time for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Worker(usize),
    Network(usize),
    Redis,
}

struct Undo {
    at: Instant,
    victim: Victim,
    how: fn(&mut Fleet, Victim),
}

pub async fn rage(fleet: &mut Fleet, seed: u64, time: Duration) {
    let mut random = Rng::with_seed(seed);
    let mut undos: Vec<Undo> = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        // The pace of the faults; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(random.u64(50..500))).await;
        let (due, rest) = undos.into_iter().partition(|undo| undo.at <= Instant::now());
        undos = rest;
        undo_all(fleet, due);
        let is_busy = |victim| undos.iter().any(|undo| undo.victim == victim);
        fleet.respawn_ended(|number| is_busy(Victim::Worker(number)));
        let victim = match random.u8(..10) {
            0..4 => Victim::Worker(random.usize(..WORKERS)),
            4..8 => Victim::Network(random.usize(..WORKERS)),
            _ => Victim::Redis,
        };
        if !is_busy(victim) {
            undos.extend(harm(fleet, victim, &mut random));
        }
    }
    undo_all(fleet, undos);
    fleet.note("no more faults");
    fleet.respawn_ended(|_| false);
}

fn undo_all(fleet: &mut Fleet, undos: Vec<Undo>) {
    for Undo { victim, how, .. } in undos {
        how(fleet, victim);
    }
}

/// Does one thing to the victim; answers how it is undone, and when.
fn harm(fleet: &mut Fleet, victim: Victim, random: &mut Rng) -> Option<Undo> {
    let later = |milliseconds: u64, how| {
        Some(Undo { at: Instant::now() + Duration::from_millis(milliseconds), victim, how })
    };
    match victim {
        Victim::Worker(number) => match random.u8(..5) {
            0 | 1 => {
                fleet.note(&format!("worker {number} killed"));
                fleet.workers[number].process.sigkill();
                later(random.u64(..600), respawn)
            }
            2 | 3 => {
                let time = random.u64(200..5000);
                fleet.note(&format!("worker {number} stopped for {time} ms"));
                fleet.workers[number].process.signal(Signal::SIGSTOP);
                later(time, thaw)
            }
            _ => {
                fleet.note(&format!("worker {number} asked to leave"));
                fleet.workers[number].process.signal(Signal::SIGTERM);
                None
            }
        },
        Victim::Network(number) => {
            let network = &fleet.workers[number].network;
            let kind = random.u8(..5);
            let time = random.u64(100..4000);
            match kind {
                0 => network.lose_replies(random.usize(1..4)),
                1 => network.reset(),
                2 => network.to_client(Flow::Delay(Duration::from_millis(random.u64(20..300)))),
                3 => network.to_client(Flow::Stall),
                _ => network.to_server(Flow::Stall),
            }
            let kinds = ["loses replies", "resets", "is slow", "answers nothing", "takes nothing"];
            fleet.note(&format!(
                "network {number} {} for {time} ms at most",
                kinds[usize::from(kind)]
            ));
            later(time, mend)
        }
        Victim::Redis => match random.u8(..4) {
            0 => {
                let time = random.u64(..2500);
                fleet.note(&format!("redis killed for {time} ms"));
                fleet.redis.sigkill();
                later(time, restart)
            }
            1 | 2 => {
                let time = random.u64(100..3500);
                fleet.note(&format!("redis stopped for {time} ms"));
                fleet.redis.sigstop();
                later(time, continue_redis)
            }
            _ => {
                fleet.note("redis forgets the scripts");
                fleet.redis.try_ask::<String>(&["SCRIPT", "FLUSH"]).ok();
                None
            }
        },
    }
}

fn respawn(fleet: &mut Fleet, victim: Victim) {
    if let Victim::Worker(number) = victim {
        fleet.respawn(number);
    }
}

fn thaw(fleet: &mut Fleet, victim: Victim) {
    if let Victim::Worker(number) = victim {
        fleet.workers[number].process.signal(Signal::SIGCONT);
        fleet.note(&format!("worker {number} continued"));
    }
}

fn mend(fleet: &mut Fleet, victim: Victim) {
    if let Victim::Network(number) = victim {
        let network = &fleet.workers[number].network;
        network.lose_replies(0);
        network.to_client(Flow::Pass);
        network.to_server(Flow::Pass);
        fleet.note(&format!("network {number} mended"));
    }
}

fn restart(fleet: &mut Fleet, _: Victim) {
    fleet.redis.restart();
    fleet.note("redis started");
}

fn continue_redis(fleet: &mut Fleet, _: Victim) {
    fleet.redis.sigcont();
    fleet.note("redis continued");
}
