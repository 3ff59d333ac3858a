//! What needs no store.

use std::process::Stdio;

use crate::support::process::sortie;
use crate::{home, run};

#[test]
fn the_version_as_text_and_json() {
    let home = home();
    let version = env!("CARGO_PKG_VERSION");
    for words in [["version"].as_slice(), &["--version"], &["-V"]] {
        assert_eq!(run(home.path(), words).expect(0).out, format!("sortie {version}\n"));
    }
    for words in [["version", "--json"].as_slice(), &["-o", "json", "version"]] {
        let json = run(home.path(), words).expect(0).json();
        assert_eq!((&json["apiVersion"], &json["version"]), (&"sortie/v1".into(), &version.into()));
    }
}

#[test]
fn help_has_topics_and_the_pages_are_the_published_ones() {
    let home = home();
    let help = |words: &[&str]| run(home.path(), &[&["help"], words].concat()).expect(0).out;
    let published = |name: &str| {
        std::fs::read_to_string(format!("{}/docs/{name}.md", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    assert_eq!(help(&["exit-codes"]), published("exit-codes"));
    assert_eq!(help(&["environment"]), published("environment"));
    assert!(help(&["states"]).contains("rejected") && help(&["states"]).contains("rate_limited"));
    assert!(help(&["profiles"]).contains("NAME.toml"));
    assert!(help(&[]).contains("submit") && help(&["queue", "limit"]).contains("--profile"));
    let wrong = run(home.path(), &["help", "nonsense"]).expect(2);
    assert!(wrong.err.contains("exit-codes"), "{wrong:?}");
}

#[test]
fn completions_for_three_shells() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(home.path(), &["completions", shell]).expect(0).out;
        assert!(script.contains("idempotency-key") && script.contains("requeue"), "{shell}");
    }
}

#[test]
fn mistakes_are_recognised() {
    let home = home();
    for (words, hint) in [
        (["sumbit", "x"].as_slice(), "'submit'"),
        (&["submit", "--prioritty", "1"], "'--priority'"),
        (&["jobs", "--state", "cancelled"], "canceled"),
        (&["submit"], "sortie submit"),
        (&["submit", "x", "--priority", "11"], "`priority`"),
        (&["submit", "-"], "prompt"),
        (&["run", "-f", "jobs.jsonl"], "--wait"),
        (&["submit", "-f", "/does/not/exist.jsonl"], "/does/not/exist.jsonl"),
        (&["submit", "x", "--at", "tomorrow"], "RFC 3339"),
        (&["worker", "--profiles", "/does/not/exist"], "/does/not/exist"),
        (&["worker", "--default-profile", "claude"], "claude"),
    ] {
        let ran = run(home.path(), words).expect(2);
        assert!(ran.err.starts_with("error: ") && ran.err.contains(hint), "{words:?}: {ran:?}");
        assert_eq!(ran.out, "", "{words:?}");
    }
}

#[test]
fn a_dry_run_prints_exactly_what_would_be_queued() {
    let home = home();
    let ran = run(home.path(), &["submit", "--dry-run", "--label", "a=b", "--", "make", "-j2"]);
    assert_eq!(ran.expect(0).out, "{\"command\":[\"make\",\"-j2\"],\"labels\":{\"a\":\"b\"}}\n");
    let file = home.path().join("jobs.yaml");
    std::fs::write(&file, "- prompt: a\n- prompt: b\n  priority: 3\n").unwrap();
    let ran = run(home.path(), &["submit", "--dry-run", "-f", file.to_str().unwrap()]);
    assert_eq!(ran.expect(0).out, "{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"priority\":3}\n");
}

#[test]
fn settings_of_jobs_come_from_the_environment_but_not_into_plain_commands() {
    let home = home();
    let dry = |words: &[&str]| {
        let output = sortie(home.path())
            .args(["submit", "--dry-run"])
            .args(words)
            .envs([("SORTIE_PROFILE", "claude"), ("SORTIE_REPO", "r"), ("SORTIE_MODEL", "")])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(dry(&["x"]), "{\"prompt\":\"x\",\"repo\":\"r\",\"profile\":\"claude\"}\n");
    assert_eq!(dry(&["--repo", "s", "--", "x"]), "{\"command\":[\"x\"],\"repo\":\"s\"}\n");
}

#[test]
fn config_tells_where_each_value_comes_from_and_no_password() {
    let home = home();
    let directory = home.path().join(".config/sortie");
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("config.toml");
    std::fs::write(&file, "queue = 'from-file'\nredis = 'redis://:hush@file'\n[worker]\nslots = 7")
        .unwrap();
    let output = sortie(home.path())
        .args(["config", "-o", "json", "--redis", "redis://:hush@flag"])
        .env("SORTIE_LEASE", "45s")
        .output()
        .unwrap();
    let ran = crate::Ran::of(output).expect(0);
    assert!(!ran.out.contains("hush"), "{}", ran.out);
    let json = ran.json();
    let find = |key: &str| {
        let items = json["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["key"] == key).unwrap();
        (item["value"].as_str().unwrap().to_owned(), item["origin"].as_str().unwrap().to_owned())
    };
    let pair = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    let from_file = file.to_str().unwrap();
    assert_eq!(find("redis"), pair("redis://:***@flag", "--redis"));
    assert_eq!(find("queue"), pair("from-file", from_file));
    assert_eq!(find("worker.slots"), pair("7", from_file));
    assert_eq!(find("worker.lease"), pair("45s", "SORTIE_LEASE"));
    assert_eq!(find("worker.beat"), pair("5s", "default"));

    std::fs::write(&file, "quue = 'x'").unwrap();
    let wrong = run(home.path(), &["jobs"]).expect(2);
    assert!(wrong.err.contains("`quue`") && wrong.err.contains("queue"), "{wrong:?}");
    run(home.path(), &["help", "environment"]).expect(0);
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    let home = home();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = sortie(home.path())
        .args(["help", "environment"])
        .stdout(Stdio::from(writer))
        .output()
        .unwrap();
    let ran = crate::Ran::of(output);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
}

#[test]
fn colours_only_on_request_where_nobody_looks() {
    let home = home();
    let config = |words: &[&str]| run(home.path(), &[&["config"], words].concat()).expect(0).out;
    assert!(!config(&[]).contains('\x1b'));
    assert!(config(&["--color", "always"]).contains('\x1b'));
}
