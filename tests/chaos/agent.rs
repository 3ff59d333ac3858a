//! What jobs run: writes its name and fence to a file that all jobs share, again and again.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

/// Pause between two lines.
const BREATH: Duration = Duration::from_millis(20);

/// How a job is to behave.
#[derive(Clone, Debug)]
pub struct Plan {
    pub lines: u32,
    pub fails: bool,
    /// Whether it leaves a process behind that tries to outlive it in a session of its own.
    pub leaves_child: bool,
}

impl Plan {
    /// The fields of a job that behaves like this.
    pub fn spec(&self, file: &str) -> Value {
        let program = std::env::current_exe().expect("this program has a path");
        json!({
            "command": [program, "agent", "--exact", "--ignored", "--quiet", "--nocapture"],
            "env": {
                "CHAOS_FILE": file,
                "CHAOS_LINES": self.lines.to_string(),
                "CHAOS_FAILS": self.fails.to_string(),
                "CHAOS_CHILD": self.leaves_child.to_string(),
            },
        })
    }
}

/// One line of the shared file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub job: String,
    pub fence: u64,
    pub attempt: u32,
    pub is_child: bool,
}

impl Line {
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            job: words.next()?.to_owned(),
            fence: words.next()?.parse().ok()?,
            attempt: words.next()?.parse().ok()?,
            is_child: words.next()? == "child",
        })
    }
}

pub fn run() {
    let Ok(path) = std::env::var("CHAOS_FILE") else { return };
    let name = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let is_child = std::env::var_os("CHAOS_IS_CHILD").is_some();
    if name("CHAOS_CHILD") == "true" && !is_child {
        leave_child();
    }
    let mut file = File::options().append(true).create(true).open(path).expect("opening the file");
    let who = if is_child { "child" } else { "agent" };
    let (job, fence) = (name("SORTIE_JOB_ID"), name("SORTIE_FENCE"));
    let line = format!("{job} {fence} {} {who}\n", name("SORTIE_ATTEMPT"));
    let lines: u32 = name("CHAOS_LINES").parse().expect("a number of lines");
    for _ in 0..if is_child { 3000 } else { lines } {
        // One write of one line: whole, and in the order in which it really happened.
        let written = file.write(line.as_bytes()).expect("writing to the file");
        assert_eq!(written, line.len());
        std::thread::park_timeout(BREATH);
    }
    assert!(name("CHAOS_FAILS") != "true" || is_child, "this agent was told to fail");
}

#[expect(clippy::zombie_processes, reason = "it is there to be found and killed by somebody else")]
fn leave_child() {
    let program = std::env::current_exe().expect("this program has a path");
    Command::new("setsid")
        .arg(program)
        .args(["agent", "--exact", "--ignored", "--quiet"])
        .env("CHAOS_IS_CHILD", "1")
        .spawn()
        .expect("setsid is there");
}
