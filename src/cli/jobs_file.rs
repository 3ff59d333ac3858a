//! Files with many jobs: JSON lines, a JSON array, or YAML (a list, or several documents).

use std::path::Path;

use serde_json::Value;

use super::{Failure, read_stdin};
use crate::core::JobSpec;

/// Reads and checks all jobs of a file; `-` is standard input. With each its place in the file.
pub(super) fn read(path: &Path) -> Result<Vec<(JobSpec, String)>, Failure> {
    let name = path.display().to_string();
    let text = if name == "-" {
        read_stdin()?
    } else {
        std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?
    };
    let extension = path.extension().and_then(|extension| extension.to_str());
    let jobs = match extension {
        Some("jsonl" | "ndjson") => lines(&text),
        Some("yaml" | "yml") => yaml(&text),
        Some("json") => json(&text),
        _ => guess(&text),
    };
    let jobs = jobs.map_err(|problem| {
        Failure::usage(format!("{name}: {problem}")).next("nothing was queued; mend it and repeat")
    })?;
    if jobs.is_empty() {
        return Err(Failure::usage(format!("{name} has no jobs in it")));
    }
    Ok(jobs.into_iter().map(|(spec, place)| (spec, format!("{name} {place}"))).collect())
}

type Jobs = Result<Vec<(JobSpec, String)>, String>;

/// Lines if every line is a document of its own, else one document.
fn guess(text: &str) -> Jobs {
    let is_json = |line: &str| serde_json::from_str::<&serde_json::value::RawValue>(line).is_ok();
    match text.trim_start().as_bytes().first() {
        Some(b'{') if text.lines().all(|line| line.trim().is_empty() || is_json(line)) => {
            lines(text)
        }
        Some(b'{' | b'[') => json(text),
        _ => yaml(text),
    }
}

fn lines(text: &str) -> Jobs {
    let mut jobs = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("line {}", index + 1);
        match JobSpec::from_json(line.as_bytes()) {
            Ok(spec) => jobs.push((spec, place)),
            Err(problem) => return Err(format!("{place}: {problem}")),
        }
    }
    Ok(jobs)
}

fn json(text: &str) -> Jobs {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match value {
        Value::Array(items) => values(items),
        one => values(vec![one]),
    }
}

fn yaml(text: &str) -> Jobs {
    let documents: Vec<Value> =
        serde_saphyr::from_slice_multiple(text.as_bytes()).map_err(|error| error.to_string())?;
    let mut items = Vec::new();
    for document in documents {
        match document {
            Value::Array(many) => items.extend(many),
            Value::Null => {}
            one => items.push(one),
        }
    }
    values(items)
}

fn values(items: Vec<Value>) -> Jobs {
    let mut jobs = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let place = format!("job {}", index + 1);
        match JobSpec::from_json(item.to_string().as_bytes()) {
            Ok(spec) => jobs.push((spec, place)),
            Err(problem) => return Err(format!("{place}: {problem}")),
        }
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(jobs: Jobs) -> Vec<String> {
        jobs.unwrap().into_iter().filter_map(|(spec, _)| spec.prompt).collect()
    }

    #[test]
    fn every_form_says_the_same() {
        for text in [
            "{\"prompt\":\"a\"}\n\n{\"prompt\":\"b\"}\n",
            "[{\"prompt\":\"a\"},\n {\"prompt\":\"b\"}]",
            "- prompt: a\n- prompt: b\n",
            "prompt: a\n---\nprompt: b\n",
        ] {
            assert_eq!(prompts(guess(text)), ["a", "b"], "{text}");
        }
        assert_eq!(prompts(guess("{\n \"prompt\": \"a\"\n}")), ["a"]);
        assert_eq!(prompts(yaml("- prompt: |\n    two\n    lines\n")), ["two\nlines\n"]);
    }

    #[test]
    fn what_is_wrong_is_found_by_its_place() {
        let problem = |jobs: Jobs| jobs.unwrap_err();
        assert!(problem(lines("{\"prompt\":\"a\"}\n\n{\"promt\":1}")).starts_with("line 3: "));
        assert!(problem(yaml("- prompt: a\n- promt: b")).contains("job 2: unknown field `promt`"));
        assert!(problem(json("[{]")).contains("line 1"));
        assert!(problem(json("[[]]")).contains("JSON object"));
    }
}
