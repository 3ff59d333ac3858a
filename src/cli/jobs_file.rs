//! Files with many jobs: JSON lines, a JSON array, or YAML (a list, or several documents).

use std::path::Path;

use serde_json::Value;
use serde_json::value::RawValue;
use serde_saphyr::{Spanned, UserMessageFormatter};

use super::{Failure, read_stdin};
use crate::core::JobSpec;

/// Reads and checks all jobs of a file; `-` is standard input. With each its place in the file.
pub(super) fn read(path: &Path) -> Result<Vec<(JobSpec, String)>, Failure> {
    let (name, text) = if path == Path::new("-") {
        ("standard input".to_owned(), read_stdin()?)
    } else {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
        (name, text)
    };
    // Some editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let extension = path.extension().and_then(|extension| extension.to_str());
    let jobs = match extension {
        Some("jsonl" | "ndjson") => lines(text),
        Some("yaml" | "yml") => yaml(text),
        Some("json") => json(text),
        _ => guess(text),
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
    let is_json = |line: &str| serde_json::from_str::<&RawValue>(line).is_ok();
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
            Err(problem) => {
                let problem = problem.to_string();
                let (what, at) = split_position(&problem);
                let column = at.map_or(String::new(), |(_, column)| format!(", column {column}"));
                return Err(format!("{place}{column}: {what}"));
            }
        }
    }
    Ok(jobs)
}

fn json(text: &str) -> Jobs {
    let items: Vec<&RawValue> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::from_str(text).map(|one| vec![one])
    }
    .map_err(|error| error.to_string())?;
    each(items.iter().map(|item| item.get()), |index| {
        // The items are slices of the text.
        let start = items[index].get().as_ptr().addr() - text.as_ptr().addr();
        Some(1 + text[..start].matches('\n').count() as u64)
    })
}

fn yaml(text: &str) -> Jobs {
    let documents: Vec<Value> =
        serde_saphyr::from_slice_multiple(text.as_bytes()).map_err(|error| {
            let error = error.without_snippet().render_with_formatter(&UserMessageFormatter);
            error.strip_prefix("error: ").unwrap_or(&error).to_owned()
        })?;
    let mut items = Vec::new();
    for document in documents {
        match document {
            Value::Array(many) => items.extend(many),
            Value::Null => {}
            one => items.push(one),
        }
    }
    each(items.iter().map(Value::to_string), |index| line_of(text, index))
}

/// The line on which a job begins, if all documents are lists of jobs, or all are jobs.
fn line_of(yaml: &str, index: usize) -> Option<u64> {
    let yaml = yaml.as_bytes();
    let jobs = match serde_saphyr::from_slice_multiple::<Vec<Spanned<Value>>>(yaml) {
        Ok(lists) => lists.into_iter().flatten().collect(),
        Err(_) => serde_saphyr::from_slice_multiple::<Spanned<Value>>(yaml).ok()?,
    };
    let job = jobs.iter().filter(|job| !job.value.is_null()).nth(index)?;
    Some(job.referenced.line())
}

/// Checks jobs one by one; `line` answers the line on which the one of that index begins.
fn each(items: impl Iterator<Item = impl AsRef<str>>, line: impl Fn(usize) -> Option<u64>) -> Jobs {
    let mut jobs = Vec::new();
    for (index, item) in items.enumerate() {
        let place = format!("job {}", index + 1);
        match JobSpec::from_json(item.as_ref().as_bytes()) {
            Ok(spec) => jobs.push((spec, place)),
            Err(problem) => {
                let problem = problem.to_string();
                let line = line(index).map_or(String::new(), |line| format!(" (line {line})"));
                return Err(format!("{place}{line}: {}", split_position(&problem).0));
            }
        }
    }
    Ok(jobs)
}

/// What is wrong, and the line and column that stood behind it: they count from the start of the
/// job, not of the file.
fn split_position(problem: &str) -> (&str, Option<(u64, u64)>) {
    let split = problem.rsplit_once(" at line ").and_then(|(what, at)| {
        let (line, column) = at.split_once(" column ")?;
        Some((what, (line.parse().ok()?, column.parse().ok()?)))
    });
    split.map_or((problem, None), |(what, at)| (what, Some(at)))
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
        let wrong = problem(lines("{\"prompt\":\"a\"}\n\n{\"promt\":1}"));
        assert!(wrong.starts_with("line 3, column 8: unknown field `promt`"), "{wrong}");
        for yaml_text in ["- prompt: a\n\n- promt: b", "prompt: a\n---\npromt: b"] {
            let wrong = problem(yaml(yaml_text));
            assert!(wrong.starts_with("job 2 (line 3): unknown field `promt`"), "{wrong}");
            assert!(!wrong.contains("at line"), "{wrong}");
        }
        let wrong = problem(json("[{\"prompt\":\"a\"},\n {\"promt\":1}]"));
        assert!(wrong.starts_with("job 2 (line 2): unknown field `promt`"), "{wrong}");
        let twice = problem(json("{\"prompt\":\"a\",\"prompt\":\"b\"}"));
        assert!(twice.contains("duplicate field `prompt`"), "{twice}");
        let twice = problem(yaml("prompt: a\nprompt: b"));
        assert!(twice.contains("line 2") && !twice.contains("Policy"), "{twice}");
        let open = problem(yaml("a: [b\n- c"));
        assert!(open.contains("line 1") && !open.contains("error"), "{open}");
        assert!(problem(json("[{]")).contains("line 1"));
        assert!(problem(json("[[]]")).contains("JSON object"));
    }
}
