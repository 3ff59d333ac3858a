//! The rules of the tree that no compiler keeps: which layer may use which, how long a file may
//! get, and that lists kept in two places agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Top-level modules by layer. A module uses lower layers only; modules of one layer do not know
/// each other.
const LAYERS: &[&[&str]] = &[
    &["core"],
    &["config", "env", "telemetry"],
    &["store", "git", "exec", "agent"],
    &["worker", "service"],
    &["api", "client"],
    &["cli"],
];

/// Leaves beside the layers, which may use the names that `env` gives.
const LEAVES: &[(&str, &str)] = &[("config", "env"), ("telemetry", "env"), ("telemetry", "config")];

/// Longest file, and the few that have a reason to be longer (never more than `MOST`).
const LONG: usize = 400;
const MOST: usize = 700;
const LONGER: &[(&str, &str)] = &[];
const LONGEST_SCRIPT: usize = 170;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files under `directory` of the repository with one of the endings, as (path, text).
fn files(directory: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(directory)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory of the repository");
            todo.extend(entries.map(|entry| entry.expect("an entry of it").path()));
        } else if has_ending(&path, endings) {
            let text = fs::read_to_string(&path).expect("a text file of the repository");
            found.push((name(&path), text));
        }
    }
    found.sort();
    found
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    endings.is_empty() || endings.contains(&ending)
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).expect("inside the repository").display().to_string()
}

