//! What people do wrong, and what the machine does to them: each answered by its own exit code and a
//! line that says what to do.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use crate::support::process::sortie;
use crate::support::redis::TestRedis;
use crate::{Ran, home, run};

#[test]
fn a_file_of_jobs_is_wrong_in_one_place() {
    let home = home();
    for (name, text, place) in [
        ("a.yaml", "- prompt: a\n\n- promt: b\n", "a.yaml: job 2 (line 3): unknown field `promt`"),
        ("b.yaml", "- prompt: a\n  priority: high\n", "b.yaml: job 1 (line 1): invalid type"),
        ("c.yaml", "a: [b\n- c", "at line 1, column 4"),
        ("d.json", "[{\"prompt\":\"a\"},\n{\"prompt\":1}]", "d.json: job 2 (line 2): invalid type"),
        ("e.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":", "e.jsonl: line 2, column 10: EOF"),
        ("f.jsonl", "\n", "f.jsonl has no jobs in it"),
        ("g.yaml", "just words\n", "g.yaml: job 1 (line 1): a job is a JSON object"),
    ] {
        let file = home.path().join(name);
        std::fs::write(&file, text).unwrap();
        let ran = run(home.path(), &["submit", "-f", file.to_str().unwrap()]).expect(2);
        let line = ran.err.lines().next().unwrap();
        assert!(line.starts_with("error: ") && line.contains(place), "{name}: {ran:?}");
    }
    let binary = home.path().join("binary.jsonl");
    std::fs::write(&binary, b"\x7fELF\xff\xfe").unwrap();
    let ran = run(home.path(), &["submit", "-f", binary.to_str().unwrap()]).expect(2);
    assert!(ran.err.contains("UTF-8"), "{ran:?}");
    assert!(run(home.path(), &["submit", "-f", "-"]).expect(2).err.contains("standard input"));
    // Editors of another system begin and end lines in their own way.
    let foreign = home.path().join("foreign.jsonl");
    std::fs::write(&foreign, "\u{feff}{\"prompt\":\"a\"}\r\n{\"prompt\":\"b\"}\r\n").unwrap();
    let ran = run(home.path(), &["submit", "--dry-run", "-f", foreign.to_str().unwrap()]);
    assert_eq!(ran.expect(0).out, "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n");
}

#[test]
fn a_first_attempt_is_helped_on() {
    let home = home();
    for (words, hint) in [
        (["submit", "make", "test"].as_slice(), "sortie run -- make test"),
        (&["run", "fix", "it"], "a prompt in quotes"),
        (&["submit", ""], "the prompt is empty"),
        (&["submit", "--prompt-file", "/dev/null"], "the prompt is empty"),
        (&["submit", "x", "--publish", "branch"], "--repo"),
        (&["submit", "--ref", "main", "--", "true"], "--repo"),
        (&["worker", "--name", ""], "name of a worker"),
        (&["worker", "--name", "a/b"], "name of a worker"),
        (&["queue", "limit", "1", "--profile", ""], "--profile"),
    ] {
        let ran = run(home.path(), words).expect(2);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(hint), "{words:?}: {ran:?}");
    }
    let plain = run(home.path(), &["jobs", "x"]).expect(2);
    assert!(!plain.err.contains("quotes"), "{plain:?}");
    let strange = std::ffi::OsStr::from_bytes(b"\xff");
    let ran = Ran::of(sortie(home.path()).arg("submit").arg(strange).output().unwrap());
    assert!(ran.expect(2).err.contains("UTF-8"));
}

#[test]
fn settings_that_are_wrong_break_no_shell() {
    let home = home();
    let file = home.path().join("broken.toml");
    std::fs::write(&file, "queue = 'x").unwrap();
    let ran = |words: &[&str]| {
        Ran::of(sortie(home.path()).args(words).env("SORTIE_CONFIG", &file).output().unwrap())
    };
    assert!(ran(&["jobs"]).expect(2).err.contains("line 1"));
    assert!(ran(&["completions", "bash"]).expect(0).out.contains("_sortie"));
    ran(&["version"]).expect(0);
    ran(&["help", "worker"]).expect(0);
}

#[test]
fn output_that_cannot_be_written_is_an_error_that_is_told() {
    let home = home();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let ran = Ran::of(sortie(home.path()).arg("version").stdout(full()).output().unwrap());
    assert!(ran.expect(1).err.starts_with("error: cannot write the output"));
    // What is only said beside the data is no reason to fail.
    let redis = TestRedis::start();
    let submit = ["submit", "x", "--redis", &redis.url()];
    let ran = Ran::of(sortie(home.path()).args(submit).stderr(full()).output().unwrap());
    assert_eq!(ran.expect(0).out.lines().count(), 1);
    let ran = Ran::of(sortie(home.path()).args(submit).stdout(full()).output().unwrap());
    assert!(ran.expect(1).err.contains("cannot write the output"));
}

#[test]
fn a_home_that_is_missing_or_cannot_be_written_is_enough() {
    let redis = TestRedis::start();
    for home in ["/proc", "/does/not/exist", ""] {
        let mut command = sortie(std::path::Path::new(home));
        Ran::of(command.args(["jobs", "--redis", &redis.url()]).output().unwrap()).expect(0);
    }
    let mut command = sortie(std::path::Path::new("/"));
    command.env_remove("HOME").args(["jobs", "--redis", &redis.url()]);
    Ran::of(command.output().unwrap()).expect(0);
}
