//! The store against a model of it: random histories of calls, after each of which both must be in
//! the same state and have given the same answers. `PROPTEST_CASES=2000` tries more than usual.

#![expect(unreachable_pub, reason = "the parts of one test program, not an interface")]

mod support;

#[path = "store_model/model.rs"]
mod model;
#[path = "store_model/people.rs"]
mod people;
#[path = "store_model/record.rs"]
mod record;
#[path = "store_model/system.rs"]
mod system;
#[path = "store_model/transition.rs"]
mod transition;

use proptest::test_runner::{Config, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};

use support::redis::TestRedis;

#[test]
fn the_store_does_what_its_model_does() {
    let server = TestRedis::start();
    system::URL.set(server.url()).expect("there is one test in this program");
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { Config::default().cases } else { 64 };
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let histories = transition::Machine::sequential_strategy(1..80);
    let outcome = TestRunner::new(config.clone()).run(&histories, |(start, history, seen)| {
        system::System::test_sequential(config.clone(), start, history, seen);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