/// The code without comments and without what is only compiled for tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn modules_use_lower_layers_only() {
    let mut wrong = Vec::new();
    for (file, text) in files("src", &["rs"]) {
        let module = file.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        if matches!(module, "main" | "lib") {
            continue;
        }
        let own = layer(module).unwrap_or_else(|| panic!("{file} is in no layer"));
        for used in used_modules(&code(&text)) {
            let is_leaf = LEAVES.contains(&(module, used.as_str()));
            match layer(&used) {
                _ if used == module || is_leaf => {}
                Some(other) if other < own => {}
                Some(other) => {
                    wrong.push(format!("{file} (layer {own}) uses {used} (layer {other})"));
                }
                None => wrong.push(format!("{file} uses crate::{used}, which is in no layer")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names after `crate::`, also those in braces.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            used.extend(top_names(group));
        } else {
            used.insert(first_word(rest));
        }
    }
    used
}

/// First words of the items of a `{…}` group, without those of groups inside it.
fn top_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut is_start) = (Vec::new(), 1, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => is_start = true,
            _ if is_start && !letter.is_whitespace() => {
                names.push(first_word(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

#[test]
fn the_reading_of_imports_is_right() {
    let code = "use crate::core::{Job, id::JobId};\nuse crate::{\n store::{Store, redis},\n git,\n};\nlet x = crate::exec::start();";
    let used: Vec<_> = used_modules(code).into_iter().collect();
    assert_eq!(used, ["core", "exec", "git", "store"]);
}

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for (file, text) in [files("src", &["rs"]), files("tests", &["rs"])].concat() {
        let lines = text.lines().count();
        let is_allowed = LONGER.iter().any(|(name, _)| *name == file);
        if lines > MOST || (lines > LONG && !is_allowed) {
            wrong.push(format!("{file} has {lines} lines; split it by what it tells"));
        }
        if is_allowed && lines <= LONG {
            wrong.push(format!("{file} has {lines} lines and needs no exception any more"));
        }
    }
    for (file, text) in files("src", &["lua"]) {
        let lines = text.lines().count();
        if lines > LONGEST_SCRIPT {
            wrong.push(format!(
                "{file} has {lines} lines; at most {LONGEST_SCRIPT} fit one reading"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_undone() {
    let marks = [
        "unimplemented!",
        "todo!(",
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("#[al", "low("),
    ];
    let mut wrong = Vec::new();
    for (file, text) in [files("src", &["rs", "lua"]), files("tests", &["rs"])].concat() {
        for (number, line) in text.lines().enumerate() {
            if file != "tests/architecture.rs" && marks.iter().any(|mark| line.contains(mark)) {
                wrong.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The repository speaks of itself, not of places on the machine where it was written.
#[test]
fn no_text_names_a_place_outside_the_repository() {
    let outside = [concat!("../sha", "red"), concat!("/wo", "rk/"), concat!("../res", "earch")];
    let mut texts = Vec::new();
    for entry in fs::read_dir(root()).expect("the repository") {
        let path = entry.expect("an entry of it").path();
        let top = name(&path);
        if path.is_dir() && !matches!(&*top, "target" | ".git" | "fuzz") {
            texts
                .extend(files(&top, &["rs", "lua", "md", "toml", "yaml", "yml", "json", "sh", ""]));
        } else if path.is_file() && has_ending(&path, &["md", "toml"]) {
            texts.push((top, fs::read_to_string(&path).expect("a text file")));
        }
    }
    let mut wrong = Vec::new();
    for (file, text) in texts {
        for (number, line) in text.lines().enumerate() {
            if outside.iter().any(|place| line.contains(place)) {
                wrong.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whoever looks at a server finds every key explained in `keys.rs`.
#[test]
fn every_key_of_the_scripts_is_documented() {
    let keys = read("src/store/redis/keys.rs");
    let documented: BTreeSet<String> = keys
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .flat_map(|line| line.split("`T ").skip(1).map(first_key_word))
        .collect();
    let mut used = BTreeMap::new();
    for (file, text) in files("src/store/redis/lua", &["lua"]) {
        for (at, _) in text.match_indices("T .. ") {
            let rest = text[at..].trim_start_matches("T .. ");
            for word in
                rest.split('\'').skip(1).step_by(2).take(1 + usize::from(rest.starts_with('(')))
            {
                let key = first_key_word(word);
                if !key.is_empty() && !rest.starts_with("name") {
                    used.entry(key).or_insert_with(|| file.clone());
                }
            }
            if rest.starts_with('(') {
                // `T .. (dead and 'dead' or 'done')`: both.
                let both = rest.split(')').next().unwrap_or_default();
                for word in both.split('\'').skip(1).step_by(2) {
                    used.entry(first_key_word(word)).or_insert_with(|| file.clone());
                }
            }
        }
    }
    let missing: Vec<_> = used.iter().filter(|(key, _)| !documented.contains(*key)).collect();
    assert!(used.len() > 15, "the scripts were not read: {used:?}");
    assert!(missing.is_empty(), "keys that the table in keys.rs does not explain: {missing:?}");
}

fn first_key_word(text: &str) -> String {
    text.chars().take_while(char::is_ascii_lowercase).collect()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(PathBuf::from(file)))
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What a push may contain is written down twice: in the schema, which comes from the types, and
/// in the script that opens pushes.
#[test]
fn pushes_are_checked_by_the_published_schema() {
    let schema: serde_json::Value =
        serde_json::from_str(&read("docs/job.schema.json")).expect("the schema is JSON");
    let properties = schema["properties"].as_object().expect("a job has properties");
    let script = read("src/store/redis/lua/adopt.lua");

    let fields = table(&script, "FIELDS");
    let names: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
    let checked: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(checked, names, "the fields of a job");

    let ranges = table(&script, "RANGES");
    for (name, property) in properties {
        let kind = match fields[name].trim_matches('\'') {
            "s" => "string",
            "i" => "integer",
            "a" => "array",
            "m" => "object",
            other => panic!("{name} is of kind {other}"),
        };
        let is_kind = property["type"] == kind
            || property["type"].as_array().is_some_and(|types| types.iter().any(|of| of == kind))
            || property["type"].is_null() && kind == "string";
        assert!(is_kind, "{name} is {kind} to the script, but to the schema {}", property["type"]);
        if kind == "integer" {
            let (low, high) = ranges[name].split_once(", ").expect("two numbers");
            let low: i64 = low.trim_start_matches("{ ").parse().expect("a number");
            let high: i64 = high.trim_end_matches(" }").parse().expect("a number");
            let minimum = property["minimum"].as_i64().unwrap_or_default();
            assert_eq!(
                (Some(low), Some(high)),
                (Some(minimum), property["maximum"].as_i64()),
                "{name}"
            );
        }
    }
}

/// The entries `name = value` of a table in a Lua script.
fn table(script: &str, name: &str) -> BTreeMap<String, String> {
    let start = format!("local {name} = {{\n");
    let body = script.split(&start).nth(1).unwrap_or_else(|| panic!("no table {name}"));
    let body = body.split("\n  }").next().unwrap_or_default().replace('\n', " ");
    let mut entries = BTreeMap::new();
    let mut rest = body.trim();
    while let Some((key, after)) = rest.split_once(" = ") {
        let end =
            if after.starts_with('{') { after.find('}').map(|at| at + 1) } else { after.find(',') };
        let end = end.unwrap_or(after.len());
        entries.insert(key.trim().to_owned(), after[..end].to_owned());
        rest = after[end..].trim_start_matches([',', ' ']);
    }
    entries
}
